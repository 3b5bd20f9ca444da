"""Whether the states of a run stay where the process can bring data: `warn_of_escape`, which a run asks once, at its end.

A state is data and noise, so that its root mean square follows from the moments of the data. No number of a million data of
whatever law is farther from 0 than a thousand root mean squares: what is farther has been carried there by steps that are too
long for the model.
"""

from __future__ import annotations

__all__ = ["warn_of_escape"]

from functools import partial

import torch
from torch import Tensor

from ..laws.operators import Operator
from ..models.score import ScoreModel
from ..processes.linear import is_linear
from ..recall import recall
from ..warning import warn_caller

FARTHEST = 1e3  # root mean squares
OWN = 10.0  # of them, from which on a start is one that the user has put there


def warn_of_escape(model: ScoreModel, times: Tensor, largest: Tensor) -> None:
    """Warn of the first time at which a state was farther from 0 than data and noise can be.

    Nothing is said where the moments of the data are not known, or those of the states do not follow from them. A start that is
    far away itself, as one that the user gives may be, moves the bound with it.

    Parameters
    ----------
    model
        A score model.
    times
        Where the run began and stopped, float64, one for each of `largest`; 0 for clean data.
    largest
        The largest number in size of the states there.
    """
    usual = recall(partial(_root_mean_squares, model, times), "reach", model.sde, model.moments, times)
    if usual is None:
        return
    if not is_linear(model.sde):
        usual = usual.clamp_min(largest[0].item())
    start = (largest[0] / usual[0]).item()
    far = largest > (FARTHEST * usual).clamp_min(usual.max().item()) * (start if start > OWN else 1.0)
    if far.any():
        i = int(far.nonzero()[0, 0])
        warn_caller(
            f"a state reached {largest[i].item():.3g} at t = {times[i].item():.4g}, where data and noise have a root mean square "
            f"of {usual[i].item():.3g}: the run has gone where the process brings no data; take more steps or another sampler, "
            "or, of a guided model, a smaller scale or an interval that begins later."
        )


def _root_mean_squares(model: ScoreModel, times: Tensor) -> Tensor | None:
    """Return the root mean square of states at the times, of the coordinate and channel where it is largest; None where it is not
    known.
    """
    sde = model.sde
    if model.moments is None or (not is_linear(sde) and sde.coordinates is not None):
        return None
    moments = model.state_moments()
    square = (moments.mean.double().flatten().square() + moments.variances()).max().cpu()
    if not is_linear(sde):
        return square.sqrt().expand(times.shape)
    with torch.no_grad():
        at = sde.marginal(times)
        return torch.hypot(_largest(at.Phi) * square.sqrt(), _largest(at.R)).expand(times.shape)


def _largest(A: Operator) -> Tensor:
    """Return how much a map enlarges numbers at most, one for each of the times."""
    numbers = A.along(A.axes)
    return A.matrix().abs().sum(-1).amax(-1) if numbers is None else numbers.abs().amax(1)
