"""Bytes as numbers and back: scaling, dequantisation, and what they cost in bits."""

from __future__ import annotations

import math

import pytest
import torch

from sdegen.data import (
    Dequantisation,
    Scaling,
)

BYTES = torch.arange(256, dtype=torch.uint8)


ENDS = [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (0.1, 0.9), (-3.0, 7.0), (1.0, 2.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("low", "high"), ENDS)
@pytest.mark.parametrize("levels", [256, 17, 2])
def test_scaling_is_even_and_undone_exactly(low, high, levels, dtype):
    u, scaling = BYTES[:levels], Scaling(low, high, levels)
    x = scaling(u, dtype)
    assert x.dtype == dtype
    torch.testing.assert_close(x, torch.linspace(low, high, levels, dtype=dtype), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.diff(), torch.full((levels - 1,), scaling.step, dtype=dtype), rtol=1e-4, atol=0.0)
    assert torch.equal(scaling.inverse(x), u)
    # Half a step beyond an end, or around a number, is still that byte.
    assert torch.equal(scaling.inverse(x + 0.49 * scaling.step), u) and torch.equal(
        scaling.inverse(x - 0.49 * scaling.step), u
    )


def test_scaling_of_bytes_is_what_everybody_does():
    torch.testing.assert_close(Scaling(0, 1)(BYTES), BYTES / 255)
    torch.testing.assert_close(Scaling(-1, 1)(BYTES), BYTES / 127.5 - 1, rtol=0, atol=2e-7)
    assert Scaling(-1, 1)(BYTES)[[0, -1]].tolist() == [-1, 1]


class Every:
    """Stands in for the draw of the noise: every part of every cell, once."""

    def __call__(self, n, shape, **kwargs):
        assert tuple(shape) == (n, 256)
        return torch.arange(n).to(kwargs["dtype"])[:, None].expand(shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("low", "high"), ENDS)
def test_dequantised_bytes_stay_in_their_cells(low, high, dtype, monkeypatch):
    # All 1,024 values that the noise can take, on all bytes: no rounding leads into another cell.
    monkeypatch.setattr(torch, "randint", Every())
    u, scaling = BYTES.expand(1024, 256), Dequantisation(low, high)
    x = scaling(u, dtype)
    assert torch.equal(scaling.inverse(x), u)
    assert (x > low).all() and (x < high).all()
    torch.testing.assert_close(x.mean(0).diff(), torch.full((255,), scaling.step, dtype=dtype), rtol=1e-4, atol=0.0)


def test_dequantised_bytes_fill_their_cells_evenly(generator):
    n = 200_000
    u = torch.full((n,), 3, dtype=torch.uint8)
    noise = 256 * Dequantisation(0, 1)(u, torch.float64, generator) - 3
    assert abs(noise.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    fill = noise.mul(8).long().bincount(minlength=8) / n  # eighths of the cell
    assert len(fill) == 8 and (fill - 1 / 8).abs().max() < 5 * math.sqrt(7 / 64 / n)
    mean, variance = Dequantisation(0, 1).noise
    assert mean == 0.5 and abs(noise.var() - variance) < 5 * math.sqrt(1 / 180 / n)


def test_noise_is_its_seed():
    draw = lambda seed: Dequantisation()(BYTES, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("scaling", [Scaling(-1, 1), Dequantisation(-1, 1)], ids=["scaled", "dequantised"])
def test_nothing_is_clipped_unasked(scaling):
    x = torch.tensor([-1.3, -0.5, 0.99, 1.02])
    with pytest.raises(ValueError, match=r"2 of 4 values lie outside \[-1, 1\], .* \[-1.3, 1.02\]; pass clip=True"):
        scaling.inverse(x)
    clipped = scaling.inverse(x, clip=True)
    assert clipped[[0, 3]].tolist() == [0, 255]
    assert torch.equal(clipped[1:3], scaling.inverse(x[1:3]))
    for clip in (False, True):
        with pytest.raises(ValueError, match="2 of 3 values are NaN or infinite"):
            scaling.inverse(torch.tensor([0.0, math.nan, math.inf]), clip=clip)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_coarse_dtype_is_taken_only_where_it_holds_every_byte(dtype):
    assert torch.equal(Scaling(-1, 1).inverse(Scaling(-1, 1)(BYTES, dtype)), BYTES)
    for scaling in (Dequantisation(-1, 1), Scaling(100, 101)):
        with pytest.raises(ValueError, match=rf"{dtype} cannot hold .*take a finer dtype"):
            scaling(BYTES, dtype)


@pytest.mark.parametrize("kind", [Scaling, Dequantisation])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_bytes_come_back_from_any_range_or_are_refused(kind, dtype, generator):
    """Ranges that lie farther and farther from 0, where the numbers of a dtype get too far apart for bytes."""
    refused = []
    for low in (1.25 * 2.0**k for k in range(-6, 25)):
        scaling = kind(low, low + 1)
        try:
            x = scaling(BYTES, dtype, generator)
        except ValueError:
            refused.append(True)
        else:
            refused.append(False)
            assert torch.equal(scaling.inverse(x), BYTES), scaling
    assert refused == sorted(refused) and refused[-1]
    assert refused[0] is (dtype != torch.float32 and (kind is Dequantisation or dtype is torch.bfloat16))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Scaling(1, 1), ValueError, r"low = 1.0, high = 1.0: expected .* low < high"),
        (lambda: Scaling(0, math.inf), ValueError, r"^high = inf; it must be a finite number"),
        (lambda: Scaling(levels=257), ValueError, r"levels = 257; a byte takes 2 to 256 values"),
        (lambda: Scaling()(BYTES.long()), TypeError, r"dtype torch.int64; a scaling takes bytes"),
    ],
    ids=["order", "infinite", "levels", "dtype"],
)
def test_what_is_no_scaling_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("low", "high"), ENDS)
def test_bits_per_dim_of_a_density_flat_on_cells_is_the_entropy(low, high, generator):
    # Four bytes of known probabilities, and the density that spreads each over its cell: the bound is met with equality.
    probability = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    values = torch.tensor([0, 7, 100, 255], dtype=torch.uint8)
    scaling = Dequantisation(low, high)
    x = scaling(values.expand(1000, 4), torch.float64, generator)
    log_prob = probability.log() - math.log((high - low) / 256)  # of one dimension, at x in the cell of each byte
    assert torch.equal(scaling.inverse(x), values.expand(1000, 4))
    bits = (probability * scaling.bits_per_dim(log_prob, 1)).sum()
    torch.testing.assert_close(bits, torch.tensor(1.75, dtype=torch.float64))
    # Independent dimensions share the bits evenly, and the uniform density costs eight.
    torch.testing.assert_close(scaling.bits_per_dim(3 * log_prob, 3), scaling.bits_per_dim(log_prob, 1))
    flat = -784 * torch.tensor(high - low, dtype=torch.float64).log()
    torch.testing.assert_close(scaling.bits_per_dim(flat, 784), torch.tensor(8.0, dtype=torch.float64))
    torch.testing.assert_close(-(log_prob + scaling.log_volume(1)) / math.log(2), scaling.bits_per_dim(log_prob, 1))


def test_bits_per_dim_bound_what_bytes_cost(generator):
    # A Gaussian of two cells' width: its bits per dimension, in the mean, exceed those of the bytes' own probabilities.
    scaling, normal = Dequantisation(0, 256), torch.distributions.Normal(128.0, 2.0)
    cells = torch.arange(257.0, dtype=torch.float64)
    probability = torch.distributions.Normal(128.0, torch.tensor(2.0, dtype=torch.float64)).cdf(cells).diff()
    u = probability.multinomial(100_000, replacement=True, generator=generator).to(torch.uint8)
    bound = scaling.bits_per_dim(normal.log_prob(scaling(u, torch.float64, generator)), 1)
    cost = -probability[u.long()].log2()
    gap = bound - cost
    assert gap.mean() > 5 * gap.std() / math.sqrt(len(gap)) and gap.mean() < 0.1
