"""Checks of single arguments of public functions: a count, a number, an interval, a tensor, an object of a kind, a function.

Each returns the argument in its plain form, or raises one sentence that names the argument and its value, and says what to
give. They are called once, where a call enters the library, and never in a step: reading a tensor on an accelerator waits for it.
"""

from __future__ import annotations

__all__ = [
    "check_choice",
    "check_count",
    "check_flag",
    "check_function",
    "check_interval",
    "check_kind",
    "check_number",
    "check_tensor",
    "kind_of",
]

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from .dense import check_dense
from .show import show_value, with_article
from .transforms import check_constant

T = TypeVar("T")


def check_count(name: str, value: Any, at_least: int | None = 1, hint: str = "") -> int:
    """Return a whole number as an `int`: Python's and NumPy's integers, and integer tensors of no axes, are taken.

    Parameters
    ----------
    name
        The argument that is checked, as its caller knows it.
    value
        What was given for it.
    at_least
        The least number that is allowed; None allows all.
    hint
        What an error says besides, such as ``", or None for all"``.

    Raises
    ------
    TypeError
        If the value is no number.
    ValueError
        If the number is a fraction, a truth value, or too small.

    Examples
    --------
    >>> import numpy, torch
    >>> check_count("n", numpy.int64(3)), check_count("n", torch.tensor(3))
    (3, 3)
    >>> check_count("n", 2.5)
    Traceback (most recent call last):
    ValueError: n = 2.5; it must be a whole number, at least 1.
    """
    plain = _as_plain(value, name)
    allowed = isinstance(plain, int) and not isinstance(plain, bool) and (at_least is None or plain >= at_least)
    if not allowed:
        bound = "" if at_least is None else f", at least {at_least}"
        raise (ValueError if isinstance(plain, Real) else TypeError)(
            f"{name} = {_show(value)}; it must be a whole number{bound}{hint}."
        )
    return int(plain)


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    infinite: bool = False,
    hint: str = "",
) -> float:
    """Return a real number as a `float`: Python's and NumPy's numbers, and real tensors of no axes, are taken.

    Parameters
    ----------
    name
        The argument that is checked, as its caller knows it.
    value
        What was given for it.
    above, at_least, below, at_most
        Bounds of the number, the first and the third exclusive.
    infinite
        Whether the number may be infinite, within the bounds.
    hint
        What an error says besides.

    Raises
    ------
    TypeError
        If the value is no number.
    ValueError
        If the number is NaN, a truth value, infinite though it must not be, or out of its bounds.

    Examples
    --------
    >>> import numpy, torch
    >>> check_number("lr", numpy.float32(0.5), above=0), check_number("T", torch.tensor(2))
    (0.5, 2.0)
    >>> check_number("lr", "1e-3", above=0)
    Traceback (most recent call last):
    TypeError: lr = '1e-3'; it must be positive and finite.
    >>> check_number("p", 2, at_least=0, at_most=1)
    Traceback (most recent call last):
    ValueError: p = 2; it must be a number of at least 0 and at most 1.
    """
    plain = _as_plain(value, name)
    allowed = isinstance(plain, Real) and not isinstance(plain, bool)
    number = _as_float(plain) if allowed else math.nan
    fits = (
        (math.isfinite(number) or (infinite and number == number))
        and (above is None or number > above)
        and (at_least is None or number >= at_least)
        and (below is None or number < below)
        and (at_most is None or number <= at_most)
    )
    if not fits:
        expected = _describe_range(above, at_least, below, at_most, infinite)
        raise (ValueError if isinstance(plain, Real) else TypeError)(
            f"{name} = {_show(value)}; it must be {expected}{hint}."
        )
    return number


def check_interval(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, hint: str = ""
) -> tuple[float, float]:
    """Return two numbers, the first below the second, both from `low` to `high`.

    Raises
    ------
    TypeError
        If the value is no pair of numbers.
    ValueError
        If the numbers are in another order, or out of their bounds.
    """
    ends = [_as_plain(v, name) for v in value] if isinstance(value, (tuple, list)) else []
    real = [isinstance(v, Real) and not isinstance(v, bool) for v in ends] == [True, True]
    if not real or not low <= ends[0] < ends[1] <= high:
        within = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
        message = f"{name} = {_show(value)}; give two numbers{within}, the smaller one first{hint}."
        raise (ValueError if real else TypeError)(message)
    return _as_float(ends[0]), _as_float(ends[1])


def check_flag(name: str, value: Any) -> bool:
    """Return a truth value, Python's or NumPy's, as a `bool`.

    Raises
    ------
    TypeError
        If the value is anything else.
    """
    plain = _as_plain(value, name)
    if not isinstance(plain, bool):
        raise TypeError(f"{name} = {_show(value)}; give True or False.")
    return plain


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Check that a value is one of a few words, and return it.

    Raises
    ------
    TypeError
        If the value is no word.
    ValueError
        If the word is none of these.
    """
    if not isinstance(value, str) or value not in choices:
        words = [repr(choice) for choice in choices]
        listed = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
        raise (ValueError if isinstance(value, str) else TypeError)(f"{name} = {_show(value)}; give {listed}.")
    return value


def check_kind(name: str, value: Any, kind: type[T] | tuple[type[T], ...], example: str) -> T:
    """Return an instance of a class; refuse anything else, the class itself included.

    Parameters
    ----------
    name
        The argument that is checked, as its caller knows it.
    value
        What was given for it.
    kind
        The class, or several.
    example
        What to give, put after "give".

    Raises
    ------
    TypeError
        If the value is no instance.

    Examples
    --------
    >>> check_kind("n", int, int, "a whole number, such as 3")
    Traceback (most recent call last):
    TypeError: n is the class int; give a whole number, such as 3.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} {kind_of(value)}; give {example}.")
    return value


def check_function(name: str, value: Any, example: str) -> Callable[..., Any]:
    """Return a value that can be called; refuse any other, with `example` as what to give.

    Raises
    ------
    TypeError
        If the value cannot be called.
    """
    if not callable(value):
        raise TypeError(f"{name} {kind_of(value)}; give {example}.")
    return value


def check_tensor(
    name: str,
    value: Any,
    *,
    ndim: int | None = None,
    shape: tuple[int | None, ...] | None = None,
    floating: bool = True,
    finite: bool = True,
    hint: str = "",
) -> Tensor:
    """Return a tensor of a shape and a kind of numbers; refuse anything else.

    Parameters
    ----------
    name
        The argument that is checked, as its caller knows it.
    value
        What was given for it.
    ndim
        The number of axes, any if None.
    shape
        The length of each axis, None where any length will do.
    floating
        Whether the tensor must hold floating-point numbers.
    finite
        Whether NaN and infinite values are refused.
    hint
        What an error about the shape says besides.

    Raises
    ------
    TypeError
        If the value is no tensor, or holds another kind of numbers.
    ValueError
        If the tensor has another shape, or holds NaN or infinite values.

    Examples
    --------
    >>> import torch
    >>> check_tensor("x", [1.0, 2.0])
    Traceback (most recent call last):
    TypeError: x is a list; give a tensor.
    >>> check_tensor("x", torch.zeros(5, 3), shape=(None, 2))
    Traceback (most recent call last):
    ValueError: x has shape (5, 3); give a tensor of shape (*, 2).
    """
    if not isinstance(value, Tensor):
        how = f": torch.from_numpy({name})" if isinstance(value, np.ndarray) else ""
        raise TypeError(f"{name} {kind_of(value)}; give a tensor{how}.")
    check_dense(name, value)
    if value.is_complex() or (floating and not value.is_floating_point()):
        raise TypeError(f"{name} has dtype {value.dtype}; give floating-point numbers: {name}.double().")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; give a tensor of {ndim} axes{hint}.")
    alike = shape is None or len(shape) == value.ndim
    if shape is not None and not (alike and all(w in (None, n) for w, n in zip(shape, value.shape, strict=True))):
        wanted = ", ".join("*" if want is None else str(want) for want in shape) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} has shape {tuple(value.shape)}; give a tensor of shape ({wanted}){hint}.")
    if finite and not value.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values; remove or replace them.")
    return value


def _as_plain(value: Any, name: str = "") -> Any:
    """Return NumPy scalars, and arrays and tensors of no axes, as Python's numbers, and all else as it is. Where a name is given,
    a tensor by which derivatives are taken is refused.
    """
    if name and isinstance(value, Tensor):
        check_constant(name, value)
    single = isinstance(value, np.generic) or (isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0)
    return value.item() if single else value


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of floats
        return math.inf if value > 0 else -math.inf


def _describe_range(
    above: float | None, at_least: float | None, below: float | None, at_most: float | None, infinite: bool
) -> str:
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (("above", above), ("of at least", at_least), ("below", below), ("at most", at_most))
        if bound is not None
    ]
    if bounds == ["above 0"]:
        return "positive" if infinite else "positive and finite"
    return f"a{'' if infinite or bounds else ' finite'} number {' and '.join(bounds)}".rstrip()


def kind_of(value: Any) -> str:
    """Return the words by which an error tells what a value of the wrong kind is, such as "is a list"."""
    if isinstance(value, type):
        return f"is the class {value.__name__}"
    return "is None" if value is None else f"is {with_article(type(value).__name__)}"


def _show(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    plain = _as_plain(value)
    shown = repr(plain) if isinstance(plain, (Real, str)) else show_value(value)
    return shown if len(shown) <= 80 else with_article(type(value).__name__)
