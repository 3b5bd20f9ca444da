"""The laws of a sampler: the law it samples, exactly and without Monte Carlo, and its order of convergence.

On Gaussian data the exact score is affine, so every step is ``x → A x + b + B z``: a chain's mean and covariance follow
by applying the step to basis vectors. What is left after comparing them with the truth is discretisation error alone.
"""

from __future__ import annotations

__all__ = [
    "Units",
    "affine_moments",
    "check_sampler",
    "gaussian_data",
    "gaussian_error",
    "law_error",
    "observed_order",
    "sampled_moments",
]

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..laws.mixtures import GaussianMixture, Moments
from ..metrics.frechet import frechet_distance
from ..models.exact import Exact
from ..processes.linear import LinearSDE
from ..samplers import Sampler, sample
from ..samplers.defaults import default
from .report import Report, Violation, check


def gaussian_data() -> GaussianMixture:
    """A Gaussian in two dimensions with unequal, rotated axes, and a mean off zero."""
    covariance = torch.tensor([[[0.9, 0.3], [0.3, 0.4]]], dtype=torch.float64)
    return GaussianMixture(torch.ones(1), torch.tensor([[0.6, -0.4]], dtype=torch.float64), covariance)


class Units:
    """In place of noise, unit vectors: row by row one coordinate of one call, after the rows that have none."""

    def __init__(self, first: int = 0) -> None:
        self.first, self.calls = first, 0

    def __call__(self, like: Tensor) -> Tensor:
        """The unit vectors of this call, for as many of its rows as there are."""
        z = torch.zeros(len(like), like[0].numel(), dtype=like.dtype)
        D = z.shape[1]
        own = z[self.first + self.calls * D :][:D]
        own.copy_(torch.eye(D, dtype=like.dtype)[: len(own)])
        self.calls += 1
        return z.reshape(like.shape)


def affine_moments(sampler: Sampler, model: Exact, denoise: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what a sampler returns on an affine model, started from the exact law at its first time.

    Only samplers without memory between steps (``state`` stays None).

    Parameters
    ----------
    sampler
        A sampler of this kind.
    model
        The exact model of a Gaussian: of another law it is not affine.
    denoise
        Whether the times are those of a run that ends with the denoiser; its move is left out all the same.

    Returns
    -------
    Tensor, Tensor
        Of the flattened state at the last time, ``(D,)`` and ``(D, D)``.

    Raises
    ------
    ValueError
        If the sampler remembers between steps.
    """
    sde = model.sde
    times = sampler.times(sde, denoise)
    law = sde.diffused(model.distribution, times[0])
    mean, covariance = law.moments()
    shape = mean.shape
    mean, D = mean.reshape(-1), mean.numel()
    for c in sampler.plan(model, times):
        counting = Units()
        sampler.step(model, torch.zeros(1, *shape, dtype=torch.float64), c, counting, None)
        # Rows: zero, the D unit states, then one for every unit of every call's noise.
        rows = torch.zeros(1 + D + counting.calls * D, D, dtype=torch.float64)
        rows[1 : 1 + D] = torch.eye(D, dtype=torch.float64)
        out, state = sampler.step(model, rows.reshape(-1, *shape), c, Units(1 + D), None)
        if state is not None:
            raise ValueError(
                f"{type(sampler).__name__} remembers between steps; affine_moments covers one-step samplers."
            )
        out = out.reshape(len(rows), D)
        b, linear = out[0], out[1:] - out[0]
        A, B = linear[:D].T, linear[D:].T
        mean, covariance = A @ mean + b, A @ covariance @ A.T + B @ B.T
    return mean, covariance


def sampled_moments(model: Exact, sampler: Sampler | None = None) -> Moments:
    """Mean and covariance of what `sdegen.sample` returns on Gaussian data, the last move to clean data included, exactly.

    For every sampler, with or without memory: the whole run is affine in its start and in all of its noise, so it is run
    once from unit vectors of each. The start has the true law at the first time.

    Parameters
    ----------
    model
        The exact model of a Gaussian.
    sampler
        Any; the default sampler otherwise.
    """
    sampler = default(model, None) if sampler is None else sampler
    law = model.sde.diffused(model.distribution, sampler.times(model.sde, True)[0])
    mean, covariance = law.moments()
    D, units = mean.numel(), Units()
    nothing = torch.zeros(1, *mean.shape, dtype=torch.float64)
    sample(model, x_T=nothing, sampler=sampler, seed=0, noise=lambda seed, first: units)
    rows = torch.zeros(1 + D + units.calls * D, D, dtype=torch.float64)
    rows[1 : 1 + D] = torch.eye(D, dtype=torch.float64)
    units = Units(1 + D)
    out = sample(model, x_T=rows.reshape(-1, *mean.shape), sampler=sampler, seed=0, noise=lambda seed, first: units)
    b, linear = out[0].flatten(), (out[1:] - out[0]).flatten(1)
    A, B = linear[:D].T, linear[D:].T
    return Moments((A @ mean.flatten() + b).reshape(out.shape[1:]), A @ covariance @ A.T + B @ B.T)


def gaussian_error(model: Exact, sampler: Sampler | None = None) -> float:
    """2-Wasserstein distance in units of the data, of what a solver samples to Gaussian data: closed form, no Monte Carlo.

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


def law_error(sampler: Sampler, model: Exact) -> float:
    """Relative distance of the sampled mean and covariance from the exact ones at the sampler's last time."""
    mean, covariance = affine_moments(sampler, model)
    law = model.sde.diffused(model.distribution, sampler.times(model.sde, False)[-1])
    want_mean, want = law.moments()
    gap = torch.cat([(mean - want_mean.reshape(-1)), (covariance - want).reshape(-1)])
    return (gap.norm() / want.norm()).item()


def observed_order(
    make: Callable[[int], Sampler], sde: LinearSDE, steps: tuple[int, int] = (64, 128)
) -> tuple[float, float]:
    """``log2`` of the fall of the error when steps double, and the last error, on Gaussian data.

    Parameters
    ----------
    make
        A sampler of so many steps.
    sde
        A linear SDE.
    steps
        Two step counts.
    """
    model = Exact(sde, gaussian_data())
    first, last = (law_error(make(n), model) for n in steps)
    return math.log(first / last) / math.log(steps[1] / steps[0]), last


def check_sampler(
    make: Callable[[int], Sampler],
    sde: LinearSDE,
    order: float,
    steps: tuple[int, int] = (64, 128),
    largest: float = 0.1,
) -> Report:
    """Hold a sampler against its laws on a linear SDE.

    Parameters
    ----------
    make
        A sampler of so many steps.
    sde
        A linear SDE.
    order
        The order it claims; 0.15 less is allowed.
    steps
        Step counts that the order is observed between.
    largest
        Relative error of mean and covariance allowed at the larger of them.
    """

    def converges_at_its_order(_: Any) -> None:
        found, error = observed_order(make, sde, steps)
        if not found >= order - 0.15 or not error <= largest:
            raise Violation(f"observed order {found:.2f} with error {error:.2g} at {steps[1]} steps, claimed {order:g}")

    def seed_reproduces_the_run(_: Any) -> None:
        model = Exact(sde, gaussian_data())
        first, second = (sample(model, 16, sampler=make(8), seed=4) for _ in range(2))
        if not torch.equal(first, second):
            raise Violation("two runs with one seed differ")

    def rows_do_not_mix(_: Any) -> None:
        model = Exact(sde, gaussian_data())
        sampler = make(4)
        times = sampler.times(sde, False)
        x = sde.diffused(model.distribution, times[0]).sample(6, torch.Generator().manual_seed(1))
        c = sampler.plan(model, times)[0]
        z = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        together, _ = sampler.step(model, x, c, lambda like: z[: len(like)], None)
        alone, _ = sampler.step(model, x[:1], c, lambda like: z[: len(like)], None)
        if not torch.allclose(together[:1], alone, rtol=1e-6, atol=1e-8):
            raise Violation("a row's step depends on the other rows")

    report = check(make(4), [converges_at_its_order, seed_reproduces_the_run, rows_do_not_mix])
    report.subject += f" on {type(sde).__name__}"
    return report
