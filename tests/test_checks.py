"""Checks of arguments: every kind of number is taken for what it is, and everything else refused in a sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdegen import arguments, checks

WHOLE = [int, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, np.array, torch.tensor]
WHOLE += [lambda v, d=d: torch.tensor(v, dtype=d) for d in (torch.uint8, torch.int8, torch.int32, torch.int64)]
REAL = [*WHOLE, float, Fraction, np.float16, np.float32, np.float64, np.longdouble]
REAL += [lambda v, d=d: torch.tensor(v, dtype=d) for d in (torch.bfloat16, torch.float16, torch.float32, torch.float64)]

NO_NUMBER: list[Any] = [
    None,
    "3",
    b"3",
    [3],
    (3,),
    {},
    3j,
    int,
    np.int64,
    np.array([3]),
    torch.tensor([3]),
    len,
    object(),
]
NO_COUNT = [2.0, 2.5, math.nan, math.inf, True, np.True_, np.float32(2), torch.tensor(2.0), torch.tensor(True), 1, -3]


@given(st.integers(0, 127), st.sampled_from(WHOLE))
def test_whole_numbers_of_every_library_are_counts(value: int, kind: Any) -> None:
    got = checks.check_count("n", kind(value), at_least=0)
    assert type(got) is int and got == value


@given(st.integers(0, 127), st.sampled_from(REAL))
def test_real_numbers_of_every_library_are_numbers(value: int, kind: Any) -> None:
    got = checks.check_number("scale", kind(value), at_least=0, at_most=127)
    assert type(got) is float and got == value


@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_refused_by_its_name(value: Any) -> None:
    for call in (checks.check_count, checks.check_number, checks.check_flag, checks.check_interval):
        with pytest.raises(TypeError, match=r"^width = .*(it must be|give) .*\.$"):
            call("width", value)


@pytest.mark.parametrize("value", NO_COUNT, ids=repr)
def test_what_cannot_be_counted_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^n = .*; it must be a whole number, at least 2, or None\.$"):
        checks.check_count("n", value, 2, ", or None")


def test_numbers_keep_to_their_bounds() -> None:
    """Open ends are out, closed ones in, NaN and the infinite everywhere out unless they are asked for."""
    for ends, inside, outside in (
        ({"above": 0}, [1e-300, 1e300], [0, -1]),
        ({"at_least": 0}, [0], [-1e-300]),
        ({"above": 0, "below": 1}, [0.5], [0, 1]),
        ({"at_least": 0, "at_most": 1}, [0, 1], [-0.1, 1.1]),
        ({}, [-1e300, 0], []),
    ):
        for value in inside:
            assert checks.check_number("p", value, **ends) == value  # type: ignore[arg-type]
        for value in [*outside, math.nan, math.inf, -math.inf, 10**400, True]:
            with pytest.raises(ValueError, match=r"^p = .*; it must be .*\.$"):
                checks.check_number("p", value, **ends)  # type: ignore[arg-type]
    assert checks.check_number("sigma", math.inf, above=0, infinite=True) == math.inf
    for value in (math.nan, -math.inf):
        with pytest.raises(ValueError, match="sigma"):
            checks.check_number("sigma", value, above=0, infinite=True)


def test_intervals_are_ordered_and_within_their_bounds() -> None:
    assert checks.check_interval("interval", [np.float32(0), torch.tensor(1)], 0, 1) == (0.0, 1.0)
    for value in ((1, 0), (0.5, 0.5), (-0.1, 1), (0, 2), (math.nan, 1), (0, math.nan)):
        with pytest.raises(ValueError, match=r"^interval = .*; give two numbers from 0 to 1, the smaller one first\.$"):
            checks.check_interval("interval", value, 0, 1)
    for kind in ((0,), (0, 1, 2), "01", (False, True), ("0", "1")):
        with pytest.raises(TypeError, match=r"^interval = "):
            checks.check_interval("interval", kind, 0, 1)


class Law:
    def sample(self, n: int, generator: Any = None) -> torch.Tensor:
        return torch.zeros(n, 2)


def test_a_class_is_not_its_instance() -> None:
    law = Law()
    assert checks.check_kind("law", law, Law, "Law()") is law and arguments.check_law("law", law) is law
    with pytest.raises(TypeError, match=r"^law is the class Law; give Law\(\)\.$"):
        checks.check_kind("law", Law, Law, "Law()")
    with pytest.raises(TypeError, match=r"^law is the class Law; give a law, an object with sample"):
        arguments.check_law("law", Law)
    with pytest.raises(TypeError, match=r"^law is a Law; give .* log_prob\(x\)"):
        arguments.check_law("law", law, "log_prob")


def test_tensors_have_their_shape_and_kind() -> None:
    x = torch.ones(3, 2)
    assert checks.check_tensor("x", x, ndim=2, shape=(None, 2)) is x
    for bad, options, error, says in (
        (x.numpy(), {}, TypeError, "is an ndarray"),
        (torch.Tensor, {}, TypeError, "is the class Tensor"),
        (x.long(), {}, TypeError, "has dtype torch.int64"),
        (x, {"ndim": 1}, ValueError, r"has shape \(3, 2\); give a tensor of 1 axes"),
        (x, {"shape": (3,)}, ValueError, r"has shape \(3, 2\); give a tensor of shape \(3,\)"),
        (x, {"shape": (None, 4)}, ValueError, r"has shape .*; give a tensor of shape \(\*, 4\)"),
        (x / 0, {}, ValueError, "holds NaN or infinite values"),
    ):
        with pytest.raises(error, match=rf"^x {says}.*\.$"):
            checks.check_tensor("x", bad, **options)
    assert checks.check_tensor("x", x.long() / 0, finite=False).isinf().all()
    assert checks.check_tensor("x", x.half() * 6e4).isfinite().all()  # of which the sum is not


def test_words_are_among_their_choices() -> None:
    assert checks.check_choice("final", "mean", ("mean", "sample")) == "mean"
    for value, error in (("median", ValueError), (None, TypeError), (["mean"], TypeError)):
        with pytest.raises(error, match=r"^final = .*; give 'mean' or 'sample'\.$"):
            checks.check_choice("final", value, ("mean", "sample"))
    assert checks.check_function("schedule", math.cos, "a function") is math.cos
    with pytest.raises(TypeError, match=r"^schedule is a str; give a function\.$"):
        checks.check_function("schedule", "cosine", "a function")


LONG: dict[str, tuple[Any, str]] = {
    "text": ("9" * 79, "a str"),
    "a whole number": (10**81, "an int"),
    "words": (["word " * 8] * 3, "a list"),
}


@pytest.mark.parametrize("what", LONG)
def test_values_of_more_than_a_line_are_shown_by_their_kind(what: str) -> None:
    value, kind = LONG[what]
    with pytest.raises((TypeError, ValueError), match=rf"^x = {kind}; give 'left' or 'right'\.$"):
        checks.check_choice("x", value, ("left", "right"))


@pytest.mark.parametrize("value", ["9" * 78, 10**79, [1, 2]])
def test_values_of_a_line_are_shown_as_they_are(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^x = {re.escape(repr(value))}; "):
        checks.check_choice("x", value, ("left", "right"))


def first_of_two(value: float | torch.Generator) -> None: ...


def last_of_two(value: torch.Generator | float) -> None: ...


def a_function(value: torch.Generator | Callable[[int], float]) -> None: ...


@pytest.mark.parametrize("function", [first_of_two, last_of_two])
def test_of_an_argument_of_two_kinds_the_refusal_is_that_of_the_kind_it_has(function: Callable[[Any], None]) -> None:
    asked = arguments.check_arguments(function)
    asked(2.5), asked(torch.Generator())
    with pytest.raises(ValueError, match=r"^value = nan; "):  # a number, and none that is taken
        asked(math.nan)
    first = "number" if function is first_of_two else "Generator"
    with pytest.raises(TypeError, match=f"^value .*{first}"):  # neither
        asked("word")


def test_a_function_is_refused_for_what_it_takes_where_another_kind_is_taken_too() -> None:
    asked = arguments.check_arguments(a_function)
    asked(lambda n: 0.5)
    with pytest.raises(TypeError, match=r"^value takes "):
        asked(lambda: 0.5)
    with pytest.raises(TypeError, match="Generator"):
        asked(3)
