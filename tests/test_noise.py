"""Noise belongs to the sample: bit by bit the same in any company, and standard normal and independent otherwise."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import Tensor

import sdegen
from sdegen.samplers.noise import NUMBERS, BlockSeeds, BrownianNoise, SampleNoise, as_seed, block_size, draw

SHAPES = [(), (1,), (2,), (3,), (7, 5), (1, 28, 28), (3, 32, 32), (3001,), (NUMBERS + 9,)]


def calls(n: int, shape: tuple[int, ...], dtype: torch.dtype, first: int = 0, seed: int = 5, steps: int = 3) -> Tensor:
    noise = SampleNoise(seed, first)
    return torch.stack([noise(torch.empty(n, *shape, dtype=dtype)) for _ in range(steps)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sample_has_its_noise_in_any_batch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    block = block_size(torch.Size(shape).numel())
    n = 2 * block + 3
    together = calls(n, shape, dtype)
    assert together.shape == (3, n, *shape) and together.dtype == dtype
    for first, last in ((0, 1), (0, 2), (1, 2), (1, 9), (block - 1, block + 1), (block, n), (2 * block + 2, n)):
        last = min(last, n)
        assert torch.equal(calls(last - first, shape, dtype, first), together[:, first:last]), (first, last)


def test_noise_is_that_of_every_size_of_batch() -> None:
    together = calls(70, (3,), torch.float32)
    for n in range(1, 70):
        assert torch.equal(calls(n, (3,), torch.float32), together[:, :n]), n


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_standard_normal_and_independent(shape: tuple[int, ...]) -> None:
    d = torch.Size(shape).numel()
    n = max(16, 60_000 // d)
    z = calls(n, shape, torch.float64, steps=4).reshape(4, n, d)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    others = {
        "another step": (z[0], z[1]),
        "two steps on": (z[0], z[2]),
        "another seed": (z[0], calls(n, shape, torch.float64, seed=6)[0].reshape(n, d)),
        "the next sample": (z[0, 1:], z[0, :-1]),
        "the next sample's next step": (z[0, 1:], z[1, :-1]),
        "its square": (z[0].square() - 1, z[1].square() - 1),
        "the next block": (z[0, : n // 2], z[0, n // 2 : 2 * (n // 2)]),
    }
    if d > 1:
        others["the next coordinate"] = (z[0, :, 1:], z[0, :, :-1])
    for name, (a, b) in others.items():
        correlation = (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()
        assert correlation.abs() * a.numel() ** 0.5 < 4.5, name


def test_seeds_of_blocks_do_not_collide() -> None:
    for seed in (0, 1, -7, 2**62):
        of = BlockSeeds(seed)
        assert len({of(block, call) for block in range(1000) for call in range(300)}) == 300_000
    first, second = ({BlockSeeds(seed)(k, 0) for k in range(10_000)} for seed in (0, 1))
    assert len(first & second) <= 2  # 0.02 expected by chance


def test_a_prior_draw_belongs_to_the_sample() -> None:
    ring = sdegen.data.gaussian_ring()
    together = draw(ring, 9000, 3, 2)
    for n in (1, 2, 4096, 4097, 8999):
        assert torch.equal(draw(ring, n, 3, 2), together[:n]), n
    assert not torch.equal(draw(ring, 10, 4, 2), together[:10])
    assert len(together.unique(dim=0)) == 9000
    assert stats.ks_2samp(together[:, 0], ring.sample(9000, torch.Generator().manual_seed(0))[:, 0]).pvalue > 1e-3


def test_coarse_precision_has_the_noise_of_float32(device: torch.device) -> None:
    full = SampleNoise(2)(torch.empty(5, 3, dtype=torch.float32))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        z = SampleNoise(2)(torch.empty(5, 3, dtype=dtype, device=device))
        assert z.dtype == dtype and z.device.type == device.type
        assert torch.equal(z.cpu(), full.to(dtype))


def test_a_generator_continues_and_torch_seeds_the_rest() -> None:
    generator = torch.Generator().manual_seed(3)
    first = as_seed(None, generator)
    assert first == as_seed(3, None) and first != as_seed(None, generator)
    torch.manual_seed(0)
    first = as_seed(None, None)
    second = as_seed(None, None)
    torch.manual_seed(0)
    assert first == as_seed(None, None) != second


def test_no_samples_have_no_noise() -> None:
    assert SampleNoise(0)(torch.empty(0, 2)).shape == (0, 2)
    assert SampleNoise(0)(torch.empty(2, 0)).shape == (2, 0)


def increments(times: Tensor, n: int = 2000, coarsest: int = 3, first: int = 0, seed: int = 1) -> Tensor:
    """Of every step, not divided by the root of its length."""
    noise = BrownianNoise(seed, times, coarsest, first)
    z = torch.stack([noise(torch.empty(n, 2, dtype=torch.float64)) for _ in range(len(times) - 1)])
    return z * (times[:-1] - times[1:]).sqrt()[:, None, None]


def increments_beyond() -> None:
    noise = BrownianNoise(0, TIMES[:2], 1)
    for _ in range(2):
        noise(torch.empty(1, 2))


TIMES = torch.linspace(1, 0, 25, dtype=torch.float64) ** 2 * 3  # unequal steps, 3 · 2³ of them


def test_a_brownian_path_is_refined() -> None:
    fine = increments(TIMES)
    for k in (2, 4, 8):
        torch.testing.assert_close(
            increments(TIMES[::k]), fine.reshape(24 // k, k, 2000, 2).sum(1), rtol=1e-12, atol=1e-12
        )
    assert not torch.allclose(increments(TIMES, seed=2), fine, atol=0.1)


def test_brownian_increments_are_independent_normal_and_belong_to_the_sample() -> None:
    fine = increments(TIMES)
    z = fine / (TIMES[:-1] - TIMES[1:]).sqrt()[:, None, None]
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    C = z.reshape(24, -1) @ z.reshape(24, -1).T / z[0].numel()
    assert (C - torch.eye(24)).abs().max() * z[0].numel() ** 0.5 < 6  # √2 larger on the diagonal
    assert torch.equal(increments(TIMES, n=7, first=5), fine[:, 5:12])


def test_euler_maruyama_converges_strongly_on_a_brownian_path() -> None:
    # Order 1, as the noise does not depend on the state; without a common path the solutions stay apart.
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())

    def solve(steps: int, path: bool) -> Tensor:
        sampler = sdegen.samplers.EulerMaruyama(steps, sdegen.grids.Uniform(end=0.05))
        times = sampler.times(model.sde, False)
        source = lambda seed, first: BrownianNoise(seed, times, 50, first)
        return sdegen.sample(
            model, 500, sampler=sampler, seed=0, final="sample", batch=300, noise=source if path else SampleNoise
        )

    ends = [solve(steps, True) for steps in (200, 400, 800)]
    gaps = [(a - b).norm(dim=1).median().item() for a, b in pairwise(ends)]
    assert 1.6 < gaps[0] / gaps[1] < 2.5 and gaps[1] < 0.05
    assert (solve(400, False) - solve(800, False)).norm(dim=1).median() > 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SampleNoise(0.5), r"^seed = 0.5; give a whole number"),  # type: ignore[arg-type]
        (lambda: SampleNoise(0, first=-1), r"^first = -1; give a whole number, at least 0"),
        (lambda: SampleNoise(0)(torch.empty(2, 2, dtype=torch.long)), r"dtype torch.int64; give floating-point"),
        (lambda: SampleNoise(0)(torch.tensor(1.0)), r"^like has shape \(\)"),
        (lambda: BrownianNoise(0, TIMES[:20], 3), r"^coarsest = 3 and 19 steps .* a power of two"),
        (lambda: BrownianNoise(0, TIMES, 0), r"^coarsest = 0"),
        (lambda: BrownianNoise(0, TIMES.flip(0), 3), r"^times must decrease strictly"),
        (increments_beyond, r"^noise was asked for more than 1 times"),
        (lambda: as_seed(0, torch.Generator()), r"^seed and generator"),
    ],
)
def test_refusals(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]
