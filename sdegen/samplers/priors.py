"""Checks that the prior of a process may stand for its law at T, by bounds on what the difference costs.

Samples by the true score, and densities of its flow, are wrong by at most ``KL(p_T ‖ prior)``, since the way back makes no two
laws more different. For a Gaussian prior this is exactly the sum of two divergences: that of `p_T` from the Gaussian `N` of the
same moments, and that of `N` from the prior. The second is known. The first depends on the shape of the data: it is by how much
their mutual information with the state falls short of that of Gaussian data. So it is at most ``½ log(1 + s²)`` nats for a
coordinate that spreads by `s` times the noise at T, a bound that data come near of which nearly all are one point and the rest
are far away.
"""

from __future__ import annotations

__all__ = ["check_start", "cost", "prior_of"]

import math
from typing import Any

import torch
from torch import Tensor

from ..answers import ask_draws
from ..arguments import check_law
from ..laws.mixtures import Moments
from ..laws.outside import as_law
from ..processes.base import SDE
from ..processes.linear import LinearSDE, gaussian, is_linear
from ..warning import warn_caller

HARDLY = 1.0  # spread of the data over the noise at T, from which on a Gaussian prior may cost half a bit a coordinate
# The same ratio, above which a Gaussian of the moments need not be near the law of the states any more.
REMEMBERED = 3.0
NUMBERS = 8192  # drawn numbers, by which the moments of a process's own prior are measured
LEAST = 16  # draws, at least


def prior_of(sde: SDE, moments: Moments, instead: str) -> Any:
    """Return the prior of a process; warn if it may cost more than ``½ log 2`` nats a coordinate, and refuse it if it may cost
    more than ``½ log 10``.

    Priors of nonlinear processes, whose law at T is not known, are not checked.

    Parameters
    ----------
    sde
        A process.
    moments
        The moments of the data, in the units of the process.
    instead
        What else the user can pass, as the end of the error's sentence.

    Raises
    ------
    TypeError
        If the process does not return a law.
    ValueError
        If the data spread at T by more than `REMEMBERED` times the noise, or the prior is as far from the moments of the states.
    """
    prior = check_law(f"the answer of {type(sde).__name__}.prior", as_law(sde.prior(moments)))
    if is_linear(sde):
        _check_forgotten(sde, moments, instead)
        if type(sde).prior is not LinearSDE.prior:
            _check_moments(sde, prior, moments, instead)
    return prior


def cost(spread: float) -> float:
    """Return ``½ log(1 + spread²)``, a bound in nats a coordinate on how far the law of data and noise is from a Gaussian.

    The Gaussian has the moments of that law, and `spread` is the standard deviation of the data over that of the noise.
    """
    return 0.5 * math.log1p(spread**2)


def _check_forgotten(sde: LinearSDE, moments: Moments, instead: str) -> None:
    """Warn, or refuse, if the states at T still depend much on the data."""
    spread = (sde.snr(sde.T).detach() * moments.variance()).sqrt().item()
    if spread <= HARDLY:
        return
    name, how = type(sde).__name__, "not" if spread > REMEMBERED else "hardly"
    said = f"{name} has {how} forgotten the data at T = {sde.T:g}: they still spread by {spread:.3g} times the noise"
    if spread > REMEMBERED:
        raise ValueError(
            f"{said}, where samplers start from a Gaussian. Give the process the units of the data, "
            f"sde.in_units(law.moments().units()), or {instead}."
        )
    warn_caller(
        f"{said}, and its prior, a Gaussian, may be off by {cost(spread):.2g} nats a coordinate; give the process more noise at "
        f"T, or the units of the data, sde.in_units(law.moments().units()), or {instead}."
    )


def _check_moments(sde: LinearSDE, prior: Any, moments: Moments, instead: str) -> None:
    """Warn, or refuse, if the process defines a prior that has other moments than the states at T."""
    law = LinearSDE.prior(sde, moments)
    n = max(LEAST, NUMBERS // law.means[0].numel())
    drawn = ask_draws(prior, n, torch.Generator().manual_seed(0)).double().cpu()
    if drawn.shape[1:] != law.means.shape[1:]:
        return  # this is refused where states are drawn
    channels = law.means[0].numel() // moments.mean.numel()
    nats = _apart(law.means[0], _variances(law), drawn.mean(0), drawn.var(0), channels)
    if nats <= cost(HARDLY):
        return
    said = (
        f"the prior of {type(sde).__name__} is {nats:.2g} nats a coordinate from a Gaussian of the moments that states have at "
        f"T = {sde.T:g}"
    )
    if not nats <= cost(REMEMBERED):  # NaN, of a prior without spread, too
        raise ValueError(f"{said}; define prior(moments) by them, train the process, or {instead}.")
    warn_caller(
        f"{said}, and samples may be off by as much; define prior(moments) by them, train the process, or {instead}."
    )


def check_start(sde: SDE, moments: Moments, t: float) -> None:
    """Warn of a run that begins with states of the prior at a time before T, or refuse it, if the law of states at its first time
    is far from that at T: such a run needs states of its first time.

    The two laws are compared as Gaussians of the data's moments. What the shape of the data may cost at the first time (`cost`)
    is added.

    Parameters
    ----------
    sde, moments
        As for `prior_of`.
    t
        The first time of the run.

    Raises
    ------
    ValueError
        If the run may be off by more nats a coordinate than with data that spread by `REMEMBERED` times the noise.
    """
    if not is_linear(sde) or t >= sde.T * (1 - 1e-9):
        return
    late, early = (gaussian(moments).diffuse(sde.marginal(s), sde.embedding) for s in (sde.T, t))
    channels = early.means[0].numel() // moments.mean.numel()
    nats = _apart(early.means[0], _variances(early), late.means[0], _variances(late), channels)
    nats += cost((sde.snr(t).detach() * moments.variance()).sqrt().item())
    if nats <= cost(HARDLY):
        return
    said = (
        f"the grid begins at t = {t:.6g}, and the prior of {type(sde).__name__} is the law of states at T = {sde.T:g}: it may be "
        f"off by {nats:.2g} nats a coordinate"
    )
    if not nats <= cost(REMEMBERED):
        raise ValueError(f"{said}; begin at T, or pass x_T, states of the time at which the grid begins.")
    warn_caller(f"{said}; begin nearer to T, or pass x_T, states of the time at which the grid begins.")


def _variances(law: Any) -> Tensor:
    """Return the variances of the coordinates of a Gaussian, of the shape of its mean."""
    mean, C = law.means[0], law.covariances[0]
    full = C.ndim == 2 and C.shape == (mean.numel(), mean.numel()) and C.shape != mean.shape
    return C.diagonal().reshape(mean.shape) if full else C.expand(mean.shape)


def _apart(m: Tensor, v: Tensor, mean: Tensor, variances: Tensor, channels: int) -> float:
    """Return ``KL(N(m, v) ‖ N(mean, variances))`` of Gaussians a coordinate, as if all coordinates of a channel had one
    spread.
    """
    v, V, off = (part.reshape(channels, -1).mean(1) for part in (v, variances, (mean - m).square()))
    return (0.5 * (v / V - 1 - (v / V).log() + off / V)).sum().item()
