"""Calibration of posteriors: whether, over many simulated pairs of parameters and data, regions of probability `p` hold the truth
with frequency `p`.

For a pair ``(theta, x)`` from the joint law and draws from a posterior given `x`, the truth has a *place* among the draws: the
share of draws that some number ranks below it. If the posterior is exact, places are uniform on [0, 1], whatever the number.
`find_ranks` takes each coordinate of the parameters, `find_coverage` the posterior's own density, and `find_tarp_coverage` the
distance from a random point, which needs no density. Ties, and the finite number of draws, are broken at random, so that places
of an exact posterior are uniform exactly.
"""

from __future__ import annotations

__all__ = ["Coverage", "Ranks", "find_coverage", "find_ranks", "find_tarp_coverage"]

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number, check_tensor
from ..precision import as_array
from ..show import show_call
from .estimate import Estimate, share_error
from .posteriors import BatchedLaw, ConditionalLaw, ConditionalSampler, draw_for_pairs, find_places, generator_apart


class Ranks(NamedTuple):
    """Places of the true parameters among draws from a posterior, coordinate by coordinate (simulation-based calibration).

    Attributes
    ----------
    places
        ``(K, d)``, in [0, 1]: uniform for an exact posterior.
    """

    places: Tensor

    def __repr__(self) -> str:
        return show_call(self)

    def __str__(self) -> str:
        if len(self.places) < 2:
            return "\n".join(f"{i}: p = {p:.2g}, of one pair" for i, p in enumerate(self.p_values.tolist()))
        lines = zip(self.bias, self.width, self.p_values.tolist())
        return "\n".join(f"{i}: bias {b}, width {w}, p = {p:.2g}" for i, (b, w, p) in enumerate(lines))

    @property
    def bias(self) -> list[Estimate]:
        """The mean place less ½, of each coordinate: positive where draws are too small."""
        return [Estimate.of(column - 0.5) for column in _several(self.places).T]

    @property
    def width(self) -> list[Estimate]:
        """Twelve times the mean square of the place less ½, less 1, of each coordinate: positive where the posterior is too
        narrow, or biased, and negative where it is too wide.
        """
        return [Estimate.of(12 * (column - 0.5).square() - 1) for column in _several(self.places).T]

    @property
    def p_values(self) -> Tensor:
        """The p-value of each coordinate's places being uniform, by the Kolmogorov–Smirnov test, ``(d,)``."""
        return torch.tensor([_p_value(column) for column in _several(self.places, 1).T], dtype=torch.float64)


class Coverage(NamedTuple):
    """The credibility at which a posterior's regions first hold the true parameters, one number a simulated pair.

    Attributes
    ----------
    places
        ``(K,)``, in [0, 1]: uniform for an exact posterior.
    """

    places: Tensor

    def __repr__(self) -> str:
        return show_call(self)

    def __str__(self) -> str:
        p = f"p = {self.p_value:.2g}"
        return f"{p}, of one pair" if len(self.places) < 2 else f"excess {self.excess}, {p}"

    def at(self, level: float) -> Estimate:
        """Return how often the region of a credible level holds the truth; an exact posterior's does as often as the level says.

        Parameters
        ----------
        level
            The probability that the posterior gives the region, in (0, 1).

        Raises
        ------
        TypeError
            If `level` is no number.
        ValueError
            If `level` lies outside of (0, 1).
        """
        level = check_number("level", level, above=0, below=1)
        n, inside = len(_several(self.places, 1)), int((self.places <= level).sum())
        return Estimate(inside / n, share_error(inside, n))

    @property
    def excess(self) -> Estimate:
        """The area between the curve of `at` and the diagonal: positive for a posterior too wide, negative for one too narrow."""
        return Estimate.of(0.5 - _several(self.places))

    @property
    def p_value(self) -> float:
        """The p-value of the places being uniform, by the Kolmogorov–Smirnov test."""
        return _p_value(_several(self.places, 1))


def _several(places: Tensor, least: int = 2) -> Tensor:
    """Return places; refuse those of fewer than `least` pairs: the spread over pairs, of which errors are made, takes two."""
    if len(places) < least:
        need = "their spread, of which errors are made, needs two" if least > 1 else "give one at least"
        raise ValueError(f"places are of {len(places)} simulated pairs; {need}.")
    return places


def _p_value(places: Tensor) -> float:
    from scipy.stats import kstest  # loads on use

    return float(kstest(as_array(places), "uniform").pvalue)


@check_arguments
def find_ranks(
    posterior: ConditionalSampler,
    theta: Tensor,
    x: Tensor,
    draws: int = 100,
    *,
    seed: int | None = None,
    progress: bool | None = None,
) -> Ranks:
    """Find the place of each coordinate of the true parameters among draws from a posterior, and return the `Ranks`.

    Simulation-based calibration: S. Talts et al., *Validating Bayesian inference algorithms with simulation-based calibration*,
    2018, arXiv:1804.06788. A posterior that ignores the data altogether, the prior, passes too: look at `find_tarp_coverage`
    besides.

    Parameters
    ----------
    posterior
        An object with ``sample(n, x)``.
    theta, x
        Pairs from the joint law, prior and simulator: parameters ``(K, *)`` and data ``(K, *)``.
    draws
        Draws from the posterior for each pair.
    seed
        Seed of the numbers that break ties; the draws from the posterior have their own randomness.
    progress
        Whether to show a bar; by default on a terminal and in a notebook.

    Raises
    ------
    TypeError
        If parameters or data are not floating point.
    ValueError
        If there are not as many parameters as data, or draws have another shape than parameters.

    Examples
    --------
    >>> import torch
    >>> class Exact:  # of theta ~ N(0, 1) and x ~ N(theta, 1)
    ...     def sample(self, n, x): return 0.5 * x + 0.5**0.5 * torch.randn(n, 1)
    >>> _ = torch.manual_seed(0)
    >>> theta = torch.randn(400, 1)
    >>> bool(find_ranks(Exact(), theta, theta + torch.randn(400, 1)).p_values > 0.01)
    True
    """
    drawn = draw_for_pairs(posterior, theta, x, draws, progress)
    return Ranks(find_places(_as_rows(drawn, 2), _as_rows(theta, 1)[:, None].to(drawn), seed))


@check_arguments
def find_coverage(
    posterior: ConditionalLaw,
    theta: Tensor,
    x: Tensor,
    draws: int = 100,
    *,
    seed: int | None = None,
    progress: bool | None = None,
) -> Coverage:
    """Find the credibility of the smallest region of highest posterior density that holds the true parameters, and return the
    `Coverage`.

    The place of a pair is the posterior probability of parameters denser than the true ones. Expected coverage: J. Hermans et
    al., *A trust crisis in simulation-based inference?*, 2022, arXiv:2110.06581.

    Parameters
    ----------
    posterior
        An object with ``sample(n, x)`` and ``log_prob(theta, x)``; one with ``log_prob_each(theta, x)`` is asked
        once, for all pairs.
    theta, x
        Pairs from the joint law, prior and simulator: parameters ``(K, *)`` and data ``(K, *)``.
    draws
        Draws from the posterior for each pair.
    seed
        Seed of the numbers that break ties; the draws from the posterior have their own randomness.
    progress
        Whether to show a bar; by default on a terminal and in a notebook.

    Raises
    ------
    TypeError
        If parameters or data are not floating point.
    ValueError
        If there are not as many parameters as data, draws have another shape than parameters, or a log-density is NaN.
    """
    drawn = draw_for_pairs(posterior, theta, x, draws, progress)
    density = _log_densities(posterior, torch.cat([drawn, theta[:, None].to(drawn)], 1), x)
    return Coverage(find_places(-density[:, :-1, None], -density[:, -1:, None], seed)[:, 0])


@check_arguments
def find_tarp_coverage(
    posterior: ConditionalSampler,
    theta: Tensor,
    x: Tensor,
    draws: int = 100,
    *,
    references: Tensor | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> Coverage:
    """Find the credibility of the ball around a random point that just reaches the true parameters, and return the `Coverage`.

    Tests of accuracy with random points (TARP): P. Lemos et al., *Sampling-based accuracy testing of posterior estimators for
    general inference*, 2023, arXiv:2302.03026. Only the exact posterior passes for all points that depend on the data. Distances
    are taken in units of the standard deviations of parameters and draws.

    Parameters
    ----------
    posterior
        An object with ``sample(n, x)``.
    theta, x
        Pairs from the joint law, prior and simulator: parameters ``(K, *)`` and data ``(K, *)``.
    draws
        Draws from the posterior for each pair.
    references
        The random points, of the shape of `theta`. By default they are uniform in a box around one point of each pair, the true
        parameters or a draw at random: a box around the true parameters alone would lie nearer to these than to draws.
    seed
        Seed of these points, and of the numbers that break ties; the draws from the posterior have their own randomness.
    progress
        Whether to show a bar; by default on a terminal and in a notebook.

    Raises
    ------
    TypeError
        If parameters or data are not floating point.
    ValueError
        If there are not as many parameters as data, draws or points have another shape than parameters, or a parameter is the
        same in all pairs but not in all draws.
    """
    if references is not None and check_tensor("references", references).shape != theta.shape:
        raise ValueError(
            f"references has shape {tuple(references.shape)}; give one point for each of theta, {tuple(theta.shape)}."
        )
    drawn = _as_rows(draw_for_pairs(posterior, theta, x, draws, progress), 2)
    true = _as_rows(theta, 1)[:, None].to(drawn)
    # Given the data, true parameters and draws of an exact posterior are exchangeable. Reference points and units are made of
    # both together, so that they stay so.
    both = torch.cat([drawn, true], 1)
    fixed, idle = (rows.amax(0) == rows.amin(0) for rows in (true.flatten(0, 1), both.flatten(0, 1)))
    if idle.all() or (fixed & ~idle).any():
        raise ValueError(
            "a coordinate of theta is the same in all pairs and not in all draws, or none varies; give parameters that vary, "
            "drawn from their prior."
        )
    points = _draw_references(both, generator_apart(seed)) if references is None else _as_rows(references, 1).to(true)
    # Coordinates that never vary, such as pixels of the border, add nothing to a distance, and have no unit.
    units = both.flatten(0, 1)[:, ~idle].std(0)
    distance = ((both - points[:, None])[..., ~idle] / units).norm(dim=2, keepdim=True)
    return Coverage(find_places(distance[:, :-1], distance[:, -1:], None if seed is None else seed + 1)[:, 0])


def _draw_references(theta: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw points ``(K, d)`` uniform in the box around one of the parameters ``(K, n, d)`` of each pair, taken at random."""
    K, n, d = theta.shape
    one = theta[torch.arange(K), torch.randint(n, (K,), generator=generator)]
    low, high = one.amin(0), one.amax(0)
    return low + (high - low) * torch.rand(K, d, dtype=torch.float64, generator=generator).to(theta)


def _log_densities(posterior: ConditionalLaw, theta: Tensor, x: Tensor) -> Tensor:
    """Return the posterior's log-densities of parameters ``(K, n, *)`` given each of ``(K, *)``, checked, ``(K, n)``."""
    if isinstance(posterior, BatchedLaw):
        return _check_density("posterior.log_prob_each", posterior.log_prob_each(theta, x), theta.shape[:2])
    each = [posterior.log_prob(own, at) for own, at in zip(theta, x, strict=True)]
    return torch.stack([_check_density("posterior.log_prob", found, theta.shape[1:2]) for found in each])


def _check_density(name: str, found: Tensor, shape: torch.Size) -> Tensor:
    """Return log-densities that the method `name` returned; refuse another shape, and NaN, by a ValueError."""
    found = check_tensor(f"{name}(theta, x)", found, finite=False).detach()
    if found.shape != shape or found.isnan().any():
        raise ValueError(
            f"{name} gives {'NaN' if found.isnan().any() else f'shape {tuple(found.shape)}'}; it must return a log-density "
            f"for each of ({', '.join(map(str, shape))}, *) parameters."
        )
    return found


def _as_rows(x: Tensor, axes: int) -> Tensor:
    """Return a tensor with all axes after the first `axes` flattened to one, which has length 1 where there is none."""
    return x.unsqueeze(-1).flatten(axes)
