"""What the library warns of is said at the user's line, not at one of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sdegen
from sdegen import metrics, samplers
from sdegen.samplers import Fitted
from sdegen.samplers.search import Search
from sdegen.warning import warn_caller

X = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def unhelpful() -> None:
    with pytest.MonkeyPatch.context() as patch:
        spoilt = lambda self, fitted, rounds, bar: Fitted(
            fitted.stops, 3 * fitted.factors, fitted.order, fitted.denoise
        )
        patch.setattr(Search, "refine", spoilt)
        samplers.fit_solver(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), steps=3, paths=32, rounds=1)


WARNED: dict[str, tuple[Callable[[], Any], str]] = {
    "few samples": (lambda: metrics.fid(X[:8].flatten(1), X[8:16].flatten(1), net=None), "the covariance is singular"),
    "another range": (lambda: metrics.fid(X, 2 * X - 1, net=lambda x: x.flatten(1)[:, :3]), "generated images lie in"),
    "fitting": (unhelpful, "did not help"),
    "here": (lambda: warn_caller("so"), "so"),
}


@pytest.mark.parametrize("name", WARNED)
def test_a_warning_names_the_line_of_the_caller(name: str) -> None:
    call, says = WARNED[name]
    with pytest.warns(UserWarning, match=says) as caught:
        call()
    assert {warning.filename for warning in caught} == {__file__}
