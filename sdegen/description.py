"""Descriptions of objects in JSON, by their classes and the arguments of their constructors.

The descriptions are complete, since a file must give the object back (`construction`): an object that cannot be made again from
its description is refused. Descriptions that only tell two objects apart are in `identity`.
"""

from __future__ import annotations

__all__ = ["PLAIN", "Describer", "also_kept", "class_name", "describe", "keeps", "kept", "without_compilation"]

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .show import with_article

PLAIN = (int, float, str, bool, type(None))


def class_name(cls: type) -> str:
    """Return the name by which files refer to a class: ``processes.VP`` with its chapter, a user's class by its name alone."""
    module = cls.__module__.split(".")
    return f"{module[1]}.{cls.__name__}" if module[0] == __package__ else cls.__name__


def without_compilation(value: Any) -> Any:
    """Return the network that ``torch.compile`` has wrapped, and anything else as it is."""
    inside = getattr(value, "_modules", {}).get("_orig_mod") if isinstance(value, nn.Module) else None
    return value if inside is None else inside


def also_kept(value: Any) -> dict[str, Any]:
    """Return what an object holds besides its constructor's arguments and is saved with them: its class names it in
    ``also_saved``.
    """
    return {name: vars(value)[name] for name in getattr(type(value), "also_saved", ()) if name in vars(value)}


class Describer(ABC):
    """The base class of descriptions of objects, part by part: subclasses describe tensors, code and other objects."""

    def __init__(self) -> None:
        self._within: list[int] = []  # the objects that are being described, to see where one holds itself

    def __call__(self, value: Any, place: str) -> Any:
        """Describe the value at a place, such as ``model.net.width``."""
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            value = value.item()
        value = without_compilation(value)
        if type(value) in PLAIN:
            return value
        if id(value) in self._within:
            return self.within(value, place)
        self._within.append(id(value))
        try:
            return self._structure(value, place)
        finally:
            self._within.pop()

    def _structure(self, value: Any, place: str) -> Any:
        if isinstance(value, (Tensor, np.ndarray)):
            return self.tensor(value, place)
        if type(value) in (list, tuple, torch.Size):
            parts = [self(v, f"{place}.{i}") for i, v in enumerate(value)]
            return parts if isinstance(value, list) else {"tuple": parts}
        if type(value) is dict:
            return {
                "pairs": [[self(k, f"{place}.{i}"), self(v, f"{place}.{k}")] for i, (k, v) in enumerate(value.items())]
            }
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, type) or inspect.isroutine(value) or isinstance(value, functools.partial):
            return self.code(value, place)
        return self.object(value, place)

    @abstractmethod
    def within(self, value: Any, place: str) -> Any:
        """Describe an object within itself."""

    @abstractmethod
    def tensor(self, value: Tensor | np.ndarray, place: str) -> Any:
        """Describe a tensor or an array."""

    @abstractmethod
    def code(self, value: Any, place: str) -> Any:
        """Describe a function or a class."""

    @abstractmethod
    def object(self, value: Any, place: str) -> Any:
        """Describe any other object."""


class _Complete(Describer):
    """Descriptions from which an object can be made again; its tensors and its classes go to tables of their own."""

    def __init__(self, tensors: dict[str, Tensor], classes: dict[str, type]) -> None:
        super().__init__()
        self.tensors, self.classes = tensors, classes

    def within(self, value: Any, place: str) -> Any:
        raise TypeError(
            f"{place} is {with_article(type(value).__name__)} that holds itself; take the circle out before it is saved."
        )

    def tensor(self, value: Tensor | np.ndarray, place: str) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
            raise TypeError(f"{place} is an array of dtype {value.dtype}; give an array of numbers, or a list.")
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta or value.is_quantized):
            kind = "without content" if value.is_meta else "sparse or quantised"
            raise TypeError(f"{place} is a tensor that is {kind}; make it a plain one before it is saved.")
        self.tensors[f"argument:{place}"] = torch.as_tensor(value)
        return {"array" if isinstance(value, np.ndarray) else "tensor": f"argument:{place}"}

    def code(self, value: Any, place: str) -> Any:
        kind = "a class" if isinstance(value, type) else "a function"
        raise TypeError(
            f"{place} is {kind}, and no code is saved; give an object of a class that keeps its arguments, such as "
            "guidance.LinearScale, or save the model inside without it."
        )

    def object(self, value: Any, place: str) -> Any:
        cls = type(value)
        name = class_name(cls)
        if self.classes.setdefault(name, cls) is not cls:
            raise TypeError(
                f"{place} is of one of two classes named {name}; rename one, since a file knows only names."
            )
        arguments = {}
        for argument, parameter in _parameters(cls, place).items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                inside = isinstance(getattr(value, "model", None), nn.Module)
                instead = (
                    f"save {place}.model, the one inside, and make the {cls.__name__} again after loading"
                    if inside
                    else _made_of_numbers(place)
                    if _of_torch(cls)
                    else "name them in its constructor"
                )
                raise TypeError(
                    f"{place} is {with_article(cls.__name__)}, which takes arguments of any name or number ({parameter}), and "
                    f"no file gives these back; {instead}."
                )
            if not keeps(value, argument):
                if _of_torch(cls):
                    raise TypeError(
                        f"{place} is {with_article(cls.__name__)}, which forgets its arguments; {_made_of_numbers(place)}."
                    )
                raise TypeError(
                    f"{cls.__name__} does not keep its argument {argument!r}; set self.{argument} in its constructor so it can "
                    "be saved."
                )
            arguments[argument] = self(kept(value, argument), f"{place}.{argument}")
        also = {name: self(kept, f"{place}.{name}") for name, kept in also_kept(value).items()}
        return {"class": name, "arguments": arguments} | ({"also": also} if also else {})


def _of_torch(cls: type) -> bool:
    """Tell whether a class is a module of torch, which keeps few of its arguments."""
    return cls.__module__.startswith("torch.nn.")


def _made_of_numbers(place: str) -> str:
    """Return the part of an error that says how a class may keep a module of torch at a place of its own."""
    owner, _, argument = place.rpartition(".")
    return (
        f"let the constructor of {owner} make it of numbers that it keeps, and keep it under another name than that of an "
        f"argument, as {argument!r} is"
        if owner
        else "make it in the constructor of a class of your own, of numbers that this keeps"
    )


def keeps(value: Any, argument: str) -> bool:
    """Tell whether an object keeps an argument of its constructor: as an attribute, or as networks of diffusers do."""
    return argument in _config_of(value) or hasattr(value, argument)


def kept(value: Any, argument: str) -> Any:
    """Return an argument of its constructor that an object keeps."""
    configured = _config_of(value)
    return configured[argument] if argument in configured else getattr(value, argument)


def _config_of(value: Any) -> Mapping[str, Any]:
    """Return the arguments that a network of diffusers keeps in its `config`; to read them as attributes would raise a
    warning.
    """
    own = getattr(value, "__dict__", {})
    config = own.get("_internal_dict", {})
    return {name: v for name, v in config.items() if name not in own} if isinstance(config, Mapping) else {}


def _parameters(cls: type, place: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class's constructor."""
    plain = {name: getattr(cls, name) is getattr(object, name) for name in ("__init__", "__new__")}
    if all(plain.values()):
        return {}
    try:
        parameters = dict(inspect.signature(getattr(cls, "__new__" if plain["__init__"] else "__init__")).parameters)
    except ValueError:
        raise TypeError(
            f"{place} is {with_article(cls.__name__)}, whose constructor does not say what it takes; give a number, a string, a "
            "list, a tensor, or an object of a class that keeps its arguments."
        ) from None
    return {name: parameter for i, (name, parameter) in enumerate(parameters.items()) if i}


def describe(value: Any, place: str, tensors: dict[str, Tensor], classes: dict[str, type]) -> Any:
    """Describe an object so that `construct` makes it again, and return the description.

    Parameters
    ----------
    value
        The object.
    place
        What an error calls the object.
    tensors
        Filled with the tensors among the arguments.
    classes
        Filled with the classes of which the object is made, by their names.

    Raises
    ------
    TypeError
        If a part does not keep a constructor argument as an attribute, or is of a kind that cannot be written without code.
    """
    return _Complete(tensors, classes)(value, place)
