"""Checks that the user's functions can be called as the library will call them: `check_call` for functions that users give, and
`Overridable` for methods that they override.

A function is checked once, when it is given or its class is defined, and not before every call.
"""

from __future__ import annotations

__all__ = ["Overridable", "check_call", "check_overrides"]

import inspect
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from torch import nn


def check_call(
    name: str,
    function: Callable[..., Any],
    arguments: Sequence[str],
    keywords: Sequence[str] = (),
    conditions: bool = False,
) -> Callable[..., Any]:
    """Return a function that can be called with some arguments; refuse any other. A function without a signature passes.

    Parameters
    ----------
    name
        The name of the function in an error.
    function
        A function, or a network, whose ``forward`` is checked.
    arguments
        The positional arguments of a call, in the words of an error.
    keywords
        The names of arguments that are passed by keyword.
    conditions
        Whether the function may need further keywords, as a conditional network does.

    Raises
    ------
    TypeError
        If it takes fewer arguments, or needs more.

    Examples
    --------
    >>> check_call("schedule", lambda: 1.0, ["done"])
    Traceback (most recent call last):
    TypeError: schedule takes (), and is called as schedule(done); give a function that takes that.
    """
    whole: Any = getattr(function, "_orig_mod", function)  # what torch.compile has wrapped
    try:
        signature = inspect.signature(whole.forward if isinstance(whole, nn.Module) else whole)
    except (TypeError, ValueError):  # built in
        return function
    if not _takes(signature, arguments, keywords, conditions):
        asked = ", ".join([*arguments, *(f"{word}=..." for word in keywords)])
        raise TypeError(
            f"{name} takes {_shown(signature)}, and is called as {name}({asked}); give a function that takes that."
        )
    return function


def check_overrides(cls: type) -> None:
    """Refuse a class with a method that cannot be called like the method of the library that it overrides.

    Parameters
    ----------
    cls
        The class.

    Raises
    ------
    TypeError
        If there is such a method; the message names it.
    """
    for name, method in vars(cls).items():
        if not isinstance(method, FunctionType) or name.startswith("_"):
            continue
        base = next((vars(kind)[name] for kind in cls.__mro__[1:] if name in vars(kind) and _is_ours(kind)), None)
        if not isinstance(base, FunctionType):
            continue
        asked = list(inspect.signature(base).parameters.values())
        places = [p.name for p in asked if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        words = [p.name for p in asked if p.kind is p.KEYWORD_ONLY]
        own, conditions = inspect.signature(method), any(p.kind is p.VAR_KEYWORD for p in asked)
        if not _takes(own, places, words, conditions):
            raise TypeError(
                f"{cls.__name__}.{name} takes {_shown(own)}, and is called as {name}({', '.join([*places, *words])}); define it "
                "with these arguments."
            )


class Overridable:
    """The base class of classes that users derive from: a method with other arguments than the method it overrides is refused."""

    def __init_subclass__(cls, **more: Any) -> None:
        """Check the methods of a class."""
        super().__init_subclass__(**more)
        check_overrides(cls)


def _takes(signature: inspect.Signature, arguments: Sequence[str], keywords: Sequence[str], conditions: bool) -> bool:
    bind = signature.bind_partial if conditions else signature.bind
    try:
        bind(*arguments, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def _shown(signature: inspect.Signature) -> str:
    """Return the names of a signature, without annotations."""
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __package__
