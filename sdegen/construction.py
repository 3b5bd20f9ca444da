"""Construction of objects from descriptions (`description.describe`): of known classes alone, and no larger than their file."""

from __future__ import annotations

__all__ = ["construct"]

from typing import Any

import torch
from torch import Tensor

from .show import with_article

# Functions that make tensors, and would of any size that a file names.
_FACTORIES = (
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.randperm,
    torch.arange, torch.linspace, torch.logspace, torch.eye,
)  # fmt: skip
_ROOM = 2**24  # numbers that an object may make besides several times as many as its file holds


def construct(described: Any, tensors: dict[str, Tensor], known: dict[str, type], path: str) -> Any:
    """Make the object that a description is of, from known classes alone; torch's generators are left as they were.

    Parameters
    ----------
    described
        The description that `describe` returned, read from JSON.
    tensors
        The tensors that the description names.
    known
        The classes that may be made, by their names in descriptions.
    path
        The file, which an error names.

    Raises
    ------
    ValueError
        If a class is not known, a tensor or an entry is missing, or a constructor refuses its arguments.
    """
    room = 4 * sum(value.numel() for value in tensors.values()) + _ROOM
    with torch.random.fork_rng([]), _Bounded(room):
        return _Maker(tensors, known, path)(described)


class _Maker:
    """The construction of an object, part by part, for `construct`."""

    def __init__(self, tensors: dict[str, Tensor], known: dict[str, type], path: str) -> None:
        self.tensors, self.known, self.path = tensors, known, path

    def __call__(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self(v) for v in value]
        if not isinstance(value, dict):
            return value
        kinds = {
            "tensor": lambda: self._tensor(value["tensor"]),
            "array": lambda: self._tensor(value["array"]).numpy(),
            "tuple": lambda: tuple(self(self._list(value["tuple"]))),
            "pairs": lambda: self._table(self(self._list(value["pairs"]))),
            "dtype": lambda: self._dtype(value["dtype"]),
            "class": lambda: self._object(value),
        }
        found = [make for kind, make in kinds.items() if kind in value]
        if not found:
            raise self._broken(f"an entry of {sorted(value)}")
        return found[0]()

    def _broken(self, what: str) -> ValueError:
        return ValueError(
            f"{self.path} is damaged: it describes {what}, which no model is made of; save the model again."
        )

    def _tensor(self, name: Any) -> Tensor:
        if not isinstance(name, str) or name not in self.tensors:
            raise self._broken(f"the tensor {str(name)[:60]!r} that it does not hold")
        return self.tensors[name]

    def _list(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self._broken(f"{with_article(type(value).__name__)} where a list belongs")
        return value

    def _table(self, pairs: list[Any]) -> dict[Any, Any]:
        try:
            return dict(pairs)
        except (TypeError, ValueError):
            raise self._broken("a table without pairs") from None

    def _dtype(self, name: Any) -> torch.dtype:
        found = getattr(torch, name, None) if isinstance(name, str) else None
        if not isinstance(found, torch.dtype):
            raise self._broken(f"the dtype {str(name)[:60]!r}")
        return found

    def _object(self, value: dict[str, Any]) -> Any:
        name, arguments, also = value["class"], value.get("arguments"), value.get("also", {})
        if not (isinstance(name, str) and isinstance(arguments, dict) and isinstance(also, dict)):
            raise self._broken("a class without its name and arguments")
        if name not in self.known:
            raise ValueError(f"{self.path} uses the class {name!r}; pass it: load(path, classes=[{name}]).")
        cls = self.known[name]
        if not also.keys() <= set(getattr(cls, "also_saved", ())):
            raise self._broken(f"a {name} with {sorted(also)}")
        made = {key: self(v) for key, v in arguments.items()}
        try:
            thing = cls(**made)
            for key, kept in also.items():
                vars(thing)[key] = self(kept)  # past the lock of attributes that what is remembered follows from
        except Exception as error:  # whatever a constructor says to arguments that no object has
            said = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise ValueError(
                f"{self.path}: no {name} is made of what the file describes ({said}); save the model again."
            ) from None
        return thing


class _Bounded(torch.overrides.TorchFunctionMode):
    """A limit on the numbers that tensors made within a ``with`` block have, together."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            asked = {k: v for k, v in kwargs.items() if k not in ("generator", "out", "pin_memory")}
            self.room -= func(*args, **asked | {"device": "meta"}).numel()
            if self.room < 0:
                raise ValueError("it would be larger than the file")
        return func(*args, **kwargs)
