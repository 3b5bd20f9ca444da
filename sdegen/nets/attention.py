"""Multi-head self-attention over tokens, also under forward-mode derivatives."""

from __future__ import annotations

__all__ = ["SelfAttention", "attend", "attend_by_formula", "is_differentiated"]

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad


class SelfAttention(nn.Module):
    """Multi-head self-attention: ``join(softmax(Q Kᵀ / √d) V)`` in each of `heads` heads of ``d = width / heads`` features.

    A. Vaswani et al., *Attention is all you need*, 2017, arXiv:1706.03762.

    Parameters
    ----------
    width
        Features of a token.
    heads
        The number of heads, a divisor of `width`.

    Raises
    ------
    ValueError
        If `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width = {width}, heads = {heads}: heads must divide width.")
        self.heads = heads
        self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Attend over tokens ``(B, n, width)``, and return tokens of the same shape."""
        B, n, width = h.shape
        q, k, v = self.qkv(h).reshape(B, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, n, d)
        return self.join(attend(q, k, v).transpose(1, 2).reshape(B, n, width))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return ``softmax(q kᵀ / √d) v``, of the shape ``(..., n, d)`` of all three.

    It is computed by torch's fused kernels, except under a forward-mode derivative (exact divergences), which they lack, and for
    bfloat16 gradients on CPUs, where they take five times as long as the formula.
    """
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad
    if slow or is_differentiated(q):
        return attend_by_formula(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def attend_by_formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return ``softmax(q kᵀ / √d) v`` by matrix products, which have derivatives of every mode and order."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def is_differentiated(x: Tensor) -> bool:
    """Tell whether a forward-mode derivative is being taken along `x`."""
    return forward_ad.unpack_dual(x).tangent is not None
