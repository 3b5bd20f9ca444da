"""A warning of conditions that lie far from all that a network has learned from: `warn_of_far`."""

from __future__ import annotations

__all__ = ["warn_of_far"]

from typing import Any

from torch import Tensor, nn

from ..data.source import FEW_BATCHES
from ..nets.conditioning import ROWS, Conditioning
from ..transforms import is_unknown
from ..warning import warn_caller

# None of n rows can lie farther from their mean than √n of their standard deviations; units are measured on n rows at most.
FAR = (FEW_BATCHES * ROWS) ** 0.5


def warn_of_far(net: nn.Module, cond: dict[str, Any]) -> None:
    """Warn of conditions that lie farther from the mean of training than any row of the training data can have lain.

    The distance of a row is in standard deviations. It is the root mean square over numbers that share a unit, as all places of a
    field do.

    Parameters
    ----------
    net
        A network; once trained, it holds mean and standard deviation of its conditions.
    cond
        The conditions of a run, by name.
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
