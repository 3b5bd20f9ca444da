"""Posteriors of parameters given data, learned once for all data: `AmortisedPosterior`."""

from __future__ import annotations

__all__ = ["AmortisedPosterior"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments, check_law
from ..checks import check_count
from ..laws.coordinates import Coordinates
from ..likelihood import log_prob
from ..models import Conditioned, ScoreModel
from ..precision import uncast
from ..samplers import Sampler
from .conditional import ConditionalDensity
from .guess import LinearGuess


class AmortisedPosterior(ConditionalDensity):
    """The posterior ``p(theta | x)`` of parameters under a prior, for any data `x`, by a score model.

    Parameters
    ----------
    model, coordinates, guess, sampler, batch
        As for `ConditionalDensity`.
    prior
        The law of the parameters that the model was trained on.

    Raises
    ------
    TypeError
        If the prior is not a law.
    ValueError
        As for `ConditionalDensity`.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        prior: Any,
        coordinates: Coordinates | None = None,
        guess: LinearGuess | None = None,
        sampler: Sampler | None = None,
        batch: int | None = None,
    ) -> None:
        super().__init__(model, coordinates, guess, sampler, batch)
        self.prior = check_law("prior", prior, "sample", "log_prob")

    def find_mode(self, x: Tensor, draws: int = 1000, steps: int = 20, *, seed: int | None = None) -> Tensor:
        """Find the parameters of highest posterior density given one `x`, and return them, ``(d,)``.

        An ascent by L-BFGS begins at the draw of highest density. The density is that of the parameters themselves, not of their
        coordinates without bounds.

        Parameters
        ----------
        x
            Data, as for `sample`.
        draws
            The number of draws, from the best of which the ascent begins.
        steps
            The number of steps of the ascent.
        seed
            The seed of the draws.

        Raises
        ------
        ValueError
            If `draws` or `steps` is not a whole number of at least 1, or for an `x` that `sample` refuses.
        """
        theta = self.sample(check_count("draws", draws), x, seed=seed)
        rows = x[None].to(theta)
        best = theta[self.log_prob(theta, x).argmax()][None]
        r = self.to_states(best, rows).requires_grad_()
        search = torch.optim.LBFGS([r], max_iter=check_count("steps", steps), line_search_fn="strong_wolfe")

        def ascend() -> Tensor:
            search.zero_grad()
            bound = Conditioned(self.model, **{self.name: rows})
            value = log_prob(bound, self.model.cast_states(r), tolerance=1e-3, grad=True)
            loss = -(value + self.log_volume(self.to_values(r, rows))).sum()
            with uncast(r):
                loss.backward()
            return loss

        search.step(ascend)
        return self.to_values(r.detach(), rows)[0]
