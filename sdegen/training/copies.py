"""Copies in float32 of weights of half precision, which an optimiser moves in place of the weights."""

from __future__ import annotations

__all__ = ["FloatCopies"]

from collections.abc import Iterator

import torch
from torch import Tensor

from ..precision import at_least_single
from ..show import show_call


class FloatCopies:
    """Copies in float32 of the weights of half precision in a network, which have the gradients and are moved by steps.

    In bfloat16 a step of a thousandth of a weight is lost, and so is what one step adds to Adam's mean of squares. Gradients of
    parts of a batch are summed in the copies too. P. Micikevicius et al., *Mixed precision training*, 2017, arXiv:1710.03740.

    Parameters
    ----------
    named
        All weights that are trained, by name.

    Attributes
    ----------
    named
        The tensors that an optimiser moves, by the same names: the weights themselves, or their copies.
    """

    __repr__ = show_call

    def __init__(self, named: dict[str, Tensor]) -> None:
        coarse = {name: p for name, p in named.items() if p.dtype.itemsize <= 2}
        copies = {name: p.detach().to(at_least_single(p.dtype)).requires_grad_() for name, p in coarse.items()}
        self.named = named | copies
        self.weights, self.copies = list(coarse.values()), list(copies.values())

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each weight of half precision with its copy."""
        yield from zip(self.weights, self.copies, strict=True)

    def take_gradients(self) -> None:
        """Add the gradients of the weights to those of the copies, and set the former to None."""
        for weight, copy in self.pairs():
            if weight.grad is not None:
                grad = weight.grad.to(copy.dtype)
                copy.grad, weight.grad = grad if copy.grad is None else copy.grad.add_(grad), None

    @torch.no_grad()
    def give_back(self) -> None:
        """Write the copies, rounded, into the weights."""
        torch._foreach_copy_(self.weights, self.copies)
