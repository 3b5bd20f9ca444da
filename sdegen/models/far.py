"""Conditions that lie far from all that a network has learned from: `warn_of_far`."""

from __future__ import annotations

__all__ = ["warn_of_far"]

from typing import Any

from torch import Tensor, nn

from ..data.source import SOME
from ..fixed import is_unknown
from ..nets.entries import ROWS, Conditioning
from ..warning import warn_caller

FAR = (SOME * ROWS) ** 0.5  # of so many rows none has a root mean square over so many of their standard deviations


def warn_of_far(net: nn.Module, cond: dict[str, Any]) -> None:
    """Warn of values of conditions that are farther from those that their units were taken of than any of these could be.

    How far a row is, is the root mean square of what it has in one unit, as the places of a field have.

    Parameters
    ----------
    net
        A network, with units of the numbers of its conditions in it where it was trained.
    cond
        Conditions by name.
    """
    given = {name: value for name, value in cond.items() if isinstance(value, Tensor) and not is_unknown(value)}
    parts = [part for part in net.modules() if isinstance(part, Conditioning)] if given else []
    for part in parts:
        for name in given.keys() & part.kinds.keys():
            units = getattr(part.entries[f"{name}_"], "units", None)
            if units is None or not units.measured or not given[name].numel():
                continue
            known = units(given[name], units.mean)[0]
            known = known if known.ndim > part.kinds[name].ndim else known[None]
            known = known.movedim(units.axis, 1).reshape(len(known), len(units.mean), -1)
            away = known.square().mean(-1).sqrt().max().item()
            if away > FAR:
                warn_caller(
                    f"{name} lies {away:.3g} standard deviations from the mean of those that the network has learned from: what "
                    "it says there it has not learned; look at the value, or train on such."
                )
