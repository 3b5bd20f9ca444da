"""Processes at the edge, drawn at random: jumps, kinks, oscillations, stiff and vanishing coefficients, any scale of time,
noise at the start and no signal at the end. Each is right, or refused in one sentence.

All have ``f = rate beta`` and ``g² = beta`` with pieces of `beta` whose integral `B` is elementary, so that
``log alpha = rate B`` and ``sigma² = alpha² sigma_0² + expm1(2 rate B) / (2 rate)`` are known without quadrature.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, losses, nets, samplers, weightings
from sdegen.processes.panels import Panels, evaluate

KINDS = ("jumps", "kinks", "waves", "stiff", "spike", "gap", "late", "faint")
DRAWS = [(kind, seed) for kind in KINDS for seed in range(4)]
FEW = [(kind, 10) for kind in KINDS]


class Drawn(sdegen.ScalarSDE):
    """A process of one of the `KINDS`: on each piece ``beta = level + slope (t − start) + wave sin(omega (t − start))``."""

    def __init__(self, kind: str, seed: int) -> None:
        rng = np.random.default_rng([KINDS.index(kind), seed])
        self.T = 10.0 ** rng.uniform(-9, 9)
        pieces = {"waves": 1, "stiff": 1, "spike": 3, "gap": 3, "late": 2}.get(kind, 4)
        inner = np.sort(rng.uniform(0.05, 0.95, pieces - 1))
        if kind == "spike":
            inner[1] = inner[0] + 10.0 ** rng.uniform(-4, -2)
        self.starts = torch.from_numpy(np.concatenate([[0.0], inner])) * self.T
        level = 10.0 ** rng.uniform(-1, 1.5, pieces)
        slope, wave, omega = np.zeros(pieces), np.zeros(pieces), np.ones(pieces)
        width = np.diff([0.0, *inner, 1.0])
        if kind == "kinks":  # continuous, with a corner at each start
            ends = 10.0 ** rng.uniform(-1, 1.5, pieces)
            level[1:], slope = ends[:-1], (ends - np.concatenate([level[:1], ends[:-1]])) / width
        elif kind == "waves":
            wave, omega = level * rng.uniform(0.5, 1.0), 2 * math.pi * rng.uniform(3, 300, 1)
        elif kind == "stiff":
            slope = 10.0 ** rng.uniform(3, 4.3, 1)
        elif kind == "spike":
            level[1] = rng.uniform(1, 10) / width[1]
        elif kind == "gap":
            level[1] = 0.0
        elif kind == "late":
            level[0] = 0.0
        elif kind == "faint":
            level[0] = 1e-12
        level[-1] = max(level[-1], 12 / width[-1])  # enough noise at the end for any law to look Gaussian
        self.level, self.slope, self.wave, self.omega = (
            torch.from_numpy(np.asarray(v)) * factor / self.T
            for v, factor in ((level, 1), (slope, 1 / self.T), (wave, 1), (omega, 1))
        )
        self.rate = float(rng.choice([-0.5, -0.5, -0.8, 0.0]))
        if self.rate == 0:
            self.level, self.slope, self.wave = (v * 50 for v in (self.level, self.slope, self.wave))
        self.sigma_0 = float(rng.choice([0.0, 0.0, 0.03]))

    def _piece(self, t: Tensor) -> tuple[Tensor, ...]:
        i = torch.searchsorted(self.starts, t.detach().contiguous(), right=True) - 1
        return t - self.starts[i], self.level[i], self.slope[i], self.wave[i], self.omega[i], i

    def beta(self, t: Tensor) -> Tensor:
        u, level, slope, wave, omega, _ = self._piece(t)
        return level + slope * u + wave * (omega * u).sin()

    def B(self, t: Tensor) -> Tensor:
        def inside(u: Tensor, level: Tensor, slope: Tensor, wave: Tensor, omega: Tensor) -> Tensor:
            return level * u + 0.5 * slope * u**2 + wave / omega * 2 * (0.5 * omega * u).sin().square()

        whole = inside(self.starts.diff(), *(v[:-1] for v in (self.level, self.slope, self.wave, self.omega)))
        before = torch.cat([torch.zeros(1).double(), whole.cumsum(0)])
        u, *of_piece, i = self._piece(t)
        return before[i] + inside(u, *of_piece)

    def f(self, t: Tensor) -> Tensor:
        return self.rate * self.beta(t)

    def g(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def truth(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``log alpha`` and ``sigma``."""
        B = self.B(t)
        come = B if self.rate == 0 else torch.expm1(2 * self.rate * B) / (2 * self.rate)
        return self.rate * B, ((2 * self.rate * B).exp() * self.sigma_0**2 + come).sqrt()


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("kind", "seed"), DRAWS)
def test_moments_are_those_of_the_integral_and_clocks_invert(kind: str, seed: int) -> None:
    sde = Drawn(kind, seed)
    t = sde.T * torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).sort().values
    log_alpha, sigma = sde.truth(t)
    torch.testing.assert_close(sde.alpha(t), log_alpha.exp(), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(sde.sigma(t), sigma, rtol=1e-9, atol=1e-9 * sigma.max().item())
    level = 2 * (log_alpha - sigma.log())
    torch.testing.assert_close(sde.log_snr(t), level, rtol=1e-9, atol=1e-9)
    noisy = level < 1e3
    again = sde.log_snr(sde.time_of_log_snr(level[noisy]))
    torch.testing.assert_close(again, level[noisy], rtol=1e-8, atol=1e-8)
    assert (sde.fall(t[:-1], t[1:]) <= 1e-9).all()
    step = sde.transition(t[:-1], t[1:])
    torch.testing.assert_close(step.Phi.matrix()[:, 0, 0], log_alpha.diff().exp(), rtol=1e-7, atol=0.0)


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("kind", "seed"), DRAWS)
@pytest.mark.turns("late-[123]", "faint-[123]")
def test_grids_fall_or_are_refused(kind: str, seed: int) -> None:
    sde = Drawn(kind, seed)
    for grid in (grids.Angle(), grids.Angle(scale=1e-3, power=0.5), grids.LogSNR(), grids.Karras(), grids.Uniform()):
        for n in (2, 40):
            if isinstance(grid, grids.Karras) and not sde.has_signal:
                with pytest.raises(ValueError, match="give the Karras grid an earlier start"):
                    grid(sde, n)
                continue
            times = grid(sde, n)
            assert times[0] == sde.T and times[-1] == sde.t_min
            assert (times[1:] < times[:-1] * (1 - 1e-14)).all()
    levels = sde.angle_at(grids.Angle()(sde, 40))
    assert (levels.diff() < 0).all()


LAW = sdegen.GaussianMixture(
    torch.tensor([0.3, 0.7]).double(),
    torch.tensor([[-1.0, 0.5], [1.0, 0.0]]).double(),
    torch.tensor([0.05, 0.2]).double(),
)


@pytest.mark.turns("late-10", "spike-10", "stiff-10", "gap-10")
@pytest.mark.parametrize(("kind", "seed"), FEW)
def test_the_default_sampler_draws_from_the_law(kind: str, seed: int) -> None:
    sde = Drawn(kind, seed)
    x = sdegen.sample(sdegen.Exact(sde, LAW), 4000, seed=0)
    found, want = sdegen.moments_of(x), LAW.moments()
    torch.testing.assert_close(found.mean, want.mean, rtol=0.0, atol=0.06)
    torch.testing.assert_close(found.covariance, want.covariance, rtol=0.0, atol=0.06)
    y = LAW.sample(4000, torch.Generator().manual_seed(1))
    assert (x.sort(0).values - y.sort(0).values).abs().mean() < 0.05  # W1 of each coordinate


@pytest.mark.turns("stiff-10")
@pytest.mark.turns("late-10")
@pytest.mark.parametrize(
    ("kind", "seed"),
    [pytest.param(*v, marks=[] if v[0] in ("jumps", "late", "stiff") else pytest.mark.slow) for v in FEW],
)
def test_likelihoods_are_right(kind: str, seed: int) -> None:
    sde = Drawn(kind, seed)
    law = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[0.5, -1.0]]), torch.tensor([0.4]))
    seen = sde.diffused(law, 0.0) if sde.sigma_0 else law
    x = law.sample(20, torch.Generator().manual_seed(2))
    found = sdegen.log_prob(sdegen.Exact(sde, law), x)
    torch.testing.assert_close(found, seen.log_prob(x), rtol=0.0, atol=2e-4)


WEIGHTINGS = (
    weightings.SNRWeighting(), weightings.EDMWeighting(0.5), weightings.MinSNRWeighting(), weightings.LikelihoodWeighting(),
    weightings.InverseVarianceWeighting(), weightings.UniformWeighting(),
)  # fmt: skip
TIMES = (
    weightings.ImportanceTimes(), weightings.AngleTimes(), weightings.StratifiedTimes(), weightings.LogNormalTimes(),
    weightings.UniformTimes(), weightings.DiscreteTimes(8),
)  # fmt: skip
NO_SIGNAL = [sdegen.Cosine(), sdegen.Rectified(), sdegen.VP(0.1, 2000.0), sdegen.SubVP(0.1, 2000.0), sdegen.OU(1000.0)]


@pytest.mark.turns("Drawn5", "Drawn6", "Drawn4")
@pytest.mark.parametrize(
    "sde", [*(Drawn(*v) for v in FEW if v[0] != "late"), *NO_SIGNAL], ids=lambda s: type(s).__name__
)
def test_losses_are_finite_whatever_weights_them(sde: sdegen.ScalarSDE) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(nets.MLP(2, width=8, depth=1), sde)
    x = LAW.sample(32, torch.Generator().manual_seed(3)).float()
    for weighting in WEIGHTINGS:
        for times in TIMES:
            loss = losses.Denoising(weighting, times)(model, x, generator=torch.Generator().manual_seed(4))
            assert loss.isfinite().all() and (loss >= 0).all()


def test_without_signal_a_weight_has_its_limit() -> None:
    """At T of the cosine process ``cos² + offset sin²`` is the offset, and ``g² cos² / sigma²`` is 0."""
    sde, one = sdegen.Cosine(), torch.tensor([1.0]).double()
    at = sde.marginal(one)
    for weighting, want in ((weightings.SNRWeighting(2.5), 2.5), (weightings.LikelihoodWeighting(), 0.0)):
        weight = (weighting.operator(sde, at) @ at.velocity_to_score).matrix().square().item()
        assert weight == pytest.approx(want, abs=1e-6)


def test_infinite_noise_at_T_is_that_where_the_signal_is_a_ten_thousandth() -> None:
    """``g² = 2 sigma / alpha`` of `Rectified`, and ``g² = pi tan`` of `Cosine`, whose ``sigma / alpha`` is the tangent."""
    for sde, of_ratio in (
        (sdegen.Rectified(), lambda ratio: 2 * ratio),
        (sdegen.Cosine(), lambda ratio: torch.pi * ratio),
    ):
        t = torch.tensor([0.3, 1.0], dtype=torch.float64)
        ratio = torch.stack([(-0.5 * sde.log_snr(t[0])).exp(), torch.tensor(1e4).double()])
        assert torch.allclose(sde.noise_at(t).matrix()[:, 0, 0].square(), of_ratio(ratio), rtol=1e-5)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind", [sdegen.VP, sdegen.SubVP])
@pytest.mark.parametrize("beta_max", [200.0, 2000.0, 2e4, 1e6])
def test_a_stiff_process_is_sampled_as_one_that_is_not(kind: type, beta_max: float) -> None:
    mild, stiff = (sdegen.Exact(kind(0.1, b), LAW) for b in (20.0, beta_max))
    x, y = (sdegen.sample(model, 4000, seed=0) for model in (mild, stiff))
    assert (x.sort(0).values - y.sort(0).values).abs().mean() < 0.05
    level = stiff.sde.log_snr(1.0)
    assert level.isfinite()
    assert stiff.sde.time_of_log_snr(level).item() == pytest.approx(1.0, abs=1e-12)
    if stiff.sde.snr(1.0) == 0:
        assert stiff.sde.time(0.0).item() == pytest.approx(1.0, abs=1e-12)
        assert stiff.sde.log_snr(stiff.sde.time(1e-300)).item() == pytest.approx(math.log(1e-300))


@pytest.mark.parametrize(
    ("f", "g"),
    [
        (lambda t: -1 / (1 - t), lambda t: 1 + 0 * t),  # alpha(T) = 0
        (lambda t: 0 * t, lambda t: t**-0.45),  # hardly integrable
        (lambda t: -torch.sin(1e7 * t), lambda t: 1 + 0 * t),
        (lambda t: -torch.rand(t.shape, dtype=t.dtype), lambda t: 1 + 0 * t),  # no function
        (lambda t: -1e7 + 0 * t, lambda t: 1 + 0 * t),  # a contraction by a factor of exp(1e7)
    ],
    ids=["diverges", "singular", "too fast", "noise", "too stiff"],
)
def test_quadrature_that_is_not_sure_says_so(f, g) -> None:
    with pytest.raises(
        ValueError, match=r"quadrature of f and g is not accurate enough: at t = .* an estimated relative error of"
    ) as caught:
        Panels(f, g, 0.0, 1.0)(torch.tensor([0.3, 1.0]).double())
    if f(torch.ones(1).double()).isinf() or g(torch.zeros(1).double()).isinf():  # at one of the ends alone
        told, worst = (float(v) for v in re.findall(r"t = (\S+) ", str(caught.value)))
        assert told in (0.3, 1.0) and abs(worst - f(torch.ones(1)).isinf().item()) < 0.01


def test_a_drift_alone_is_resolved_where_it_is_steep() -> None:
    bump = lambda t: -5 - 3e3 * (-((t - 0.4) / 1e-4).square()).exp()
    log_alpha, log_noise = Panels(bump, lambda t: 0 * t, 0.0, 1.0)(torch.tensor([0.3, 1.0], dtype=torch.float64))
    torch.testing.assert_close(log_alpha, torch.tensor([-1.5, -5 - 0.3 * math.pi**0.5]).double(), rtol=1e-6, atol=0)
    assert log_noise.isneginf().all()


def test_times_at_which_quadrature_is_not_yet_sure_are_refused() -> None:
    """Noise that is hardly integrable at 0 is little of what there is at the end."""
    panels = Panels(lambda t: 0 * t, lambda t: (t**-0.9 + 1e8).sqrt(), 0.0, 1.0)
    torch.testing.assert_close(panels(torch.ones(1).double())[1].exp(), torch.tensor([1e8 + 10]).double())
    for t in (2e-19, 1e-17, 1e-12):
        with pytest.raises(ValueError, match=r"quadrature of f and g is not accurate enough: at t = "):
            panels(torch.tensor([t], dtype=torch.float64))


def test_what_diverges_at_the_end_is_right_before_it() -> None:
    t = torch.linspace(0, 0.999, 30, dtype=torch.float64)
    log_alpha, _ = Panels(lambda t: -1 / (1 - t), lambda t: 1 + 0 * t, 0.0, 1.0)(t)
    torch.testing.assert_close(log_alpha, torch.log1p(-t), rtol=1e-10, atol=1e-13)


def test_times_that_coincide_are_refused() -> None:
    class Stuck(grids.Grid):
        def spread(self, sde, end, start, u):
            return torch.where((u > 0.4) & (u < 0.6), 0.5, end + u * (start - end))

    with pytest.raises(
        ValueError, match=r"Stuck makes 21 times of VP, of which numbers .* do not decrease by more than"
    ):
        Stuck()(sdegen.VP(), 21)
    with pytest.raises(ValueError, match="do not decrease by more than rounding"):
        grids.Given(torch.tensor([1.0, 0.5, 0.5 - 1e-16, 0.1]).double() + torch.tensor([0, 2e-16, 0, 0]).double())(
            sdegen.VP(), 4
        )


@pytest.mark.parametrize("sampler", [samplers.Multistep, samplers.ExponentialSDE], ids=lambda s: s.__name__)
def test_polynomials_through_one_noise_level_are_refused(sampler: type) -> None:
    with pytest.raises(ValueError, match="the noise level is the same at two times of the grid"):
        sdegen.sample(sdegen.Exact(sdegen.OU(1000.0), LAW), 3, sampler=sampler(20, grid=grids.Uniform()))


class Written(sdegen.ScalarSDE):
    """A process whose coefficients are what they are given."""

    def __init__(self, f: Any, T: Any = 1.0) -> None:
        super().__init__()
        self.rate, self.T = f, T

    def f(self, t: torch.Tensor) -> Any:
        return self.rate(t)

    def g(self, t: torch.Tensor) -> Any:
        return 2.0


ANSWERS = {
    "nothing": lambda t: None,
    "a word": lambda t: "-1",
    "a truth": lambda t: True,
    "complex numbers": lambda t: torch.complex(t, t),
    "a complex number": lambda t: 1j,
    "a complex array": lambda t: np.ones(()) * 1j,
    "a list": lambda t: [-1.0],
    "a tuple": lambda t: (t,),
}


def test_the_first_time_at_which_a_coefficient_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match=r"beta\(t\) is not finite at t = 0\.25;"):
        evaluate(lambda t: (t - 0.25).log(), torch.tensor([0.5, 0.25, 0.125]), "beta")


@pytest.mark.parametrize("answer", ANSWERS)
def test_coefficients_that_are_no_real_numbers_are_refused(answer: str) -> None:
    with pytest.raises(TypeError, match=r"^f\(t\) returned .*real values\.$"):
        sdegen.sample(sdegen.Exact(Written(ANSWERS[answer]), LAW), 2, steps=2, seed=0)


@pytest.mark.turns("float32")
@pytest.mark.turns("int64", "float64")
@pytest.mark.parametrize("number", [int, np.float32, np.float64, np.int64, torch.tensor])
def test_times_and_coefficients_may_be_numbers_of_any_kind(number: Any) -> None:
    drawn = [
        sdegen.sample(sdegen.Exact(Written(lambda t, of=of: of(-3), of(2)), LAW), 4, steps=5, seed=0)
        for of in (float, number)
    ]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-5, atol=1e-6)
