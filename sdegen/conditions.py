"""The names of the conditions that a model takes, read off signatures, and the checks of class labels.

A model takes what its network's ``forward`` takes. Whatever is passed to `sample` or `log_prob` beyond their own arguments is a
condition, so that a name which neither knows is a mistake: it is refused before anything is run.
"""

from __future__ import annotations

__all__ = ["ANY", "NONE", "Conditions", "check_labels", "conditions_of"]

import inspect
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .waiting import at_hand


class Conditions(NamedTuple):
    """The names of the conditions that a model takes.

    Attributes
    ----------
    names
        Those that it knows by name.
    others
        Whether it takes any other name too, as a network with ``**kwargs`` does.
    needed
        Those of `names` that it cannot go without.
    never
        Names that it cannot take as conditions, since its other arguments have them; of modules ``self`` is one.
    """

    names: frozenset[str] = frozenset()
    others: bool = False
    needed: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()

    def takes(self, name: str) -> bool:
        """Tell whether a condition of this name is taken."""
        return name in self.names or (self.others and name not in self.never)

    def plus(self, *names: str) -> Conditions:
        """Return the same conditions and others."""
        return self._replace(names=self.names.union(names), never=self.never.difference(names))

    def without(self, names: Iterable[str]) -> Conditions:
        """Return the conditions without some, which are then not taken any more."""
        less = frozenset(names)
        return Conditions(self.names - less, self.others, self.needed - less, self.never | less)

    def both(self, other: Conditions) -> Conditions:
        """Return the conditions that two models take together."""
        names = frozenset(name for name in self.names | other.names if self.takes(name) and other.takes(name))
        return Conditions(
            names, self.others and other.others, self.needed | other.needed, (self.never | other.never) - names
        )


NONE = Conditions()
ANY = Conditions(others=True)


def conditions_of(function: Callable[..., Any], inputs: int = 2) -> Conditions:
    """Return the conditions that a function takes by keyword after its first arguments; any, where it does not tell.

    Parameters
    ----------
    function
        A network, of which ``forward`` is asked, or a function.
    inputs
        How many arguments come before the conditions, as the state and the noise level do.

    Examples
    --------
    >>> conditions_of(lambda x, t, label=None: x).takes("label"), conditions_of(lambda x, t: x).takes("label")
    (True, False)
    """
    whole: Any = getattr(function, "_orig_mod", function)  # what torch.compile has wrapped
    called = whole.forward if isinstance(whole, nn.Module) else whole
    if isinstance(called, MethodType):  # of a class, which is asked once
        return _read_once(called.__func__, inputs, 1)
    return _read(called, inputs, 0)


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


def check_labels(label: Any, n: int, classes: int, least: int = 0) -> Tensor:
    """Return class labels as whole numbers, int64, of shape ``()`` or ``(n,)``; refuse anything else.

    Unsigned labels are widened before anything is added to them, so that 255 stays 255, and no class. Values on an accelerator
    are not looked at, for which a step would wait.

    Parameters
    ----------
    label
        A number, or numbers: a tensor, an array or a list.
    n
        The number of rows.
    classes
        The number of classes.
    least
        The least label: −1 where that is no class.

    Raises
    ------
    TypeError
        If they are no whole numbers.
    ValueError
        If there is neither one nor one for each row, or one is out of range.
    """
    what = f"give whole numbers from {least} to {classes - 1}, one for all rows or one for each of {n}"
    try:
        label = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"label is a {type(label).__name__}; {what}.") from None
    if label.dtype == torch.bool or label.is_floating_point() or label.is_complex():
        raise TypeError(f"label has dtype {label.dtype}; {what}.")
    if label.shape not in ((), (n,)):
        raise ValueError(f"label has shape {tuple(label.shape)}; {what}.")
    label = label.long()
    looked_at = at_hand(label.device) and not torch.compiler.is_compiling()  # no graph can look
    if looked_at and ((label < least) | (label >= classes)).any():
        bad = label.min() if (label < least).any() else label.max()
        none = ", and -1 means none" if least < 0 else ""
        raise ValueError(f"label reaches {bad.item()}; labels run from 0 to {classes - 1}{none}.")
    return label
