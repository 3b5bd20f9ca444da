"""Conditions of a network: labels, vectors, sets of vectors and channels on the grid of the state, each with a null of its own.

A network is given them by name, ``MLP(2, conditions={"theta": Vector(3), "label": Label(10)})``, and each says what a value is,
how it enters (by a module of `entries`), and how often training drops it. NaN stands for a number that is not there: by NaN
training marks what it has dropped, sets of different numbers of elements share a tensor, and vectors and fields have gaps.
"""

from __future__ import annotations

__all__ = [
    "Fields",
    "Label",
    "SecondLevel",
    "Set",
    "Vector",
    "declare",
]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_kind
from ..conditions import Condition, check_labels, check_numbers
from .entries import FieldEntry, LabelEntry, LevelEntry, SetEntry, VectorEntry


@check_arguments
@dataclass(frozen=True, repr=False)
class Label(Condition):
    """A condition that is one of several classes, ``()``: a learned vector for each is added to the features of the noise level.

    Parameters
    ----------
    classes
        Number of classes; labels run from 0, and −1 stands for none.
    dropout
        As for `Condition`.

    Raises
    ------
    ValueError
        If there is no class, or `dropout` is no probability.
    """

    classes: int
    dropout: float | None = 0.0

    ndim = 0
    null = -1.0

    def __post_init__(self) -> None:
        check_count("classes", self.classes)
        self.check_dropout()

    @property
    def what(self) -> str:
        """What a value is, in words for errors."""
        return f"whole numbers from {self.least} to {self.classes - 1}"

    @property
    def least(self) -> int:
        """The least label: −1, for none, where training may drop the label, else 0."""
        return 0 if self.needed else -1

    def read(self, name: str, value: Any, look: bool = True) -> Tensor:
        """Return labels as whole numbers, checked."""
        return check_labels(value, None, self.classes, self.least, name, look)

    def entry(self, features: int) -> LabelEntry:
        """Return the module by which labels enter a network."""
        return LabelEntry(self.classes, features)


@check_arguments
@dataclass(frozen=True, repr=False)
class Vector(Condition):
    """A condition that is a vector, ``(size,)``: two layers map it to what is added to the features of the noise level.

    Parameters
    ----------
    size
        The dimension of a vector.
    gaps
        Whether single numbers may be missing, NaN.
    dropout
        As for `Condition`.
    joined
        Whether the numbers also become further channels of the state, as those of `Fields` do, but each in units of its own. They
        must be as many as a state has coordinates. This is for what is known of the state itself, such as columns of a table.

    Raises
    ------
    ValueError
        If there is no number, or `dropout` is no probability.
    """

    size: int
    gaps: bool = False
    dropout: float | None = 0.0
    joined: bool = False

    ndim = dims = 1

    def __post_init__(self) -> None:
        check_count("size", self.size)
        self.check_dropout()

    @property
    def extra(self) -> int:
        """Number of channels that the condition adds to a state."""
        return 2 * self.joined

    @property
    def what(self) -> str:
        """What a value is, in words for errors."""
        return f"vectors ({self.size},)"

    def read(self, name: str, value: Any, look: bool = True) -> Tensor:
        """Return vectors ``(size,)`` or ``(n, size)``, checked."""
        return check_numbers(self, name, value, -1, self.size, None if self.gaps else (), look)

    def entry(self, features: int) -> VectorEntry:
        """Return the module by which vectors enter a network."""
        return VectorEntry(self.size, self.gaps, features, self.joined)


@check_arguments
@dataclass(frozen=True, repr=False)
class Set(Condition):
    """A condition that is any number of vectors in any order, ``(number, size)``, such as independent observations of one thing.

    Attention with a learned query makes one vector of them, whatever their number and order (J. Lee et al., *Set Transformer*,
    2018, arXiv:1810.00825). Where data have different numbers of elements, the places that are left over are NaN; a set without
    elements is the null. For a sequence give each element its place as one more number.

    Parameters
    ----------
    size
        The dimension of an element.
    dropout
        As for `Condition`.

    Raises
    ------
    ValueError
        If there is no number, or `dropout` is no probability.
    """

    size: int
    dropout: float | None = 0.0

    ndim = 2

    def __post_init__(self) -> None:
        check_count("size", self.size)
        self.check_dropout()

    @property
    def what(self) -> str:
        """What a value is, in words for errors."""
        return f"sets (number, {self.size})"

    def read(self, name: str, value: Any, look: bool = True) -> Tensor:
        """Return sets ``(number, size)`` or ``(n, number, size)``, checked: an element is there or not as a whole."""
        return check_numbers(self, name, value, -1, self.size, (-1,), look)

    def entry(self, features: int) -> SetEntry:
        """Return the module by which sets enter a network."""
        return SetEntry(self.size, features)


@check_arguments
@dataclass(frozen=True, repr=False)
class Fields(Condition):
    """A condition on the grid of the state, ``(channels, *grid)``: an image, a field, what is known of the state, or a mask.

    It becomes further channels of the state, with as many more that tell where it is given.

    Parameters
    ----------
    channels
        Channels of a value.
    dims
        Dimensions of the grid: 2 for networks on images, 1 for those on vectors, whose grid is their coordinates.
    gaps
        Whether values may be missing in places, NaN: with it the condition may be the state itself where it is known.
    dropout
        As for `Condition`.

    Raises
    ------
    ValueError
        If a number is less than 1, or `dropout` is no probability.
    """

    channels: int
    dims: int = 2
    gaps: bool = False
    dropout: float | None = 0.0

    def __post_init__(self) -> None:
        check_count("channels", self.channels), check_count("dims", self.dims)
        self.check_dropout()

    @property
    def ndim(self) -> int:
        """Axes of a value."""
        return 1 + self.dims

    @property
    def extra(self) -> int:
        """Number of channels that the condition adds to a state."""
        return 2 * self.channels

    @property
    def what(self) -> str:
        """What a value is, in words for errors."""
        return f"values ({self.channels}, {', '.join(['side'] * self.dims)}) on the grid of the state"

    def read(self, name: str, value: Any, look: bool = True) -> Tensor:
        """Return values ``(channels, *grid)`` or ``(n, channels, *grid)``, checked."""
        return check_numbers(self, name, value, -1 - self.dims, self.channels, None if self.gaps else (), look)

    def entry(self, features: int) -> FieldEntry:
        """Return the module by which values enter a network."""
        return FieldEntry(self.channels, self.dims)


@check_arguments
@dataclass(frozen=True, repr=False)
class SecondLevel(Condition):
    """A condition that is a second noise level, ``()``, in the units of the first, such as that which a flow map goes to.

    It is embedded as the first, and two layers map both to what is added to the features of the noise level. They add nothing
    before training, so that a network made from one of a single level, with its weights, starts with that network's values.
    """

    dropout = 0.0
    ndim = 0

    @property
    def what(self) -> str:
        """What a value is, in words for errors."""
        return "noise levels"

    def read(self, name: str, value: Any, look: bool = True) -> Tensor:
        """Return noise levels ``()`` or ``(n,)``, checked."""
        return check_numbers(self, name, value, None, 0, (), look)

    def entry(self, features: int) -> LevelEntry:
        """Return the module by which noise levels enter a network."""
        return LevelEntry(features)


def declare(conditions: Mapping[str, Condition] | None, classes: int = 0) -> dict[str, Condition]:
    """Return all conditions of a network by name; `classes` stand for ``{"label": Label(classes, dropout=None)}``.

    Raises
    ------
    TypeError
        If a condition is no `Condition`.
    ValueError
        If a name is no identifier, is taken by the network's own arguments, or is there twice.
    """
    kinds: dict[str, Condition] = {"label": Label(classes, dropout=None)} if classes else {}
    for name, kind in (conditions or {}).items():
        if not isinstance(name, str) or not name.isidentifier() or name in ("x", "level", "self"):
            raise ValueError(
                f"conditions has the name {name!r}; give a word that is no argument of networks, such as 'theta'."
            )
        check_kind(f"conditions[{name!r}]", kind, Condition, "how a condition enters, such as nets.Vector(3)")
        if name in kinds:
            raise ValueError(
                f"classes = {classes} is a condition 'label', and conditions has one too; leave one of them out."
            )
        kinds[name] = kind
    return kinds
