"""Objects that stay as they were made (`Fixed`), and what such objects remember of their weights (`remembered`)."""

from __future__ import annotations

__all__ = [
    "Fixed",
    "bytes_of",
    "is_followed",
    "isolated_for",
    "kept_property",
    "remembered",
    "tensors_of",
    "weights_of",
]

import functools
import gc
import inspect
from abc import ABCMeta
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any, Generic, TypeVar, overload
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from .show import show_value
from .signatures import Overridable
from .transforms import is_unknown, isolated
from .warning import warn_caller
from .written import read_elsewhere

T = TypeVar("T")
_MAKING = "_making"


class _OfFixed(ABCMeta):
    """The metaclass of `Fixed`: values of a class, which all its objects share, stay as they are while there are any objects."""

    def __init__(cls, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        cls._defined = True

    def __setattr__(cls, name: str, value: Any) -> None:
        """Set an attribute of a class.

        Raises
        ------
        AttributeError
            If the attribute is a public value, and there are objects of the class, or of one derived from it, which may have used
            the value.

        Warns
        -----
        UserWarning
            If the attribute is a public method in place of another, and there are such objects.
        """
        method = callable(value) or hasattr(value, "__get__")
        free = name.startswith("_") or name in getattr(cls, "settable", ()) or (method and not hasattr(cls, name))
        # A class has no objects before it is defined. Of those that are, hardly any is ever changed, so that counting objects as
        # they are made would cost more than this search.
        if not free and "_defined" in vars(cls) and _has_objects(cls):
            if not method:
                raise AttributeError(
                    f"{cls.__name__}.{name} = {show_value(value)} cannot be set for the whole class, since there are objects of "
                    f"it, and what follows from {name} is remembered; derive a class that has it, or set it before the first is "
                    "made."
                )
            _warn_of_replaced(cls, name, value)
        super().__setattr__(name, value)


def _has_objects(cls: type) -> bool:
    """Tell whether there are objects of a class, or of one derived from it."""
    kinds, ahead = {cls}, [cls]
    while ahead:
        derived: set[type] = set(type.__subclasses__(ahead.pop())) - kinds
        kinds |= derived
        ahead += derived
    return any(type(thing) in kinds for thing in gc.get_objects())


class Fixed(Overridable, metaclass=_OfFixed):
    """The base class of objects whose public attributes cannot be set once the constructor is done.

    Such an object derives tables, end times and the like from its attributes once. To set an attribute afterwards, of the object
    or of its class, would change one part of the object and not the others, and is refused; where a method of the class is
    replaced, a warning says so. Attributes whose names begin with an underscore are the class's own affair, and so are the
    parameters of a module, whose changes are seen (`remembered`).

    Attributes
    ----------
    settable
        Names of attributes that may be set all the same.
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
            If the object has been made, or if a method of its class has this name and the value cannot be called in its place.
        """
        if not callable(value) and isinstance(getattr(type(self), name, None), FunctionType):
            raise AttributeError(
                f"{type(self).__name__}.{name} = {show_value(value)} would hide the method {name} of its class; give the "
                "attribute, and the argument that it keeps, another name."
            )
        free = name.startswith("_") or name in self.settable or (name == "training" and isinstance(self, nn.Module))
        if not free and _MAKING not in vars(self):
            kind = type(self).__name__
            raise AttributeError(
                f"{kind}.{name} = {show_value(value)} cannot be set after the {kind} has been made, since what follows from its "
                f"attributes is remembered; make another {kind}, with {name} set in its constructor."
            )
        super().__setattr__(name, value)


# Methods of classes, by name, before others came in their place.
_replaced: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()


def _warn_of_replaced(cls: type, name: str, value: Any) -> None:
    """Warn of a method that is replaced; not when it is put back, as a test does with what it has patched."""
    before = _replaced.setdefault(cls, {})
    if name in before and before[name] is value:
        del before[name]
        return
    before.setdefault(name, inspect.getattr_static(cls, name))
    warn_caller(
        f"{cls.__name__}.{name} is replaced while there are objects of it, which may go on with what they remember of the one "
        "before; make them anew."
    )


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


def isolated_for(thing: Any) -> AbstractContextManager[None]:
    """Return the context in which an object computes what it keeps: `isolated`, unless its own numbers are being transformed."""
    return nullcontext() if any(map(is_unknown, tensors_of(thing))) else isolated()


def is_followed(thing: Any) -> bool:
    """Tell whether an object holds tensors by which derivatives are recorded, or which ``torch.func`` transforms: results that
    are computed from it must not be kept for others.
    """
    learned = torch.is_grad_enabled()
    # No expression with a frame of its own: this is asked at the beginning of every run.
    for value in tensors_of(thing):
        if (learned and value.requires_grad) or is_unknown(value):
            return True
    if learned:
        for _, read in read_elsewhere(thing):
            for value in _tensors_in(read, set()):
                if value.requires_grad:
                    return True
    return False


def tensors_of(thing: Any) -> Iterator[Tensor]:
    """Return the tensors that an object holds, one by one: the parameters and buffers of a module, and the tensors in its
    attributes, also within lists, dictionaries, networks and other objects of the library.
    """
    return _held_by(thing, {id(thing)})


def _held_by(thing: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(thing, nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
    for name, value in vars(thing).items():
        if isinstance(value, _HOLDING) and not name.startswith("_"):
            yield from _tensors_in(value, seen)


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, _HOLDING) and id(value) not in seen:  # objects may hold each other
        seen.add(id(value))
        if isinstance(value, (nn.Module, Fixed)):
            yield from _held_by(value, seen)
        else:
            for part in value.values() if isinstance(value, dict) else value:
                yield from _tensors_in(part, seen)


_HOLDING = (Tensor, list, tuple, dict, set, nn.Module, Fixed)


class kept_property(functools.cached_property[T]):
    """A property that is computed when it is first asked for (`isolated_for`), and then kept."""

    def __get__(self, thing: Any, owner: type[Any] | None = None) -> Any:
        if thing is None:
            return self
        with isolated_for(thing):
            value = super().__get__(thing, owner)
        vars(thing).setdefault("_followed", set()).add(self.attrname)  # and not given in its place
        return value


def bytes_of(value: Tensor) -> bytes:
    """Return the numbers of a tensor as bytes, also within a transformation of functions (``torch.func``), where results formed
    of a plain tensor are no plain tensors.
    """
    with torch._C._DisableFuncTorch():
        own = value.detach().cpu()
        if own.is_floating_point() and own.itemsize < 4:  # some of which NumPy has not
            own = own.view(torch.int16 if own.itemsize == 2 else torch.int8)
        return (own.resolve_conj() if own.is_complex() else own).numpy().tobytes()


def weights_of(thing: Any) -> Any:
    """Return the present values of a module's parameters and buffers, by which a change of them is seen.

    For another object these are the contents of attributes that can be changed in place: tensors, arrays, lists and networks.
    Values that the user's code reads elsewhere are added for both, such as a global number of a notebook (`read_elsewhere`). None
    where there is nothing of these kinds.
    """
    outside = read_elsewhere(thing)
    if outside:
        outside = [(name, _content(value)) for name, value in outside]
    if isinstance(thing, nn.Module):
        return (*_weights(thing), *outside)
    own = {k: v for k, v in vars(thing).items() if isinstance(v, _CHANGEABLE) and not k.startswith("_")}
    if not own:
        return outside or None
    followed = vars(thing).get("_followed", ())  # what follows from the attributes is none
    held = [(k, v) for k, v in own.items() if k not in followed and type(getattr(type(thing), k, None)) is not _CACHED]
    return [*((name, _content(value)) for name, value in held), *outside] or None


def _weights(module: nn.Module) -> tuple[Any, ...]:
    values = [*module.parameters(), *module.buffers()]
    return (object(),) if any(map(is_unknown, values)) else tuple(map(bytes_of, values))  # an object equals no other


_CACHED = functools.cached_property
_CHANGEABLE = (Tensor, np.ndarray, list, dict, set, nn.Module)


def _content(value: Any) -> Any:
    """Return what a value holds now, in a form that is unequal to the one after a change."""
    if isinstance(value, nn.Module):
        return _weights(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, Tensor):
        return object() if is_unknown(value) else (value.dtype, value.shape, bytes_of(value))
    if isinstance(value, dict):
        return [(key, _content(part)) for key, part in value.items()]
    return [_content(part) for part in value] if isinstance(value, (list, tuple, set)) else value


class remembered(Generic[T]):
    """A property that is computed when it is first asked for, and again when the weights of its object, or what that holds, have
    changed.

    A subclass may give a plain attribute instead.

    Parameters
    ----------
    compute
        The method that computes the value.
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
        weights = weights_of(thing)
        if weights is None:
            with isolated_for(thing):
                vars(thing)[self.name] = value = self.compute(thing)  # found there from now on
            return value
        memory = vars(thing).setdefault("_remembered", {})
        if self.name not in memory or memory[self.name][0] != weights:
            with isolated_for(thing):
                memory[self.name] = weights, self.compute(thing)
        return memory[self.name][1]
