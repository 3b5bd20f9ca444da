"""Adams' predictor and corrector against equations with a known solution."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.likelihood.adams import ORDER, adams, after


class Counted:
    """``y' = y cos(7 u)`` and ``y' = (1 + 2 u) y``, of two rows; counts its evaluations."""

    def __init__(self) -> None:
        self.places: list[float] = []

    def __call__(self, u: float, y: Tensor) -> Tensor:
        self.places.append(u)
        return y * torch.tensor([[7 * math.cos(7 * u)], [1 + 2 * u]], dtype=y.dtype)

    end = torch.tensor([[math.exp(math.sin(7))], [math.exp(2)]], dtype=torch.float64)


def solved(tolerance: float, dtype: torch.dtype = torch.float64) -> tuple[float, list[float]]:
    slope = Counted()
    y = adams(slope, torch.ones(2, 1, dtype=dtype), tolerance, (1,))
    return ((y - slope.end) / slope.end).abs().max().item(), slope.places


def test_the_error_is_of_the_size_of_the_tolerance() -> None:
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        error, _ = solved(tolerance)
        assert error < 10 * tolerance  # that of a step


def test_evaluations_grow_as_the_sixth_root_of_the_tolerance() -> None:
    counts = {tolerance: len(solved(tolerance)[1]) for tolerance in (1e-6, 1e-10)}
    growth = math.log(counts[1e-10] / counts[1e-6]) / math.log(1e4)
    assert abs(growth * (ORDER + 1) - 1) < 0.25


def test_one_evaluation_a_step_from_one_end_to_the_other() -> None:
    _, places = solved(1e-6)
    assert places[0] == 0 and places[-1] == 1
    refused = sum(a >= b for a, b in itertools.pairwise(places))
    assert refused < len(places) / 20


def test_slopes_that_are_polynomials_are_integrated_exactly() -> None:
    places = [0.0, 0.1, 0.25, 0.3, 0.5]
    slopes = [torch.tensor([[5 * u**4 - 3 * u**2]], dtype=torch.float64) for u in places]
    got = after(torch.zeros(1, 1, dtype=torch.float64), 0.5, 0.7, places, slopes)
    assert abs(got.item() - (0.7**5 - 0.7**3 - 0.5**5 + 0.5**3)) < 1e-14


def test_every_part_of_a_row_keeps_the_tolerance_by_itself() -> None:
    """A fast number beside a thousand that rest is followed as if it were alone."""

    def slope(u: float, y: Tensor) -> Tensor:
        return torch.cat([7 * math.cos(7 * u) * y[:, :1], 0 * y[:, 1:]], 1)

    y = torch.ones(1, 1001, dtype=torch.float64)
    alone = adams(slope, y[:, :1], 1e-6, (1,))[0, 0]
    apart = adams(slope, y, 1e-6, (1, 1000))[0, 0]
    together = adams(slope, y, 1e-6, (1001,))[0, 0]
    assert apart == alone
    assert (together - math.exp(math.sin(7))).abs() > 2 * (alone - math.exp(math.sin(7))).abs()


def test_single_precision_keeps_its_dtype_and_its_size_of_error() -> None:
    assert adams(Counted(), torch.ones(2, 1), 1e-5, (1,)).dtype == torch.float32
    assert solved(1e-5, torch.float32)[0] < 1e-4


def test_steps_that_never_keep_the_tolerance_are_given_up() -> None:
    with pytest.raises(
        ArithmeticError, match="asks for steps shorter than 1e-10 of the way"
    ):  # to infinity before the end
        adams(lambda u, y: y**2, torch.full((1, 1), 1.5, dtype=torch.float64), 1e-6, (1,))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", ["VP", "VE"])
def test_points_whose_rounding_is_larger_than_the_data_are_told_of_before_long(
    model: str, dtype: torch.dtype, monkeypatch: Any
) -> None:
    """In double precision their densities are those of the law, but for what the prior is off."""
    monkeypatch.setattr("sdegen.likelihood.path.MOST", 1000)
    ring = sdegen.data.gaussian_ring()
    x = 1e6 * torch.tensor([[1.0, 2.0]], dtype=dtype)
    exact = sdegen.Exact(getattr(sdegen, model)(), ring)
    if dtype == torch.float64:
        found = sdegen.estimate_log_prob(exact, x)
        assert abs(found.value / ring.log_prob(x) - 1) < 5e-3 and found.evaluations < 200
        return
    with pytest.raises(ValueError, match=r"asks for steps shorter than \d\.\d+e-08 of the way"):
        sdegen.log_prob(exact, x)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("a", [1e-6, 1e-8, 1e-10])
def test_slopes_like_that_of_a_root_are_followed_from_its_beginning(a: float, dtype: torch.dtype) -> None:
    """``y = 2 √(u + a)``: its first steps are of the order of `a`, less than the rounding of the place where they all end."""
    y = adams(lambda u, y: torch.full_like(y, (u + a) ** -0.5), torch.full((1, 1), 2 * a**0.5, dtype=dtype), 1e-5, (1,))
    assert abs(y.item() / 2 / math.sqrt(1 + a) - 1) < 1e-4


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("begin", [0.0, 0.5])
def test_slopes_that_are_not_finite_are_given_up_in_any_part(part: int, bad: float, begin: float) -> None:
    def slope(u: float, y: Tensor) -> Tensor:
        k = -y
        k[:, part] = bad if u >= begin else 1.0
        return k

    with pytest.raises(ArithmeticError, match="is not finite"):
        adams(slope, torch.ones(2, 3, dtype=torch.float64), 1e-6, (2, 1))
