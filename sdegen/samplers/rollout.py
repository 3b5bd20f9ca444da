"""Log-probabilities of the steps of stochastic runs, kept while a run is made (`Weigher`) or computed for a path that is known
(`log_prob_of_steps`).

A step of these samplers is ``x_s = mean(x_t) + Q R z``, so ``log p(x_s | x_t)`` is a Gaussian log-density (`StepNoise`). In a
run it follows from the noise that was drawn; for a path it follows from the mean, which is the sampler's own step without noise.
"""

from __future__ import annotations

__all__ = ["Rollout", "Weigher", "check_densities", "check_no_ends", "log_prob_of_steps"]

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from ..arguments import check_arguments
from ..checks import check_tensor
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..models.transformed import in_free_coordinates
from ..models.wrapper import Conditioned
from ..processes.base import SDE
from ..recall import recall
from ..show import show_call
from .base import Noise, Sampler
from .steps import take_steps


class Rollout(NamedTuple):
    """Samples with the states that led to them, and the log-probability of each step (`sample` with ``return_log_prob``).

    Attributes
    ----------
    samples
        The samples as `sample` returns them, ``(n, *)``.
    path
        States before the first step and after each, ``(steps + 1, n, *)``. They are in the units of the process, and on a bounded
        domain in the coordinates without bounds in which runs are made.
    times
        The times of these states, ``(steps + 1,)``.
    log_prob
        ``log p(x_s | x_t)`` of each step in nats, ``(steps, n)``: log-densities of the states of `path`. The last move to clean
        data adds no noise, and is not among the steps.
    """

    samples: Tensor
    path: Tensor
    times: Tensor
    log_prob: Tensor

    def __repr__(self) -> str:
        return show_call(self)


class Weigher:
    """A loop over the steps of a plan that keeps the log-probability of each step.

    Attributes
    ----------
    chunks
        Log-probabilities, ``(steps, B)``, of each chunk of the run in turn.
    """

    def __init__(self) -> None:
        self.chunks: list[Tensor] = []

    def take_steps(
        self, sampler: Sampler, plan: list[Any], model: ScoreModel, x: Tensor, noise: Noise
    ) -> Iterator[tuple[Tensor, Any]]:
        """Take the steps of a plan, and yield after each what `steps.take_steps` does.

        Parameters
        ----------
        sampler, plan, model, x, noise
            As for `steps.take_steps`.
        """
        drawn: list[Tensor] = []
        kept: list[Tensor] = []

        def keep(like: Tensor) -> Tensor:
            drawn.append(noise(like))
            return drawn[-1]

        steps = take_steps(sampler, plan, model, x, keep)
        for c in plan:
            law = sampler.step_noise(model, x, c)
            x, state = next(steps)
            if len(drawn) != 1:
                raise TypeError(
                    f"{type(sampler).__name__}.step drew noise {len(drawn)} times, and step_noise tells the law of one draw; "
                    "let it draw once."
                )
            kept.append(law.log_prob_of(drawn.pop()))
            yield x, state
        self.chunks.append(torch.stack(kept))


@check_arguments
def log_prob_of_steps(model: ScoreModel, path: Tensor, times: Tensor, *, sampler: Sampler, **cond: Any) -> Tensor:
    """Return the log-probabilities ``log p(x_s | x_t)`` that a model gives to the steps of a path, ``(steps, n)`` in nats.

    For the model that made the path they are those of its `Rollout`, to rounding. They are differentiable by the model's
    parameters, as is needed for gradients of an expected reward, ``∇ E r = E r ∇ Σ log p(x_s | x_t)``, and of ratios of a new
    model to an old one (K. Black et al., *Training diffusion models with reinforcement learning*, 2023, arXiv:2305.13301). A step
    takes one evaluation of the network, in evaluation mode as in a run, and one more if the variance is learned. The rows may be
    any of the rows of a run. If the sampler's steps remember nothing, the steps may be any of its steps:
    ``log_prob_of_steps(model, path[k : k + 2], times[k : k + 2], sampler=sampler)``.

    Parameters
    ----------
    model
        Any score model.
    path
        States of the process, ``(steps + 1, n, *)``, such as ``Rollout.path``.
    times
        The times of these states, ``(steps + 1,)``, such as ``Rollout.times``.
    sampler
        The sampler that took the steps.
    cond
        Conditions for the network: tensors with `n` rows, or one value for all.

    Returns
    -------
    Tensor
        ``(steps, n)``, in the dtype of `path`, float32 at least.

    Raises
    ------
    TypeError
        If the density of the sampler's steps is not known, or the model takes no condition of a given name.
    ValueError
        If shapes do not fit, the sampler draws no noise, a step has no noise in some direction, or the process brings states back
        over the ends of its domain.

    Examples
    --------
    >>> import sdegen
    >>> model, sampler = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), sdegen.samplers.DDIM(10, eta=1)
    >>> run = sdegen.sample(model, 5, sampler=sampler, seed=0, return_log_prob=True)
    >>> again = log_prob_of_steps(model, run.path, run.times, sampler=sampler)
    >>> torch.allclose(again, run.log_prob, atol=1e-3)
    True
    """
    cond, model = read_conditions(model, cond, log_prob_of_steps), in_free_coordinates(model)
    check_no_ends(model.sde)
    check_tensor("times", times, ndim=1)
    check_tensor("path", path)
    if path.ndim < 2 or len(path) != len(times) or len(times) < 2:
        raise ValueError(
            f"path has shape {tuple(path.shape)} and times {tuple(times.shape)}; give states (steps + 1, n, *) and as many times."
        )
    whole, times = Conditioned(model, **cond) if cond else model, times.double().cpu()
    steps = recall(partial(sampler.plan, whole, times), "weigh", whole.planned_by(), sampler.plan, times)
    kept, state = [], None
    with evaluating(whole):
        for before, after, c in zip(path[:-1], path[1:], steps, strict=True):
            law = sampler.step_noise(whole, before, c)
            mean, state = sampler.step(whole, before, c, torch.zeros_like, state)
            kept.append(law.log_prob(after - mean))
    return check_densities(torch.stack(kept), times)


def check_no_ends(sde: SDE) -> None:
    """Refuse a process that brings states back over the ends of its domain, since then many ways lead to one state.

    Raises
    ------
    ValueError
        If the process does so.
    """
    if sde.domain is not constraints.real:
        raise ValueError(
            f"{type(sde).__name__} brings states back that a step has moved out of its domain, and the density of a step is a "
            "sum over all ways; take log-probabilities of steps on a process without ends, such as VP."
        )


def check_densities(log_prob: Tensor, times: Tensor) -> Tensor:
    """Return log-densities of steps, ``(steps, n)``; refuse them if a step has no noise in some direction.

    Raises
    ------
    ValueError
        If a log-density is not finite; the message names the step.
    """
    bad = ~log_prob.isfinite().all(1)
    if bad.any():
        k = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"step {k + 1} of {len(log_prob)}, to t = {times[k + 1].item():.6g}, adds no noise in some direction, so its state "
            "has no density; end the grid at a later time, or take Ancestral or DDIM(eta=1), whose noise has every direction."
        )
    return log_prob
