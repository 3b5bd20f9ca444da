"""The times of a fitted solver and the factors on its weights as one vector, which the second fit changes as a whole."""

from __future__ import annotations

__all__ = ["Parameters"]

import torch
from torch import Tensor

from ..models.score import ScoreModel
from ..processes.base import SDE
from .clocks import share
from .fitted import Fitted, multiplied
from .multistep import MultistepStep


class Parameters:
    """The parameters of a fitted solver as one vector: logarithms of the gaps between its times on the clock `share`, and factors
    on weights and noise.

    Attributes
    ----------
    start
        The vector of the solver to begin with, ``(p,)``.
    acts
        The step in which each parameter first acts.
    """

    def __init__(self, sde: SDE, fitted: Fitted, model: ScoreModel) -> None:
        self.flow, self.model, self.fitted = sde.flow(model), model, fitted
        self.stops = fitted.stops.double()
        self.ticks = share(self.flow.clock(self.stops))
        self.known = (self.stops, fitted.updates(model, self.stops))
        moves = [(k, m) for k, c in enumerate(self.known[1].steps()) for m in (c.correct, c.move) if m is not None]
        counts = torch.tensor([len(m.weights) for _, m in moves])
        self.mask = torch.arange(fitted.order + 1) < counts[:, None]
        gaps = -self.ticks.diff()
        noises = gaps[:0] if fitted.noises is None else fitted.noises.double()
        self.start = torch.cat([gaps.log(), fitted.factors.double()[self.mask], noises])
        acts = [k for k, m in moves for _ in m.weights]
        self.acts = [0] * len(gaps) + acts + [*range(len(noises))]

    def sampler(self, p: Tensor) -> Fitted:
        """Make the solver with the parameters `p`, and return it."""
        n, kept = len(self.ticks) - 1, self.fitted
        gaps, weights, noises = p.split([n, int(self.mask.sum()), len(p) - n - int(self.mask.sum())])
        factors = kept.factors.double().clone()
        factors[self.mask] = weights
        ticks = self.ticks[0] + (self.ticks[-1] - self.ticks[0]) * gaps.softmax(0).cumsum(0)[:-1]
        inner = self.flow.time(torch.atan(ticks / (1 - ticks)))
        stops, own = torch.cat([self.stops[:1], inner, self.stops[-1:]]), None if kept.noises is None else noises
        return Fitted(stops, factors, kept.order, kept.denoise, kept.reference, kept.eta, own)

    def plan(self, sampler: Fitted) -> list[MultistepStep]:
        """Plan a solver that `sampler` made; the weights without the factors are kept as long as the times stay the same."""
        if not torch.equal(self.known[0], sampler.stops):
            self.known = (sampler.stops, sampler.updates(self.model, sampler.stops))
        return multiplied(self.known[1], sampler.factors, sampler.noises).merged().steps()
