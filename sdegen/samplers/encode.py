"""Data as noise and back along the probability flow, the one map between them that draws nothing.

`encode` runs a deterministic sampler over its own times backwards, `decode` forwards; each is the other's inverse up to
the sampler's error, which `encode_with_error` measures. The encoded data have the model's law at T: the prior, but for the
model's error and the prior's gap (`metrics.prior_gap`). Nothing is promised for a sampler of low order and few steps.
"""

from __future__ import annotations

__all__ = ["Encoded", "decode", "encode", "interpolate", "slerp"]

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..models.score import Conditioned, ScoreModel, check_dtype, evaluating
from ..processes.base import SDE
from ..processes.grids import Angle, Uniform
from ..processes.linear import is_linear
from ..progress import shown
from ..show import show_call
from .base import Sampler
from .noise import SampleNoise, as_seed
from .ode import Heun, ProbabilityFlow
from .run import check_choice, chunks


class Encoded(NamedTuple):
    """Encoded data and the error of the round trip.

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


def encode(
    model: ScoreModel,
    x: Tensor,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """Return the states at T that the probability flow carries data to.

    Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.

    A process whose state is larger than the data takes the rest of the state from its law at 0, drawn with `seed`, so that
    encoded data have the law of the prior; a fixed seed makes it a function of the data and their place in the batch.

    Parameters
    ----------
    model
        Any score model.
    x
        Data, ``(B, *)``, taken for states at the last time of the sampler's grid.
    steps
        Heun steps; by default the flow is integrated adaptively, to 1e-7 in float64 and 1e-5 in coarser dtypes. Give it,
        or a `sampler`.
    sampler
        Any sampler that draws no noise: `ProbabilityFlow`, `Heun`, `Singlestep`, `Multistep`, ``DDIM(eta=0)``. Its default
        grid ends at the process's ``t_min``, the default sampler's here at 0.
    seed
        Randomness of the rest of a larger state.
    batch
        Most rows that go through the model at a time; all by default. The result does not depend on it, but for rounding
        and what an adaptive integrator's tolerance allows.
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
        If `x` is not floating point, or the sampler does not suit the process.
    ValueError
        If `x` or a result is not finite, the sampler draws noise, steps and a sampler are both given, or `batch` is not a
        positive whole number.
    """
    _checked("x", x, model)
    sampler = _sampler(model, steps, sampler, x)
    return _follow(model, _state(model.sde, x, seed), sampler, True, batch, progress, cond)


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
    """Return the states at T that the flow carries data to, and by how much the way back misses the data.

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
    z = encode(
        model, x, steps=steps, sampler=sampler, seed=seed, batch=batch, progress=progress, **cond
    )  # fmt: skip
    sampler = _sampler(model, steps, sampler, x)
    gap = model.sde.project(_follow(model, z, sampler, False, batch, progress, cond)) - x
    return Encoded(z, gap.reshape(len(x), -1).square().mean(1).sqrt())


def decode(
    model: ScoreModel,
    z: Tensor,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """The data that the probability flow carries states at T to; the inverse of `encode`.

    Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.

    Parameters
    ----------
    model, steps, sampler, batch, progress, cond
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
    _checked("z", z, model)
    return model.sde.project(_follow(model, z, _sampler(model, steps, sampler, z), False, batch, progress, cond))


def interpolate(
    model: ScoreModel,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    *,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """Data between `x` and `y`: both encoded, points on the arc between them decoded (J. Song et al., 2020, section 5.3).

    The arc (`slerp`) is about the mean of the prior: points on it are as far from there as its ends are, where the points of
    a straight line come too close to be noise. All of them are decoded in one run, `batch` at a time.

    Parameters
    ----------
    model, steps, sampler, seed, batch, progress, cond
        As for `encode`; conditions hold for one row or for all.
    x, y
        Data, ``(B, *)`` both.
    weights
        Where between them, ``(K,)``: 0 is `x`, 1 is `y`.

    Returns
    -------
    Tensor
        ``(K, B, *)`` data.

    Raises
    ------
    TypeError, ValueError
        As for `encode`; also if the shapes of `x` and `y` differ, weights are not ``(K,)``, or encoded points lie opposite
        to each other.
    """
    if x.shape != y.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; give as many of the same shape.")
    weights = torch.as_tensor(weights, dtype=torch.float64).cpu()
    if weights.ndim != 1 or not len(weights) or not weights.isfinite().all():
        raise ValueError(f"weights has shape {tuple(weights.shape)}; give finite numbers (K,), 0 for x and 1 for y.")
    # One seed for both: what a larger state holds beyond the data is the same at both ends.
    seed = as_seed(seed, None)
    sampler = _sampler(model, steps, sampler, x)
    for name, v in (("x", x), ("y", y)):
        _checked(name, v, model)
    ends = [_follow(model, _state(model.sde, v, seed), sampler, True, batch, progress, cond) for v in (x, y)]
    mean = _prior_mean(model, ends[0])
    arc = torch.stack([mean + slerp(ends[0] - mean, ends[1] - mean, w) for w in weights])  # (K, B, *)
    K, B = arc.shape[:2]
    rows = {k for k, v in cond.items() if isinstance(v, Tensor) and v.ndim and len(v) == B}
    cond = {k: torch.cat([v] * K) if k in rows else v for k, v in cond.items()}
    points = decode(model, arc.flatten(0, 1), sampler=sampler, batch=batch, progress=progress, **cond)
    return points.reshape(K, *x.shape)


def slerp(x: Tensor, y: Tensor, w: Tensor | float) -> Tensor:
    """A point on the way from `x` to `y`: its direction on the great circle, its length on the line, row by row.

    ``[sin((1 − w) θ) x / |x| + sin(w θ) y / |y|] / sin θ`` with the angle `θ` between them, times ``(1 − w) |x| + w |y|``. K.
    Shoemake's formula (1985) on `x` and `y` themselves is the same where they are equally long, as in high dimension;
    in low dimension it throws points between nearly opposite ones far out.

    Parameters
    ----------
    x, y
        ``(B, *)``.
    w
        Where between them; 0 is `x`, 1 is `y`.

    Raises
    ------
    ValueError
        If two rows lie opposite to each other, so that no arc between them is the shortest.
    """
    flat = [v.reshape(len(v), -1).double() for v in (x, y)]
    first, last = (v.norm(dim=1, keepdim=True) for v in flat)
    a, b = (v / r.where(r > 0, 1.0) for v, r in zip(flat, (first, last), strict=True))
    theta = 2 * torch.atan2((a - b).norm(dim=1, keepdim=True), (a + b).norm(dim=1, keepdim=True))  # acos is not stable
    opposite = torch.pi - theta < 1e-6
    if opposite.any():
        i = int(opposite.flatten().nonzero()[0])
        raise ValueError(f"rows {i} of x and y lie opposite to each other and have no shortest arc; move one a little.")
    near = theta < 1e-6  # the arc is the chord
    sin = theta.sin().where(~near, 1.0)
    c_a, c_b = ((v * theta).sin().where(~near, v) / sin for v in (1 - w, w))
    return (((1 - w) * first + w * last) * (c_a * a + c_b * b)).reshape(x.shape).to(x)


def _follow(
    model: ScoreModel,
    x: Tensor,
    sampler: Sampler,
    to_noise: bool,
    batch: int | None,
    progress: bool | None,
    cond: dict[str, Any],
) -> Tensor:
    """The states at one end of the sampler's times from those at the other, `batch` at a time."""

    def refused(like: Tensor) -> Tensor:
        raise ValueError(
            f"{type(sampler).__name__} draws noise, and what it does cannot be undone; give ProbabilityFlow, Heun or "
            "DDIM(eta=0)."
        )

    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch = {batch}; give the most rows to hold at a time, at least 1, or None for all.")
    times = sampler.times(model.sde, False)
    parts = list(chunks(x, batch, cond, 0, len(x)))
    show = shown(progress)
    ends = []
    with torch.no_grad(), evaluating(model):
        plan = None
        with tqdm(disable=not show, desc=type(sampler).__name__, leave=False) as bar:
            for _, end, own in parts:
                bound: Any = Conditioned(model, **own) if own else model
                if plan is None or own is not cond:  # a plan may hold the model, and with it the conditions
                    plan = _backward(sampler, bound, times) if to_noise else sampler.plan(bound, times)
                    bar.total = len(plan) * len(parts)
                state = None
                for c in plan:
                    end, state = sampler.step(bound, end, c, refused, state)
                    bar.update()
                if not end.isfinite().all():
                    raise ValueError(
                        f"the state turned non-finite on the way to t = {times[0 if to_noise else -1].item():.6g}; take more "
                        "steps, or end the sampler's grid at a later time: ProbabilityFlow(grid=grids.Angle(end=t))."
                    )
                ends.append(end)
    return torch.cat(ends)


def _backward(sampler: Sampler, model: ScoreModel, times: Tensor) -> list[Any]:
    """The plan of the sampler's times run from the last to the first."""
    try:
        return sampler.plan(model, times.flip(0))
    except (ValueError, torch.linalg.LinAlgError) as error:
        sampler.plan(model, times)  # what it refuses anyway, it says itself
        raise ValueError(
            f"{type(sampler).__name__} does not run from data at t = {times[-1].item():.6g} to noise; give ProbabilityFlow, "
            "Heun or DDIM(eta=0), or end its grid at a later time."
        ) from error


def _sampler(model: ScoreModel, steps: int | None, sampler: Sampler | None, x: Tensor) -> Sampler:
    """The sampler given, or the default on a grid that ends at 0."""
    check_choice(steps, sampler)
    if sampler is not None:
        return sampler
    scalar = is_linear(model.sde) and len(model.sde.e) == 1  # whose flow runs in the angle, others' in t
    grid = Angle(end=0.0) if scalar else Uniform(end=0.0)
    if steps is not None:
        return Heun(steps, grid)
    tolerance = 1e-7 if x.dtype == torch.float64 else 1e-5
    return ProbabilityFlow(grid=grid, rtol=tolerance, atol=tolerance)


def _state(sde: SDE, x: Tensor, seed: int | None) -> Tensor:
    """Data as states at 0, the rest of a larger state drawn from its law there."""
    lifted = sde.lift(x)
    if lifted.shape == x.shape:
        return x
    return sde.complete(x, SampleNoise(as_seed(seed, None))(lifted))[0]


def _prior_mean(model: ScoreModel, z: Tensor) -> Tensor:
    """The mean of the state at T, where it has a closed form and the data's is known; 0 otherwise."""
    if not is_linear(model.sde) or model.moments is None:
        return torch.zeros_like(z[:1])
    return model.sde.marginal(model.sde.T).Phi(model.sde.lift(model.moments.mean[None].to(z)))


def _checked(name: str, x: Tensor, model: ScoreModel) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; give floating-point values.")
    if not x.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values; remove them first.")
    if isinstance(model, nn.Module):
        check_dtype(model, x)
