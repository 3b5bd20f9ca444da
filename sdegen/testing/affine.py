"""The exact law of a sampler's output on Gaussian data, without Monte Carlo.

The exact score of a Gaussian is affine in the state. So every step whose coefficients do not depend on the state is affine in
state, memory and noise, and so is the whole run: ``x_0 = A x_T + b + B z``. One run from unit vectors of start and noise gives
`A`, `b` and `B`, and with them mean and covariance of the samples. Their differences from the true ones are errors of the
discretisation alone.
"""

from __future__ import annotations

__all__ = [
    "AFFINE",
    "Response",
    "UnitNoise",
    "affine_moments",
    "gaussian_data",
    "gaussian_error",
    "response",
    "sampled_moments",
    "take_steps",
]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.mixtures import GaussianMixture, Moments
from ..metrics.frechet import frechet_distance
from ..models.exact import Exact
from ..models.score import ScoreModel
from ..samplers import Sampler, sample
from ..samplers.base import Noise
from ..samplers.defaults import default

AFFINE = 1e-8  # of the largest number: the largest deviation of an affine run by rounding


def gaussian_data() -> GaussianMixture:
    """Make Gaussian data in two dimensions with unequal, rotated axes and a nonzero mean, and return their law."""
    covariance = torch.tensor([[[0.9, 0.3], [0.3, 0.4]]], dtype=torch.float64)
    return GaussianMixture(torch.ones(1), torch.tensor([[0.6, -0.4]], dtype=torch.float64), covariance)


class UnitNoise:
    """A noise source that gives unit vectors instead of random numbers, so that a run shows its response to each.

    Each number of each call gets a row of its own, beginning with row `first`: in that row this number is 1, and all other noise
    of the run is 0.
    """

    def __init__(self, first: int = 0) -> None:
        self.first, self.calls = first, 0

    def __call__(self, like: Tensor) -> Tensor:
        """Return the noise of this call; it is 0 if the batch has no rows for it."""
        z = torch.zeros(len(like), like[0].numel(), dtype=like.dtype)
        D = z.shape[1]
        rows = z[self.first + self.calls * D :][:D]
        rows.copy_(torch.eye(D, dtype=like.dtype)[: len(rows)])
        self.calls += 1
        return z.reshape(like.shape)


class Response(NamedTuple):
    """The affine map of a sampling run on Gaussian data, from start and noise to the last state: ``x = A x_T + b + B z``,
    flattened.

    Attributes
    ----------
    A, b, B
        ``(D, D)``, ``(D,)`` and ``(D, numbers of noise)``, float64.
    """

    A: Tensor
    b: Tensor
    B: Tensor

    def moments(self, start: Moments) -> tuple[Tensor, Tensor]:
        """Return mean ``(D,)`` and covariance ``(D, D)`` of the last state, for a start with the given moments and
        standard normal noise.
        """
        mean = self.A @ start.mean.flatten() + self.b
        return mean, self.A @ start.covariance @ self.A.T + self.B @ self.B.T


def take_steps(sampler: Sampler, plan: list[Any], model: ScoreModel, x: Tensor, noise: Noise) -> Tensor:
    """Take all steps of a plan, passing the sampler's memory from each to the next, and return the last state."""
    state = None
    for c in plan:
        x, state = sampler.step(model, x, c, noise, state)
    return x


@check_arguments
def response(sampler: Sampler, model: Exact, denoise: bool = False) -> Response:
    """Run a sampler on unit vectors of start and noise, and return the affine map from these to its last state.

    Parameters
    ----------
    sampler
        A sampler whose steps are affine on an affine model, with or without memory; its steps must not depend on the state.
    model
        The exact model of a Gaussian; exact models of other laws are not affine.
    denoise
        Whether the times are those of a run that ends in the posterior mean; the move to it is left out in any case.

    Raises
    ------
    ValueError
        If the run is not affine.
    """
    plan = sampler.plan(model, sampler.times(model.sde, denoise))
    mean = model.distribution.moments().mean[None].double()
    return _response(
        lambda x, noise: take_steps(sampler, plan, model, x, noise), model.sde.lift(mean)[0], type(sampler).__name__
    )


def _response(run: Callable[[Tensor, Noise], Tensor], like: Tensor, name: str) -> Response:
    """Return the response of a run that takes starts ``(B, *)``, each of the shape of `like`, with a source of noise."""
    D, count = like.numel(), UnitNoise()
    run(torch.zeros(1, *like.shape, dtype=torch.float64), count)  # counts how often a run draws noise
    # Rows: zero, the unit states, one for each number of noise, and last the sum of the unit states, to test that it is affine.
    rows = torch.zeros(2 + D + count.calls * D, D, dtype=torch.float64)
    rows[1 : 1 + D] = torch.eye(D, dtype=torch.float64)
    rows[-1] = 1.0
    out = run(rows.reshape(-1, *like.shape), UnitNoise(1 + D)).flatten(1)
    b, linear, last = out[0], out[1:-1] - out[0], out[-1] - out[0]
    if not (linear[:D].sum(0) - last).abs().max() <= AFFINE * out.abs().max():
        raise ValueError(f"{name} is not affine in its start: steps that hang on the state have no closed form.")
    return Response(linear[:D].T, b, linear[D:].T)


@check_arguments
def affine_moments(sampler: Sampler, model: Exact, denoise: bool = False) -> tuple[Tensor, Tensor]:
    """Compute the mean and covariance of a sampler's last state, started from the exact law at its first time.

    Parameters
    ----------
    sampler, model, denoise
        As for `response`.

    Returns
    -------
    Tensor, Tensor
        Mean and covariance of the flattened state at the last time, ``(D,)`` and ``(D, D)``.

    Raises
    ------
    ValueError
        If the run is not affine.
    """
    start = model.sde.diffused(model.distribution, sampler.times(model.sde, denoise)[0]).moments()
    return response(sampler, model, denoise).moments(start)


@check_arguments
def sampled_moments(model: Exact, sampler: Sampler | None = None) -> Moments:
    """Compute mean and covariance of the samples of `sdegen.sample` on Gaussian data, after the last move to clean data.

    The start has the true law at the first time.

    Parameters
    ----------
    model
        The exact model of a Gaussian.
    sampler
        As for `response`; by default the default sampler.

    Raises
    ------
    ValueError
        If the run is not affine.
    """
    chosen = default(model, None) if sampler is None else sampler
    start = model.sde.diffused(model.distribution, chosen.times(model.sde, True)[0]).moments()

    def run(x: Tensor, noise: Noise) -> Tensor:
        return sample(model, x_T=x, sampler=chosen, seed=0, noise=lambda seed, first, times: noise)

    shape = model.distribution.moments().mean.shape
    mean, covariance = _response(run, start.mean, type(chosen).__name__).moments(start)
    return Moments(mean.reshape(shape), covariance)


@check_arguments
def gaussian_error(model: Exact, sampler: Sampler | None = None) -> float:
    """Compute the 2-Wasserstein distance, in units of the data, between a solver's samples and Gaussian data, in closed form.

    ``W_2² = ‖m − m*‖² + tr(C + C* − 2 (C^½ C* C^½)^½)`` with the moments of `sampled_moments`.

    Parameters
    ----------
    model, sampler
        As for `sampled_moments`.

    Examples
    --------
    >>> import sdegen
    >>> model = Exact(sdegen.VP(), gaussian_data())
    >>> [f"{gaussian_error(model, sdegen.samplers.DDIM(n)):.3f}" for n in (10, 20, 40)]
    ['0.155', '0.076', '0.038']
    """
    return math.sqrt(max(frechet_distance(sampled_moments(model, sampler), model.distribution.moments()), 0.0))
