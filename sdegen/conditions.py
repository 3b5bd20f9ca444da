"""The conditions that a model takes: `Condition`, what a network declares of one, `Conditions`, all of a model, and their checks.

A model takes what its network declares (`Condition`), or else what the ``forward`` of the network takes. Whatever `sample` or
`log_prob` is passed beyond its own arguments is a condition: a name that neither knows is refused before anything is run.
"""

from __future__ import annotations

__all__ = ["ANY", "NONE", "Condition", "Conditions", "check_labels", "check_numbers", "conditions_of", "has_rows"]

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .dense import with_all_digits
from .show import show_call, with_article
from .waiting import at_hand


class Condition(ABC):
    """The base class of conditions that a network declares: what a value is, how it enters, and how often training drops it.

    The value of one datum has `ndim` axes, so a tensor with one axis more has a row for each datum; how long its first axis is
    does not decide this.

    Parameters
    ----------
    dropout
        The probability with which training drops this condition of a datum, independently of others, so that the network also
        learns the law without it. At 0 it is never dropped, and every run needs it; with None it is dropped only together with
        all others (``p_uncond`` of `training.Settings`).

    Attributes
    ----------
    null
        The number that stands for a value that was dropped.
    """

    dropout: float | None
    null: float = math.nan

    __repr__ = show_call

    @property
    def extra(self) -> int:
        """Number of channels that the condition adds to a state."""
        return 0

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of axes of a value."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What a value is, in words for errors."""

    @abstractmethod
    def read(self, name: str, value: Any, look: bool = True) -> Tensor:
        """Return a value, or a row for each datum, as a tensor; refuse any other shape and, if `look`, impossible numbers."""

    @abstractmethod
    def entry(self, features: int) -> nn.Module:
        """Return the module by which values enter a network.

        It is called as ``entry(value, e, x)``, with a row for each datum or one for all, or None where it is dropped, and
        returns features of the noise level ``(n, features)`` and states ``(n, C, *grid)`` with what the condition says.
        """

    @property
    def needed(self) -> bool:
        """Whether every run needs the condition."""
        return self.dropout == 0

    def check_dropout(self) -> None:
        """Refuse a `dropout` that is no probability.

        Raises
        ------
        ValueError
            If `dropout` is neither a number from 0 to below 1 nor None.
        """
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout}; give a probability from 0 to below 1, or None.")

    def has_dropped(self, values: Tensor) -> bool:
        """Tell whether some rows of values were dropped, that is, hold nothing but the null."""
        return bool(_absent(values, self.null).reshape(len(values), math.prod(values.shape[1:])).all(1).any())

    def has_rows(self, name: str, value: Tensor, n: int) -> bool:
        """Tell whether a value has a row for each of `n` data; otherwise it is one value for all.

        Raises
        ------
        ValueError
            If the value has another number of rows.
        """
        if value.ndim > self.ndim and len(value) != n:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; give {self.what}, one for all rows or one for each of {n}."
            )
        return value.ndim > self.ndim


class Conditions(NamedTuple):
    """The names of the conditions that a model takes.

    Attributes
    ----------
    names
        The conditions that the model knows by name.
    others
        Whether the model takes any other name too, as a network with ``**kwargs`` does.
    needed
        Those of `names` that every run needs.
    never
        Names that cannot be conditions, since other arguments have them; of modules ``self`` is one.
    kinds
        The conditions that the network declares, by name.
    nulls
        The null of each condition that has one, by name: the number that stands for a value that was dropped.
    untaught, undropped
        Conditions that training never gave, so that no run may give them; and those that it always gave, so that every run must.
    """

    names: frozenset[str] = frozenset()
    others: bool = False
    needed: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    kinds: Mapping[str, Condition] = MappingProxyType({})
    nulls: Mapping[str, float] = MappingProxyType({})
    untaught: frozenset[str] = frozenset()
    undropped: frozenset[str] = frozenset()

    def takes(self, name: str) -> bool:
        """Tell whether a condition of this name is taken."""
        return name in self.names or (self.others and name not in self.never)

    def plus(self, *names: str) -> Conditions:
        """Return the same conditions and others."""
        return self._replace(names=self.names.union(names), never=self.never.difference(names))

    def without(self, names: Iterable[str]) -> Conditions:
        """Return the conditions without some, which are then not taken any more."""
        less = frozenset(names)
        kinds = {name: self.kinds[name] for name in self.kinds if name not in less}
        nulls = {name: self.nulls[name] for name in self.nulls if name not in less}
        names, needed, untaught, undropped = (
            v - less for v in (self.names, self.needed, self.untaught, self.undropped)
        )
        return Conditions(names, self.others, needed, self.never | less, kinds, nulls, untaught, undropped)

    def both(self, other: Conditions) -> Conditions:
        """Return the conditions that two models take together."""
        names = frozenset(name for name in self.names | other.names if self.takes(name) and other.takes(name))
        return Conditions(
            names, self.others and other.others, self.needed | other.needed, (self.never | other.never) - names,
            {**other.kinds, **self.kinds}, {name: null for name, null in self.nulls.items() if name in other.nulls},
            self.untaught | other.untaught, self.undropped | other.undropped,
        )  # fmt: skip

    def is_dropped(self, name: str, value: Any) -> bool:
        """Tell whether a value stands for no condition, for all data: it is None, empty, or holds nothing but the null."""
        if name not in self.nulls or not isinstance(value, (Tensor, int)):
            return value is None
        values, kind = torch.as_tensor(value), self.kinds.get(name)
        fits = values.numel() or (kind is not None and (values.ndim == kind.ndim or len(values)))  # else no row at all
        return bool(fits and _absent(values, self.nulls[name]).all())

    def with_rows(self, cond: Mapping[str, Any], n: int) -> list[str]:
        """Name the conditions that have a row for each of `n` data: declared ones that have one axis more than a value, and of
        others all tensors whose first axis has length `n`.

        Parameters
        ----------
        cond
            Values by name.
        n
            The number of data.
        """
        return [
            k
            for k, v in cond.items()
            if (self.kinds[k].has_rows(k, v, n) if k in self.kinds and isinstance(v, Tensor) else has_rows(v, n))
        ]


def _absent(value: Tensor, null: float) -> Tensor:
    return value.isnan() if math.isnan(null) else value == null


NONE = Conditions()
ANY = Conditions(others=True)


def conditions_of(function: Callable[..., Any], inputs: int = 2) -> Conditions:
    """Return the conditions that a network declares, a dict of `Condition` by name as its attribute ``declared``, or else those
    that a function takes by keyword after its first arguments; any, where its signature is not known.

    Parameters
    ----------
    function
        A network, whose ``forward`` is read, or a function.
    inputs
        How many arguments come before the conditions, such as the state and the noise level.

    Examples
    --------
    >>> conditions_of(lambda x, t, label=None: x).takes("label"), conditions_of(lambda x, t: x).takes("label")
    (True, False)
    """
    whole: Any = getattr(function, "_orig_mod", function)  # what torch.compile has wrapped
    called: Any = whole.forward if isinstance(whole, nn.Module) else whole
    method = isinstance(called, MethodType)  # of a class, which is asked once
    found = _read_once(called.__func__, inputs, 1) if method else _read(called, inputs, 0)
    declared = getattr(whole, "declared", None) if isinstance(whole, nn.Module) else None
    if declared is None:
        return found
    needed = frozenset(name for name, kind in declared.items() if kind.needed)
    nulls = {name: kind.null for name, kind in declared.items() if not kind.needed}
    return Conditions(
        found.names.union(declared), False, found.needed - declared.keys() | needed, found.never, declared, nulls
    )


def _read(function: Any, inputs: int, own: int) -> Conditions:
    """Return the conditions of a function whose first `own` arguments are bound."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built in, or no function at all
        return ANY
    parameters = list(signature.parameters.values())[own:]
    free = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = free[inputs:] + [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    taken = [p for p in named if p.kind is not p.POSITIONAL_ONLY]
    return Conditions(
        frozenset(p.name for p in taken),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
        frozenset(p.name for p in taken if p.default is p.empty),
        frozenset(p.name for p in free[:inputs] if p.kind is p.POSITIONAL_OR_KEYWORD) | {"self"},
    )


_read_once = lru_cache(256)(_read)


def has_rows(value: Any, n: int) -> bool:
    """Tell whether a value of which nothing was declared is a tensor with one row for each of `n` data; any other value is shared
    by all of them.
    """
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == n


def check_labels(
    label: Any, n: int | None, classes: int, least: int = 0, name: str = "label", look: bool = False
) -> Tensor:
    """Return class labels as whole numbers, int64, of shape ``()`` or ``(n,)``; refuse anything else.

    Unsigned labels are widened before anything is added to them, so that 255 stays 255, and no class.

    Parameters
    ----------
    label
        A number, or numbers: a tensor, an array or a list.
    n
        The number of rows; None for any.
    classes
        The number of classes.
    least
        The least label: 0, or −1 if −1 stands for no class.
    name
        What an error calls the labels.
    look
        Whether values on an accelerator are checked too, which waits for its queued work: once a run, in no step.

    Raises
    ------
    TypeError
        If the labels are no whole numbers.
    ValueError
        If there is neither one label nor one for each row, or a label is out of range.
    """
    each = "" if n is None else f" of {n}"
    what = f"give whole numbers from {least} to {classes - 1}, one for all rows or one for each{each}"
    label = _as_numbers(name, label, what)
    if label.dtype == torch.bool or label.is_floating_point() or label.is_complex():
        raise TypeError(f"{name} has dtype {label.dtype}; {what}.")
    if label.ndim > 1 or (n is not None and label.shape not in ((), (n,))):
        raise ValueError(f"{name} has shape {tuple(label.shape)}; {what}.")
    label = label.long()
    looked_at = (look or at_hand(label.device)) and not torch.compiler.is_compiling()  # no graph can look
    if looked_at and ((label < least) | (label >= classes)).any():
        bad = label.min() if (label < least).any() else label.max()
        none = ", and -1 means none" if least < 0 else ""
        raise ValueError(f"{name} reaches {bad.item()}; labels run from 0 to {classes - 1}{none}.")
    return label


def check_numbers(
    kind: Condition, name: str, value: Any, axis: int | None, size: int, gaps: tuple[int, ...] | None, look: bool
) -> Tensor:
    """Return the value of a condition that is made of real numbers, or a row for each datum, as floating point.

    Parameters
    ----------
    kind, name, value
        The condition as it was declared, its name, and its value.
    axis, size
        The axis whose length is declared, counted from the last, and this length; None if no length is declared.
    gaps
        Axes along which numbers are missing, NaN, together: () if none may be, None if each may.
    look
        Whether to look at the numbers.

    Raises
    ------
    TypeError
        If the value holds no real numbers.
    ValueError
        If the value has another shape, or a number is infinite, or missing where it may not be.
    """
    what = f"give {kind.what}, one for all rows or one for each"
    value = _as_numbers(name, value, what)
    if value.is_complex():
        raise TypeError(f"{name} has dtype {value.dtype}; {what}.")
    if value.ndim not in (kind.ndim, kind.ndim + 1) or (axis is not None and value.shape[axis] != size):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; {what}.")
    value = value if value.is_floating_point() else value.double()
    if look:
        missing = value.isnan()
        allowed = missing if gaps is None else missing.all(gaps, keepdim=True) if gaps else torch.zeros_like(missing)
        if (value.isinf() | (missing & ~allowed)).any():
            raise ValueError(f"{name} holds NaN or infinite values; remove or replace them.")
    return value


def _as_numbers(name: str, value: Any, what: str) -> Tensor:
    """Return numbers as a tensor, Python's with all their digits."""
    try:
        return with_all_digits(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is {with_article(type(value).__name__)}; {what}.") from None
