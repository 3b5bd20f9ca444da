"""Functions of data from outside answer for each datum alone: `refuse_mixing`, which a run asks once, before it begins."""

from __future__ import annotations

__all__ = ["data_near", "refuse_mixing"]

from collections.abc import Callable

import torch
from torch import Tensor

from ..laws.mixtures import Moments

NEAR = 0.1  # standard deviations from the mean, where every function of data has values
SEED = 577_215_664_901
ROUNDING = 64.0  # units of rounding of the largest number, which is more than the order of a sum makes


def data_near(moments: Moments) -> Tensor:
    """Return two data near the mean, ``(2, *)`` float64 on the CPU, always the same ones."""
    z = torch.randn(2, moments.mean.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    mean, std = moments.mean.detach().cpu().double(), moments.variances().detach().cpu().double().sqrt()
    return mean + NEAR * (std.flatten() * z).reshape(2, *mean.shape)


def refuse_mixing(who: str, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Refuse, by a ValueError, a function whose answer for one datum depends on the other in its batch, as where it subtracts
    their mean or has batch normalisation in training mode; one that draws its answers passes.

    Parameters
    ----------
    who
        Whose answers they are.
    function
        From data ``(2, *)`` to an answer of each, ``(2, *)``.
    x
        Two data that differ, ``(2, *)``.
    """
    with torch.no_grad():
        together, alone = function(x).double(), torch.cat([function(x[[i, i]])[i : i + 1] for i in (0, 1)]).double()
        size = together[together.isfinite()].abs().amax() if together.isfinite().any() else 0.0
        most = ROUNDING * torch.finfo(x.dtype).eps * size

        def differ(others: Tensor) -> bool:
            return bool(((others - together).abs() > most).any())

        if differ(alone) and not differ(function(x).double()):
            raise ValueError(
                f"{who} answers otherwise of a datum when another stands beside it in the batch, as where it subtracts a mean "
                "over the batch; let each row depend on its own datum alone, and networks of it be in eval mode."
            )
