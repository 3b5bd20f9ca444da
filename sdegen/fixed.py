"""Objects that stay as they were made (`Fixed`), and what such objects remember of their weights (`remembered`)."""

from __future__ import annotations

__all__ = ["Fixed", "remembered", "weights_of"]

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import torch
from torch import nn

from .show import show_value

T = TypeVar("T")
_MAKING = "_making"


class Fixed:
    """The base class of objects whose public attributes cannot be set once the constructor is done.

    What such an object derives from its attributes, tables and end times, it derives once. An attribute set afterwards would
    change one part of it and not the others, so that is refused. Attributes whose names begin with an underscore are the class's
    own affair, and so are the parameters of a module, whose changes are seen (`remembered`).

    Attributes
    ----------
    settable
        Names that may be set all the same.
    """

    settable: tuple[str, ...] = ()

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in vars(cls):
            cls.__init__ = _making(vars(cls)["__init__"])  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute.

        Raises
        ------
        AttributeError
            If the object has been made.
        """
        free = name.startswith("_") or name in self.settable or (name == "training" and isinstance(self, nn.Module))
        if not free and _MAKING not in vars(self):
            kind = type(self).__name__
            raise AttributeError(
                f"{kind}.{name} = {show_value(value)} cannot be set after the {kind} has been made, since what follows from its "
                f"attributes is remembered; make another {kind}, with {name} set in its constructor."
            )
        super().__setattr__(name, value)


def _making(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that lets attributes be set while it runs."""

    @functools.wraps(init)
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        inner = _MAKING in vars(self)  # of a constructor that runs within another
        vars(self)[_MAKING] = True
        try:
            init(self, *args, **kwargs)
        finally:
            if not inner:
                del vars(self)[_MAKING]

    return make


def weights_of(thing: Any) -> Any:
    """Return what a module's parameters and buffers are now, to know when they have changed; None of what is no module."""
    if not isinstance(thing, nn.Module):
        return None
    values = [*thing.parameters(), *thing.buffers()]
    if any(v.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(v) for v in values):
        return object()  # equal to none
    return tuple(v.detach().double().cpu().numpy().tobytes() for v in values)


class remembered(Generic[T]):
    """A property that is computed when it is first asked for, and again when the object is a module whose weights have changed.

    A subclass may give a plain attribute instead.

    Parameters
    ----------
    compute
        The method that computes it.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, thing: None, owner: type) -> remembered[T]: ...

    @overload
    def __get__(self, thing: object, owner: type) -> T: ...

    def __get__(self, thing: Any, owner: type) -> Any:
        if thing is None:
            return self
        if not isinstance(thing, nn.Module):
            vars(thing)[self.name] = value = self.compute(thing)  # found there from now on
            return value
        memory = vars(thing).setdefault("_remembered", {})
        weights = weights_of(thing)
        if self.name not in memory or memory[self.name][0] != weights:
            memory[self.name] = weights, self.compute(thing)
        return memory[self.name][1]
