"""Distributions of the random time at which a training loss or a likelihood bound is evaluated.

A law draws ``t`` from ``[t_min, T]`` and returns the factor that undoes the law, where the law is meant to change the
variance of an average and not its meaning.
"""

from __future__ import annotations

__all__ = [
    "EARLIEST",
    "AngleTimes",
    "DiscreteTimes",
    "ImportanceTimes",
    "LogNormalTimes",
    "LogTimes",
    "SharedTimes",
    "StratifiedTimes",
    "TimeLaw",
    "UniformTimes",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_count, check_function
from ..fixed import Fixed, isolated_for, weights_of
from ..show import show_call, with_article
from ..signatures import check_call
from .base import SDE
from .linear import LinearSDE, is_linear

Table = TypeVar("Table")

EARLIEST = 1e-6  # of T: a network is shown earlier times as this one, where a process is trained from 0 on
MOST, LEAST = math.log(1e20), math.log(1e-10)  # of log snr: at an end without noise or without signal it is infinite


@asked_as("a law of times, such as weightings.UniformTimes()")
class TimeLaw(Fixed, ABC):
    """The base class of distributions of the training time on ``[t_min, T]``."""

    __repr__ = show_call
    _kept: tuple[SDE, Any, Any] | None = None  # a process, its weights, and what was tabulated of it

    def _tabulate(self, sde: SDE, tabulate: Callable[[Any], Table]) -> Table:
        """Return what a function finds out about a process; the result is kept until the process or its weights change."""
        weights = weights_of(sde)
        if self._kept is None or self._kept[0] is not sde or self._kept[1] != weights:
            with isolated_for(sde):
                self._kept = (sde, weights, tabulate(sde))
        found: Table = self._kept[2]
        return found

    @abstractmethod
    def sample(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw `n` times, float64 ``(n,)``, and return them with the importance weights of their losses, ``(n,)``."""

    def draw(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return what `sample` draws, checked: a time and a weight for each row.

        Raises
        ------
        TypeError
            If `sample` returns no pair of tensors.
        ValueError
            If there are not as many times and weights as rows.
        """
        drawn = self.sample(sde, n, generator)
        who = f"{type(self).__name__}.sample"
        if not isinstance(drawn, tuple) or len(drawn) != 2 or not {*map(type, drawn)} <= {Tensor}:
            raise TypeError(
                f"{who} returned {with_article(type(drawn).__name__)}; it must return two tensors, times and their weights."
            )
        if drawn[0].shape != (n,) or drawn[1].shape != (n,):
            shapes = [tuple(v.shape) for v in drawn]
            raise ValueError(
                f"{who} returned shapes {shapes[0]} and {shapes[1]}; it must return ({n},) times and weights."
            )
        return drawn


def _uniforms(n: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.rand(n, dtype=torch.float64, generator=generator, device=device).cpu()


def _draw_stratified(n: int, generator: torch.Generator | None) -> Tensor:
    """Draw one uniform number in each of `n` equal intervals, in random order."""
    device = generator.device if generator is not None else "cpu"
    order = torch.randperm(n, generator=generator, device=device)
    return ((order + torch.rand(n, dtype=torch.float64, generator=generator, device=device)) / n).cpu()


class UniformTimes(TimeLaw):
    """Training times uniform on ``[t_min, T]``.

    Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.
    """

    def sample(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw independent times."""
        return sde.t_min + _uniforms(n, generator) * (sde.T - sde.t_min), torch.ones(n, dtype=torch.float64)


class StratifiedTimes(TimeLaw):
    """Training times uniform on ``[t_min, T]``, one in each of n equal intervals: the same mean with less variance.

    D. Kingma et al., *Variational diffusion models*, 2021, arXiv:2107.00630, draw one place for all intervals; here
    each has its own.
    """

    def sample(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw one time in each interval, in random order."""
        return sde.t_min + _draw_stratified(n, generator) * (sde.T - sde.t_min), torch.ones(n, dtype=torch.float64)


class LogTimes(TimeLaw):
    """Training times uniform in ``log t``, one in each of n equal intervals.

    The law is part of the objective: the factors are one. With the default weighting, the variance of the noise so far, the
    objective is that of the likelihood: ``∫ (dt / t) ‖√t G Δ‖² = ∫ dt ‖G Δ‖²`` for an error `Δ` of the score, twice the KL
    divergence of the reversed process from the truth. Y. Song, C. Durkan, I. Murray, S. Ermon, *Maximum likelihood training of
    score-based diffusion models*, 2021, arXiv:2101.09258.
    """

    def sample(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw one time in each interval, in random order."""
        first = max(sde.t_min, EARLIEST * sde.T)
        return first * (sde.T / first) ** _draw_stratified(n, generator), torch.ones(n, dtype=torch.float64)


class DiscreteTimes(TimeLaw):
    """Training times uniform on the steps ``k T / N``, ``k = 1..N``, of a discrete DDPM.

    J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv:2006.11239.

    Parameters
    ----------
    N
        Number of steps of the chain; 1000 is the paper's.

    Raises
    ------
    ValueError
        If `N` is no whole number, or below 1.
    """

    @check_arguments
    def __init__(self, N: int = 1000) -> None:
        if N < 1 or int(N) != N:
            raise ValueError(f"N = {N}; give a whole number of steps, at least one.")
        self.N = N

    def sample(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw independent steps; refuse, by a ValueError, a chain whose first step lies before `t_min`."""
        if sde.t_min * (1 - 1e-12) > sde.T / self.N:
            raise ValueError(
                f"N = {self.N}: the first step of {type(sde).__name__} is at {sde.T / self.N:.4g}, before its t_min, "
                f"{sde.t_min:.4g}; take at most {int(sde.T / sde.t_min * (1 + 1e-12))} steps."
            )
        k = (_uniforms(n, generator) * self.N).floor() + 1
        return k * sde.T / self.N, torch.ones(n, dtype=torch.float64)


class LogNormalTimes(TimeLaw):
    """Training times with ``log(sigma / alpha) ~ N(mean, std²)``, truncated to ``[t_min, T]`` (T. Karras et al., 2022,
    arXiv:2206.00364).

    The law is part of the objective: the factors are one. Times are drawn by stratified quantiles.

    Parameters
    ----------
    mean, std
        Mean and standard deviation of ``log(sigma / alpha)``; the defaults are the paper's.

    Raises
    ------
    ValueError
        If `std` is not positive.
    """

    @check_arguments
    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        if not std > 0:
            raise ValueError(f"std = {std}; it must be positive.")
        self.mean, self.std = mean, std

    def sample(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw stratified quantiles of the truncated normal law."""
        best, worst, low, high = self._tabulate(sde, self._ends)
        quantile = low + (high - low) * _draw_stratified(n, generator).clamp(1e-12, 1 - 1e-12)
        level = self.mean + self.std * torch.special.ndtri(quantile)
        return sde.time_near_log_snr((-2 * level).clamp(worst, best)), torch.ones(n, dtype=torch.float64)

    @torch.no_grad()  # a process is not to be learned by which times are drawn
    def _ends(self, sde: LinearSDE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ``log snr`` at `t_min` and at `T`, and the quantiles of the normal law there."""
        best, worst = sde.log_snr(torch.tensor([sde.t_min, sde.T], dtype=torch.float64))
        low, high = torch.special.ndtr((-0.5 * torch.stack([best, worst]) - self.mean) / self.std)
        if not high - low > 1e-12:
            raise ValueError(
                f"N({self.mean}, {self.std}²) gives log(sigma / alpha) almost no probability between the "
                f"{-0.5 * best.item():.4g} at t_min and the {-0.5 * worst.item():.4g} at T of "
                f"{type(sde).__name__}; set mean and std to levels that the process has."
            )
        return best, worst, low, high


class ImportanceTimes(TimeLaw):
    """Training times by importance sampling, which lowers the variance of a loss and leaves its mean as it is.

    By default times are uniform in ``log(sigma / alpha)``, so that every noise level is seen equally often. Whatever the density,
    the factor ``1 / density`` makes the mean of the loss that of uniform times. The quantiles are tabulated once per process.
    Y. Song et al., 2021, arXiv:2101.09258, sample by the weight instead: pass it as `density`.

    Parameters
    ----------
    density
        Called as ``density(sde, t)``: an unnormalised density in `t`, instead of the default one.
    nodes
        Number of intervals of the table, equally spaced in ``log(sigma / alpha)``; in ``log t`` for nonlinear processes.

    Raises
    ------
    ValueError
        If `nodes` is below 2, or `density` does not give a positive number for every time.
    """

    @check_arguments
    def __init__(self, density: Any = None, nodes: int = 512) -> None:
        check_count("nodes", nodes, 2)
        if density is not None:
            check_call(
                "density", check_function("density", density, "a function of the process and times"), ["sde", "t"]
            )
        self.density, self.nodes = density, nodes

    def sample(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw stratified quantiles, and return them with the importance weights ``1 / density``."""
        if not sde.is_linear and self.density is None:  # no noise level to be uniform in
            return StratifiedTimes().sample(sde, n, generator)
        edges, mass = self._tabulate(sde, self._build)
        cdf = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0)])
        u = _draw_stratified(n, generator)
        i = (torch.searchsorted(cdf, u, right=True) - 1).clamp(0, len(mass) - 1)
        width = edges[i + 1] - edges[i]
        t = edges[i] + (u - cdf[i]) / mass[i] * width
        return t, width / mass[i] / (sde.T - sde.t_min)

    @torch.no_grad()  # a process is not to be learned by which times are drawn
    def _build(self, sde: SDE) -> tuple[Tensor, Tensor]:
        """Tabulate the edges in `t` and the probability of each interval, within which the law is uniform."""
        ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
        if is_linear(sde):
            edges = self._edges(sde, sde.log_snr(ends))
        else:  # it has no noise level that is known
            low, high = ends.log10().tolist()
            edges = torch.logspace(low, high, self.nodes + 1, dtype=torch.float64)
        edges[0], edges[-1] = ends
        middle = 0.5 * (edges[1:] + edges[:-1])
        if self.density is None:
            mass = torch.full((self.nodes,), 1.0, dtype=torch.float64)
        else:
            density = self.density(sde, middle)
            if not isinstance(density, Tensor) or density.shape != middle.shape or not (density > 0).all():
                raise ValueError(
                    f"density(sde, t) gave {_describe(density)} for t of shape {tuple(middle.shape)}; expected as many "
                    "positive numbers. (A weighting is an operator, not a density.)"
                )
            mass = density * (edges[1:] - edges[:-1])
        return edges, mass / mass.sum()

    def _edges(self, sde: LinearSDE, log_snr: Tensor) -> Tensor:
        """Return times between those with the two given ratios, equally spaced in ``log(sigma / alpha)``."""
        best, worst = log_snr.tolist()
        levels = torch.linspace(min(best, MOST), max(worst, LEAST), self.nodes + 1, dtype=torch.float64)
        return sde.time_of_log_snr(levels.clamp(worst, best))


def _describe(density: Any) -> str:
    if not isinstance(density, Tensor):
        return with_article(type(density).__name__)
    return f"a tensor of shape {tuple(density.shape)}, smallest value {density.min():.3g}"


class AngleTimes(ImportanceTimes):
    """Training times uniform in the angle ``atan(sigma / alpha)``, with importance weights that leave the mean of the loss
    as for uniform times.

    A score differs from that of a Gaussian where signal and noise are alike, and there this law draws its times: the bound `elbo`
    has a fifth to a third of the variance that it has with times uniform in ``log(sigma / alpha)``.

    Parameters
    ----------
    density
        As for `ImportanceTimes`: takes the place of the law uniform in the angle.
    nodes
        Number of intervals of the table, equally spaced in the angle; in ``log t`` for nonlinear processes.

    Raises
    ------
    ValueError
        As for `ImportanceTimes`.
    """

    def _edges(self, sde: LinearSDE, log_snr: Tensor) -> Tensor:
        """Return times between those with the two given ratios, equally spaced in the angle."""
        low, high = (-0.5 * log_snr).exp().atan().tolist()
        return sde.time_of_angle(torch.linspace(low, high, self.nodes + 1, dtype=torch.float64))


class SharedTimes(TimeLaw):
    """A few training times of another distribution, each shared by many rows, so that rows of one time can pool their targets.

    For nonlinear processes, whose denoising target is otherwise the score of one short kernel (`losses.Denoising`): of 256 rows
    that share a time in two dimensions, several bear on each point, and the variance of the target falls as many times.

    Parameters
    ----------
    times
        The law that the times are drawn from; `StratifiedTimes` by default.
    number
        How many different times a batch has.

    Raises
    ------
    ValueError
        If `number` is below 1.
    """

    @check_arguments
    def __init__(self, times: TimeLaw | None = None, number: int = 16) -> None:
        if number < 1:
            raise ValueError(f"number = {number}; a batch has at least one time.")
        self.times = StratifiedTimes() if times is None else times
        self.number = number

    def sample(self, sde: SDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw `number` times, and return each for n / number rows, with its importance weight."""
        t, factor = self.times.sample(sde, min(self.number, n), generator)
        which = torch.arange(n) * len(t) // n
        return t[which], factor[which]
