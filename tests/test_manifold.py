"""Precision, recall, density, coverage and KID against brute force, closed cases, and the spread they claim."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdegen.metrics import Estimate, density_coverage, distances, kid, precision_recall
from sdegen.metrics import manifold as module


def normals(seed: int, n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, d, dtype=torch.float64, generator=generator) for k in (n, m))
    return x, y


def all_four(x: Any, y: Any, k: int = 4, **options: Any) -> list[Any]:
    return [*precision_recall(x, y, k=k, **options), *density_coverage(x, y, k=k, **options)]


def brute_force(x: Tensor, y: Tensor, k: int) -> list[float]:
    """Word by word from the definitions."""
    distance = lambda a, b: math.dist(a.tolist(), b.tolist())
    radius = lambda i, v: sorted(distance(v[i], v[j]) for j in range(len(v)) if j != i)[k - 1]
    rx, ry = [radius(i, x) for i in range(len(x))], [radius(j, y) for j in range(len(y))]
    D = [[distance(a, b) for b in y] for a in x]
    n, m = range(len(x)), range(len(y))
    return [
        np.mean([any(D[i][j] <= ry[j] for j in m) for i in n]),
        np.mean([any(D[i][j] <= rx[i] for i in n) for j in m]),
        np.mean([sum(D[i][j] <= ry[j] for j in m) / k for i in n]),
        np.mean([any(D[i][j] <= ry[j] for i in n) for j in m]),
    ]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("d", [1, 5])
def test_they_are_their_definitions(k, d, monkeypatch):
    x, y = normals(0, 30, 40, d)
    x = 0.6 * x + 0.5
    truth = brute_force(x, y, k)
    assert [e.value for e in all_four(x, y, k)] == pytest.approx(truth, rel=1e-12)
    assert [e.value for e in all_four(x + 1e4, y + 1e4, k)] == pytest.approx(truth, rel=1e-12)
    monkeypatch.setattr(module, "PAIRS", 100)  # blocks of two and three rows
    assert [e.value for e in all_four(x, y, k)] == pytest.approx(truth, rel=1e-12)


def test_precision_and_recall_exchange_with_their_samples():
    x, y = normals(0, 60, 80, 3)
    there, back = precision_recall(0.5 * x, y), precision_recall(y, 0.5 * x)
    assert (there.precision.value, there.recall.value) == (back.recall.value, back.precision.value)
    assert there.precision.value > there.recall.value


def test_equal_sets_and_disjoint_ones():
    x, _ = normals(0, 50, 1, 3)
    assert [e.value for e in all_four(x, x)] == [
        1,
        1,
        pytest.approx(5 / 4, abs=0.05),
        1,
    ]  # its 4 neighbours are on the rim
    assert all_four(x, x + 100) == [(0, 0)] * 4


@pytest.mark.parametrize(("n", "m", "k"), [(80, 80, 5), (60, 90, 3), (90, 40, 1)])
def test_density_and_coverage_of_one_law_are_known(n, m, k):
    """By exchangeability, whatever the law: 1, and ``1 − Π (m − j)/(n + m − j)``."""
    values = torch.tensor(
        [[e.value for e in density_coverage(*normals(s, n, m, 4), k=k, splits=1)] for s in range(150)]
    )
    coverage = 1 - math.prod((m - j) / (n + m - j) for j in range(1, k + 1))
    for found, truth in zip(values.T, (1.0, coverage)):
        estimate = Estimate.of(found)
        assert abs(estimate.value - truth) < 3.5 * estimate.stderr < 0.15


def test_a_lost_mode_costs_coverage_and_recall_and_invented_points_density_and_precision():
    x, y = normals(0, 400, 400, 2)
    y[::2] += 20
    precision, recall, density, coverage = (e.value for e in all_four(x, y, 5))
    assert precision > 0.9 and 0.35 < recall < 0.55 and 0.9 < density < 1.1 and 0.4 < coverage < 0.6
    x[::4] -= 200
    precision, _, density, _ = (e.value for e in all_four(x, y, 5))
    assert 0.6 < precision < 0.78 and 0.65 < density < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("law", ["same", "narrow"])
@pytest.mark.turns("narrow")
def test_they_know_their_errors(law):
    scale, shift = (1.0, 0.0) if law == "same" else (0.8, 0.5)
    found = []
    for seed in range(100):
        x, y = normals(seed, 200, 200, 6)
        found.append(all_four(scale * x + shift, y))
    values = torch.tensor(found, dtype=torch.float64)  # (seeds, measures, value and error)
    ratio = values[..., 1].mean(0) / values[..., 0].std(0)
    assert ((ratio > 0.75) & (ratio < 1.35)).all(), ratio


def test_they_go_through_a_network_and_say_so():
    x, y = normals(0, 60, 50, 8)
    net = torch.nn.Linear(8, 3).double().eval()
    with torch.no_grad():
        truth = all_four(net(x), net(y))
    result = all_four(x.split(7), y.split(20), net=net)
    assert [e.value for e in result] == [e.value for e in truth]
    assert [e.metric for e in result] == ["precision@4", "recall@4", "density@4", "coverage@4"]
    assert result[0].extractor == "Linear" and len(result[0].hash) == 64 and result[0].counts == (60, 50)
    assert str(precision_recall(x, y)).startswith("precision@3[features] ")
    assert ", coverage@5[features] " in str(density_coverage(x, y))


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_they_refuse_what_has_no_neighbours(metric):
    x, y = normals(0, 7, 50, 2)
    with pytest.raises(ValueError, match="generated has 7 points; this metric needs at least 8"):
        metric(x, y, k=3)
    with pytest.raises(ValueError, match="k = 0, splits = 8"):
        metric(y, y, k=0)
    with pytest.raises(ValueError, match="k = 3, splits = 0"):
        metric(y, y, k=3, splits=0)
    with pytest.raises(ValueError, match="2 values per point"):
        metric(y, y[:, :1])


# --- KID --------------------------------------------------------------------------------------------------------------


def test_kid_is_its_definition():
    x, y = normals(0, 20, 30, 4)
    kernel = lambda a, b: ((a @ b.T) / 4 + 1) ** 3
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    truth = (xx.sum() - xx.trace()) / 380 + (yy.sum() - yy.trace()) / 870 - 2 * xy.mean()
    result = kid(x, y)
    assert result.value == pytest.approx(truth.item(), rel=1e-10)
    assert str(result).startswith("KID[features] ") and str(result).endswith("(20 vs 30)")


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.4, 1.2)])
def test_kid_is_unbiased_and_knows_its_error(shift, scale):
    """In one dimension the kernel is ``Σ_j C(3, j) xʲ yʲ``, and the mean ``Σ_j C(3, j) (E xʲ − E yʲ)²``."""
    moments = [1, shift, shift**2 + scale**2, shift**3 + 3 * shift * scale**2]
    truth = sum(math.comb(3, j) * (a - b) ** 2 for j, (a, b) in enumerate(zip(moments, [1, 0, 1, 0])))
    pairs = (normals(seed, 300, 200, 1) for seed in range(300))
    values = torch.tensor([kid(shift + scale * x, y) for x, y in pairs], dtype=torch.float64)
    mean = Estimate.of(values[:, 0])
    assert abs(mean.value - truth) < 3.5 * mean.stderr
    assert 0.75 < values[:, 1].mean() / values[:, 0].std() < 1.4


def test_kid_does_not_depend_on_blocks(monkeypatch):
    x, y = normals(0, 50, 40, 6)
    whole = kid(x + 0.3, y)
    monkeypatch.setattr(importlib.import_module("sdegen.metrics.mmd"), "PAIRS", 200)
    assert kid(x + 0.3, y) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("splits", [1, 4])
def test_standard_errors_are_half_the_root_mean_square_difference_of_halves(splits):
    """What half the data say differs from the other half by √2 of its own error, and that is √2 of the error of the whole."""
    x, y = (torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    generator, gaps = torch.Generator().manual_seed(0), []
    for _ in range(splits):
        i, j = (torch.randperm(60, generator=generator) for _ in range(2))
        halves = [precision_recall(x[i[h::2]], 0.7 * y[j[h::2]], k=3, splits=1) for h in (0, 1)]
        gaps.append([a.value - b.value for a, b in zip(*halves, strict=True)])
    want = (torch.tensor(gaps, dtype=torch.float64).square().mean(0) / 4).sqrt()
    found = precision_recall(x, 0.7 * y, k=3, splits=splits)
    assert [v.stderr for v in found] == pytest.approx(want.tolist()) and want.min() > 0


@pytest.mark.parametrize("seed", range(3))
def test_distances_keep_their_digits_where_points_are_far_from_the_centre(seed):
    x, y = normals(seed, 40, 30, 1 + seed)
    moved = torch.arange(70)[:, None] % 2 * 1e8 * (1 + seed)  # two clusters, which no centre is near
    x, y = x + moved[:40], y + moved[40:]
    assert [v.value for v in all_four(x, y, splits=1)] == pytest.approx(brute_force(x, y, 4), abs=1e-12)
    apart = x + 1e9  # as of a model that has diverged
    assert [v.value for v in all_four(apart, y, splits=1)] == pytest.approx(brute_force(apart, y, 4), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_distances_within_a_cluster_are_those_of_differences(seed, monkeypatch):
    monkeypatch.setattr(distances, "NUMBERS", 5)
    x, y = normals(seed, 12, 9, 1 + seed)
    x, y = (v + 1e7 * (torch.arange(len(v))[:, None] % 3) for v in (x, y))
    found = distances.squared_distances(x, y, x.square().sum(1), y.square().sum(1))
    assert torch.allclose(found, (x[:, None] - y).square().sum(2), rtol=1e-5, atol=0)
