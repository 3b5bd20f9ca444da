"""The loss of a law that is known up to a constant, of which there are no data: `LogVariance`."""

from __future__ import annotations

__all__ = ["LogVariance"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from ..arguments import check_arguments
from ..checks import check_number
from ..guidance.unnormalised import PathTarget
from ..models.score import ScoreModel
from ..samplers.base import Sampler
from ..samplers.rollout import log_prob_of_steps
from .finite import NonFiniteLoss
from .score_loss import ScoreLoss


class LogVariance(ScoreLoss):
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

    Raises
    ------
    NonFiniteLoss
        In a training, if `log_prob` is NaN or +∞ at a draw, or −∞ at all; the model keeps the weights of the step before.
    ValueError
        If `linear_from` is not positive; in a training, if the data have conditions, or as for `guidance.importance_sample`.
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
    ) -> None:
        self.log_prob, self.base, self.sampler, self.steps = log_prob, base, sampler, steps
        self.linear_from = check_number("linear_from", linear_from, above=0)
        self._target = PathTarget(log_prob, base, sampler, steps, NonFiniteLoss)

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each of as many paths as there are rows, ``(B,)`` in squared nats."""
        if cond:
            raise ValueError(
                f"the data have the conditions {', '.join(cond)}, and the density is one of data alone; train without them."
            )
        run = self._target.draw(model, len(x_0), generator)
        log_weights = self._target.log_weights(model, run)
        known = log_weights[log_weights.isfinite()]
        log_weights = log_weights.clamp_min(known.min().item() - self.linear_from)  # where the density is 0
        steps = log_prob_of_steps(model, run.path, run.times, sampler=self._target.sampler)
        again = log_weights + (run.log_prob - steps).double().sum(0)
        apart = again - log_weights.median()
        return 2 * huber_loss(apart, torch.zeros_like(apart), reduction="none", delta=self.linear_from)
