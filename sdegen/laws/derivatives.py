"""The divergence of a vector field, exact or estimated by random probes. Fields act on each row of a batch independently.

`ExactDivergence`, `Hutchinson` and `HutchPlusPlus` are what losses and likelihoods take as their `divergence`; the functions
below are what these are made of.
"""

from __future__ import annotations

__all__ = [
    "Divergence",
    "ExactDivergence",
    "HutchPlusPlus",
    "Hutchinson",
    "Traces",
    "exact_divergence",
    "hutchinson_divergence",
    "hutchinson_divergences",
    "hutchpp_divergences",
    "subspace",
]

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..blocks import OfTensors
from ..precision import uncast
from ..show import show_call
from ..signatures import Overridable
from .draws import rademacher_like
from .products import Field, Products
from .vectors import as_vectors


def exact_divergence(field: Field, x: Tensor, products: Products | None = None) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` and ``div field = Σ_i ∂f_i/∂x_i``, ``(B,)``, by one derivative per coordinate.

    Parameters
    ----------
    field
        Maps ``(B, *)`` to the same shape, row by row.
    x
        The points, ``(B, *)``.
    products
        How derivatives are taken; found out anew by default.
    """
    d, shape = x[0].numel(), x.shape[1:]

    def axes(part: slice) -> Tensor:
        basis = x.new_zeros(part.stop - part.start, d)
        basis.diagonal(part.start).fill_(1.0)
        return basis.reshape(-1, 1, *shape).expand(-1, *x.shape)

    value, traces = (products or Products()).traces(field, x, d, axes)
    return value, traces.sum(0)


def hutchinson_divergence(
    field: Field,
    x: Tensor,
    generator: torch.Generator | None = None,
    probe: Tensor | None = None,
    products: Products | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` and the unbiased estimate ``vᵀ (∂f/∂x) v`` of its divergence, ``(B,)``, for one Rademacher probe
    `v`.

    M. Hutchinson, *A stochastic estimator of the trace of the influence matrix*, 1989.

    Parameters
    ----------
    field, x, products
        As for `exact_divergence`.
    generator
        Randomness of the probe.
    probe
        The probe, signs of the shape of `x`; drawn by default.
    """
    v = rademacher_like(x, generator) if probe is None else probe
    value, traces = hutchinson_divergences(field, x, v[None], products)
    return value, traces[0]


def hutchinson_divergences(
    field: Field, x: Tensor, probes: Tensor, products: Products | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` and Hutchinson's estimate of its divergence for each of `m` probes ``(m, B, *)``: ``(m, B)``.

    M. Hutchinson, 1989: see `hutchinson_divergence`.

    Parameters
    ----------
    field, x, products
        As for `exact_divergence`.
    probes
        Signs, ``(m, B, *)``; each takes one derivative.
    """
    return (products or Products()).traces(field, x, len(probes), lambda part: probes[part])


def hutchpp_divergences(
    field: Field, x: Tensor, Q: Tensor, probes: Tensor, products: Products | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``field(x)`` and the Hutch++ estimate of its divergence for each of `m` probes: ``(m, B)``.

    The trace of the Jacobian `J` over a subspace, ``tr Qᵀ J Q``, is exact; that of the rest, ``(1 − Q Qᵀ) J (1 − Q Qᵀ)``, is
    estimated by the probes. R. Meyer, C. Musco, C. Musco and D. Woodruff, *Hutch++: optimal stochastic trace estimation*,
    2021, arXiv:2010.09649.

    Parameters
    ----------
    field, x, products
        As for `exact_divergence`.
    Q
        Orthonormal columns for each row, ``(B, d, k)``, independent of the probes: see `subspace`.
    probes
        Signs, ``(m, B, *)``; each of these, and each of the columns, takes one derivative.
    """
    rest = as_vectors(probes, axes=2)
    with uncast(x):
        rest = rest - torch.einsum("bdk,bek,mbe->mbd", Q, Q, rest)
    directions = torch.cat([Q.permute(2, 0, 1), rest])
    directions = directions.reshape(len(directions), *x.shape)
    value, traces = hutchinson_divergences(field, x, directions, products)
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
    return torch.linalg.qr(as_vectors(images, axes=2).permute(1, 2, 0))[0]


class Traces(NamedTuple):
    """A function that evaluates a field and its divergence along one path, with probes held fixed.

    Attributes
    ----------
    of
        Maps a field and states to the values of the field and its divergences ``(m, B)``, by the same probes at every call.
    m
        The number of probes.
    exact
        Whether the divergences are exact, and no estimates.
    """

    of: Callable[[Field, Tensor], tuple[Tensor, Tensor]]
    m: int
    exact: bool = False


@asked_as("ExactDivergence(), Hutchinson(probes=4) or HutchPlusPlus(probes=4), of laws.derivatives")
class Divergence(OfTensors, Overridable, ABC):
    """A method to compute ``div field``: at one place by a call, or along a whole path with the same probes by `along`."""

    __repr__ = show_call

    def draw(self, y: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Draw the random vectors of a run, ``(k, B, *)``, of which each row of the states has its own; None where, as here, none
        are needed.

        Parameters
        ----------
        y
            States ``(B, *)``, for their shape, dtype and device.
        generator
            Randomness.
        """
        return None

    @abstractmethod
    def along(self, fields: Callable[[float], Field], y: Tensor, drawn: Tensor | None) -> Traces:
        """Return a function that computes divergences along a path, always with the same vectors.

        Parameters
        ----------
        fields
            The field at a place of the path, from 0 to 1.
        y
            States at the start of the path, ``(B, *)``.
        drawn
            What `draw` has drawn for these rows.
        """

    def __call__(self, field: Field, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return ``field(x)`` and its divergence, or the mean of its estimates, ``(B,)``."""
        value, divergences = self.along(lambda place: field, x, self.draw(x, generator)).of(field, x)
        return value, divergences.mean(0)


class ExactDivergence(Divergence):
    """The exact divergence, by one derivative per coordinate: see `exact_divergence`."""

    def along(self, fields: Callable[[float], Field], y: Tensor, drawn: Tensor | None) -> Traces:
        """Return a function that computes the exact divergence along a path."""
        products = Products()

        def of(field: Field, y: Tensor) -> tuple[Tensor, Tensor]:
            value, divergence = exact_divergence(field, y, products)
            return value, divergence[None]

        return Traces(of, 1, exact=True)


class Hutchinson(Divergence):
    """Hutchinson's unbiased estimate ``vᵀ (∂f/∂x) v`` of the divergence, by random signs `v`: see `hutchinson_divergences`.

    M. Hutchinson, *A stochastic estimator of the trace of the influence matrix*, 1989.

    Parameters
    ----------
    probes
        Number of Rademacher probes, each of which takes one derivative; two or more tell the standard error.

    Raises
    ------
    ValueError
        If there is no probe.
    """

    @check_arguments
    def __init__(self, probes: int = 1) -> None:
        if probes < 1:
            raise ValueError(f"probes = {probes}; at least one is needed.")
        self.probes = probes

    def draw(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the probes, signs ``(probes, B, *)``."""
        return torch.stack([rademacher_like(y, generator) for _ in range(self.probes)])

    def along(self, fields: Callable[[float], Field], y: Tensor, drawn: Tensor | None) -> Traces:
        """Return a function that estimates the divergence along a path by the probes."""
        assert drawn is not None
        products = Products()
        return Traces(lambda field, y: hutchinson_divergences(field, y, drawn, products), self.probes)


class HutchPlusPlus(Hutchinson):
    """The Hutch++ estimate of the divergence: exact in a subspace of `probes` directions, Hutchinson's in the rest: see
    `hutchpp_divergences`.

    It has less variance than `Hutchinson` where few directions carry the trace. R. Meyer, C. Musco, C. Musco and D. Woodruff,
    *Hutch++: optimal stochastic trace estimation*, 2021, arXiv:2010.09649.

    Parameters
    ----------
    probes
        Number of probes, and of directions of the subspace too: two derivatives for each probe.

    Raises
    ------
    ValueError
        If there is no probe.
    """

    def draw(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw signs for the subspace and the probes, ``(2 probes, B, *)``."""
        return torch.stack([rademacher_like(y, generator) for _ in range(2 * self.probes)])

    def along(self, fields: Callable[[float], Field], y: Tensor, drawn: Tensor | None) -> Traces:
        """Return a function that estimates the divergence in one subspace for the whole path, so that the integrand stays smooth.

        The subspace is spanned by images of Jacobians, or their transposes, at places all over the path.
        """
        assert drawn is not None
        n, products = self.probes, Products()
        sketch, v = drawn.split(n)
        images = [products(fields((i + 0.5) / n), y, sketch[i : i + 1])[1] for i in range(n)]
        Q = subspace(torch.cat(images))
        return Traces(lambda field, y: hutchpp_divergences(field, y, Q, v, products), n)
