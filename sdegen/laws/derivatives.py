"""The divergence of a vector field, exact or estimated by random probes. Fields act on each row of a batch independently.

`ExactDivergence`, `Hutchinson` and `HutchPlusPlus` are what losses and likelihoods take as their `divergence`; the functions
below are what these are made of.
"""

from __future__ import annotations

__all__ = [
    "Divergence",
    "ExactDivergence",
    "Field",
    "HutchPlusPlus",
    "Hutchinson",
    "Traces",
    "exact_divergence",
    "hutchinson_divergence",
    "hutchinson_divergences",
    "hutchpp_divergences",
    "subspace",
    "value_and_slope",
    "value_and_slopes",
]

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..show import show_call
from .draws import rademacher_like

Field = Callable[[Tensor], Tensor]


def value_and_slope(field: Field, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` and the directional derivative ``(∂f/∂x) direction``, by one forward-mode derivative.

    Parameters
    ----------
    field
        ``f``, a function of states that has forward-mode derivatives.
    x
        Where, ``(B, *)``.
    direction
        The direction of the derivative, of the shape of `x`.
    """
    value, slope = torch.func.jvp(field, (x,), (direction,))[:2]
    return value, slope


def value_and_slopes(field: Field, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` and the derivatives ``(∂f/∂x) v``, ``(m, B, *)``, along directions `v` ``(m, B, *)``, computed 64 at
    a time.

    Parameters
    ----------
    field, x
        As for `value_and_slope`.
    directions
        The `v`, ``(m, B, *)``.
    """

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_slope(field, x, direction)

    # The value does not depend on the direction, so it is computed once for all directions of a block.
    out_dims: Any = (None, 0)
    blocks = [torch.func.vmap(along, out_dims=out_dims)(block) for block in directions.split(64)]
    return blocks[0][0], torch.cat([slopes for _, slopes in blocks])


def exact_divergence(field: Field, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` and ``div field = Σ_i ∂f_i/∂x_i``, ``(B,)``, by one forward-mode derivative per coordinate.

    Parameters
    ----------
    field
        Maps ``(B, *)`` to the same shape, row by row.
    x
        Where, ``(B, *)``.
    generator
        Unused; the signature is that of `hutchinson_divergence`.
    """
    d = x[0].numel()
    basis = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
    value, slopes = value_and_slopes(field, x, basis)
    return value, _dots(basis, slopes).sum(0)


def hutchinson_divergence(
    field: Field, x: Tensor, generator: torch.Generator | None = None, probe: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` and the unbiased estimate ``vᵀ (∂f/∂x) v`` of its divergence, ``(B,)``, for one Rademacher probe
    `v`.

    M. Hutchinson, *A stochastic estimator of the trace of the influence matrix*, 1989.

    Parameters
    ----------
    field, x
        As for `exact_divergence`.
    generator
        Randomness of the probe.
    probe
        The probe, signs of the shape of `x`; drawn by default.
    """
    v = rademacher_like(x, generator) if probe is None else probe
    value, slope = value_and_slope(field, x, v)
    return value, _dots(v[None], slope[None])[0]


def hutchinson_divergences(field: Field, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` and Hutchinson's estimate of its divergence for each of `m` probes ``(m, B, *)``: ``(m, B)``.

    M. Hutchinson, 1989: see `hutchinson_divergence`.

    Parameters
    ----------
    field, x
        As for `exact_divergence`.
    probes
        ``(m, B, *)``, signs; one derivative each.
    """
    value, slopes = value_and_slopes(field, x, probes)
    return value, _dots(probes, slopes)


def hutchpp_divergences(field: Field, x: Tensor, Q: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` and the Hutch++ estimate of its divergence for each of `m` probes: ``(m, B)``.

    The trace of the Jacobian `J` over a subspace, ``tr Qᵀ J Q``, is exact; that of the rest, ``(1 − Q Qᵀ) J (1 − Q Qᵀ)``, is
    estimated by the probes. R. Meyer, C. Musco, C. Musco and D. Woodruff, *Hutch++: optimal stochastic trace estimation*,
    2021, arXiv:2010.09649.

    Parameters
    ----------
    field, x
        As for `exact_divergence`.
    Q
        Orthonormal columns for each row, ``(B, d, k)``, independent of the probes: see `subspace`.
    probes
        ``(m, B, *)``, signs; one derivative for each of these and of the columns.
    """
    rest = probes.flatten(2)
    rest = rest - torch.einsum("bdk,bek,mbe->mbd", Q, Q, rest)
    directions = torch.cat([Q.permute(2, 0, 1), rest])
    directions = directions.reshape(len(directions), *x.shape)
    value, slopes = value_and_slopes(field, x, directions)
    traces = _dots(directions, slopes)
    return value, traces[: Q.shape[2]].sum(0) + traces[Q.shape[2] :]


def subspace(images: Tensor) -> Tensor:
    """Return orthonormal columns ``(B, d, min(d, k))`` that span `k` vectors ``(k, B, *)``, such as products of a Jacobian
    with random vectors.

    R. Meyer, C. Musco, C. Musco and D. Woodruff, 2021, arXiv:2010.09649.

    Parameters
    ----------
    images
        The vectors, ``(k, B, *)``, of `d` numbers each.
    """
    return torch.linalg.qr(images.flatten(2).permute(1, 2, 0))[0]


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Return inner products of rows, ``(m, B)``."""
    return (a * b).flatten(2).sum(2)


class Traces(NamedTuple):
    """A function that evaluates a field and its divergence along one path, with probes held fixed.

    Attributes
    ----------
    of
        From a field and states to its values and ``(m, B)`` divergences, of the same probes at every call.
    m
        The number of probes.
    exact
        Whether each is the divergence itself.
    """

    of: Callable[[Field, Tensor], tuple[Tensor, Tensor]]
    m: int
    exact: bool = False


class Divergence(ABC):
    """A method to compute ``div field``: at one place by a call, or along a whole path with the same probes by `along`."""

    __repr__ = show_call

    @abstractmethod
    def along(self, fields: Callable[[float], Field], y: Tensor, generator: torch.Generator | None) -> Traces:
        """Return a function that computes divergences along a path, with probes drawn once.

        Parameters
        ----------
        fields
            The field at a place of the path, from 0 to 1.
        y
            States at the start of the path, ``(B, *)``.
        generator
            Randomness of the probes.
        """

    def __call__(self, field: Field, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return ``field(x)`` and its divergence, or the mean of its estimates, ``(B,)``."""
        value, divergences = self.along(lambda place: field, x, generator).of(field, x)
        return value, divergences.mean(0)


class ExactDivergence(Divergence):
    """The exact divergence, by one forward-mode derivative per coordinate: see `exact_divergence`."""

    def along(self, fields: Callable[[float], Field], y: Tensor, generator: torch.Generator | None) -> Traces:
        """Return a function that computes the exact divergence along a path; nothing is drawn."""

        def of(field: Field, y: Tensor) -> tuple[Tensor, Tensor]:
            value, divergence = exact_divergence(field, y)
            return value, divergence[None]

        return Traces(of, 1, exact=True)


class Hutchinson(Divergence):
    """Hutchinson's unbiased estimate ``vᵀ (∂f/∂x) v`` of the divergence, by random signs `v`: see `hutchinson_divergences`.

    M. Hutchinson, *A stochastic estimator of the trace of the influence matrix*, 1989.

    Parameters
    ----------
    probes
        Rademacher probes, one derivative each; two or more tell the standard error.

    Raises
    ------
    ValueError
        If there is no probe.
    """

    def __init__(self, probes: int = 1) -> None:
        if probes < 1:
            raise ValueError(f"probes = {probes}; at least one is needed.")
        self.probes = probes

    def along(self, fields: Callable[[float], Field], y: Tensor, generator: torch.Generator | None) -> Traces:
        """Return a function that estimates the divergence along a path, with probes drawn once."""
        v = torch.stack([rademacher_like(y, generator) for _ in range(self.probes)])
        return Traces(lambda field, y: hutchinson_divergences(field, y, v), self.probes)


class HutchPlusPlus(Hutchinson):
    """The Hutch++ estimate of the divergence: exact in a subspace of `probes` directions, Hutchinson's in the rest: see
    `hutchpp_divergences`.

    Less variance than `Hutchinson` where few directions carry the trace. R. Meyer, C. Musco, C. Musco and D. Woodruff,
    *Hutch++: optimal stochastic trace estimation*, 2021, arXiv:2010.09649.

    Parameters
    ----------
    probes
        Probes, and directions of the subspace; two derivatives for each.

    Raises
    ------
    ValueError
        If there is no probe.
    """

    def along(self, fields: Callable[[float], Field], y: Tensor, generator: torch.Generator | None) -> Traces:
        """Return a function that estimates the divergence in one subspace for the whole path, so that the integrand stays smooth.

        The subspace is spanned by images of Jacobians at places all over the path.
        """
        n = self.probes
        sketch, v = torch.stack([rademacher_like(y, generator) for _ in range(2 * n)]).split(n)
        images = [value_and_slope(fields((i + 0.5) / n), y, s)[1] for i, s in enumerate(sketch)]
        Q = subspace(torch.stack(images))
        return Traces(lambda field, y: hutchpp_divergences(field, y, Q, v), n)
