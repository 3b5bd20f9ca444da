"""Metrics hold blocks of what they compare: the value does not depend on the block, and memory not on the pairs."""

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

from sdegen import metrics
from sdegen.data import gaussian_ring

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
        return found.tolist()
    if isinstance(found, tuple):
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
