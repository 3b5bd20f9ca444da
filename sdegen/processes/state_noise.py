"""Noise that depends on the state: in which way, and the divergence ``∇·(G Gᵀ)`` that the reversal of such a process needs."""

from __future__ import annotations

__all__ = ["Dependence", "GramDivergence", "dependence_of_noise"]

from collections.abc import Callable
from enum import Enum
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..laws.diagonal import Diagonal
from ..laws.operators import Elementwise, Operator, Scale
from ..laws.products import pull_back, value_and_slopes
from ..precision import uncast
from .dynamics import Dynamics, diffusion_at

Noise = Callable[[Tensor, Tensor], Operator]  # maps states and times to the noise there

SCALES = (0.01, 0.1, 1.0, 1.0, 10.0, 100.0)  # of the random states at which noise is looked at
ROWS = 8  # states in each batch of these


class Dependence(Enum):
    """How noise `G` depends on the state: not at all, each number of it on its own number alone, or in any way."""

    NONE = 0
    ALONE = 1
    ANY = 2


def dependence_of_noise(name: str, noise: Noise, x: Tensor, t: Tensor) -> Dependence:
    """Find out how noise depends on the state at a time, and return it.

    Whether it depends at all is read off the graph of derivatives, which no value can hide. How it depends is tried on random
    states in several batches, at scales from a hundredth to a hundred, of both signs and of one. Do not call this function within
    a transform of torch.func (`_transforming`), where graphs cannot be seen.

    Parameters
    ----------
    name
        What the noise is called in an error, such as ``"CIR.diffusion"``.
    noise
        A function of states and times: the diffusion `G` of a process, or another root.
    x
        States ``(B, *)``, for their shape, dtype and device.
    t
        The time, of shape ``()``.

    Raises
    ------
    ValueError
        If `G` differs among states and has no derivative by them, or `G` of one row depends on other rows.
    """
    numbers, alone, values, depends = np.random.default_rng(0), True, [], False
    for scale in SCALES:
        for sign in (np.asarray, np.abs):
            states = torch.from_numpy(scale * sign(numbers.standard_normal((ROWS, *x.shape[1:]))))
            states = states.to(x.device, x.dtype)
            with torch.enable_grad():
                G = noise(states.requires_grad_(), t)
                found = _squares(G)
                slope = _pull(found, states, torch.ones_like(found))
            values += [found.detach()] if len(found) == ROWS else [found.detach().expand(ROWS, *found.shape[1:])]
            if slope is None:
                continue
            depends = True
            _check_rows(name, found, states)
            v = torch.from_numpy(numbers.standard_normal(found.shape)).to(found)
            other = _pull(found, states, v)
            if isinstance(G, Diagonal) and other is not None:
                close = 1e-6 * found.detach().abs() / states.detach().abs()
                near = (other - slope * v).abs() <= 1e-3 * (slope * v).abs() + close * (1 + v.abs())
                alone &= bool((near | ~(other.isfinite() & slope.isfinite())).all())
    if depends:
        return Dependence.ALONE if alone and isinstance(G, Diagonal) and G.basis is None else Dependence.ANY
    first = values[0][:1]
    rounding = 100 * torch.finfo(x.dtype).eps
    if not all(torch.allclose(v, first.expand_as(v), rtol=rounding, atol=0) for v in values):
        raise ValueError(
            f"{name} depends on x and has no derivative by it, which the reversal of the process needs; "
            "compute it by torch functions of x, without detach or no_grad."
        )
    return Dependence.NONE


def _check_rows(name: str, values: Tensor, x: Tensor) -> None:
    """Refuse noise whose first row depends on the others."""
    v = torch.zeros_like(values)
    v[0] = 1
    slope = _pull(values, x, v)
    if len(values) < len(x) or (slope is not None and slope[1:].nan_to_num(0.0).any()):
        raise ValueError(
            f"{name} of one row depends on the states of others, for which no process is reversed; "
            "compute each row's noise from its own state."
        )


def _transforming() -> bool:
    """Tell whether a function is being transformed by torch.func, in which tensors take no graph of their own."""
    try:
        torch.empty(0).requires_grad_()
    except RuntimeError:
        return True
    return False


def _squares(G: Operator) -> Tensor:
    """Return the numbers of ``G Gᵀ``, with rows: ``(·, 1)`` of a scale, ``(·, *)`` of a diagonal, ``(·, k, k)`` of matrices."""
    if isinstance(G, Elementwise) and G.along(None) is not None:
        c = G.c.square()
        return c.reshape(-1, 1) if isinstance(G, Scale) else c
    M = G.gram().matrix()
    return M[None] if M.ndim == 2 else M


def _pull(values: Tensor, x: Tensor, v: Tensor) -> Tensor | None:
    """Return the derivative of ``Σ v values`` by `x`, or None where the values are no function of it."""
    if not values.requires_grad:
        return None
    with uncast(x):
        return torch.autograd.grad(values, x, v, retain_graph=True, allow_unused=True)[0]


class GramDivergence:
    """The divergence of the covariance of noise, ``(∇·(G Gᵀ))_i = Σ_j ∂_j (G Gᵀ)_ij``, by automatic differentiation: one
    derivative where each number depends on its own alone, as many as a state has numbers otherwise.

    How `G` depends on the state is found out once, with the first states that are given.

    Parameters
    ----------
    name
        What the noise is called in an error, such as ``"CIR.diffusion"``.
    noise
        A function of states and times: the diffusion `G` of a process, or another root.
    dependence
        How the noise depends on the state, where that is known.
    """

    def __init__(self, name: str, noise: Noise, dependence: Dependence | None = None) -> None:
        self.name, self.noise, self.dependence = name, noise, dependence

    @classmethod
    def of(cls, sde: Dynamics, linear: bool) -> GramDivergence:
        """Return the divergence for the noise of a process, which depends on no state where the process is `linear`."""
        dependence = Dependence.NONE if linear else None
        return cls(f"{type(sde).__name__}.diffusion", partial(diffusion_at, sde), dependence)

    def look_at(self, x: Tensor, t: Tensor) -> None:
        """Find out how the noise depends on the state, once. Within a transform of torch.func, where that cannot be seen, it
        stays open, and any dependence is allowed for.
        """
        if self.dependence is None and not _transforming():
            self.dependence = dependence_of_noise(self.name, self.noise, x, t.reshape(-1)[0])

    def add_to(self, pull: Tensor, x: Tensor, t: Tensor, factor: float = 1.0) -> Tensor:
        """Return `pull`, of the shape of the states ``(B, *)``, plus the divergence times a factor, at times ``()`` or ``(B,)``.

        Where the noise does not depend on the state, `pull` itself is returned, and nothing is differentiated.
        """
        self.look_at(x, t)
        return pull if self.dependence is Dependence.NONE else pull + factor * self._divergence(x, t)

    def _divergence(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the divergence, ``(B, *)``."""

        def squares(y: Tensor) -> Tensor:
            found = _squares(self.noise(y, t))
            return found.to(y.device, y.dtype).expand(len(y), *found.shape[1:])

        if self.dependence is Dependence.ALONE:
            return _slope_of_sum(squares, x)
        d = x[0].numel()
        axes = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
        value, slopes = value_and_slopes(squares, x, axes)  # (d, B, ...), along each number of the state
        if value.shape == x.shape:
            return torch.diagonal(slopes.flatten(2), dim1=0, dim2=2).reshape(x.shape)
        if value.shape[1:] == (1,):
            return slopes[..., 0].T.reshape(x.shape)
        k = value.shape[-1]
        by_place = slopes.reshape(k, d // k, len(x), k, k)  # of number r in channel j, entry (i, j)
        return torch.einsum("jrbij->bir", by_place).reshape(x.shape)


def _slope_of_sum(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the derivative of the sum of a function's values by `x`, itself with derivatives of every kind."""
    value, _, pull = pull_back(lambda y: (function(y), ()), x)
    return pull(torch.ones_like(value))
