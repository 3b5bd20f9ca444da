"""Toy laws with densities: mass, marginals, moments and entropy by quadrature against draws and closed forms."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor

from sdegen import data
from sdegen.data.toys import Toy

d64 = torch.float64
LAWS: dict[str, tuple[Toy, float]] = {  # and half the side of a square that holds all but 1e-9
    "moons": (data.Moons(0.2), 3.6),
    "checkerboard": (data.Checkerboard(), 2.0),
    "uneven board": (data.Checkerboard(3, 0.8), 1.2),
    "rings": (data.Rings(), 4.0),
    "a disc": (data.Rings((0.5,), 0.4), 4.0),
    "banana": (data.Banana(1.0, 0.4), 16.0),
    "funnel": (data.Funnel(2, 0.5), 16.0),
    "well": (data.ManyWell(2), 7.0),
}
CELLS = 240


@cache
def on_a_grid(name: str) -> tuple[Tensor, Tensor]:
    """Centres of cells ``(CELLS², 2)`` and their masses."""
    law, half = LAWS[name]
    side = (torch.arange(CELLS, dtype=d64) + 0.5) * (2 * half / CELLS) - half
    x = torch.cartesian_prod(side, side)
    return x, law.log_prob(x).exp() * (2 * half / CELLS) ** 2


@cache
def drawn(name: str) -> Tensor:
    return LAWS[name][0].sample(20_000, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.turns("moons")
def test_a_density_is_normalised_and_has_the_moments_and_the_entropy_that_the_law_says(name: str) -> None:
    law, (x, mass) = LAWS[name][0], on_a_grid(name)
    rough = 1e-2 if name == "a disc" else 1e-4  # the disc's density is infinite at 0
    assert mass.sum().item() == pytest.approx(1, abs=rough)
    told = law.moments()
    mean = mass @ x
    covariance = (mass[:, None] * (x - mean)).T @ (x - mean)
    torch.testing.assert_close(told.mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(told.covariance, covariance, rtol=1e-4, atol=1e-4)
    entropy = getattr(law, "entropy", None)
    if entropy is not None:
        assert entropy() == pytest.approx(-(mass * mass.clamp_min(1e-300).log()).sum().item() + cell(name), abs=1e-4)


def cell(name: str) -> float:
    """The logarithm of the area of a cell: a mass is a density times it."""
    return 2 * math.log(2 * LAWS[name][1] / CELLS)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.turns("moons")
def test_draws_have_the_marginals_of_the_density(name: str) -> None:
    """Along both axes and a diagonal, and of the log-density itself."""
    (law, half), (grid, mass), x = LAWS[name], on_a_grid(name), drawn(name)
    edges = np.linspace(-half, half, CELLS + 1)
    table = mass.reshape(CELLS, CELLS)
    for axis in range(2):
        cumulative = np.concatenate([[0.0], table.sum(1 - axis).cumsum(0).numpy()]) / mass.sum().item()
        assert kstest(x[:, axis].numpy(), lambda v, c=cumulative: np.interp(v, edges, c)).pvalue > 1e-3
    for reading in (lambda v: (v[:, 0] * 0.6 - v[:, 1] * 0.8).square(), lambda v: v[:, 0] * v[:, 1]):
        mean = (mass * reading(grid)).sum() / mass.sum()
        sample = reading(x)
        assert abs(sample.mean() - mean) < 4.5 * sample.std() / math.sqrt(len(x)) + 1e-4
    own = law.log_prob(x)
    assert own.isfinite().all()
    spread = own.std() / math.sqrt(len(x))
    assert abs(own.mean() - (mass * (mass.clamp_min(1e-300).log() - cell(name))).sum()) < 4.5 * spread + 3e-3


def test_the_density_of_moons_is_the_mean_of_normal_laws_around_two_arcs() -> None:
    """One around 0 from (1, 0) to (−1, 0), and one around (1, ½) from (0, ½) down to (2, ½); both have the same odds."""
    std, angle = 0.3, (torch.arange(2000, dtype=d64) + 0.5) * math.pi / 2000
    one = torch.stack([angle.cos(), angle.sin()], 1)
    centres = torch.cat([one, torch.tensor([1.0, 0.5]) - one])
    x = torch.tensor([[0.0, 0.0], [-1.0, 0.3], [1.2, -0.6], [2.0, 0.5], [0.5, 2.0]], dtype=d64)
    squares = (x[:, None] - centres).square().sum(2)
    want = (-0.5 * squares / std**2).exp().mean(1) / (2 * math.pi * std**2)
    law = data.Moons(std)
    torch.testing.assert_close(law.log_prob(x).exp(), want, rtol=1e-5, atol=1e-9)
    drawn, told = law.sample(20_000, torch.Generator().manual_seed(0)), law.moments()
    assert ((drawn.mean(0) - told.mean).abs() < 4.5 * drawn.std(0) / math.sqrt(20_000)).all()
    torch.testing.assert_close(drawn.T.cov(), told.covariance, rtol=0, atol=0.02)
    torch.testing.assert_close(centres.mean(0), told.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(centres.T.cov(correction=0) + std**2 * torch.eye(2), told.covariance, rtol=0, atol=1e-6)


def test_numbers_of_a_wide_funnel_are_normal_once_they_are_scaled() -> None:
    x = data.Funnel().sample(20_000, torch.Generator().manual_seed(1))
    assert x.shape == (20_000, 10)
    z = (x[:, 1:] * (-0.5 * x[:, :1]).exp()).flatten()
    assert kstest((x[:, 0] / 3).numpy(), norm.cdf).pvalue > 1e-3 and kstest(z.numpy(), norm.cdf).pvalue > 1e-3
    want = norm.logpdf(x[:, 0], scale=3) + norm.logpdf(x[:, 1:], scale=np.exp(0.5 * x[:, :1].numpy())).sum(1)
    torch.testing.assert_close(data.Funnel().log_prob(x), torch.from_numpy(want), rtol=1e-10, atol=1e-10)


def test_many_wells_are_as_published() -> None:
    """``log Z`` of the pair is ``log 11784.50927 + ½ log 2π`` (L. Midgley et al., 2023); numbers of many are independent."""
    law = data.ManyWell()
    assert law.log_normaliser == pytest.approx(16 * (math.log(11784.50927) + 0.5 * math.log(2 * math.pi)), abs=1e-7)
    x = law.sample(4000, torch.Generator().manual_seed(0))
    pairs = x.reshape(-1, 2)
    torch.testing.assert_close(law.log_prob(x), data.ManyWell(2).log_prob(pairs).reshape(-1, 16).sum(1))
    right = (x[:, ::2] > 0).double()
    share = data.ManyWell(2).sample(100_000, torch.Generator().manual_seed(1))[:, 0].gt(0).double().mean()
    assert (right.mean(0) - share).abs().max() < 4.5 * 0.5 / math.sqrt(4000)
    assert (x.T.corrcoef() - torch.eye(32, dtype=d64)).abs().max() < 5 / math.sqrt(4000)


def test_draws_follow_the_generator_and_float32_is_taken() -> None:
    for law, _ in LAWS.values():
        one, other = (law.sample(5, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, other) and one.dtype == d64
        torch.testing.assert_close(law.log_prob(one.float()).double(), law.log_prob(one), rtol=1e-4, atol=1e-2)


def test_what_is_no_such_law_is_refused() -> None:
    for make, why in (
        (lambda: data.Moons(0.0), "std"),
        (lambda: data.Checkerboard(1), "side"),
        (lambda: data.Rings(()), "radii is empty"),
        (lambda: data.Rings((1.0, -1.0)), "radii"),
        (lambda: data.Funnel(1), "d = 1"),
        (lambda: data.Banana(scale=0.0), "scale"),
        (lambda: data.ManyWell(3), "give an even number"),
        (lambda: data.Funnel(3).log_prob(torch.zeros(2, 2)), "shape"),
    ):
        with pytest.raises(ValueError, match=why):
            make()
