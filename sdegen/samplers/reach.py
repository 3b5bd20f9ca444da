"""Whether the states of a run stay where the process can bring data: `warn_of_escape`, which a run asks once, at its end.

A state is data and noise, so that its root mean square follows from the moments of the data. No number of a million data of
whatever law is farther from 0 than a thousand root mean squares: what is farther has been carried there by steps that are too
long for the model.
"""

from __future__ import annotations

__all__ = ["Reach", "reach_of", "warn_of_escape"]

from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.operators import Operator
from ..models.score import ScoreModel
from ..processes.linear import is_linear
from ..warning import warn_caller

FARTHEST = 1e3  # root mean squares
OWN = 10.0  # of them, from which on a start is one that the user has put there


class Reach(NamedTuple):
    """How far the states of a run are from 0 where they are data and noise.

    Attributes
    ----------
    times
        Where the run begins and stops; 0 for clean data.
    usual
        The root mean squares there, of the coordinate and channel where they are largest.
    linear
        Whether they are known at all times, as on linear processes, or those of the data alone.
    """

    times: list[float]
    usual: list[float]
    linear: bool

    def at(self, stops: list[int]) -> Reach:
        """Return how far states are from 0 at some of the times."""
        return Reach([self.times[i] for i in stops], [self.usual[i] for i in stops], self.linear)


def reach_of(model: ScoreModel, times: Tensor) -> Reach | None:
    """Return how far states go at the times of a run, float64; None where the moments of the data are not known, or those of the
    states do not follow from them.

    Parameters
    ----------
    model
        A score model.
    times
        Where the run begins and stops; 0 for clean data.
    """
    sde = model.sde
    if model.moments is None or (not is_linear(sde) and sde.coordinates is not None):
        return None
    moments = model.state_moments()
    square = (moments.mean.double().flatten().square() + moments.variances()).max().cpu()
    if not is_linear(sde):
        return Reach(times.tolist(), square.sqrt().expand(times.shape).tolist(), False)
    with torch.no_grad():
        at = sde.marginal(times)
        usual = torch.hypot(_largest(at.Phi) * square.sqrt(), _largest(at.R)).expand(times.shape)
    return Reach(times.tolist(), usual.tolist(), True)


def warn_of_escape(reach: Reach, largest: list[float]) -> None:
    """Warn of the first time at which a state was farther from 0 than data and noise can be.

    A start that is far away itself, as one that the user gives may be, moves the bound with it.

    Parameters
    ----------
    reach
        What is known of the model.
    largest
        The largest numbers in size of the states, at the first of its times and on, and of clean data the last.
    """
    times, usual, linear = reach
    usual = usual if linear else [max(u, largest[0]) for u in usual]
    start, widest = largest[0] / usual[0], max(usual)
    for t, here, most in zip(times, usual, largest, strict=True):
        if most > max(FARTHEST * here, widest) * (start if start > OWN else 1.0):
            warn_caller(
                f"a state reached {most:.3g} at t = {t:.4g}, where data and noise have a root mean square of {here:.3g}: the run "
                "has gone where the process brings no data; take more steps or another sampler, or, of a guided model, a smaller "
                "scale or an interval that begins later."
            )
            return


def _largest(A: Operator) -> Tensor:
    """Return how much a map enlarges numbers at most, one for each of the times."""
    numbers = A.along(A.axes)
    return A.matrix().abs().sum(-1).amax(-1) if numbers is None else numbers.abs().amax(1)
