"""A check that the states of a run stayed where the process can bring data (`warn_of_escape`), made once at the end of a run.

A state is data and noise, so its root mean square follows from the moments of the data. Of a million data, whatever their law,
one at most is expected beyond a thousand root mean squares: a state that is farther from 0 has been carried there by steps that
are too long for the model.
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
OWN = 10.0  # root mean squares, beyond which a start has been chosen by the user


class Reach(NamedTuple):
    """How far from 0 the states of a run are as long as they are data and noise.

    Attributes
    ----------
    times
        The times at which the run begins and stops; 0 for clean data.
    usual
        The root mean squares of states at these times, of the coordinate and channel where they are largest.
    linear
        Whether `usual` is known at all times, as on linear processes; otherwise it is that of the data at every time.
    """

    times: list[float]
    usual: list[float]
    linear: bool

    def at(self, stops: list[int]) -> Reach:
        """Return the reach at some of the times."""
        return Reach([self.times[i] for i in stops], [self.usual[i] for i in stops], self.linear)


def reach_of(model: ScoreModel, times: Tensor) -> Reach | None:
    """Return how far from 0 states are at the times of a run; None if the moments of the data are not known, or the moments of
    the states do not follow from them.

    Parameters
    ----------
    model
        A score model.
    times
        The times at which the run begins and stops, float64; 0 for clean data.
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
        How far from 0 states of the model are.
    largest
        The largest absolute value in the states at each of the times, that of clean data last.
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
    """Return the largest factor by which a map enlarges numbers, one for each of the times."""
    numbers = A.along(A.axes)
    return A.matrix().abs().sum(-1).amax(-1) if numbers is None else numbers.abs().amax(1)
