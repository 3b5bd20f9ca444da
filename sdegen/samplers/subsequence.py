"""Choice of the time steps of a discrete chain: fewer sampling steps for a trained model (DDPM-ES).

A model trained at N times, the steps ``k / N`` of a `DDPM` or any others, is sampled at K < N of these times. The K times are
spread evenly, quadratically, or chosen so that the variational bound of the K-step chain is the best possible. Every function
returns a `grids.Given`, for `Ancestral(steps, grid)`, `DDIM(steps, grid)` or any other sampler; none trains the model. The first
and the last trained time are always stops, so that the last move, to clean data, is the same for every chain.
"""

from __future__ import annotations

__all__ = [
    "StepCosts", "cheapest", "nearest_places", "optimal_subsequence", "quadratic_subsequence", "squared_errors", "subsequence",
    "trained_times", "uniform_subsequence",
]  # fmt: skip

from copy import copy
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..data import Source
from ..laws.draws import noise_like
from ..metrics.estimate import Estimate
from ..models.modes import evaluating
from ..models.score import ScoreModel
from ..processes.base import SDE
from ..processes.grids import Given, Grid, Quadratic, Uniform
from ..processes.linear import LinearSDE, as_linear
from ..show import show_call


@check_arguments
def trained_times(sde: SDE) -> Tensor:
    """Return the times ``k T / N``, ``k = N..1``, of a process with N steps such as `DDPM`; noise first, float64 ``(N,)``.

    Parameters
    ----------
    sde
        A process with a number of steps, ``sde.N``, such as `DDPM`.

    Raises
    ------
    TypeError
        If the process has no steps of its own.
    """
    if sde.N is None:
        raise TypeError(
            f"{type(sde).__name__} has no trained steps of its own; say which times to choose from: times=grid(sde, N)."
        )
    return torch.arange(sde.N, 0, -1, dtype=torch.float64) / sde.N * sde.T


@check_arguments
def subsequence(sde: SDE, steps: int, grid: Grid, times: Tensor | None = None) -> Given:
    """Move the times of a grid to the nearest trained times, none used twice, and return the grid of these.

    Parameters
    ----------
    sde
        The process.
    steps
        K, the number of stops: the steps of a sampler whose last move is the denoiser's.
    grid
        The ideal spread; from the first trained time to the last, if its own ends are left open.
    times
        The trained times, largest first; `trained_times` by default.

    Raises
    ------
    TypeError
        If `times` is left out and the process has no steps of its own.
    ValueError
        If `times` do not decrease, or `steps` is not a whole number from 2 to their number.
    """
    fine = _chosen_from(sde, times)
    _check_steps(steps, fine)
    ideal = copy(grid)
    ideal.start = fine[0].item() if grid.start is None else grid.start
    ideal.end = fine[-1].item() if grid.end is None else grid.end
    return Given(fine[nearest_places(ideal(sde, steps), fine)])


def nearest_places(times: Tensor, fine: Tensor) -> Tensor:
    """Return the indices of the `fine` times that are nearest to `times`, all different."""
    i = torch.arange(len(times))
    k = (times[:, None] - fine).abs().argmin(1)
    k = (k - i).cummax(0).values + i  # each at least one after the one before
    return k.minimum(len(fine) - len(times) + i)  # and as many left as stops to come


@check_arguments
def uniform_subsequence(sde: SDE, steps: int, times: Tensor | None = None) -> Given:
    """Choose `steps` trained times in equal steps of `t`, and return the grid of these, for ``DDIM(steps, grid)`` say.

    J. Song, C. Meng, S. Ermon, *Denoising diffusion implicit models*, 2020, arXiv:2010.02502.

    Parameters
    ----------
    sde, steps, times
        As for `subsequence`.

    Raises
    ------
    TypeError, ValueError
        As for `subsequence`.
    """
    return subsequence(sde, steps, Uniform(), times)


@check_arguments
def quadratic_subsequence(sde: SDE, steps: int, times: Tensor | None = None) -> Given:
    """Choose `steps` trained times in equal steps of ``√t``, finer towards the data, and return the grid of these.

    J. Song, C. Meng, S. Ermon, *Denoising diffusion implicit models*, 2020, arXiv:2010.02502.

    Parameters
    ----------
    sde, steps, times
        As for `subsequence`.

    Raises
    ------
    TypeError, ValueError
        As for `subsequence`.
    """
    return subsequence(sde, steps, Quadratic(), times)


class StepCosts:
    """The cost of each possible step of an ancestral chain, in nats of the variational bound.

    ``L(s, t) = E KL(q(x_s | x_t, x_0) ‖ q(x_s | x_t, x_0 = x̂_0(x_t))) = ½ tr[(J_s − J_t) E e eᵀ]`` with the error
    ``e = x_0 − x̂_0(x_t)`` of the denoiser at `t` and the information ``J = Phiᵀ Sigma⁻¹ Phi`` that a state holds on its datum,
    the signal-to-noise ratio for numbers. (``x_0 → x_s → x_t`` is a Markov chain, so ``J_s − J_t`` is the information that
    ``x_s`` adds to that of ``x_t``.) The sum over a chain is a Riemann sum of ``½ ∫ tr[E e eᵀ dJ]``, taken at the noisy end of
    each step; the bound on ``−log p(x_0)`` adds two terms that no choice of steps changes. D. Watson, J. Ho, M. Norouzi, W. Chan,
    *Learning to efficiently sample from diffusion probabilistic models*, 2021, arXiv:2106.03802. The variance of the steps is the
    posterior's; steps of other variances cost more or less.

    Parameters
    ----------
    sde
        A linear process, whose marginals hold the information.
    times, errors
        As for the attributes; `estimate` measures the errors of a model.

    Attributes
    ----------
    times
        The times to choose from, largest first, float64 ``(N,)``.
    J
        The information at each, ``(N, k, k)``.
    errors
        ``e eᵀ``, summed over coordinates, for each datum and time, ``(n, N, k, k)``.

    Raises
    ------
    ValueError
        If a time has no noise at all: the step that ends there costs infinitely many nats.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, sde: LinearSDE, times: Tensor, errors: Tensor) -> None:
        check_tensor("times", times, ndim=1)
        at = sde.marginal(times)
        check_tensor("errors", errors, shape=(None, len(times), at.R.size, at.R.size))
        sharp = ~at.R.log_abs_det().isfinite()
        if sharp.any():
            last = f"t = {times[sharp][0].item():.6g}, where {type(sde).__name__} has no noise"
            raise ValueError(f"times reach {last} and a step costs infinitely many nats; end later, such as at t_min.")
        self.times, self.errors = times, errors
        self.J = (at.Phi.T @ at.covariance.inv() @ at.Phi).matrix()

    @classmethod
    def estimate(
        cls,
        model: ScoreModel,
        data: Any,
        times: Tensor | None = None,
        n: int = 1024,
        batch_size: int = 512,
        seed: int | None = None,
    ) -> StepCosts:
        """Estimate the costs of a model in one pass over the times, with the same data and noise at each, and return them.

        Parameters
        ----------
        model
            A score model of a linear SDE.
        data
            Anything `data.Source` takes; conditions are passed to the network.
        times
            The times to choose from, largest first; `trained_times` by default.
        n, batch_size
            The number of data, and the number that go through the network at once.
        seed
            Seed of data and noise; a fresh one by default.

        Raises
        ------
        TypeError
            If the process is not linear, or `times` is left out and the process has no steps of its own.
        ValueError
            If `n` is below 2 or `batch_size` below 1, or `times` do not decrease or include a time without noise.
        """
        sde = as_linear(model.sde, ": its reversed chain has no closed form to compare with; use a LinearSDE.")
        check_count("n", n, 2), check_count("batch_size", batch_size)
        times = _chosen_from(sde, times)
        generator = torch.Generator().manual_seed(int(torch.randint(2**31 - 1, ())) if seed is None else seed)
        weight = model.like
        dtype = getattr(data, "dtype", torch.float64) if weight is None else weight.dtype
        source = Source(data, dtype, torch.device("cpu") if weight is None else weight.device)
        found, left = list[Tensor](), n
        with torch.no_grad(), evaluating(model):
            for batch in source.batches(batch_size, generator):
                x_0, cond = batch.x[:left], {name: value[:left] for name, value in batch.cond.items()}
                found.append(squared_errors(model, x_0, times, noise_like(model.sde.lift(x_0), generator), **cond))
                left -= len(x_0)
                if not left:
                    break
        return cls(sde, times, torch.cat(found))

    def matrix(self) -> Tensor:
        """Return the costs ``L(times[j], times[i])`` in row i, column j, ``(N, N)``; infinite unless time j is after time i."""
        M = self.errors.mean(0)
        cost = 0.5 * (torch.einsum("jab,iba->ij", self.J, M) - torch.einsum("iab,iba->i", self.J, M)[:, None])
        onward = torch.ones_like(cost).triu(1) > 0
        return cost.clamp_min(0.0).where(onward, torch.inf)  # rounding alone is below 0

    def of(self, grid: Given) -> Estimate:
        """Return the cost of the chain on the times `grid` in nats per datum, with its standard error over the data.

        Raises
        ------
        ValueError
            If the chain stops at a time at which no costs were measured.
        """
        k = (grid.times[:, None] - self.times).abs().argmin(1)
        if not torch.equal(self.times[k], grid.times):
            stray = grid.times[self.times[k] != grid.times][0].item()
            raise ValueError(f"the grid stops at t = {stray:.6g}, which is not among the times that were measured.")
        return Estimate.of(0.5 * torch.einsum("iab,niba->n", self.J[k[1:]] - self.J[k[:-1]], self.errors[:, k[:-1]]))

    def best(self, steps: int) -> Given:
        """Return the `steps` times whose chain costs least, both ends among them.

        Raises
        ------
        ValueError
            If `steps` is not a whole number from 2 to the number of times.
        """
        _check_steps(steps, self.times)
        return Given(self.times[cheapest(self.matrix(), steps)])


@check_arguments
def optimal_subsequence(
    model: ScoreModel,
    data: Any,
    steps: int,
    times: Tensor | None = None,
    n: int = 1024,
    batch_size: int = 512,
    seed: int | None = None,
) -> Given:
    """Find the `steps` trained times whose chain has the best variational bound on the data, and return the grid of these.

    D. Watson et al., *Learning to efficiently sample from diffusion probabilistic models*, 2021, arXiv:2106.03802. For
    several numbers of steps measure once: ``costs = StepCosts.estimate(model, data)``, then ``costs.best(steps)``.

    The bound is on the law of the whole path, not of its end. With few steps the samples of another subsequence can be closer to
    the data (ten steps on a Gaussian in two dimensions: 0.8 nats off, and 0.2 by quadratic steps).

    Parameters
    ----------
    model, data, times, n, batch_size, seed
        As for `StepCosts.estimate`.
    steps
        K, the number of stops: the steps of a sampler whose last move is the denoiser's.

    Raises
    ------
    TypeError, ValueError
        As for `StepCosts.estimate` and `subsequence`.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> model = sdegen.Exact(sdegen.DDPM(sdegen.processes.linear_betas(20, 5e-3, 0.5)), ring)
    >>> grid = optimal_subsequence(model, ring, steps=5, n=64, seed=0)
    >>> sdegen.sample(model, 3, sampler=sdegen.samplers.Ancestral(5, grid)).shape
    torch.Size([3, 2])
    """
    _check_steps(steps, _chosen_from(model.sde, times))  # refuses before the pass over the data
    return StepCosts.estimate(model, data, times, n, batch_size, seed).best(steps)


def squared_errors(model: ScoreModel, x_0: Tensor, times: Tensor, z: Tensor, /, **cond: Any) -> Tensor:
    """Return ``e eᵀ`` of ``e = x_0 − x̂_0(x_t)`` over the numbers that the process moves together, summed over the others:
    float64 ``(B, N, k, k)``.
    """
    u_0 = model.sde.lift(x_0)
    k = as_linear(model.sde, ".").marginal(times[:1]).R.size
    found = []
    for t in times:
        e = (u_0 - model.denoise(model.sde.perturb(x_0, t, z).x, t, **cond)).reshape(len(x_0), k, -1).double().cpu()
        found.append(e @ e.mT)
    return torch.stack(found, 1)


def cheapest(cost: Tensor, steps: int) -> Tensor:
    """Return the `steps` stops of the cheapest path from the first to the last, by dynamic programming in O(steps N²).

    Parameters
    ----------
    cost
        The cost of a move from stop i (row) to stop j (column), ``(N, N)``; infinite where there is no move.
    steps
        Number of stops, both ends among them.
    """
    reach = torch.full_like(cost[0], torch.inf)
    reach[0] = 0.0
    before = []
    for _ in range(steps - 1):
        reach, came_from = (reach[:, None] + cost).min(0)
        before.append(came_from)
    stops = [torch.tensor(len(cost) - 1)]
    for came_from in reversed(before):
        stops.append(came_from[stops[-1]])
    return torch.stack(stops[::-1])


def _chosen_from(sde: SDE, times: Tensor | None) -> Tensor:
    """Return the times to choose from, checked to decrease."""
    return trained_times(sde) if times is None else Given(times).times


def _check_steps(steps: int, fine: Tensor) -> None:
    """Refuse a number of stops that the times do not hold."""
    if not 2 <= steps <= len(fine):
        raise ValueError(f"steps = {steps}; choose from 2, the two ends, to {len(fine)}, the number of trained times.")
