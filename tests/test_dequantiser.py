"""Learned noise in the cells of bytes: its density is that of its draws, and the bound is reached where the best is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.data import Dequantisation, Scaling
from sdegen.likelihood import Dequantiser

SCALINGS = [Scaling(-1, 1, 5), Dequantisation(0, 1, 5)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shuffled(q: Dequantiser) -> Dequantiser:
    """The same with weights as if it had been trained."""
    with torch.no_grad():
        for k, p in enumerate(q.parameters()):
            p += 0.25 * torch.randn(p.shape, generator=seeded(k), dtype=p.dtype) / max(1, p[0].numel()) ** 0.5
    return q


def made(shape: tuple[int, ...], scaling: Scaling, couplings: int = 3) -> Dequantiser:
    return shuffled(Dequantiser(shape, scaling, couplings=couplings, width=8).double())


def some_bytes(n: int, shape: tuple[int, ...], scaling: Scaling) -> Tensor:
    u = torch.randint(scaling.levels, (n, *shape), generator=seeded(), dtype=torch.uint8)
    return scaling.middles(u)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("shape", "couplings"), [((3,), 3), ((2, 4, 6), 3), ((1, 3, 5), 0), ((1,), 0)])
def test_the_density_is_that_of_the_draws_which_stay_in_their_cells(
    shape: Any, couplings: int, scaling: Scaling
) -> None:
    q, x = made(shape, scaling, couplings), some_bytes(50, shape, scaling)
    y, log_q = q(x, seeded())
    assert torch.equal(scaling.inverse(y), scaling.inverse(x))
    torch.testing.assert_close(q.log_prob(y), log_q, rtol=1e-6, atol=1e-6)
    assert log_q.std() > 0.1
    for side in (-1, 1):  # no noise comes so near to an edge of a cell
        edge = scaling.middles(scaling.inverse(x)) + side * scaling.step * (0.5 - 1e-6)
        assert (q.log_prob(edge) == -math.inf).all()


def test_numbers_that_are_rounded_over_the_edge_of_the_noise_have_a_density() -> None:
    q, x = (
        Dequantiser((2000,), couplings=0),
        some_bytes(1, (2000,), Scaling(-1, 1)).float(),
    )
    with torch.no_grad():
        q.net.parts[0].net.last.bias[2000:] = 12.0  # nearly all noise at the upper edge
        y, log_q = q(x, seeded())
        found = q.log_prob(y)
    assert found.isfinite().all() and log_q.isfinite().all()
    assert (q.log_prob(y + 2.0**-15 * q.scaling.step) == -math.inf).all()


@pytest.mark.slow
def test_the_density_is_one_over_a_cell_and_knows_how_numbers_hang_together() -> None:
    scaling = SCALINGS[0]
    q, x = made((2,), scaling), torch.tensor([[-1.0, 0.5]], dtype=torch.float64)
    odds = torch.linspace(-16, 16, 801, dtype=torch.float64)  # fine at the edges, where the density may have peaks
    side = scaling.step * (1 - 2.0**-13)
    edge, width = side * (odds.sigmoid() - 0.5), side * odds.sigmoid() * (-odds).sigmoid() * 32 / 800
    p = q.log_prob(x + torch.cartesian_prod(edge, edge)).detach().exp().reshape(801, 801) * width * width[:, None]
    assert p.sum().item() == pytest.approx(1, abs=1e-3)
    apart = p - p.sum(0) * p.sum(1)[:, None]
    assert apart.abs().sum() > 0.01
    drawn = q(x.expand(40_000, -1), seeded())[0].detach() - x
    for value, exact in ((drawn, edge), (drawn.square(), edge.square())):
        truth = torch.stack([(exact[:, None] * p).sum(), (exact * p).sum()])
        assert (value.mean(0) - truth).abs().max() < 5 * value.std(0).max() / 200


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: type(s).__name__)
def test_noise_that_is_not_trained_is_uniform(scaling: Scaling) -> None:
    q, x = Dequantiser((1, 4, 4), scaling).double(), some_bytes(400, (1, 4, 4), scaling)
    y, log_q = q(x, seeded())
    torch.testing.assert_close(log_q, torch.full_like(log_q, -16 * math.log(scaling.step)), rtol=0, atol=16 / 8000)
    noise = (y - x) / scaling.step
    assert noise.abs().max() < 0.5
    assert noise.square().mean().item() == pytest.approx(1 / 12, rel=0.05)


class Cells:
    """A density of numbers in four cells, ``p(y) = P(u) q(y | u)``: in each cell uniform noise whose log-odds were moved, or a
    slope.
    """

    scaling = Scaling(0, 3, 4)
    shares = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64)
    moved = torch.tensor([1.0, -0.5, 0.3, -1.2], dtype=torch.float64)
    scaled = torch.tensor([0.3, -0.6, 0.1, -0.9], dtype=torch.float64)
    slopes = torch.tensor([1.8, -1.5, 0.5, 1.0], dtype=torch.float64)

    def cell(self, y: Tensor) -> tuple[Tensor, Tensor]:
        u = self.scaling.inverse(y).long().squeeze(1)
        return u, y.squeeze(1) - u + 0.5

    def of_log_odds(self, y: Tensor) -> Tensor:
        u, v = self.cell(y)
        end = v.logit()
        start = (end - self.moved[u]) * (-self.scaled[u]).exp()
        slope = (v * (1 - v)).log()
        of_start = torch.nn.functional.logsigmoid(start) + torch.nn.functional.logsigmoid(-start)
        return self.shares[u].log() + of_start - self.scaled[u] - slope

    def sloping(self, y: Tensor) -> Tensor:
        u, v = self.cell(y)
        return self.shares[u].log() + torch.log1p(self.slopes[u] * (v - 0.5))


def trained(log_prob: Any) -> tuple[Dequantiser, Tensor]:
    torch.manual_seed(0)
    q = Dequantiser((1,), Cells.scaling, couplings=0, width=16).double()
    x = Cells.scaling.middles(torch.arange(4, dtype=torch.uint8).repeat(100)[:, None])

    def loss(q: Any, x: Tensor, generator: Any = None) -> Tensor:
        return -q.bound(x, log_prob, generator=generator).value

    sdegen.fit(q, x, steps=400, batch_size=400, lr=2e-2, loss=loss, seed=0, progress=False)
    return q, x


@pytest.mark.slow
def test_the_bound_is_the_probability_where_the_best_noise_is_one_that_can_be_learned() -> None:
    """In the family the best `q` is the law within a cell, under which the bound has no variance at all."""
    known = Cells()
    q, x = trained(known.of_log_odds)
    truth = known.shares[x.long().squeeze(1)].log()
    with torch.no_grad():
        found = truth - q.bound(x, known.of_log_odds, generator=seeded(1)).value
        uniform = Dequantiser((1,), known.scaling, couplings=0).double()
        start = truth - uniform.bound(x, known.of_log_odds, generator=seeded(1)).value
    assert start.mean() > 0.1
    assert start.std() > 0.4
    assert found.mean().abs() < 0.005 and found.std() < 0.1


def test_the_bound_of_sloping_cells_is_below_the_truth_and_nearer_with_more_draws() -> None:
    known = Cells()
    q, x = trained(known.sloping)
    truth = known.shares.log().repeat(100)
    gaps = []
    with torch.no_grad():
        for noise in (Dequantiser((1,), known.scaling, couplings=0).double(), q):
            for draws in (1, 16):
                found = noise.bound(x, known.sloping, draws=draws, generator=seeded(1)).value
                gaps.append((truth - found).reshape(100, 4).mean().item())
    v = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    exact = -torch.log1p(known.slopes[:, None] * (v - 0.5)).mean().item()  # of uniform noise, by quadrature
    one, many, learned, of_both = gaps
    assert one == pytest.approx(exact, abs=0.06)
    assert 0 < learned < 0.15 * exact and abs(many) < 0.3 * exact and abs(of_both) < 0.05 * exact
    assert many < one and of_both < learned + 1e-3


def test_the_bound_has_the_derivatives_of_its_density_and_its_own_error() -> None:
    scaling = SCALINGS[0]
    q, x = Dequantiser((3,), scaling).double(), some_bytes(4, (3,), scaling)  # uniform: no weight is large
    center = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def log_prob(y: Tensor) -> Tensor:
        return -4 * (y - center).square().sum(1)

    value, stderr = q.bound(x, log_prob, draws=32, generator=seeded())
    assert torch.autograd.grad(value.sum(), center)[0].abs().min() > 0
    with torch.no_grad():
        again = torch.stack([q.bound(x, log_prob, draws=32, generator=seeded(k)).value for k in range(200)])
        claimed = torch.stack([q.bound(x, log_prob, draws=32, generator=seeded(k)).stderr for k in range(200)])
    assert stderr.shape == (4,)
    torch.testing.assert_close(claimed.square().mean(0).sqrt(), again.std(0), rtol=0.3, atol=0.0)
    assert q.bound(x, log_prob, generator=seeded()).stderr.isnan().all()


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: type(s).__name__)
def test_learned_noise_is_saved_with_its_cells(scaling: Scaling, tmp_path: Path) -> None:
    q, x = made((1, 4, 4), scaling), some_bytes(3, (1, 4, 4), scaling)
    sdegen.save(q, tmp_path / "noise.safetensors")
    again = sdegen.load(tmp_path / "noise.safetensors")
    assert again.scaling == scaling
    for one, other in zip(q(x, seeded()), again(x, seeded()), strict=True):
        assert torch.equal(one, other)


def test_bytes_and_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape = \(3, 4\); give \(D,\) for vectors"):
        Dequantiser((3, 4))
    with pytest.raises(ValueError, match=r"a side of shape = 0"):
        Dequantiser((1, 0, 2))
    for shape in ((1,), (1, 3, 4)):
        with pytest.raises(ValueError, match="cannot be halved; give couplings=0"):
            Dequantiser(shape)
    q = Dequantiser((2,), Scaling(-1, 1, 5))
    with pytest.raises(ValueError, match="lie outside"):
        q(torch.full((1, 2), 3.0))
    with pytest.raises(ValueError, match="shape"):
        q(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="one number for each point"):
        q.bound(torch.zeros(4, 2), lambda y: y)
    with pytest.raises(ValueError, match="draws = 0"):
        q.bound(torch.zeros(4, 2), lambda y: y.sum(1), draws=0)
