"""Simulators whose posteriors are known, exactly or by long runs of Markov chains: the tasks of the table of inference.

Those of J.-M. Lueckmann et al., *Benchmarking simulation-based inference*, 2021, arXiv:2101.04653, and of the references there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributions as D

from sdegen.laws import free_coordinates

Density = Callable[[Tensor, Tensor], Tensor]  # log-densities (n,) of parameters (n, d), given one datum


class Task(NamedTuple):
    """A prior, a simulator, and the posterior.

    Attributes
    ----------
    prior
        The law of the parameters.
    simulate
        From parameters ``(n, d)`` to data ``(n, k)``, with torch's own randomness.
    draw
        Called as ``draw(x, n)``, it draws from the posterior given one datum.
    log_density
        The log-density of the posterior; None where it is known up to a constant only.
    """

    prior: D.Distribution
    simulate: Callable[[Tensor], Tensor]
    draw: Callable[[Tensor, int], Tensor]
    log_density: Density | None = None


def rejected(propose: Callable[[int], tuple[Tensor, Tensor]], n: int) -> Tensor:
    """Return the first `n` of the proposals that are allowed."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < n:
        theta, allowed = propose(2 * n)
        kept.append(theta[allowed])
    return torch.cat(kept)[:n]


# Ten numbers with noise


def linear() -> Task:
    """Return the task of ten normal parameters with noise as large as they are."""
    std = 0.1**0.5

    def law(x: Tensor) -> D.Distribution:
        return D.Independent(D.Normal(x / 2, std / 2**0.5), 1)

    return Task(
        D.Independent(D.Normal(torch.zeros(10), std), 1),
        lambda theta: theta + std * torch.randn_like(theta),
        lambda x, n: law(x).sample((n,)),
        lambda theta, x: law(x).log_prob(theta),
    )


# A point with noise of two widths

WIDE, NARROW, SIDE = 1.0, 0.1, 10.0


def mixture() -> Task:
    """Return the task of two uniform parameters with noise that is narrow half of the time."""

    def simulate(theta: Tensor) -> Tensor:
        wide = torch.rand(len(theta), 1) < 0.5
        return theta + torch.where(wide, WIDE, NARROW) * torch.randn_like(theta)

    def propose(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        # The noise is symmetric: parameters given data are drawn as data given parameters.
        theta = simulate(x.expand(n, 2))
        return theta, (theta.abs() <= SIDE).all(1)

    def log_density(theta: Tensor, x: Tensor) -> Tensor:
        parts, inside = [], []
        for std in (WIDE, NARROW):
            law = D.Normal(x, std)
            parts.append(law.log_prob(theta).sum(1))
            inside.append((law.cdf(torch.tensor(SIDE)) - law.cdf(torch.tensor(-SIDE))).prod())
        return torch.stack(parts).logsumexp(0) - torch.stack(inside).sum().log()

    return Task(box(2, SIDE), simulate, lambda x, n: rejected(partial(propose, x), n), log_density)


# The moons


def crescent(n: int) -> Tensor:
    """Draw points of a crescent."""
    angle, radius = math.pi * (torch.rand(n) - 0.5), 0.1 + 0.01 * torch.randn(n)
    return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)


def moons() -> Task:
    """Return the task of two uniform parameters that move a crescent; two values of them move it alike."""

    def simulate(theta: Tensor) -> Tensor:
        moved = torch.stack([-theta.sum(1).abs(), theta[:, 1] - theta[:, 0]], 1) / 2**0.5
        return crescent(len(theta)) + moved

    def propose(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        along, across = (2**0.5 * (x - crescent(n))).T
        either = along * torch.randn(n).sign()
        theta = torch.stack([either - across, either + across], 1) / 2
        return theta, (along <= 0) & (theta.abs() <= 1).all(1)

    return Task(box(2, 1.0), simulate, lambda x, n: rejected(partial(propose, x), n))


def box(dim: int, side: float) -> D.Distribution:
    """Return the uniform law of numbers from ``−side`` to `side`."""
    return D.Independent(D.Uniform(-side * torch.ones(dim), side * torch.ones(dim)), 1)


# Posteriors by Markov chains, and on a grid


def mixed(prior: D.Distribution, log_likelihood: Density, x: Tensor, n: int, rounds: int = 2000) -> Tensor:
    """Draw from a posterior by many chains that propose from one another's differences, and return their ends, one a chain.

    Chains begin at draws of the prior that are chosen by their likelihood, and move in coordinates without bounds (C. ter Braak,
    *A Markov chain Monte Carlo version of the genetic algorithm differential evolution*, 2006). A tenth of the jumps are as long
    as a difference, which is how chains go from one mode to another.
    """
    phi = free_coordinates(prior)

    def restored(u: Tensor) -> Tensor:
        return u if phi is None else phi.inverse(u)

    def density(u: Tensor) -> Tensor:
        theta = restored(u)
        own = prior.log_prob(theta) if phi is None else prior.log_prob(theta) - phi.log_det(theta)
        return log_likelihood(theta, x) + own

    pool = prior.sample((200_000,)).double()
    chosen = torch.multinomial((log_likelihood(pool, x) / 2).softmax(0), n, replacement=True)
    u = pool[chosen] if phi is None else phi(pool[chosen])
    value, d = density(u), u.shape[1]
    for _ in range(rounds):
        first, second = u[torch.randperm(n)], u[torch.randperm(n)]
        long = torch.rand(n, 1) < 0.1
        length = torch.where(long, 1.0, 2.38 / (2 * d) ** 0.5 * torch.rand(n, 1))
        moved = u + length * (first - second) + 1e-4 * torch.randn_like(u)
        there = density(moved)
        taken = torch.rand(n).log() < there - value
        u, value = torch.where(taken[:, None], moved, u), torch.where(taken, there, value)
    return restored(u).float()


def gridded(prior: D.Distribution, log_likelihood: Density, x: Tensor, n: int, side: int = 300) -> Tensor:
    """Draw from a posterior of two parameters on a grid of `side` cells a side, evenly within each cell.

    The grid is laid in coordinates without bounds, and reaches seven standard deviations from the mean of the posterior, which
    draws of the prior tell by their likelihoods.
    """
    phi = free_coordinates(prior)
    assert phi is not None
    pool = prior.sample((200_000,)).double()
    weights, places = log_likelihood(pool, x).softmax(0)[:, None], phi(pool)
    mean = (weights * places).sum(0)
    std = (weights * (places - mean).square()).sum(0).sqrt()
    cells = 7 * ((torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1)
    grid = torch.cartesian_prod(cells, cells)
    theta = phi.inverse(mean + std * grid)
    density = log_likelihood(theta, x) + prior.log_prob(theta) - phi.log_det(theta)
    chosen = grid[torch.multinomial(density.softmax(0), n, replacement=True)]
    return phi.inverse(mean + std * (chosen + 14 / side * (torch.rand(n, 2) - 0.5))).float()


def plane(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, standard deviations and correlation of a Gaussian in the plane, by five parameters."""
    return theta[:, :2], theta[:, 2:4].square(), theta[:, 4].tanh()


def plane_likelihood(theta: Tensor, x: Tensor) -> Tensor:
    """Return the log-likelihood, up to a constant, of four points of the plane."""
    mean, std, correlation = plane(theta)
    std = std.clamp_min(1e-12)  # a parameter of exactly 0 is drawn now and then
    z, w = ((x.view(4, 2) - mean[:, None]) / std[:, None]).unbind(2)
    rest = (1 - correlation.square()).clamp_min(1e-12)
    far = (z.square() - 2 * correlation[:, None] * z * w + w.square()).sum(1) / rest
    return -0.5 * far - 4 * std.log().sum(1) - 2 * rest.log()


def slcp() -> Task:
    """Return the task of five uniform parameters of a Gaussian in the plane, given four points of it: a simple likelihood, a
    complex posterior.
    """
    prior = box(5, 3.0)

    def simulate(theta: Tensor) -> Tensor:
        mean, std, correlation = plane(theta)
        z, w = torch.randn(2, len(theta), 4)
        rest = (1 - correlation.square()).sqrt()[:, None]
        both = torch.stack([z, correlation[:, None] * z + rest * w], 2)
        return (mean[:, None] + std[:, None] * both).flatten(1)

    return Task(prior, simulate, partial(mixed, prior, plane_likelihood))


def bernoulli() -> Task:
    """Return the task of ten parameters of a logistic regression on a hundred rows, given its sufficient statistics."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100, 9, generator=generator)
    design = torch.cat([torch.ones(100, 1), noise], 1)
    prior = D.Independent(D.Normal(torch.zeros(10), torch.ones(10)), 1)

    def simulate(theta: Tensor) -> Tensor:
        return torch.bernoulli((theta @ design.T).sigmoid()) @ design

    def log_likelihood(theta: Tensor, x: Tensor) -> Tensor:
        rows = design.to(theta)
        return theta @ x.to(theta) - torch.nn.functional.softplus(theta @ rows.T).sum(1)

    return Task(prior, simulate, partial(mixed, prior, log_likelihood))


def sir() -> Task:
    """Return the task of the rates of infection and recovery, given how many of a thousand are infected at ten times."""
    law = D.LogNormal(torch.tensor([math.log(0.4), math.log(0.125)]), torch.tensor([0.5, 0.2]))
    prior = D.Independent(law, 1)

    def shares(theta: Tensor) -> Tensor:
        """Return infected shares at ten times of 160 days, by the method of Runge and Kutta with half days."""
        rate, recovery = theta.T
        y, found = torch.stack([torch.full_like(rate, 1 - 1e-6), torch.full_like(rate, 1e-6)]), []

        def slope(y: Tensor) -> Tensor:
            new = rate * y[0] * y[1]
            return torch.stack([-new, new - recovery * y[1]])

        h = 0.5
        for step in range(1, 321):
            a = slope(y)
            b = slope(y + h / 2 * a)
            c = slope(y + h / 2 * b)
            y = y + h / 6 * (a + 2 * b + 2 * c + slope(y + h * c))
            if step % 32 == 0:
                found.append(y[1].clamp(1e-12, 1 - 1e-12))
        return torch.stack(found, 1)

    def simulate(theta: Tensor) -> Tensor:
        return D.Binomial(1000, shares(theta)).sample()

    def log_likelihood(theta: Tensor, x: Tensor) -> Tensor:
        return D.Binomial(1000, shares(theta), validate_args=False).log_prob(x.to(theta)).sum(1)

    return Task(prior, simulate, partial(gridded, prior, log_likelihood))


TASKS: dict[str, Callable[[], Task]] = {
    "two moons": moons,
    "Gaussian linear, 10-D": linear,
    "Gaussian mixture": mixture,
    "simple likelihood, complex posterior": slcp,
    "Bernoulli GLM": bernoulli,
    "SIR": sir,
}
