"""Descriptions of objects in JSON by which two objects are compared: two runs (`identify`, `differences`), the purposes of two
networks (`constants`, `differing_constants`), or a model and the model that is read from its file (`changed`).

Unlike those of `description`, from which objects are made, they also cover functions and other code.
"""

from __future__ import annotations

__all__ = ["changed", "constants", "differences", "differing_constants", "identify"]

import functools
import hashlib
import inspect
import json
import math
import re
import types
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .description import PLAIN, Describer, also_kept, class_name, keeps, kept
from .fixed import remembered
from .written import attributes_read, attributes_set, closed_over, fingerprint, globals_read, methods, users_own

_MAKING = ("__init__", "__new__", "__post_init__")
_OF_MODULES = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class _Identity(Describer):
    """Descriptions by which two objects can be told apart as far as possible; of weights that are being trained only shapes
    count.
    """

    def __init__(self, learned: set[int]) -> None:
        super().__init__()
        self.learned = learned

    def within(self, value: Any, place: str) -> Any:
        return f"the {type(value).__name__} that holds it"

    def _structure(self, value: Any, place: str) -> Any:
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {key: self(part, f"{place}.{key}") for key, part in value.items()}
        if isinstance(value, (set, frozenset)):
            return {"set": sorted(json.dumps(self(part, place)) for part in value)}
        if isinstance(value, torch.dtype):
            return str(value)
        return super()._structure(list(value) if type(value) in (tuple, torch.Size) else value, place)

    def tensor(self, value: Tensor | np.ndarray, place: str) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
            return {"array": self(value.tolist(), place)}
        value = torch.as_tensor(value)
        if id(value) in self.learned or value.is_meta:
            return f"parameter {tuple(value.shape)}"
        content = value.detach().cpu().to_dense().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()[:16]}"

    def code(self, value: Any, place: str) -> Any:
        """Name a function; if it is not the library's, describe also its code and the values that were bound to it."""
        if isinstance(value, functools.partial):
            parts = {"function": value.func, "arguments": value.args, "keywords": value.keywords}
            return {"partial": {name: self(part, f"{place}.{name}") for name, part in parts.items()}}
        module = (getattr(value, "__module__", None) or "").split(".")
        ours = module[0] == __package__
        named = ".".join([*(module[:2] if ours else module), value.__qualname__])  # of the library its chapter
        bound = getattr(value, "__self__", None)
        if bound is not None and not isinstance(bound, types.ModuleType):
            return {"function": named, "of": self(bound, f"{place}.of")}
        if isinstance(value, type):
            return {"name": named} | self._written(value, place)
        if not isinstance(value, types.FunctionType) or (ours and value.__closure__ is None):
            return named
        held = list(closed_over(value).values())
        given = [part for part in (held, value.__defaults__, value.__kwdefaults__) if part]
        looked_up = self._looked_up([value], place)
        return (
            {"function": named, "code": fingerprint(value.__code__)}
            | ({"given": self(given, f"{place}.given")} if given else {})
            | ({"globals": looked_up} if looked_up else {})
        )

    def _besides(self, value: Any) -> dict[str, Any]:
        """Return the attributes by which an object can differ besides its constructor's arguments."""
        return (also_kept(value) if hasattr(value, "__dict__") else {}) | _set_on(value)

    def _looked_up(self, functions: Iterable[types.FunctionType], place: str) -> dict[str, Any]:
        """Describe the numbers, tensors and functions that the user's functions look up in their module, but do not set
        themselves.
        """
        found = {n: f.__globals__[n] for f in functions for n in globals_read(f.__code__) if n in f.__globals__}
        told = (*PLAIN, Tensor, np.ndarray, types.FunctionType, functools.partial)
        return {n: self(v, f"{place}.{n}") for n, v in sorted(found.items()) if isinstance(v, told)}

    def _written(self, cls: type, place: str) -> dict[str, Any]:
        """Describe the user's code of a class: methods, the values that these look up, and values of the class itself."""
        own = [c for c in cls.__mro__ if users_own(c)]
        if not own:
            return {}
        functions = [f for c in own for f in methods(c)]
        code = "".join(sorted(fingerprint(f.__code__) for f in functions))
        held = {n: v for f in functions for n, v in closed_over(f).items() if n != "__class__"}
        held |= {n: v for c in reversed(own) for n, v in vars(c).items() if not n.startswith("__")}
        plain = {
            n: self(v, f"{place}.{n}") for n, v in sorted(held.items()) if isinstance(v, (*PLAIN, Tensor, np.ndarray))
        }
        found = {"globals": self._looked_up(functions, place), "of the class": plain}
        return {"code": hashlib.sha256(code.encode()).hexdigest()[:16]} | {n: v for n, v in found.items() if v}

    def object(self, value: Any, place: str) -> Any:
        cls = type(value)
        try:
            names = list(inspect.signature(cls).parameters)
        except ValueError:  # a class without a signature
            names = []
        made_of = {name: kept(value, name) for name in names if keeps(value, name)}
        made_of |= {name: part for name, part in self._besides(value).items() if name not in made_of}
        if isinstance(value, nn.Module):
            shown = {id(part) for part in made_of.values()}
            made_of |= {name: part for name, part in value.named_children() if id(part) not in shown}
        elif not made_of:
            own = cls.__repr__ is not object.__repr__
            made_of = {"shown": _ADDRESS.sub("", repr(value))} if own else {}
        parts = {name: self(part, f"{place}.{name}") for name, part in made_of.items()}
        return {"class": class_name(cls)} | self._written(cls, place) | parts


class _Constants(_Identity):
    """Descriptions by classes and constants only, which are the same on every machine and in every version of Python."""

    def tensor(self, value: Tensor | np.ndarray, place: str) -> Any:
        """Describe numbers by their shape and two sums, which differ by rounding where the numbers do."""
        if id(value) in self.learned or (isinstance(value, np.ndarray) and value.dtype.kind not in "biuf"):
            return f"parameter {tuple(value.shape)}"
        x = torch.as_tensor(value).detach().cpu().to_dense().double().flatten().nan_to_num()
        waves = torch.arange(x.numel(), dtype=torch.float64).cos()
        return {"shape": str(tuple(value.shape)), "sum": x.sum().item(), "sum of waves": (x * waves).sum().item()}

    def code(self, value: Any, place: str) -> Any:
        """Name a function, and describe the values that were bound to it."""
        if isinstance(value, functools.partial):
            parts = {"arguments": value.args, "keywords": value.keywords}
            return {"partial": self(value.func, place)} | {n: self(part, f"{place}.{n}") for n, part in parts.items()}
        return {"function": value.__qualname__}

    def _besides(self, value: Any) -> dict[str, Any]:
        return {}

    def _written(self, cls: type, place: str) -> dict[str, Any]:
        return {}


def _set_on(value: Any) -> dict[str, Any]:
    """Return the attributes that an object computes with besides its parts and its constructor's arguments.

    These are attributes that hide a method, and hooks. If the user has written the class, they are also the attributes that
    methods read, but do not set while they run, as they set counters and memories.
    """
    cls, held = type(value), getattr(value, "__dict__", {})
    found = {name: part for name, part in held.items() if callable(getattr(cls, name, None)) and callable(part)}
    found |= {name: {str(i): hook for i, hook in enumerate(held[name].values())} for name in _HOOKS if held.get(name)}
    if not users_own(cls):
        return found
    functions = [(f, users_own(c)) for c in cls.__mro__ for f in methods(c)]
    read = {name for f, _ in functions for name in attributes_read(f.__code__)}
    made = [f.__name__ in _MAKING and own for f, own in functions]
    kept_up = {
        name
        for (f, _), making in zip(functions, made, strict=True)
        if not making
        for name in attributes_set(f.__code__)
    }
    given = {
        name for (f, _), making in zip(functions, made, strict=True) if making for name in attributes_set(f.__code__)
    }
    derived = {name for name in held if name.startswith("_") and isinstance(getattr(cls, name, None), remembered)}
    kinds = (functools.cached_property, remembered)
    derived |= {name for name in held if isinstance(getattr(cls, name, None), kinds)} - given
    told = read - kept_up - derived - _OF_MODULES
    fixed = {name: value._buffers[name] for name in held.get("_non_persistent_buffers_set", ())}
    return found | {name: part for name, part in sorted((dict(held) | fixed).items()) if name in told}


def identify(value: Any, learned: Iterable[Tensor] = ()) -> Any:
    """Describe settings and objects in JSON, so that two runs can be compared, and return the description.

    Objects are described by their arguments, functions by name, code and bound values, and tensors by their content.

    Parameters
    ----------
    value
        Settings by name, a model, or anything else.
    learned
        Weights that are being trained, and are therefore described by their shapes only.
    """
    return json.loads(json.dumps(_Identity({id(weight) for weight in learned})(value, "")))


def constants(value: Any, learned: Iterable[Tensor] = ()) -> Any:
    """Describe objects in JSON by their classes and the constants given to their constructors, and return the description.

    `differing_constants` compares two descriptions, to tell whether two networks were trained for the same purpose.

    Parameters
    ----------
    value
        Objects by name.
    learned
        Tensors that are kept elsewhere, and are described by their shapes only.
    """
    return json.loads(json.dumps(_Constants({id(tensor) for tensor in learned})(value, "")))


def differing_constants(then: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """List the entries in which two descriptions by `constants` differ by more than rounding: dotted name and both values."""
    return [(name, _named(a), _named(b)) for name, a, b in differences(then, now) if not _close(a, b)]


def _close(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return numbers and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def changed(made: Any, again: Any) -> list[tuple[str, Any, Any]]:
    """List the differences of a model from one that was made again from its description and weights: dotted names, both values.

    Compared are networks inside, hooks, methods that were replaced, and numbers, words, tensors and functions that were set.
    Lists and tables are left out, since they may be memories.
    """
    learned = [[*m.parameters()] if isinstance(m, nn.Module) else [] for m in (made, again)]
    was, comes = (identify(m, weights) for m, weights in zip((made, again), learned, strict=True))
    found = differences(was, comes, "model")
    return [(name, _named(a), _named(b)) for name, a, b in found if not isinstance(a, list) and not isinstance(b, list)]


def _named(described: Any) -> Any:
    """Return the name of a described function or object, and anything else as it is."""
    return described.get("function", described.get("class")) if isinstance(described, dict) else described


def differences(then: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """List the entries in which two descriptions differ: dotted name and both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        if then.get("class") != now.get("class"):
            return [(name, then.get("class"), now.get("class"))]
        return [
            difference
            for key in then | now
            for difference in differences(then.get(key), now.get(key), _joined(name, key))
        ]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (then, now))
    same = then == now if numbers and then == now else json.dumps(then) == json.dumps(now)
    return [] if same else [(name, then, now)]


def _joined(name: str, key: str) -> str:
    """Return the dotted name of an entry, without the words that belong to the description itself."""
    return name if key in ("arguments", "also") and name else f"{name}.{key}" if name else key
