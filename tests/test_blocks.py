"""Metrics, laws and measurements take blocks of what they compute: values do not depend on them, and memory not on all pairs."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen import metrics
from sdegen.data import gaussian_ring
from sdegen.data.source import Source
from sdegen.guidance.coupling import CoupledCopy
from sdegen.guidance.measurements import Linear
from sdegen.laws import coordinates
from sdegen.laws.chi_square import quantile_of_root
from sdegen.laws.jacobi import JacobiLaw
from sdegen.samplers import BrownianNoise, measure_profile

RING = gaussian_ring()

METRICS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mmd": metrics.mmd,
    "kid": metrics.kid,
    "sliced_wasserstein": lambda x, y: metrics.sliced_wasserstein(x, y, seed=0, projections=300),
    "precision_recall": lambda x, y: metrics.precision_recall(x, y, splits=1),
    "density_coverage": lambda x, y: metrics.density_coverage(x, y, splits=1),
    "classifier_test": lambda x, y: metrics.classifier_test(x, y, seed=0),
    "KernelDensity": lambda x, y: metrics.KernelDensity(x, 0.3).log_prob(y),
    "mode_shares": lambda x, y: metrics.mode_shares(x, RING),
    "knn_kl": lambda x, y: metrics.knn_kl(x, y, folds=2),
    "fid": metrics.fid,
}
BLOCKS = {"mmd": "PAIRS", "manifold": "PAIRS", "kde": "PAIRS", "wasserstein": "PROJECTED", "two_sample": "NEIGHBOURS",
          "modes": "GAPS"}  # fmt: skip


def numbers(found: Any) -> list[float]:
    if isinstance(found, Tensor):
        return found.flatten().tolist()
    if isinstance(found, tuple | list):
        return [v for part in found for v in numbers(part)]
    return [float(found)]


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=4)
@given(block=st.integers(1, 2000), n=st.integers(12, 60))
@example(block=1, n=12)  # less than one row of the pairs
def test_values_do_not_depend_on_the_block(name: str, block: int, n: int) -> None:
    x, y = RING.sample(2 * n, torch.Generator().manual_seed(n)).split(n)
    whole = METRICS[name](x, y)
    with pytest.MonkeyPatch.context() as patch:
        for module, constant in BLOCKS.items():
            patch.setattr(importlib.import_module(f"sdegen.metrics.{module}"), constant, block)
        assert numbers(METRICS[name](x, y)) == pytest.approx(numbers(whole), rel=1e-9, abs=1e-12)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def beta_densities() -> Tensor:
    one, x = torch.ones((), dtype=torch.float64), draws(11, 3).sigmoid()
    clock = 0.01 * 4.0 ** torch.arange(11, dtype=torch.float64)[:, None]  # of several kinds, with several states each
    return JacobiLaw(x, 2 * one, 3 * one, clock).log_prob(draws(11, 3, seed=1).sigmoid())


def measured_axes() -> Tensor:
    A = Linear(draws(5, 8), 0.3)
    copy = CoupledCopy(sdegen.Exact(sdegen.VP(), RING), A, draws(5), torch.Generator(), 4, None, {})
    values, vectors = copy._decomposed(draws(1, 8))
    return (vectors * values) @ vectors.T


def path() -> Tensor:
    noise = BrownianNoise(3, 0, torch.linspace(1, 0, 9, dtype=torch.float64))
    return torch.stack([noise(torch.empty(4, 2, dtype=torch.float64)) for _ in range(8)])


def logarithmic_moments() -> list[Tensor]:
    source = Source(draws(60, 2).exp(), torch.float64, torch.device("cpu"))
    found = source.moments(torch.Generator().manual_seed(0), coordinates.Log())
    return [found.mean, found.covariance]


PARTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "laws.chi_square.CHUNK": ("far quantiles", lambda: quantile_of_root(draws(50).exp(), 30 + draws(50), draws(50, seed=2))),
    "laws.jacobi.TABLE": ("a series", beta_densities),
    "guidance.coupling.TOGETHER": ("a measured covariance", measured_axes),
    "samplers.profiles.ROWS": (
        "a profile", lambda: measure_profile(sdegen.Exact(sdegen.VP(), RING), RING.sample(9), steps=())[:3]
    ),
    "samplers.brownian.AHEAD": ("a path", path),
    "data.source.READ_ROWS": ("moments in coordinates", logarithmic_moments),
}  # fmt: skip


@pytest.mark.parametrize("block", [1, 4, 17])
@pytest.mark.parametrize("constant", PARTS)
def test_values_do_not_depend_on_what_is_computed_at_once(constant: str, block: int, monkeypatch: Any) -> None:
    module, _, name = constant.rpartition(".")
    _, compute = PARTS[constant]
    torch.manual_seed(0)
    whole = compute()
    monkeypatch.setattr(importlib.import_module(f"sdegen.{module}"), name, block)
    torch.manual_seed(0)
    assert numbers(compute()) == pytest.approx(numbers(whole), rel=1e-9, abs=1e-12)


MEASURE = """
import json, os, resource, torch
import scipy.spatial, scipy.stats
from test_blocks import METRICS, RING

torch.set_num_threads(1)
found = {}
for name, metric in METRICS.items():
    read, write = os.pipe()
    if os.fork() == 0:  # each in a process of its own, as the peak of one never falls
        x, y = RING.sample(9_000, torch.Generator().manual_seed(0)).split(4_500)
        metric(x[:100], y[:100])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        metric(x, y)
        os.write(write, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())
        os._exit(0)
    found[name] = int(os.read(read, 100)) / 1024
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux gives it")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_pairs() -> None:
    """Of 4,500 points with as many others: one number a pair would take 154 MB."""
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=where)
    peaks = json.loads(done.stdout)
    assert set(peaks) == set(METRICS)
    assert max(peaks.values()) < 90, peaks
