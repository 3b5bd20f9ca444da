"""Deterministic encoding of data as noise, and decoding, along the probability flow.

`encode` runs a deterministic sampler over its own times backwards, `decode` forwards; each is the other's inverse up to
the sampler's error, which `encode_with_error` measures. The encoded data have the model's law at T: the prior, but for the
model's error and the prior's gap (`metrics.prior_gap`). Nothing is promised for a sampler of low order and few steps.
"""

from __future__ import annotations

__all__ = ["Encoded", "decode", "encode", "encode_with_error"]

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..data.parts import check_batch
from ..laws.vectors import as_vectors
from ..models.named import read_conditions
from ..models.score import ScoreModel, check_dtype
from ..models.transformed import in_free_coordinates, states_in, states_out
from ..precision import narrowed, widened
from ..processes.base import SDE
from ..processes.grids import Angle, Grid, Quadratic, Uniform
from ..processes.linear import is_linear
from ..processes.scalar import is_scalar
from ..show import show_call
from .base import Sampler
from .noise import SampleNoise, as_seed
from .ode import Heun, ProbabilityFlow
from .runner import Runner
from .start import check_sampler_given, check_states, chunks


class Encoded(NamedTuple):
    """Data encoded as noise, with the error of the round trip.

    Attributes
    ----------
    z
        States at T, ``(B, *)``.
    error
        Root mean square of ``decode(encode(x)) − x`` over the coordinates of a datum, ``(B,)``.
    """

    z: Tensor
    error: Tensor

    def __repr__(self) -> str:
        return show_call(self)


@check_arguments
def encode(
    model: ScoreModel,
    x: Tensor,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    batch: int | None = None,
    grad: bool = False,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """Return the latents of data: the states at T at which the probability flow from the data arrives.

    Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.

    If the state of the process is larger than the data, the rest of the state is drawn from its law at 0 with `seed`, so that
    encoded data have the law of the prior. With a fixed seed the result is a function of the data and their place in the batch.

    Parameters
    ----------
    model
        Any score model.
    x
        Data, ``(B, *)``, taken as states at the last time of the sampler's grid.
    steps
        The number of Heun steps; by default the flow is integrated adaptively, to 1e-7 in float64, to 1e-5 in float32, and to
        1e-3 with a network of half precision. Give either `steps` or a `sampler`.
    sampler
        Any sampler that draws no noise: `ProbabilityFlow`, `Heun`, `Singlestep`, `Multistep`, ``DDIM(eta=0)``. Its default
        grid ends at the process's ``t_min``, the default sampler's here at 0.
    seed
        Seed of the rest of a larger state.
    batch
        The largest number of rows that go through the model at a time; all by default. The result does not depend on it, but for
        rounding and what an adaptive integrator's tolerance allows.
    grad
        Record the run for derivatives of the result by the states, conditions and parameters, as for `sample`.
    progress
        Show a bar; by default where standard error is a terminal.
    cond
        Conditions for the network: tensors with ``B`` rows, which `batch` cuts with the data, or one value for all.

    Returns
    -------
    Tensor
        ``(B, *)`` states at T.

    Raises
    ------
    TypeError
        If `x` is not floating point, the sampler does not suit the process, or the model takes no condition of a given name.
    ValueError
        If `x` or a result is not finite, the sampler draws noise, steps and a sampler are both given, or `batch` is not a
        positive whole number.
    """
    cond, model = read_conditions(model, cond, encode), in_free_coordinates(model)
    data = check_states("x", x, model)
    sampler = _sampler(model, steps, sampler, data)
    z = _follow(model, _state(model.sde, data, seed), sampler, True, batch, grad, progress, cond)
    return narrowed("latents", states_out(model, z), x.dtype)


@check_arguments
def encode_with_error(
    model: ScoreModel,
    x: Tensor,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Encoded:
    """Return the latents of data by the probability flow, and by how much the decoded latents differ from the data.

    Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.

    Parameters
    ----------
    model, x, steps, sampler, seed, batch, progress, cond
        As for `encode`.

    Raises
    ------
    TypeError, ValueError
        As for `encode`.
    """
    cond = read_conditions(model, cond, encode_with_error)
    how: dict[str, Any] = {"steps": steps, "sampler": sampler, "batch": batch, "progress": progress}
    z = encode(model, x, seed=seed, **how, **cond)
    gap = widened(decode(model, widened(z), **how, **cond)) - widened(x)
    return Encoded(z, as_vectors(gap).square().mean(1).sqrt())


@check_arguments
def decode(
    model: ScoreModel,
    z: Tensor,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    batch: int | None = None,
    grad: bool = False,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """Return the data at which the probability flow from the latents `z`, states at T, arrives; the inverse of `encode`.

    Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.

    Parameters
    ----------
    model, steps, sampler, batch, grad, progress, cond
        As for `encode`.
    z
        States at T, ``(B, *)``.

    Returns
    -------
    Tensor
        ``(B, *)`` data.

    Raises
    ------
    TypeError, ValueError
        As for `encode`.
    """
    cond, model = read_conditions(model, cond, decode), in_free_coordinates(model)
    states = states_in(model, check_states("z", z, model), "z")
    x = model.sde.project(
        _follow(model, states, _sampler(model, steps, sampler, states), False, batch, grad, progress, cond)
    )
    return narrowed("data", x, model.sde.telling(z.dtype, x.device))


def _follow(
    model: ScoreModel,
    x: Tensor,
    sampler: Sampler,
    to_noise: bool,
    batch: int | None,
    grad: bool,
    progress: bool | None,
    cond: dict[str, Any],
) -> Tensor:
    """Carry states from one end of the sampler's times to the other, `batch` at a time."""

    def refused(like: Tensor) -> Tensor:
        raise ValueError(
            f"{type(sampler).__name__} draws noise, and what it does cannot be undone; give ProbabilityFlow, Heun or "
            "DDIM(eta=0)."
        )

    check_batch(batch)
    times, plan = sampler.times(model.sde, False), sampler.plan
    if to_noise:
        times, plan = times.flip(0), partial(_plan_backward, sampler)
    run = Runner(sampler, times, False, lambda first, times: refused, grad=grad)
    return run(model, plan, list(chunks(model, x, batch, cond, 0, len(x))), progress)


def _plan_backward(sampler: Sampler, model: ScoreModel, times: Tensor) -> list[Any]:
    """Plan the steps from data to noise."""
    try:
        return sampler.plan(model, times)
    except (ValueError, torch.linalg.LinAlgError) as error:
        sampler.plan(model, times.flip(0))  # a sampler that does not run forwards either raises its own error
        raise ValueError(
            f"{type(sampler).__name__} does not run from data at t = {times[0].item():.6g} to noise; give ProbabilityFlow, "
            "Heun or DDIM(eta=0), or end its grid at a later time."
        ) from error


def _sampler(model: ScoreModel, steps: int | None, sampler: Sampler | None, x: Tensor) -> Sampler:
    """Return the sampler given, or the default on a grid that ends at 0."""
    check_sampler_given(steps, sampler)
    if sampler is not None:
        return sampler
    # On processes that are not scalar the flow runs in t; on nonlinear ones all that is known is that noise begins as √t.
    kind: type[Grid] = Angle if is_scalar(model.sde) else Uniform if is_linear(model.sde) else Quadratic
    grid = kind(end=0.0)
    if steps is not None:
        return Heun(steps, grid)
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-5}.get(check_dtype(model, x), 1e-3)
    return ProbabilityFlow(grid=grid, rtol=tolerance, atol=tolerance)


def _state(sde: SDE, x: Tensor, seed: int | None) -> Tensor:
    """Return data as states at 0; the rest of a larger state is drawn from its law there."""
    lifted = sde.lift(x)
    if lifted.shape == sde.standardise(x).shape:
        return lifted
    return sde.complete(x, SampleNoise(as_seed(seed, None))(lifted))[0]
