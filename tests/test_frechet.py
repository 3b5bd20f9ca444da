"""The Fréchet distance against closed forms and other routes to it, FID's error and bias against what they claim."""

from __future__ import annotations

import importlib
import math
import pickle
import resource
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

from sdegen import metrics
from sdegen.laws.mixtures import Moments
from sdegen.metrics import Estimate, FeatureMoments, feature_moments, fid, fid_infinity, frechet_distance


def normals(seed: int, n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, d, dtype=torch.float64, generator=generator) for k in (n, m))
    return x, y


def random_law(seed: int, d: int, rank: int | None = None) -> Moments:
    mean, _ = normals(seed, d, 1, 1)
    A, _ = normals(seed + 1, d, 1, rank or d)
    return Moments(mean[:, 0], A @ A.T / d)


def by_sqrtm(p: Moments, q: Moments) -> float:
    root = scipy.linalg.sqrtm((p.covariance @ q.covariance).numpy())
    gap = (p.mean - q.mean).square().sum().item()
    return gap + (p.covariance.trace() + q.covariance.trace()).item() - 2 * np.trace(root).real


def peer(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another build of torch
        pytest.skip(f"{module} does not import: {error}")


# --- the distance -----------------------------------------------------------------------------------------------------


def test_distance_of_gaussians_with_common_axes():
    """``‖gap‖² + Σ (√a − √b)²`` where covariances commute, whether given as diagonals or turned as one."""
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 0.25]).double()
    gap = torch.tensor([1.0, -2.0, 0.5]).double()
    truth = 1 + 4 + 0.25 + 1 + 0 + 2.5**2
    assert frechet_distance(Moments(gap, a), Moments(0 * gap, b)) == pytest.approx(truth, rel=1e-12)
    Q, _ = torch.linalg.qr(normals(0, 3, 1, 3)[0])
    turned = (Moments(Q @ m, Q @ C.diag() @ Q.T) for m, C in ((gap, a), (0 * gap, b)))
    assert frechet_distance(*turned) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("d", [1, 2, 7, 40, 300])  # the last in panels
def test_distance_is_symmetric_turns_with_its_laws_and_is_that_of_sqrtm(d):
    p, q = random_law(0, d), random_law(10, d)
    value = frechet_distance(p, q)
    assert value == pytest.approx(by_sqrtm(p, q), rel=1e-9)
    assert value == pytest.approx(frechet_distance(q, p), rel=1e-9)
    Q, _ = torch.linalg.qr(normals(1, d, 1, d)[0])
    turned = (Moments(Q @ m, Q @ C @ Q.T) for m, C in (p, q))
    assert value == pytest.approx(frechet_distance(*turned), rel=1e-9)
    assert frechet_distance(p, p) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(p, Moments(p.mean + 3, p.covariance)) == pytest.approx(9 * d, rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(3, None), (None, 3), (3, 5)])
def test_distance_of_singular_laws_is_the_limit_of_regular_ones(first, second):
    p, q = random_law(0, 8, first), random_law(10, 8, second)
    smoothed = (Moments(m, C + 1e-12 * torch.eye(8)) for m, C in (p, q))
    assert frechet_distance(p, q) == pytest.approx(by_sqrtm(*smoothed), rel=1e-4)
    assert frechet_distance(p, q) == pytest.approx(frechet_distance(q, p), rel=1e-6)


def test_distance_to_a_point_is_a_second_moment():
    p = random_law(0, 5)
    point = Moments(torch.zeros(5), torch.zeros(5))
    truth = (p.mean.square().sum() + p.covariance.trace()).item()
    assert frechet_distance(p, point) == pytest.approx(truth, rel=1e-12)
    assert frechet_distance(point, p) == pytest.approx(truth, rel=1e-12)


def test_distance_refuses_what_does_not_fit():
    p = random_law(0, 3)
    with pytest.raises(ValueError, match="p is of dimension 3 and q of 4"):
        frechet_distance(p, random_law(0, 4))
    with pytest.raises(ValueError, match=r"q has a mean of 3 values and a covariance of shape \(2, 2\)"):
        frechet_distance(p, Moments(p.mean, torch.eye(2)))
    with pytest.raises(ValueError, match="p holds NaN"):
        frechet_distance(Moments(p.mean * math.nan, p.covariance), p)


@pytest.mark.parametrize("rank", [64, 20])
def test_distance_is_torchmetrics(rank):
    p, q = random_law(0, 64, rank), random_law(10, 64)
    found = peer("torchmetrics.image.fid", "_compute_fid")(*p, *q)
    assert frechet_distance(p, q) == pytest.approx(found.item(), rel=1e-4)


def test_fid_is_torch_fidelitys():
    x, y = normals(0, 600, 500, 32)
    statistics = peer("torch_fidelity.metric_fid", "fid_features_to_statistics")
    metric = peer("torch_fidelity.metric_fid", "fid_statistics_to_metric")
    found = metric(statistics(1.3 * x + 0.2), statistics(y), False)["frechet_inception_distance"]
    assert fid(1.3 * x + 0.2, y).value == pytest.approx(found, rel=1e-8)


# --- streaming moments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-200, -60, 60, 200])
def test_moments_of_batches_scale_as_the_data_do(power):
    """By a power of two, which is exact: no number of another size comes in."""
    x = torch.randn(90, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 5
    own, scaled = (metrics.feature_moments(v, batch_size=40) for v in (x, x * 2.0**power))
    assert torch.equal(scaled.mean, own.mean * 2.0**power)
    assert torch.equal(scaled.covariance, own.covariance * 4.0**power)


@pytest.mark.parametrize("sizes", [(500,), (1, 2, 3, 494), (250, 250), (1,) * 500])
def test_moments_of_batches_are_those_of_all_rows_even_far_from_zero(sizes):
    x = normals(0, 500, 1, 4)[0] @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]).double()) + 1e7
    moments = FeatureMoments()
    for batch in x.split(sizes):
        moments.update(batch)
    assert moments.n == 500
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.covariance, np.cov((x - 1e7).numpy().T), rtol=1e-6, atol=1e-7)
    first, second = moments.halves()
    np.testing.assert_allclose(first.covariance, np.cov((x[::2] - 1e7).numpy().T), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(second.mean, x[1::2].mean(0), rtol=1e-14)


def test_merged_moments_are_those_of_all_rows_and_their_halves_stay_halves():
    x = normals(0, 301, 1, 3)[0] + 5
    parts = []
    for rows in x.split([1] * 50 + [3] * 17 + [100, 100]):
        parts.append(FeatureMoments("net", "f00d", keep=40))
        parts[-1].update(rows)
    parts = pickle.loads(pickle.dumps(parts))  # as all_gather_object sends them
    whole = FeatureMoments("net", "f00d", keep=40)
    for part in parts:
        whole.merge(part)
    whole.merge(FeatureMoments("net", "f00d"))  # nothing seen, nothing changed
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(whole.covariance, np.cov(x.numpy().T), rtol=1e-12)
    assert whole.n == 301 and len(whole.rows) == 40
    assert abs(whole._halves[0].n - whole._halves[1].n) <= 1


def test_moments_keep_a_uniform_sample_of_rows():
    counts = torch.zeros(200)
    for seed in range(300):
        moments = FeatureMoments(keep=20)
        moments._generator.manual_seed(seed)
        for batch in torch.arange(200.0)[:, None].split([7, 90, 3, 100]):
            moments.update(batch)
        assert moments.rows.shape == (20, 1) and len(moments.rows.unique()) == 20
        counts[moments.rows[:, 0].long()] += 1
    # Sampling without replacement makes the statistic smaller, by the share of rows not kept.
    assert 1e-3 < scipy.stats.chi2.sf(counts.sub(30).square().sum().item() / 30 / 0.9, 199) < 1 - 1e-3


def test_moments_refuse_what_does_not_fit():
    moments = FeatureMoments("mine", "f00d")
    with pytest.raises(ValueError, match="0 images so far"):
        moments.mean  # noqa: B018
    moments.update(torch.zeros(0, 3))
    moments.update(torch.rand(5, 3))
    with pytest.raises(ValueError, match="features have dimension 4, those before 3"):
        moments.update(torch.rand(5, 4))
    with pytest.raises(ValueError, match="features holds NaN or infinite values in 1 of 5 rows"):
        moments.update(torch.tensor([math.nan, 0, 0, 0, 0])[:, None].expand(5, 3))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        moments.update(torch.ones(5, 3).long())
    with pytest.raises(ValueError, match="one set has features of mine f00d, the other of mine beef"):
        moments.merge(FeatureMoments("mine", "beef"))
    with pytest.raises(ValueError, match="keep = 1"):
        FeatureMoments(keep=1)
    assert moments.n == 5


@pytest.mark.slow
def test_ten_million_features_stream_in_constant_memory():
    generator, moments = torch.Generator().manual_seed(0), FeatureMoments()
    scales = torch.linspace(0.5, 2, 64)
    used = 0
    for i in range(1_000):
        moments.update(torch.randn(10_000, 64, generator=generator) * scales + 3)
        if i == 20:
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 50_000  # KB; all features are 2.6 GB
    truth = Moments(torch.full((64,), 3.0), scales.square())
    assert moments.n == 10_000_000
    l = scales.double().square()
    pairs = l[:, None] * l / (l[:, None] + l) * (1 + torch.eye(64))
    floor = (l.sum() + pairs.sum() / 2).item() / moments.n  # as the docstring of fid has it, 1.6e-4
    assert frechet_distance(moments.moments(), truth) == pytest.approx(floor, rel=0.15)
    assert fid(moments, moments).value == pytest.approx(0, abs=1e-8)


# --- FID --------------------------------------------------------------------------------------------------------------


def draw(law: str, seed: int) -> tuple[Tensor, Tensor]:
    """Two samples whose laws differ by more than the floor."""
    x, y = normals(seed, 500, 700, 8)
    if law == "gaussian":
        return 1.3 * x + 0.5, y
    return (x * torch.linspace(0.5, 2, 8) + 0.5).relu(), (y + 0.1).relu()  # skewed, with an atom


@pytest.mark.thinned(2)
@pytest.mark.parametrize("law", ["gaussian", "rectified"])
@pytest.mark.parametrize("metric", [fid, fid_infinity])
def test_fid_knows_its_error(law, metric):
    values = torch.tensor([metric(*draw(law, seed)) for seed in range(200)], dtype=torch.float64)
    assert 0.8 < values[:, 1].mean() / values[:, 0].std() < 1.25


@pytest.mark.parametrize("keep", [200, 4_096])
def test_fid_knows_its_error_from_the_rows_that_are_kept(keep):
    x, y = draw("rectified", 0)
    p, q = FeatureMoments(keep=keep), FeatureMoments(keep=keep)
    p.update(x)
    q.update(y)
    assert fid(p, q).value == pytest.approx(fid(x, y).value, rel=1e-9)  # in other sums
    assert fid(p, q).stderr == pytest.approx(fid(x, y).stderr, rel=1e-9 if keep > 700 else 0.3)


def test_fid_of_singular_sets_knows_its_error():
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(60):
            x, y = normals(seed, 24, 30, 32)
            values.append(fid(1.5 * x + 0.5, y))
    table = torch.tensor(values, dtype=torch.float64)
    assert 0.75 < table[:, 1].mean() / table[:, 0].std() < 1.6


@pytest.mark.slow
def test_fid_at_its_floor_has_the_bias_that_is_stated_and_no_smaller_error_than_it_says():
    variances = torch.tensor([0.25, 1.0, 1.0, 4.0]).double()
    ratios = variances[:, None] * variances / (variances[:, None] + variances)
    floor = (1 / 400 + 1 / 600) * (variances.sum() + 0.5 * (ratios.sum() + ratios.trace()))
    scaled = [[v * variances.sqrt() for v in normals(seed, 400, 600, 4)] for seed in range(400)]
    values = torch.tensor([fid(x, y) for x, y in scaled], dtype=torch.float64)
    mean = Estimate.of(values[:, 0])
    assert abs(mean.value - floor) < 3.5 * mean.stderr + 0.02 * floor  # the next order is 1/n of it
    assert 1 < values[:, 1].mean() / values[:, 0].std() < 2
    extrapolated = torch.tensor([fid_infinity(x, y) for x, y in scaled], dtype=torch.float64)
    mean = Estimate.of(extrapolated[:, 0])
    assert abs(mean.value) < 3.5 * mean.stderr + 0.02 * floor
    assert 0.9 < extrapolated[:, 1].mean() / extrapolated[:, 0].std() < 1.8


def test_the_floor_of_isotropic_laws():
    """``(1/n + 1/m) (d + 5)/4 · tr C``, the rule of thumb of the docstring."""
    d, n, m = 12, 800, 1_000
    mean = Estimate.of([fid(*normals(seed, n, m, d)).value for seed in range(60)])
    assert mean.value == pytest.approx((1 / n + 1 / m) * (d + 5) / 4 * d, rel=0.05)


def test_fid_converges_to_the_distance_of_the_laws_and_fid_infinity_faster():
    truth = 8 * (0.3**2 + 0.5**2)
    small = [
        [metric(*(1.3 * x + 0.5, y)) for x, y in (normals(s, 150, 150, 8) for s in range(60))]
        for metric in (fid, fid_infinity)
    ]
    plain, better = (Estimate.of([e.value for e in estimates]) for estimates in small)
    assert plain.value - truth > 5 * plain.stderr
    assert abs(better.value - truth) < 3.5 * better.stderr
    x, y = normals(0, 100_000, 100_000, 8)
    large = fid(1.3 * x + 0.5, y)
    assert abs(large.value - truth) < 3.5 * large.stderr < 0.1


def test_fid_turns_and_shifts_with_its_features():
    x, y = draw("rectified", 0)
    Q, _ = torch.linalg.qr(normals(2, 8, 1, 8)[0])
    there = fid(x, y)
    turned = fid(x @ Q.T + 7, y @ Q.T + 7)
    assert turned == pytest.approx(there, rel=1e-9)
    assert fid(y, x) == pytest.approx(there, rel=1e-6)
    assert fid(3 * x, 3 * y) == pytest.approx((9 * there.value, 9 * there.stderr), rel=1e-9)


def test_fid_takes_tensors_batches_networks_and_moments_alike():
    x, y = draw("gaussian", 0)
    net = lambda v: v[:, :4].tanh()
    truth = fid(x[:, :4].tanh(), y[:, :4].tanh())
    assert fid(x, y, net, batch_size=37) == pytest.approx(truth, rel=1e-9)
    assert fid(iter(x.split(99)), list(y.split(50)), net) == pytest.approx(truth, rel=1e-9)
    assert fid(feature_moments(x, net), y, net) == pytest.approx(truth, rel=1e-9)
    assert fid(x.reshape(500, 2, 2, 2), y.reshape(700, 8)) == pytest.approx(fid(x, y), rel=1e-9)


def test_fid_says_what_it_is_of():
    x, y = draw("gaussian", 0)

    def thumbnails(v: Tensor) -> Tensor:
        return v[:, :2]

    result = fid(x, y, thumbnails)
    assert str(result).startswith("FID[thumbnails] ") and str(result).endswith(" (500 vs 700)")
    assert (result.metric, result.extractor, result.hash, result.counts) == ("FID", "thumbnails", "", (500, 700))
    value, stderr = result
    assert isinstance(result, Estimate) and (value, stderr) == (result.value, result.stderr)
    assert str(pickle.loads(pickle.dumps(result))) == str(result)
    assert str(fid_infinity(x, y)).startswith("FID∞[features] ")


@pytest.mark.filterwarnings("ignore:1 samples of 1 features")
def test_fid_warns_of_few_samples_and_refuses_others():
    x, y = normals(0, 10, 40, 12)
    for d in (10, 12):  # n points span n − 1 directions
        with pytest.warns(UserWarning, match=f"10 samples of {d} features: the covariance is singular"):
            fid(x[:, :d], y[:, :d])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fid(x[:, :9], y[:, :9])
    with pytest.warns(UserWarning, match="5 samples of 6 features"):
        fid_infinity(x[:, :6], y[:, :6])
    with pytest.raises(ValueError, match="1 images so far"):
        fid(x[:1, :1], y[:, :1])
    with pytest.raises(ValueError, match="each half of both needs 2: give at least 4"):
        fid_infinity(x[:3], y)
    with pytest.raises(ValueError, match="generated has features of dimension 12, real of 11"):
        fid(x, y[:, 1:])
    with pytest.raises(ValueError, match="one set has features of tanh , the other of features"):
        fid(feature_moments(x, torch.tanh), y)
    with pytest.raises(ValueError, match="data yields no batch"):
        fid(x, iter([]))
    with pytest.raises(ValueError, match="data holds NaN or infinite values in 1 of 10 rows"):
        fid(torch.where(torch.arange(10)[:, None] == 3, math.inf, x), y)


def test_bytes_are_told_their_scale() -> None:
    images = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    for metric in (metrics.fid, metrics.kid, metrics.mmd, metrics.sliced_wasserstein, metrics.precision_recall):
        with pytest.raises(TypeError, match=r"holds bytes; metrics of images take numbers in \[0, 1\]: \w+ / 255\."):
            metric(images, images)


def test_sets_of_one_image_have_the_distance_of_their_features() -> None:
    """Two points at a distance of 2 in one feature: ``W_2² = 4``, and nothing to err by."""
    net = lambda x: x.flatten(1)[:, :2] * torch.tensor([2.0, 0.0])
    with pytest.warns(UserWarning, match="if they are scaled differently"):
        found = fid(torch.zeros(64, 1, 8, 8), torch.ones(64, 1, 8, 8), net)
    assert found.value == pytest.approx(4.0) and found.stderr == 0.0


def test_an_empty_last_batch_is_passed_over() -> None:
    x, y = torch.rand(2, 80, 1, 8, 8)
    net = lambda x: x.flatten(1)[:, :3]
    assert fid([x[:50], x[50:], x[:0]], y, net).value == pytest.approx(fid(x, y, net).value, rel=1e-9)
    with pytest.raises(ValueError, match="yields no batch"):
        fid([x[:0]], y, net)
