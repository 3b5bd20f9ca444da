"""The conditions of a network together: how they enter it one after the other, and take the units of the data."""

from __future__ import annotations

__all__ = ["ROWS", "Conditioning", "measure_conditions"]

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..conditions import Condition
from ..show import with_article
from .entries import ConditionUnits

ROWS = 1024  # rows of each of the few batches from which units are measured


class Conditioning(nn.Module):
    """The conditions of a network, which enter it one after the other.

    Parameters
    ----------
    kinds
        The conditions by name, as `conditions.declare` returns them.
    features
        The number of features of the noise level.
    dims
        Dimensions of the grid of the network's states.

    Attributes
    ----------
    extra
        Channels that the conditions add to a state.

    Raises
    ------
    ValueError
        If a condition is on another grid.
    """

    def __init__(self, kinds: Mapping[str, Condition], features: int, dims: int) -> None:
        super().__init__()
        self.kinds, self.extra = dict(kinds), sum(kind.extra for kind in kinds.values())
        for name, kind in kinds.items():
            if kind.extra and getattr(kind, "dims", kind.ndim - 1) != dims:
                raise ValueError(
                    f"{name} is {kind}, and the network's states have a grid of {dims} dimensions; give Fields(..., dims={dims})."
                )
        self.entries = nn.ModuleDict({f"{name}_": kind.entry(features) for name, kind in kinds.items()})

    @property
    def unmeasured(self) -> bool:
        """Whether a condition has numbers whose units are not known yet."""
        return any(isinstance(part, ConditionUnits) and not part.measured for part in self.modules())

    def silence(self, names: Iterable[str]) -> None:
        """Set to 0 what some conditions add, whatever their values.

        Raises
        ------
        TypeError
            If the module by which a condition enters has no method ``silence``.
        """
        for name in names:
            entry = self.entries[f"{name}_"]
            silence = getattr(entry, "silence", None)
            if silence is None:
                raise TypeError(
                    f"{name} enters by {with_article(type(entry).__name__)}, which has no method silence(); define one that "
                    "sets to 0 what the condition adds."
                )
            silence()

    def measure(self, seen: Sequence[Mapping[str, Tensor]]) -> None:
        """Take the units of the conditions' numbers from some batches, where none are known."""
        for name in self.kinds:
            units = getattr(self.entries[f"{name}_"], "units", None)
            values = [cond[name] for cond in seen if name in cond]
            if units is not None and values:
                units.measure(values)

    def forward(self, e: Tensor, x: Tensor, cond: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the features of the noise level and the states ``(n, C, *grid)`` with all that the conditions say.

        Raises
        ------
        TypeError
            If the network has no condition of a name, or a condition is missing that training never dropped.
        ValueError
            If a value has another shape.
        """
        for name in cond.keys() - self.kinds.keys():
            if cond[name] is not None:
                own = ", ".join(self.kinds) or "none"
                raise TypeError(
                    f"the network has no condition {name!r}, it was constructed with {own}; construct it with "
                    f"conditions={{{name!r}: ...}}."
                )
        for name, kind in self.kinds.items():
            value = cond.get(name)
            if value is None and kind.needed:
                raise TypeError(f"the network needs the condition {name!r}; pass {name}=....")
            if value is not None:
                value = kind.read(name, value, look=False)
                if kind.extra and value.shape[2 - x.ndim :] != x.shape[2:]:
                    raise ValueError(
                        f"{name} is given on a grid of {tuple(value.shape[2 - x.ndim :])}, the state on one of "
                        f"{tuple(x.shape[2:])}; resize it."
                    )
                value = value if kind.has_rows(name, value, len(x)) else value[None]
            e, x = self.entries[f"{name}_"](value, e, x)
        return e, x


def measure_conditions(model: nn.Module, batches: Callable[[int], Iterable[Any]]) -> None:
    """Give the numbers of conditions the units of some data, in all networks of a model that have none yet.

    Parameters
    ----------
    model
        The model that is trained.
    batches
        Returns, for a number of rows, a few batches of data whose conditions are ``batch.cond`` (`data.Source.few`).
    """
    asked = [part for part in model.modules() if isinstance(part, Conditioning) and part.unmeasured]
    seen = [batch.cond for batch in batches(ROWS)] if asked else []
    for part in asked:
        part.measure(seen)
