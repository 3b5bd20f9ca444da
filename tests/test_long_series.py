"""Long series from models of windows: the composed score against the whole, whose law is known."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import sdegen
from sdegen import nets
from sdegen.guidance import MomentMatching, measurements
from sdegen.models import LongSeries
from sdegen.models.long_series import extend

F64 = torch.float64
SDE = sdegen.VP()


def stationary(length: int, weights: tuple[float, ...] = (1.2, -0.6)) -> torch.Tensor:
    """The covariance of an autoregressive process of unit variance, by the Yule–Walker equations."""
    p = len(weights)
    phi = torch.tensor(weights, dtype=F64)
    system, known = torch.eye(p + 1, dtype=F64), torch.zeros(p + 1, dtype=F64)
    for k in range(p + 1):
        for i in range(p):
            system[k, abs(k - i - 1)] -= phi[i]
    known[0] = 1
    r = torch.linalg.solve(system, known).tolist()
    for _ in range(length - p - 1):
        r.append(sum(w * r[-1 - i] for i, w in enumerate(weights)))
    r = torch.tensor(r, dtype=F64) / r[0]
    place = torch.arange(length)
    return r[(place[:, None] - place).abs()]


def law(C: torch.Tensor, shape: tuple[int, ...] = ()) -> sdegen.GaussianMixture:
    return sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, *(shape or (len(C),)), dtype=F64), C[None])


def exact(C: torch.Tensor, width: int, sde: Any = SDE) -> sdegen.Exact:
    return sdegen.Exact(sde, law(C[:width, :width]))


def precision(model: sdegen.ScoreModel, length: int, t: float) -> torch.Tensor:
    return -model.score(torch.eye(length, dtype=F64), t)


@pytest.mark.parametrize(("w", "o"), [(3, 2), (5, 3), (6, 2)])
def test_series_of_short_memory_are_exact_without_noise(w: int, o: int) -> None:
    length = w + 4 * (w - o)
    C = stationary(length)
    model = LongSeries(exact(C, w), exact(C, o), length)
    torch.testing.assert_close(precision(model, length, 0.0), torch.linalg.inv(C), rtol=1e-7, atol=1e-7)
    short = LongSeries(exact(C, 2), exact(C, 1), length)  # an overlap of one place, where the memory is of two
    assert (precision(short, length, 0.0) - torch.linalg.inv(C)).abs().max() > 0.1


@pytest.mark.parametrize("sde", [SDE, sdegen.EDM(), sdegen.CLD()], ids=["VP", "EDM", "CLD"])
def test_windows_of_the_composed_law_are_right_at_every_time(sde: Any) -> None:
    """The law with the composed score has the marginals of its windows, as graphs whose cliques are in a row have."""
    C = stationary(20)
    model, w = LongSeries(exact(C, 6, sde), exact(C, 4, sde), 20), 6
    channels = 2 if isinstance(sde, sdegen.CLD) else 1
    n = 20 * channels
    basis = torch.eye(n, dtype=F64).reshape(n, *((channels, 20) if channels == 2 else (20,)))
    t = 0.2 * sde.T
    covariance = torch.linalg.inv(-model.score(basis, t).reshape(n, n)).reshape(channels, 20, channels, 20)
    at = sde.marginal(t)
    whole = law(C).diffuse(at, sde.embedding).moments().covariance.reshape(channels, 20, channels, 20)
    for first in range(0, 15, 2):
        part = slice(first, first + w)
        torch.testing.assert_close(covariance[:, part, :, part], whole[:, part, :, part], rtol=1e-6, atol=1e-7)


def test_the_error_falls_exponentially_with_the_width_and_readings_agree() -> None:
    C, t = stationary(49, (0.8,)), float(SDE.time(torch.tensor(1.0)))
    truth, errors = precision(exact(C, 49), 49, t), []
    for w in (3, 5, 9, 17):
        model = LongSeries(exact(C, w), exact(C, w - 1), 49)
        errors.append((precision(model, 49, t) - truth).abs().max().item())
    rates = [b / a for a, b in pairwise(errors)]
    assert rates[0] < 0.6 and rates[1] < rates[0] ** 1.5 and rates[2] < rates[1] ** 1.5
    x = torch.randn(3, 49, dtype=F64, generator=torch.Generator().manual_seed(0))
    at = SDE.marginal(t)
    x_0, eps = model.estimate(x, t)
    torch.testing.assert_close(at.Phi(x_0) + at.R(eps), x)
    torch.testing.assert_close(at.score_from_noise(eps), model.score(x, t))


def test_moments_of_series_are_those_of_windows_that_continue_each_other() -> None:
    C = stationary(20)
    found = LongSeries(exact(C, 5), exact(C, 2), 20).require_moments()
    torch.testing.assert_close(found.covariance, C)
    # Two channels, each with the past of both: x_t = A x_(t - 1) + noise, of covariance A^k S at distance k.
    A = torch.tensor([[0.7, 0.3], [-0.2, 0.5]], dtype=F64)
    S = torch.linalg.solve(torch.eye(4, dtype=F64) - torch.kron(A, A), torch.eye(2, dtype=F64).flatten()).reshape(2, 2)
    power = lambda k: torch.linalg.matrix_power(A, k) @ S if k >= 0 else (torch.linalg.matrix_power(A, -k) @ S).T
    block = lambda n: torch.stack([torch.stack([power(i - j) for j in range(n)], 1) for i in range(n)], 1)
    flat = lambda n: block(n).permute(0, 1, 3, 2).reshape(2 * n, 2 * n)
    windows = sdegen.Moments(torch.zeros(2, 4, dtype=F64), flat(4))
    torch.testing.assert_close(extend(windows, 1, 13).covariance, flat(13))
    model = LongSeries(exact(C, 5), exact(C, 2), 20)
    model.moments = other = sdegen.Moments(torch.zeros(20), torch.ones(20))
    assert model.moments is other and model.model.moments.covariance.shape == (5, 5)
    many = extend(windows, 1, 202)  # no covariance of so many numbers
    torch.testing.assert_close(many.covariance.reshape(2, 202)[:, 7], S.diagonal())


def test_samples_are_those_of_the_series() -> None:
    C = stationary(20, (0.8,))
    model, truth = LongSeries(exact(C, 12), exact(C, 11), 20), exact(C, 20)
    ends = [sdegen.sample(m, x_T=torch.eye(20, dtype=F64), steps=10) for m in (model, truth)]
    torch.testing.assert_close(*ends, rtol=0, atol=5e-3)
    parts = sdegen.sample(model, 7, steps=3, seed=0, batch=3)
    torch.testing.assert_close(parts, sdegen.sample(model, 7, steps=3, seed=0))
    x = torch.randn(2, 25, dtype=F64)  # scores of another length are given too
    torch.testing.assert_close(model.score(x, 0.0), exact(stationary(25, (0.8,)), 25).score(x, 0.0))


@pytest.mark.slow
def test_densities_are_those_of_the_series() -> None:
    C = stationary(20, (0.8,))
    model, truth = LongSeries(exact(C, 12), exact(C, 11), 20), exact(C, 20)
    data = truth.distribution.sample(4, torch.Generator().manual_seed(0))
    found, expected = (sdegen.log_prob(m, data, method="rk4", steps=12) for m in (model, truth))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


@pytest.mark.slow
def test_a_measured_series_is_the_smoother_but_for_the_composition() -> None:
    C = stationary(30)
    seen = torch.zeros(30, dtype=torch.bool)
    seen[:12] = seen[20:24] = True
    A = measurements.Mask(seen, 0.05)
    y = A.sample(law(C).sample(1, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1))[0]
    posterior = measurements.mixture_posterior(law(C), A, y).moments()
    model = MomentMatching(LongSeries(exact(C, 12), exact(C, 11), 30), A)
    x = sdegen.sample(model, 400, steps=15, seed=0, y=y)
    spread = posterior.covariance.diagonal().sqrt()
    assert ((x.mean(0) - posterior.mean) / spread).abs().max() < 0.3
    assert (x.std(0) / spread - 1).abs().max() < 0.2


def networks(kinds: Any) -> tuple[sdegen.Model, sdegen.Model]:
    torch.manual_seed(0)
    found = []
    for width in (5, 3):
        model = sdegen.Model(nets.MLP(width, width=8, depth=1, conditions=kinds), SDE)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        model.moments = sdegen.Moments(torch.zeros(width), torch.ones(width))
        found.append(model)
    return found[0], found[1]


def test_conditions_reach_the_windows_and_are_cut_where_they_lie_on_the_grid() -> None:
    windows, overlaps = networks({"label": nets.Label(3), "known": nets.Fields(1, dims=1, gaps=True)})
    model = LongSeries(windows, overlaps, 11)
    x, t = torch.randn(4, 11), torch.tensor([0.1, 0.3, 0.5, 0.9])
    label, known = torch.tensor([0, 2, 1, 0]), torch.randn(4, 1, 11)
    known[:, :, 4:6] = float("nan")
    for cond in ({"label": label, "known": known}, {"label": 1, "known": known[0]}):
        want = torch.zeros(4, 11)
        for sign, inside, pieces in ((1, windows, (0, 2, 4, 6)), (-1, overlaps, (2, 4, 6))):
            for first in pieces:
                part = slice(first, first + (5 if sign == 1 else 3))
                own = cond | {"known": cond["known"][..., part]}
                want[:, part] += sign * inside.noise(x[:, part], t, **own)
        torch.testing.assert_close(model.noise(x, t, **cond), want, rtol=1e-4, atol=1e-5)
    held = sdegen.Conditioned(model, label=label, known=known)
    found, whole = (sdegen.sample(held, 4, steps=2, seed=0, batch=b) for b in (2, None))
    torch.testing.assert_close(found, whole)
    inside = LongSeries(sdegen.Conditioned(windows, label=label), sdegen.Conditioned(overlaps, label=label), 11)
    torch.testing.assert_close(sdegen.sample(inside, 4, steps=2, seed=0, batch=2, known=known), whole)
    with pytest.raises(ValueError, match="known has 5 places, the series 11"):
        model.noise(x, 0.3, label=1, known=known[0, :, :5])
    with pytest.raises(TypeError, match="needs the condition 'known'"):
        model.noise(x, 0.3, label=1, known=None)


def test_series_are_saved_and_read_with_both_models(tmp_path: Path) -> None:
    C = stationary(11)
    model = LongSeries(exact(C, 5), exact(C, 3), 11)
    known = model.conditional_moments(label=None)
    assert known is not None and all(map(torch.equal, known, model.require_moments()))
    assert model.conditional_moments(label=1) is None
    assert repr(model).startswith("LongSeries(Exact(") and repr(model).count("Exact(") == 2
    sdegen.save(model, tmp_path / "series.safetensors")
    x = torch.randn(2, 11, dtype=F64)
    torch.testing.assert_close(sdegen.load(tmp_path / "series.safetensors").score(x, 0.3), model.score(x, 0.3))


def test_what_does_not_fit_is_refused() -> None:
    C = stationary(8)
    with pytest.raises(ValueError, match="the series has 12 places; windows of 5 that share 3 fill 11 or 13"):
        LongSeries(exact(C, 5), exact(C, 3), 12)
    with pytest.raises(ValueError, match="o < w"):
        LongSeries(exact(C, 3), exact(C, 3), 9)
    apart = SDE.in_units(sdegen.Units(torch.zeros(5), torch.tensor([1.0, 1.0, 1.0, 1.0, 1.1])))
    other = SDE.in_units(sdegen.Units(0.0, 1.1))
    for windows, overlaps in ((apart, SDE), (SDE, other), (SDE, sdegen.Cosine()), (SDE, sdegen.EDM())):
        with pytest.raises(ValueError, match="treats all places alike"):
            LongSeries(exact(C, 5, windows), exact(C, 3, overlaps), 11)
