"""Methods of building blocks, which are called by others and by hand, held to tensors: `OfTensors`."""

from __future__ import annotations

__all__ = ["OfTensors"]

import dis
import functools
import inspect
import re
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import Tensor

from .answers import FAILURES
from .checks import check_tensor


class OfTensors:
    """A base class whose public methods, and those of the library's classes derived from it, refuse anything but a tensor where
    their annotation says ``Tensor``.

    These methods are called within steps, so only kinds are checked, neither shapes nor numbers; where torch fails by a shape, a
    sentence says so.

    Examples
    --------
    >>> import sdegen
    >>> sdegen.measurements.Grey(std=0.1)([[0.5]])
    Traceback (most recent call last):
    TypeError: x is a list; give a tensor.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if not f"{cls.__module__}.".startswith(f"{__package__}."):
            return
        for name, method in list(vars(cls).items()):
            if isinstance(method, FunctionType) and (name == "__call__" or not name.startswith("_")):
                setattr(cls, name, _held_to_tensors(method))


def _held_to_tensors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that refuses anything but tensors for its arguments annotated so; the method itself if it has none."""
    places = [p for p in inspect.signature(method).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    asked = [(i, p.name) for i, p in enumerate(places) if p.annotation in ("Tensor", Tensor) and p.default is p.empty]
    if not asked or hasattr(method, "__wrapped__"):  # by `check_arguments`, which says more
        return method

    @functools.wraps(method)
    def held(*given: Any, **named: Any) -> Any:
        for i, name in asked:
            value = given[i] if i < len(given) else named.get(name, _ABSENT)
            if not isinstance(value, Tensor) and value is not _ABSENT:
                check_tensor(name, value)
        try:
            return method(*given, **named)
        except FAILURES as failure:
            if _is_of_torch(failure):
                tensors = {name: given[i] if i < len(given) else named[name] for i, name in asked}
                _explain(f"{type(given[0]).__name__}.{method.__name__}", tensors, failure)
            raise

    return held


def _is_of_torch(failure: Exception) -> bool:
    """Tell whether an operation of torch within a method has failed, and neither the call of the method, nor code that says by a
    ``raise`` what was wrong.
    """
    at = failure.__traceback__
    if at is None or at.tb_next is None:  # arguments were missing, or too many
        return False
    while at.tb_next is not None:
        at = at.tb_next
    said = dis.opname[at.tb_frame.f_code.co_code[at.tb_lasti]].startswith("RAISE")
    return not said or at.tb_frame.f_globals.get("__name__", "").split(".")[0] == "torch"


def _explain(who: str, tensors: dict[str, Tensor], failure: Exception) -> None:
    """Raise an error that says what was wrong with tensors in place of a failure of torch, where that is known; return otherwise.

    Raises
    ------
    TypeError
        If a tensor has whole numbers, for which torch lacks an operation.
    ValueError
        If torch says that shapes do not fit.
    """
    said = str(failure).split("\n")[0].rstrip(".")
    for name, value in tensors.items():
        if not value.is_floating_point() and re.search(_OF_KINDS, said):
            raise TypeError(
                f"{name} has dtype {value.dtype}; give floating-point numbers: {name}.float()."
            ) from failure
    if re.search(_OF_SHAPES, said):
        shapes = " and ".join(f"{name} of shape {tuple(value.shape)}" for name, value in tensors.items())
        raise ValueError(
            f"{who} was given {shapes}, which do not fit it or each other ({said}); give rows of the shape that it is made for."
        ) from failure


_ABSENT = object()
_OF_KINDS = r"dtype|not implemented for|floating.point|Input type|Expected (value|parameter)"
_OF_SHAPES = (
    r"must match|cannot be multiplied|shape mismatch|invalid for input|number of columns|divisible|not broadcastable|"
    r"boundaries"
)
