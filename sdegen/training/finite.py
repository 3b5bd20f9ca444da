"""Detection of losses that are NaN or infinite, without waiting for an accelerator."""

from __future__ import annotations

__all__ = ["NonFiniteLoss", "finite"]

from torch import Tensor

from ..waiting import at_hand


class NonFiniteLoss(ValueError):
    """The error raised if a loss or gradient is NaN or infinite."""


def finite(values: Tensor, t: Tensor) -> Tensor:
    """Return the values; raise an error that names the time if a value is NaN or infinite.

    Values are checked if this costs no wait. On an accelerator `fit` reads them later, many steps together.

    Parameters
    ----------
    values, t
        The losses and the times at which they were measured, ``(B,)``.

    Raises
    ------
    NonFiniteLoss
        If a value is not finite.
    """
    if not at_hand(values.device):
        return values
    good = values.detach().isfinite()
    if not good.all():
        bad = t.expand(len(values))[~good]
        raise NonFiniteLoss(f"the loss is not finite at t = {bad[0].item():.6g} ({len(bad)} of {len(values)} rows)")
    return values
