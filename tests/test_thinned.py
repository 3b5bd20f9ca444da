"""The mark `thinned` leaves every value of two parametrisations, and every pair of values of three."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.mark.parametrize("sizes", [(2, 5), (5, 2), (3, 3, 4), (4, 3, 3)], ids=str)
@pytest.mark.parametrize("k", [2, 3])
def test_every_value_is_met_in_one_case_of_k(sizes: tuple[int, ...], k: int, request: pytest.FixtureRequest) -> None:
    ours: Any = request.config.pluginmanager.get_plugin(str(Path(__file__).parent / "conftest.py"))
    axes = [[object() for _ in range(size)] for size in sizes]  # values need not have an order, nor a hash
    names = ["a", "b, b_too", "c"][: len(sizes)]
    marks = [pytest.mark.parametrize(name, axis).mark for name, axis in zip(names, axes)]
    module = SimpleNamespace(stash=pytest.Stash())
    kept = []
    for case in itertools.product(*axes):
        given = {"a": case[0], "b": case[1], "b_too": axes[0][0], "c": case[-1]}
        item = SimpleNamespace(parent=module, originalname="test", callspec=SimpleNamespace(params=given))
        item.iter_markers = lambda name: marks
        if ours.place_of(item) % k == 0:
            kept.append(case)
    together = 1 if len(sizes) == 2 else 2
    for some in itertools.combinations(range(len(sizes)), together):
        rest = [size for i, size in enumerate(sizes) if i not in some]
        if min(rest) >= k or max(rest) >= k:
            assert {tuple(case[i] for i in some) for case in kept} == {*itertools.product(*(axes[i] for i in some))}
    assert abs(len(kept) - len([*itertools.product(*axes)]) / k) < 1
