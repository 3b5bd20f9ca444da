"""Noise belongs to the sample: bit by bit the same in any company, and standard normal and independent otherwise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

import sdegen
from sdegen.samplers.brownian import AHEAD, BrownianNoise
from sdegen.samplers.noise import (
    NUMBERS,
    BlockSeeds,
    SampleNoise,
    as_seed,
    draw,
    layout,
    numbers_in,
    together,
)

SHAPES = [(), (1,), (2,), (3,), (7, 5), (1, 28, 28), (3, 32, 32), (3001,), (NUMBERS + 9,)]


def calls(n: int, shape: tuple[int, ...], dtype: torch.dtype, first: int = 0, seed: int = 5, steps: int = 3) -> Tensor:
    noise = SampleNoise(seed, first)
    return torch.stack([noise(torch.empty(n, *shape, dtype=dtype)) for _ in range(steps)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sample_has_its_noise_in_any_batch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    d = torch.Size(shape).numel()
    block = layout(torch.Size((1, *shape)), 0, 1).block // d
    n = 2 * block + 3
    whole = calls(n, shape, dtype)
    assert whole.shape == (3, n, *shape) and whole.dtype == dtype
    for first, last in ((0, 1), (0, 2), (1, 2), (1, 9), (block - 1, block + 1), (block, n), (2 * block + 2, n)):
        last = min(last, n)
        assert torch.equal(calls(last - first, shape, dtype, first), whole[:, first:last]), (first, last)


@pytest.mark.parametrize("shape", [(), (2,), (3,), (7, 5), (300,), (2000,), (5000,)])
def test_calls_drawn_together_belong_to_the_sample_too(shape: tuple[int, ...]) -> None:
    d, steps = torch.Size(shape).numel(), 26
    assert together(d, steps) == {1: 8, 2: 8, 3: 8, 35: 8, 300: 8, 2000: 2, 5000: 1}[d]
    n = 2 * NUMBERS // d // together(d, steps) + 9  # more than two blocks
    whole = calls(n, shape, torch.float32, steps=steps)
    for first, last in ((0, 1), (1, 2), (1, 9), (n // 2 - 1, n // 2 + 1), (n - 2, n)):
        cut = calls(last - first, shape, torch.float32, first, steps=steps)
        assert torch.equal(cut, whole[:, first:last]), (first, last)


def test_noise_is_that_of_every_size_of_batch() -> None:
    whole = calls(70, (3,), torch.float32, steps=20)
    for n in range(1, 70):
        assert torch.equal(calls(n, (3,), torch.float32, steps=20), whole[:, :n]), n


def test_noise_of_a_call_does_not_depend_on_the_batch_of_another() -> None:
    whole, noise = calls(50, (2,), torch.float32, steps=60), SampleNoise(5)
    exact = calls(50, (2,), torch.float64, steps=60)
    for k in range(60):
        n, dtype = 1 + k * k % 50, torch.float64 if k % 7 == 3 else torch.float32
        z = noise(torch.empty(n, 2, dtype=dtype))
        assert torch.equal(z, (whole if dtype == torch.float32 else exact)[k, :n]), k


@pytest.mark.parametrize("shape", [(2,), (300,), (5000,)])
@pytest.mark.parametrize("ahead", [1, 700, 2**18])
def test_noise_drawn_ahead_is_that_of_every_call(shape: tuple[int, ...], ahead: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("sdegen.samplers.noise.AHEAD", ahead)
    whole, told = calls(3, shape, torch.float32, 1, steps=25), SampleNoise(5, 1, torch.linspace(1, 0, 21))
    for k in range(25):  # a few more than the run has steps
        assert torch.equal(told(torch.empty(3, *shape)), whole[k]), k
        if k == 0:
            assert len(told._ahead) >= min(20, ahead // (3 * shape[0])) - 1
    short = SampleNoise(5, 1, torch.linspace(1, 0, 2))
    assert torch.equal(short(torch.empty(3, *shape)), whole[0]) and not short._ahead


@pytest.mark.parametrize("shape", [(2,), (24,), (2500,)])
def test_no_number_is_used_twice(shape: tuple[int, ...]) -> None:
    z = calls(max(2, 20_000 // shape[0]), shape, torch.float64, steps=40)
    assert len(z.unique()) == z.numel()


@pytest.mark.parametrize("d", [1, 2, 300])
def test_noise_may_be_written_into_and_stays(d: int) -> None:
    noise, alone, like = SampleNoise(0), SampleNoise(0), torch.empty(3, d)
    z, kept = [], []
    for k in range(40):
        z.append(noise(like))
        kept.append(alone(like).clone())
        if k % 2 == 0:
            z[k].zero_()
    assert all(torch.equal(z[k], kept[k]) for k in range(1, 40, 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_standard_normal_and_independent(shape: tuple[int, ...]) -> None:
    d = torch.Size(shape).numel()
    n = max(16, 60_000 // d)
    z = calls(n, shape, torch.float64, steps=28)[24:].reshape(4, n, d)  # some of them drawn together
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    others = {
        "another step": (z[0], z[1]),
        "two steps on": (z[0], z[2]),
        "another seed": (z[0], calls(n, shape, torch.float64, seed=6, steps=25)[24].reshape(n, d)),
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


class Standard:
    """A law that draws as the noise of a step is drawn."""

    def __init__(self, d: int) -> None:
        self.d = d

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, self.d, dtype=torch.float64, generator=generator)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("d", [1, 2, 16, 100])
@pytest.mark.parametrize("seed", [0, 3, -5])
def test_where_a_run_starts_tells_nothing_of_its_noise(seed: int, d: int) -> None:
    n, noise = 20_000 // d, SampleNoise(seed)
    start = draw(Standard(d), n, seed, d)
    for call in range(20):
        z = noise(start)
        assert (start * z).mean().abs() * start.numel() ** 0.5 < 4.5, call
        assert not torch.isin(start, z).any(), call


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
    noise = BrownianNoise(seed, first, times, coarsest)
    z = torch.stack([noise(torch.empty(n, 2, dtype=torch.float64)) for _ in range(len(times) - 1)])
    return z * (times[:-1] - times[1:]).sqrt()[:, None, None]


def increments_beyond() -> None:
    noise = BrownianNoise(0, 0, TIMES[:2], 1)
    for _ in range(2):
        noise(torch.empty(1, 2))


def another_shape() -> None:
    noise = BrownianNoise(0, 0, TIMES, 3)
    for n in (3, 1):
        noise(torch.empty(n, 2))


TIMES = torch.linspace(1, 0, 25, dtype=torch.float64) ** 2 * 3  # unequal steps, 3 · 2³ of them


def test_a_brownian_path_is_refined() -> None:
    fine = increments(TIMES)
    for k in (2, 4, 8):
        torch.testing.assert_close(
            increments(TIMES[::k]), fine.reshape(24 // k, k, 2000, 2).sum(1), rtol=1e-12, atol=1e-12
        )
    assert not torch.allclose(increments(TIMES, seed=2), fine, atol=0.1)


def test_brownian_increments_are_independent_normal() -> None:
    z = increments(TIMES) / (TIMES[:-1] - TIMES[1:]).sqrt()[:, None, None]
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    C = z.reshape(24, -1) @ z.reshape(24, -1).T / z[0].numel()
    assert (C - torch.eye(24)).abs().max() * z[0].numel() ** 0.5 < 6  # √2 larger on the diagonal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (2,), (2, 20), (3000,)])
@pytest.mark.parametrize("coarsest", [1, 3])
def test_a_brownian_path_belongs_to_the_sample(shape: tuple[int, ...], dtype: torch.dtype, coarsest: int) -> None:
    # From so many samples that steps are made one at a time to one, whose path is made at once.
    n, times = AHEAD // 2 // torch.Size(shape).numel() + 9, TIMES[: 16 * coarsest + 1] if coarsest == 1 else TIMES

    def path(first: int, last: int) -> Tensor:
        noise = BrownianNoise(1, first, times, coarsest)
        return torch.stack([noise(torch.empty(last - first, *shape, dtype=dtype)) for _ in range(len(times) - 1)])

    whole = path(0, n)
    assert whole.dtype == dtype
    for first, last in ((0, 1), (0, 2), (1, 5), (5, 12), (n // 3, 2 * n // 3), (n - 1, n)):
        assert torch.equal(path(first, last), whole[:, first:last]), (first, last)


@pytest.mark.parametrize("shape", [(1, 2), (9000, 2), (16, 784), (300, 100), (64, 3072)])
def test_a_brownian_path_draws_every_number_once(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    draw, drawn, like = SampleNoise.draw, [], torch.empty(shape)

    def watched(self: SampleNoise, call: int, m: int, like: Tensor) -> Tensor:
        z = draw(self, call, m, like)
        drawn.extend(range(call, call + len(z)))
        return z

    monkeypatch.setattr(SampleNoise, "draw", watched)
    noise = BrownianNoise(0, 0, torch.linspace(1, 0, 21, dtype=torch.float64), 5)
    for _ in range(20):
        noise(like)
    assert len(set(drawn)) == len(drawn) < 20 + together(like[0].numel(), 20)


def test_runs_of_twice_the_moves_have_one_path_by_default() -> None:
    for times in (
        TIMES,
        torch.linspace(1, 0, 8, dtype=torch.float64),
    ):  # 24 moves, and 7, which are the coarsest themselves
        steps = len(times) - 1
        plain, told = BrownianNoise(3, 0, times), BrownianNoise(3, 0, times, 3 if steps == 24 else 7)
        for _ in range(steps):
            assert torch.equal(plain(torch.empty(5, 2)), told(torch.empty(5, 2)))


def test_what_the_documentation_says_of_noise_kept_while_the_grid_is_refined() -> None:
    # As it stands in the table of choose_a_sampler, with the denoiser's move: 20 moves and 40 between the same ends.
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    runs = {
        source: [
            sdegen.sample(model, 300, sampler=sdegen.samplers.EulerMaruyama(n), noise=source, seed=0)
            for n in (201, 401)
        ]
        for source in (BrownianNoise, SampleNoise)
    }
    kept, redrawn = ((a - b).norm(dim=1).median() for a, b in runs.values())
    assert kept < 0.2 < redrawn


def test_a_coarsest_grid_alone_has_plain_noise() -> None:
    noise, path, like = SampleNoise(4), BrownianNoise(4, 0, TIMES, 24), torch.empty(5, 2)
    for _ in range(24):
        assert torch.equal(path(like), noise(like))


def test_a_brownian_path_in_coarse_precision_is_that_of_float32() -> None:
    paths = [BrownianNoise(2, 0, TIMES, 3) for _ in range(2)]
    for _ in range(24):
        full, half = (
            p(torch.empty(4, 2, dtype=v)) for p, v in zip(paths, (torch.float32, torch.bfloat16), strict=True)
        )
        assert half.dtype == torch.bfloat16 and torch.equal(half, full.bfloat16())
    assert BrownianNoise(2, 0, TIMES, 3)(torch.empty(0, 2)).shape == (0, 2)


@pytest.mark.slow
def test_euler_maruyama_converges_strongly_on_a_brownian_path() -> None:
    # Order 1, as the noise does not depend on the state; without a common path the solutions stay apart.
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())

    def solve(steps: int, path: bool) -> Tensor:
        sampler = sdegen.samplers.EulerMaruyama(steps, sdegen.grids.Uniform(end=0.05))
        source = BrownianNoise if path else SampleNoise
        return sdegen.sample(model, 500, sampler=sampler, seed=0, final="sample", batch=300, noise=source)

    ends = [solve(steps, True) for steps in (200, 400, 800)]
    gaps = [(a - b).norm(dim=1).median().item() for a, b in pairwise(ends)]
    assert 1.6 < gaps[0] / gaps[1] < 2.5 and gaps[1] < 0.05
    assert (solve(400, False) - solve(800, False)).norm(dim=1).median() > 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SampleNoise(0.5), r"^seed = 0.5; it must be a whole number"),  # type: ignore[arg-type]
        (lambda: SampleNoise(0, first=-1), r"^first = -1; it must be a whole number, at least 0"),
        (lambda: SampleNoise(0)(torch.empty(2, 2, dtype=torch.long)), r"dtype torch.int64; give floating-point"),
        (lambda: SampleNoise(0)(torch.tensor(1.0)), r"^like has shape \(\)"),
        (lambda: BrownianNoise(0, 0, TIMES[:20], 3), r"^coarsest = 3 and 19 steps .* a power of two"),
        (lambda: BrownianNoise(0, 0, TIMES, 0), r"^coarsest = 0"),
        (lambda: BrownianNoise(0, 0, TIMES.flip(0), 3), r"^times must decrease strictly"),
        (increments_beyond, r"^noise was asked for more than 1 times"),
        (another_shape, r"^like has shape \(1, 2\), but the path was begun for states of shape \(3, 2\)"),
        (lambda: as_seed(0, torch.Generator()), r"^seed and generator"),
    ],
)
def test_refusals(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("seed", [0, 3, -5, 2**61])
def test_neighbouring_seeds_differ_in_half_their_bits(seed: int) -> None:
    # Of a block and the next, of a call and the next: each of the 32 bits turns in half of the cases.
    of = BlockSeeds(seed)
    n = 4000
    for pairs in ([(of(k, 3), of(k + 1, 3)) for k in range(n)], [(of(3, k), of(3, k + 1)) for k in range(n)]):
        turned = torch.tensor([[(a ^ b) >> bit & 1 for bit in range(32)] for a, b in pairs], dtype=torch.float64).mean(
            0
        )
        assert ((turned - 0.5).abs() < 5 * 0.5 / n**0.5).all(), turned


@pytest.mark.parametrize(("shape", "numbers"), [((3,), 1), ((3, 4), 4), ((2, 3, 4, 5), 60), ((0, 6), 6), ((2, 0), 1)])
def test_the_numbers_of_one_sample_are_those_of_all_its_axes(shape, numbers):
    assert numbers_in(torch.zeros(shape)) == numbers


def test_draws_that_no_memory_holds_are_refused_before_the_law_is_asked() -> None:
    class Unasked:
        def sample(self, n: int, generator: torch.Generator) -> Tensor:
            raise AssertionError("the law was asked")

    with pytest.raises(MemoryError, match="n = 1000000000000000 samples of 10 numbers do not fit into memory"):
        draw(Unasked(), 10**15, 0, 10)
