"""`check_arguments`, a decorator of public functions by which calls are held to the annotations of their arguments.

Annotations tell kinds, not bounds: that a number of steps is whole follows from ``steps: int``; that it is positive the function
has to check. Only calls from outside are checked; steps of samplers and of training call nothing that is decorated.
"""

from __future__ import annotations

__all__ = ["asked_as", "check_arguments", "check_law", "check_seed"]

import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .checks import (
    check_count,
    check_flag,
    check_function,
    check_kind,
    check_number,
    check_tensor,
    kind_of,
)
from .failures import explain
from .signatures import check_call

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)
Check = Callable[[str, Any], Any]

# What to give where an object of a class is asked for; of the library's own classes see `asked_as`.
EXAMPLES: dict[type, str] = {
    torch.Generator: "a source of randomness, such as torch.Generator().manual_seed(0)",
    nn.Module: "a network, such as nets.MLP(2)",
    Path: "a path, such as 'model.safetensors'",
    dict: "a dict",
    Mapping: "a dict",
    str: "a word",
}


def asked_as(example: str) -> Callable[[C], C]:
    """Return a class decorator that stores the advice `check_arguments` gives where an object of the class is wanted.

    Parameters
    ----------
    example
        The advice, which an error puts after "give".
    """

    def keep(kind: C) -> C:
        kept: Any = kind
        kept._example = example
        return kind

    return keep


def check_arguments(function: F) -> F:
    """Make a function, or the constructor of a class, refuse arguments that are not what its annotations say, in one sentence,
    and return it.

    Whole and real numbers of NumPy and tensors of no axes become Python's numbers. A number may be infinite if its default is
    infinite, or if it has no default. Lists serve as sequences. Of a union every part passes.

    Parameters
    ----------
    function
        The function to decorate, or a class with a constructor of its own.

    Examples
    --------
    >>> import torch
    >>> @check_arguments
    ... def repeat(word: str, times: int = 2) -> str:
    ...     return word * times
    >>> repeat("la", torch.tensor(3))
    'lalala'
    >>> repeat("la", 2.5)
    Traceback (most recent call last):
    ValueError: times = 2.5; it must be a whole number.
    """
    if isinstance(function, type):
        made: Any = function
        made.__init__ = check_arguments(made.__init__)
        return function
    places = [p for p in inspect.signature(function).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    names, nameless = [p.name for p in places], {p.name for p in places if p.kind is p.POSITIONAL_ONLY}
    check_names = _check_names(function, names)

    @functools.cache  # at the first call, when all that annotations name is defined
    def known() -> tuple[dict[str, Check], dict[str, Check]]:
        parameters = inspect.signature(function).parameters.values()
        single = [
            p for p in parameters if p.annotation is not p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        scope = inspect.unwrap(function).__globals__
        checks = {p.name: _check_of(_meaning(p.annotation, scope), p.default) for p in single}
        return checks, {name: check for name, check in checks.items() if name not in nameless}

    @functools.wraps(function)
    def checked(*given: Any, **named: Any) -> Any:
        check_names(given, named)
        checks, by_name = known()
        plain = [checks[n](n, v) if n in checks else v for n, v in zip(names, given, strict=False)]
        named = {n: by_name[n](n, v) if n in by_name else v for n, v in named.items()}
        try:
            return function(*plain, *given[len(plain) :], **named)
        except (StopIteration, RuntimeError) as failure:
            explain(function.__qualname__.removesuffix(".__init__"), failure)
            raise

    return typing.cast(F, checked)


def _check_names(
    function: Callable[..., Any], places: Sequence[str]
) -> Callable[[Sequence[Any], dict[str, Any]], None]:
    """Return the check that a call has no argument of another name, and none more by place, than a function has."""
    parameters = inspect.signature(function).parameters.values()
    kinds = {p.kind for p in parameters}
    any_place, any_name = inspect.Parameter.VAR_POSITIONAL in kinds, inspect.Parameter.VAR_KEYWORD in kinds
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [name for name in names if name != "self"]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    who = function.__qualname__.removesuffix(".__init__")
    within = len(places) - (places[:1] == ["self"])
    allowed = {"self", *names}

    def check(given: Sequence[Any], named: dict[str, Any]) -> None:
        if len(given) > len(places) and not any_place:
            number = len(given) - len(places) + within
            rest = f"; give others by name: {', '.join(by_name)}" if by_name else ""
            taken = "1 argument" if within == 1 else f"{within} arguments"
            raise TypeError(f"{who} takes {taken} by place, and is given {number}{rest}.")
        for name in () if any_name else [name for name in named if name not in allowed]:
            near = difflib.get_close_matches(name, known, 1)
            instead = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known) or 'none'}."
            raise TypeError(f"{who} has no argument {name!r}; {instead}")

    return check


def check_seed(name: str, value: Any) -> int:
    """Return the seed of a source of randomness as an `int`: a whole number that torch's generators take, of 64 bits.

    Raises
    ------
    TypeError
        If the value is no number.
    ValueError
        If it is no whole number from −2⁶³ to below 2⁶⁴.
    """
    seed = check_count(name, value, at_least=None)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"{name} = {seed}; it must be a whole number of 64 bits, from -2**63 to below 2**64.")
    return seed


def check_law(name: str, value: Any, *methods: str) -> Any:
    """Return an object that can be sampled from, or has the `methods` named; refuse anything else, classes included.

    Methods take ``(x)``, but for ``sample(n, generator)``; those of ``torch.distributions`` are called in another way (`as_law`).

    Raises
    ------
    TypeError
        If the object lacks a method, or a method cannot be called in this way, or the object is a class.
    """
    needed = methods or ("sample",)
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in needed):
        listed = " and ".join(f"{m}(n, generator=None)" if m == "sample" else f"{m}(x)" for m in needed)
        raise TypeError(f"{name} {kind_of(value)}; give a law, an object with {listed}, such as data.gaussian_ring().")
    for method in () if isinstance(value, Distribution) else needed:
        check_call(f"{name}.{method}", getattr(value, method), ["n", "generator"] if method == "sample" else ["x"])
    return value


def _meaning(annotation: Any, scope: dict[str, Any]) -> Any:
    """Evaluate an annotation, and return the type; `Any` where the annotation names what is imported for type checkers alone."""
    try:
        return eval(annotation, scope) if isinstance(annotation, str) else annotation
    except NameError:
        return Any


def _check_of(hint: Any, default: Any = None) -> Check:
    """Choose the check of an annotation, and return it."""
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        return _check_any(parts, default)
    if kind is Callable and parts and isinstance(parts[0], list):
        return _check_callable(*parts)
    if kind in CHECKS:
        return CHECKS[kind]
    if kind in (dict, Mapping) and parts:
        example = f"a dict {{{': '.join(map(_name_of, parts))}}}"
        return lambda name, value: check_kind(name, value, kind, example)
    if kind is float:
        infinite = default is inspect.Parameter.empty or (isinstance(default, float) and math.isinf(default))
        return lambda name, value: check_number(name, value, infinite=infinite)
    if kind in (Sequence, tuple, list):
        return _check_items(kind, parts)
    if isinstance(kind, type) and kind is not object and not hasattr(kind, "__supertype__"):
        return _check_protocol(kind) if getattr(kind, "_is_protocol", False) else _check_class(kind)
    return lambda name, value: value


def _name_of(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))


def _check_callable(given: Sequence[Any], returned: Any) -> Check:
    """Return the check of a function that is called with the `given` arguments; if the object that it should return is given in
    its place, the error says so.
    """
    asked = [_name_of(one) for one in given]
    makes = isinstance(returned, type) and returned not in (object, Tensor, Any)
    of = f" of ({', '.join(asked)}) that returns a {returned.__name__}" if makes else ""

    def check(name: str, value: Any) -> Any:
        made = (
            f": the class {type(value).__name__} itself, or a lambda" if makes and isinstance(value, returned) else ""
        )
        return check_call(name, check_function(name, value, f"a function{of}{made}"), asked)

    return check


def _check_any(hints: Sequence[Any], default: Any) -> Check:
    """Return the check of a union: what passes one of its checks passes; else the refusal of one of them is raised."""
    checks = [_check_of(hint, default) for hint in hints if hint is not type(None)]
    optional = type(None) in hints

    def check(name: str, value: Any) -> Any:
        if optional and value is None:
            return None
        refusals = []
        for one in checks:
            try:
                return one(name, value)
            except (TypeError, ValueError) as refusal:
                refusals.append(refusal)
        last = isinstance(refusals[-1], ValueError) or inspect.isroutine(value)  # functions are named last
        raise refusals[-1] if last else refusals[0]

    return check


def _check_items(kind: Any, hints: tuple[Any, ...]) -> Check:
    """Return the check of a sequence and of its items, which are of one kind, or as many as the annotation names."""
    fixed = kind is tuple and Ellipsis not in hints
    checks = [_check_of(hint) for hint in hints if hint is not Ellipsis]
    number = f" {len(checks)}" if fixed else ""
    what = {int: "whole numbers", float: "numbers", str: "words"}.get(hints[0], "objects")

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, (tuple, list)) or (fixed and len(value) != len(checks)):
            given = f"has {len(value)} items" if isinstance(value, (tuple, list)) else kind_of(value)
            raise TypeError(f"{name} {given}; give a tuple of{number} {what}.")
        every = checks if fixed else checks[:1] * len(value)
        items = [one(f"{name}[{i}]", item) for i, (one, item) in enumerate(zip(every, value, strict=True))]
        return items if isinstance(value, list) else tuple(items) if type(value) is tuple else value

    return check


def _check_class(kind: type) -> Check:
    """Return the check that an object is of a class; the class says what to give instead (`asked_as`)."""
    example = EXAMPLES.get(kind) or vars(kind).get("_example", f"an object of the class {kind.__name__}")
    return lambda name, value: check_kind(name, value, kind, example)


def _check_protocol(kind: type) -> Check:
    """Return the check that an object has the methods of a protocol, and is no class."""
    methods = [
        n for base in kind.__mro__ for n, v in vars(base).items() if inspect.isfunction(v) and not n.startswith("_")
    ]
    own = [n for n in methods if n not in vars(typing.Protocol)]
    example = vars(kind).get("_example", f"an object with {' and '.join(own)}")
    asked = {}
    for n in own:
        parameters = list(inspect.signature(getattr(kind, n)).parameters.values())[1:]
        asked[n] = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

    def check(name: str, value: Any) -> Any:
        lacking = [method for method in own if not callable(getattr(value, method, None))]
        if lacking or isinstance(value, type):
            raise TypeError(f"{name} {kind_of(value)}; give {example}.")
        for method in () if isinstance(value, Distribution) else own:  # those of torch are called in another way
            check_call(f"{name}.{method}", getattr(value, method), asked[method], conditions=True)
        return value

    return check


CHECKS: dict[Any, Check] = {
    Any: lambda name, value: value,
    int: lambda name, value: check_seed(name, value) if name == "seed" else check_count(name, value, at_least=None),
    bool: check_flag,
    Iterable: lambda name, value: check_kind(name, value, list if isinstance(value, str) else Iterable, "a list"),
    Callable: lambda name, value: check_function(name, value, "a function"),
    Tensor: lambda name, value: check_tensor(name, value, floating=False, finite=False),
}
