"""Orthonormal bases of the numbers of a datum: cosines and Fourier waves along its sides, and axes that are given.

States stay in the data's own axes, so that networks see images; only the coefficients of a process are written in a basis
(`diagonal.Diagonal`).
"""

from __future__ import annotations

__all__ = ["Axes", "Basis", "CosineBasis", "FourierBasis", "principal_axes"]

import math
from abc import ABC, abstractmethod
from functools import cache

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_count, check_tensor
from ..fixed import Fixed
from ..precision import apply_matrix
from ..show import show_call
from ..transforms import check_constant, isolated

ROUNDING = 1e-5  # how far QᵀQ may be from the identity: rounding of float32 over a few hundred numbers


@asked_as("an orthonormal basis, such as laws.bases.CosineBasis(2)")
class Basis(Fixed, ABC):
    """The base class of orthonormal bases `Q` of the numbers of a datum; bases with the same arguments are equal."""

    __repr__ = show_call

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return the coordinates ``Qᵀ x`` along the axes, of the shape of `x` ``(B, *)``."""

    @abstractmethod
    def inverse(self, c: Tensor) -> Tensor:
        """Return ``Q c``, the data with coordinates `c` ``(B, *)``."""

    @abstractmethod
    def variances(self, v: Tensor) -> Tensor:
        """Return the variances along the axes of independent numbers with variances `v` ``(B, *)``: ``Σ_i Q_ij² v_i``."""


class _AlongSides(Basis):
    """A basis that is a product of one basis along each of the last sides of a datum."""

    def __init__(self, sides: int) -> None:
        self.sides = check_count("sides", sides)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other)["sides"] == self.sides

    def __hash__(self) -> int:
        return hash((type(self), self.sides))

    @staticmethod
    @abstractmethod
    def waves(n: int) -> Tensor:
        """Return the basis of `n` numbers, a wave in each row, ``(n, n)``, float64."""

    def _apply(self, x: Tensor, matrices: list[Tensor]) -> Tensor:
        """Multiply the last sides of `x` by a matrix each."""
        if x.ndim <= self.sides:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; {self!r} takes data with {self.sides} sides or more, (B, *)."
            )
        for side, M in enumerate(reversed(matrices)):
            x = apply_matrix(x.movedim(-1 - side, -1), M.T).movedim(-1, -1 - side)
        return x

    def _waves(self, x: Tensor) -> list[Tensor]:
        """Return the waves along each of the last sides of `x`, in its dtype and on its device."""
        return [_waves_as(type(self), n, x.dtype, x.device) for n in x.shape[x.ndim - self.sides :]]

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x, self._waves(x))

    def inverse(self, c: Tensor) -> Tensor:
        return self._apply(c, [M.T for M in self._waves(c)])

    def variances(self, v: Tensor) -> Tensor:
        return self._apply(v, [M.square() for M in self._waves(v)])


@cache
@isolated()
def _waves_as(kind: type[_AlongSides], n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the waves of `n` numbers in a dtype and on a device; formed once."""
    return kind.waves(n).to(device, dtype)


class CosineBasis(_AlongSides):
    """The cosine basis (DCT-II) along the last `sides` of a datum, ``√(2/n) cos(π k (i + ½) / n)``: for an image, the modes of
    heat that no edge lets out.

    Parameters
    ----------
    sides
        How many of the last axes of data: 1 for a series, 2 for images.

    Raises
    ------
    ValueError
        If `sides` is no whole number from 1; at a call, if data have fewer axes.

    Examples
    --------
    >>> x = torch.randn(2, 3, 4, 4)
    >>> basis = CosineBasis(2)
    >>> torch.allclose(basis.inverse(basis(x)), x, atol=1e-6)
    True
    """

    @check_arguments
    def __init__(self, sides: int = 1) -> None:
        super().__init__(sides)

    @staticmethod
    def waves(n: int) -> Tensor:
        """Return the cosines of `n` numbers, by rising frequency."""
        k = torch.arange(n, dtype=torch.float64)
        M = (math.pi / n * k[:, None] * (k + 0.5)).cos() * math.sqrt(2 / n)
        M[0] = 1 / math.sqrt(n)
        return M


class FourierBasis(_AlongSides):
    """The real Fourier basis along the last `sides` of a datum: for each frequency a cosine and a sine, as for data on a circle.

    In the order of frequencies: the constant, then cosine and sine of each, and last, for data of an even length, a cosine alone.

    Parameters
    ----------
    sides
        How many of the last axes of data: 1 for a series, 2 for images.

    Raises
    ------
    ValueError
        If `sides` is no whole number from 1; at a call, if data have fewer axes.

    Examples
    --------
    >>> FourierBasis()(torch.ones(1, 4))[0, 0].item()
    2.0
    """

    @check_arguments
    def __init__(self, sides: int = 1) -> None:
        super().__init__(sides)

    @staticmethod
    def waves(n: int) -> Tensor:
        """Return the waves of `n` numbers, by rising frequency."""
        i = torch.arange(n, dtype=torch.float64)
        frequency = (torch.arange(n) + 1) // 2
        turn = 2 * math.pi / n * (frequency[:, None] * i % n)
        M = torch.where((torch.arange(n) % 2 == 1)[:, None], turn.cos(), -turn.sin()) * math.sqrt(2 / n)
        M[0] = 1 / math.sqrt(n)
        if n % 2 == 0:
            M[-1] = (1 - 2 * (i % 2)) / math.sqrt(n)
        return M


class Axes(Basis):
    """A basis of axes that are given, the columns of an orthogonal matrix over the flattened datum.

    Parameters
    ----------
    Q
        The axes, ``(d, d)``.

    Raises
    ------
    ValueError
        If `Q` is not square, or its columns are not orthonormal to rounding; at a call, if data do not have `d` numbers.

    Examples
    --------
    >>> Axes(torch.tensor([[0.6, -0.8], [0.8, 0.6]]))(torch.tensor([[3.0, 4.0]])).tolist()
    [[5.0, 0.0]]
    """

    @check_arguments
    def __init__(self, Q: Tensor) -> None:
        check_tensor("Q", Q, ndim=2)
        if Q.shape[0] != Q.shape[1] or not len(Q):
            raise ValueError(f"Q has shape {tuple(Q.shape)}; give a square matrix, an axis in each column.")
        self.Q = check_constant("Q", Q).detach().cpu().double()
        off = (self.Q.T @ self.Q - torch.eye(len(Q), dtype=torch.float64)).abs().max().item()
        if not off <= ROUNDING:
            raise ValueError(
                f"the columns of Q are not orthonormal: QᵀQ differs from the identity by {off:.3g}; take them from "
                "torch.linalg.qr(Q).Q, or principal_axes of a covariance."
            )

    def __eq__(self, other: object) -> bool:
        return type(other) is Axes and torch.equal(vars(other)["Q"], self.Q)

    def __hash__(self) -> int:
        return hash((Axes, len(self.Q)))

    def _apply(self, x: Tensor, M: Tensor) -> Tensor:
        """Return ``Mᵀ x`` of each row, in the shape of `x`."""
        if x[0].numel() != len(self.Q):
            raise ValueError(f"x has shape {tuple(x.shape)}; these are axes of data of {len(self.Q)} numbers.")
        return apply_matrix(x.reshape(len(x), -1), M.to(x.device, x.dtype)).reshape(x.shape)

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x, self.Q)

    def inverse(self, c: Tensor) -> Tensor:
        return self._apply(c, self.Q.T)

    def variances(self, v: Tensor) -> Tensor:
        return self._apply(v, self.Q.square())


@check_arguments
def principal_axes(covariance: Tensor) -> Axes:
    """Return the principal axes of a covariance, such as ``moments_of(data).covariance``, by rising variance.

    Parameters
    ----------
    covariance
        ``(d, d)``, symmetric.

    Raises
    ------
    ValueError
        If `covariance` is not square, or not symmetric.
    """
    check_tensor("covariance", covariance, ndim=2)
    C = check_constant("covariance", covariance).detach().cpu().double()
    if C.shape[0] != C.shape[1] or not torch.allclose(C, C.T, rtol=1e-6, atol=1e-12):
        raise ValueError(f"covariance of shape {tuple(C.shape)} is not symmetric; give that of the data, (d, d).")
    return Axes(torch.linalg.eigh(C).eigenvectors)
