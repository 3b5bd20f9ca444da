"""Losses of a law that is known up to a constant, without data: `AdjointMatching`, `LogVariance` and `PathDivergence`."""

from __future__ import annotations

__all__ = ["AdjointMatching", "LogVariance", "PathDivergence"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..fixed import Fixed
from ..guidance.unnormalised import NO_SLOPE, WHY, PathTarget
from ..laws.draws import noise_like
from ..laws.empirical import pooled_values
from ..laws.operators import rows
from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from ..precision import uncast
from ..processes.linear import LinearSDE, as_linear
from ..processes.times import ImportanceTimes, TimeLaw
from ..samplers.base import Sampler
from ..samplers.rollout import log_prob_of_steps
from .finite import NonFiniteLoss, finite
from .replay import SHARE, Replay, Replaying, temper
from .score_loss import ScoreLoss
from .weightings import LikelihoodWeighting, Weighting, weight_at


class LogVariance(Fixed, Replaying):
    """The log-variance of paths: how much ``log w`` of `guidance.importance_sample` differs between paths of the model.

    With ``log w = log f(x_0) + Σ log p(x_t | x_s) − log p(x_T) − Σ log q(x_s | x_t)``, the same of all paths where the steps
    `q` of the model are the time reversal of the law's, the loss of a path is ``(log w − median)²``. Paths are drawn from the
    model at every step of the training, without derivatives, and weighed again with them; the density needs no slope. L.
    Richter et al., *VarGrad: a low-variance gradient estimator for variational inference*, 2020, arXiv:2010.10436; L. Richter,
    J. Berner, *Improved sampling via learned diffusions*, 2023, arXiv:2307.01198. The trajectory-balance loss is the same with
    a learned constant in place of the median of the batch. With `base` it is a policy gradient whose optimum is the tilted law.

    Of the data that `fit` is given, their mean and covariance are used, and how many are in a batch: give a Gaussian that is
    about as wide as the law or wider, ``fit(model, gaussian, loss=LogVariance(log_prob))``, and with `base` samples of that.
    Modes where no path ever comes stay unknown.

    Parameters
    ----------
    log_prob, base, sampler
        As for `guidance.importance_sample`, the steps of training too.
    steps
        Steps of the default sampler.
    linear_from
        Nats from the median from where the loss of a path is linear (Huber's), so that a few do not decide alone.
    replay
        Ends of earlier paths that some paths of a batch begin with, noised by the forward process (`Replay`); none by default.
        The median is that of all paths of the batch.

    Raises
    ------
    NonFiniteLoss
        In a training, if `log_prob` is NaN or +∞ at a draw, or −∞ at all; the model keeps the weights of the step before.
    ValueError
        If `linear_from` is not positive, or `replay` is to move ends in a law with `base`; in a training, if the data have
        conditions, a batch has one row, or as for `guidance.importance_sample`.
    """

    of_data = False

    @check_arguments
    def __init__(
        self,
        log_prob: Callable[[Tensor], Tensor],
        base: ScoreModel | None = None,
        sampler: Sampler | None = None,
        steps: int = 50,
        linear_from: float = 5.0,
        replay: Replay | None = None,
    ) -> None:
        self.log_prob, self.base, self.sampler, self.steps = log_prob, base, sampler, steps
        self.linear_from, self.replay = check_number("linear_from", linear_from, above=0), replay
        if base is not None and replay is not None and replay.moves:
            raise ValueError(
                f"replay has moves = {replay.moves}, and with base the density that they would need has that of base's "
                "samples for a factor, which is not known; give Replay(moves=0)."
            )
        self._target = PathTarget(log_prob, base, sampler, steps, NonFiniteLoss)

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each of as many paths as there are rows, ``(B,)`` in squared nats."""
        _refuse_conditions(cond)
        if len(x_0) < 2:
            raise ValueError("the batch has one row, and weights of one path have no spread; give larger batches.")
        memory, target = self.memory(), self._target
        own = len(x_0) if memory is None else memory.fresh(len(x_0))
        run = target.draw(model, own, generator)
        if memory is not None and own < len(x_0):
            ends = memory.draw(len(x_0) - own, generator).x
            path = torch.cat([run.path, target.noise(model, ends, run.times, generator)], 1)
            run = run._replace(path=path, samples=torch.cat([run.samples, ends]))
        steps = log_prob_of_steps(model, run.path, run.times, sampler=target.sampler)
        run = run._replace(log_prob=torch.cat([run.log_prob, steps[:, own:].detach()], 1))
        log_weights = target.log_weights(model, run)
        self.keep(model, run.samples[:own], log_weights[:own], generator)
        known = log_weights[log_weights.isfinite()]
        log_weights = log_weights.clamp_min(known.min().item() - self.linear_from)  # where the density is 0
        again = log_weights + (run.log_prob - steps).double().sum(0)
        apart = again - log_weights.median()
        return 2 * huber_loss(apart, torch.zeros_like(apart), reduction="none", delta=self.linear_from)


class PathDivergence(Fixed, ScoreLoss):
    """The divergence of paths: the mean of ``−log w`` of `guidance.importance_sample` over paths of the model, with derivatives
    through the whole run.

    It is ``KL(q‖p) − log Z``, `q` the law of the model's paths and `p` that of the forward process from the density, and least
    where `LogVariance` is 0, whose gradient in the mean is twice the same. On `VP` it is the loss of denoising diffusion samplers
    (F. Vargas, W. Grathwohl, A. Doucet, 2023, arXiv:2302.13834). On ``ScheduleSDE`` with ``alpha² = 1 − t`` and steps even in `t`
    it is that of the path integral sampler (Q. Zhang, Y. Chen, 2021, arXiv:2111.15141): Brownian paths that are pinned in a
    point, over the root of their time, are this process. What `fit` is given as data is as for `LogVariance`. All evaluations of
    a run are held in memory.

    Parameters
    ----------
    log_prob
        The logarithm of the density of data ``(B, *)`` up to a constant, ``(B,)``, by operations of torch.
    base, sampler, steps
        As for `LogVariance`.

    Raises
    ------
    NonFiniteLoss
        In a training, if `log_prob` is not finite at a draw: a density of zero is infinitely far.
    ValueError
        In a training, as for `LogVariance`.
    """

    of_data = False

    @check_arguments
    def __init__(
        self,
        log_prob: Callable[[Tensor], Tensor],
        base: ScoreModel | None = None,
        sampler: Sampler | None = None,
        steps: int = 50,
    ) -> None:
        self.log_prob, self.base, self.sampler, self.steps = log_prob, base, sampler, steps
        self._target = PathTarget(log_prob, base, sampler, steps, NonFiniteLoss)

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each of as many paths as there are rows, ``(B,)`` in nats."""
        _refuse_conditions(cond)
        run = self._target.draw(model, len(x_0), generator, grad=torch.is_grad_enabled())
        return finite(-self._target.log_weights(model, run), run.times[-1])


class AdjointMatching(Fixed, Replaying):
    """Adjoint matching: regression of the score on the slope of the log-density where the model's own samples are.

    With the slopes of the density `f` at the data that a noised state may come from, the score of the law is

        ∇ log p(x_t) = s_0(x_t) + A_tᵀ E[∇ log f(x_0) + x_0 | x_t],

    `s_0` and `A_t` the score and the gain of the posterior mean of standard normal data. Data are drawn from the model, without
    derivatives, and noised by the process at several times each; the expectation is taken over the whole batch (Rao–Blackwell).
    Where the samples of the model have the law, the identity is exact. A. Havens et al., *Adjoint sampling: highly scalable
    diffusion samplers via adjoint matching*, 2025, arXiv:2504.11713; V. De Bortoli et al., *Target score matching*, 2024,
    arXiv:2402.08667.

    Samples count by the weights of their paths (`guidance.importance_sample`), or by powers of these that leave half of them
    effective: without, modes keep the shares that they have happened to get. What `fit` is given as data is as for `LogVariance`.
    A step costs `steps` evaluations of the network without derivatives and `levels` with. It learns all numbers of the score,
    where `LogVariance` learns from one number a path, and needs the slope of the density.

    Parameters
    ----------
    log_prob
        The logarithm of the density of data ``(B, *)`` up to a constant, ``(B,)``, by operations of torch.
    sampler, steps
        As for `LogVariance`.
    levels
        Times that each sample is noised at.
    weighting, times
        As for `losses.Denoising`; `weightings.LikelihoodWeighting` by default.
    longest
        Longest slope that counts whole, root mean square of its numbers in the units of the process; longer ones are cut.
    replay
        Ends of earlier paths that count among the samples of a batch, with their weights (`Replay`); none by default.

    Raises
    ------
    NonFiniteLoss
        As for `LogVariance`, and if a slope is not finite.
    ValueError
        If a number is not positive; in a training, as for `LogVariance`, or if `log_prob` has no slope.
    """

    of_data = False

    @check_arguments
    def __init__(
        self,
        log_prob: Callable[[Tensor], Tensor],
        sampler: Sampler | None = None,
        steps: int = 30,
        levels: int = 8,
        weighting: Weighting | None = None,
        times: TimeLaw | None = None,
        longest: float = 20.0,
        replay: Replay | None = None,
    ) -> None:
        self.log_prob, self.sampler, self.steps = log_prob, sampler, check_count("steps", steps)
        self.levels, self.longest = check_count("levels", levels), check_number("longest", longest, above=0)
        self.weighting = LikelihoodWeighting() if weighting is None else weighting
        self.times, self.replay = ImportanceTimes() if times is None else times, replay
        self._target = PathTarget(log_prob, None, sampler, steps, NonFiniteLoss)

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each of as many samples as there are rows, ``(B,)``."""
        _refuse_conditions(cond)
        sde, memory = as_linear(model.sde, WHY), self.memory()
        run = self._target.draw(model, len(x_0) if memory is None else memory.fresh(len(x_0)), generator)
        x, u, log_weights = run.samples, run.path[-1], self._target.log_weights(model, run)
        if memory is not None and len(x) < len(x_0):
            kept = memory.draw(len(x_0) - len(x), generator)
            x, log_weights = torch.cat([x, kept.x]), torch.cat([log_weights, kept.log_weights.to(log_weights)])
            u = torch.cat([u, sde.units.standardise(kept.x).to(u)])
        self.keep(model, run.samples, log_weights[: len(run.samples)], generator)
        # From the largest on, whose digits float32 holds whatever the constant is.
        log_weights, values = temper(log_weights - log_weights.max(), SHARE), self._values(sde, x, u)
        t, factor = self.times.draw(sde, self.levels * len(u), generator)
        at, data = sde.marginal(t), u.repeat(self.levels, *[1] * (u.ndim - 1))
        x = at.Phi(data) + at.R(noise_like(data, generator))
        expected = pooled_values(values, log_weights.to(u), u, at.normalise(x), at.C, at.S)
        W = weight_at(self.weighting, sde, at) @ at.velocity_to_score
        error = as_vectors(W(model.velocity_at(x, at) - at.A(expected)).square()).sum(1)
        return finite(error * factor.to(error), t).reshape(self.levels, -1).mean(0)

    def _values(self, sde: LinearSDE, x: Tensor, u: Tensor) -> Tensor:
        """Return ``∇ log f + x_0`` at data, in the units of the process, where they are `u`; the longest ones cut."""
        values = self._slopes(x) * sde.units.std.to(u) + u
        size = as_vectors(values.square()).mean(1).sqrt()
        return values * rows((self.longest / size).clamp_max(1.0), values)

    def _slopes(self, x: Tensor) -> Tensor:
        """Return the slopes of the log-density at data, ``(n, *)``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            total = self.log_prob(x).sum()
        if not total.requires_grad:
            raise ValueError(NO_SLOPE)
        with uncast(x):
            (slopes,) = torch.autograd.grad(total, [x])
        bad = ~as_vectors(slopes.isfinite()).all(1)
        if bad.any():
            points = f"{int(bad.sum())} of {len(x)} points, such as {x[bad][0].tolist()}"
            raise NonFiniteLoss(f"the slope of log_prob is not finite at {points}")
        return slopes.detach()


def _refuse_conditions(cond: dict[str, Any]) -> None:
    """Refuse conditions of the data, which the density knows nothing of."""
    if cond:
        raise ValueError(
            f"the data have the conditions {', '.join(cond)}, and the density is one of data alone; train without them."
        )
