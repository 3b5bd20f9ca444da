"""Linear maps of a state: a number (`Scale`) or a small matrix across the channels of a lifted state (`Matrix`).

Every coefficient of a linear process is one of these, so kernels, samplers and losses are written once for scalar
and matrix processes. Coefficients are float64 tensors on the CPU; they take the dtype and device of the state at the
moment they act on it, and nowhere else. Nothing here knows about time.
"""

from __future__ import annotations

__all__ = ["Matrix", "Operator", "Scale", "add_product", "as_operator", "rows"]

from abc import ABC, abstractmethod
from typing import Self, final

import torch
from torch import Tensor

from ..arguments import asked_as
from ..precision import apply_matrix, at_least_single
from ..show import show_call


@asked_as("an operator, such as laws.Scale(0.5)")
class Operator(ABC):
    """A linear map ``x -> A x`` of a state `x` of shape ``(B, *)``; one map, or one per row of the batch."""

    __repr__ = show_call

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return ``A x``, in the dtype and on the device of `x`."""

    @abstractmethod
    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        """Add ``A x`` to `y`, in the memory of `y`, and return it; for one number a single pass."""

    @abstractmethod
    def prepared(self, like: Tensor | None) -> Self:
        """Return the map with coefficients in the dtype, float32 at least, and on the device of a network's weight `like`."""

    @abstractmethod
    def __getitem__(self, i: int) -> Self:
        """Return the map of one row; the map itself where there is one for all."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """Return the map as a float64 matrix over the channels, ``(..., k, k)``; ``k = 1`` for a number."""

    @abstractmethod
    def __matmul__(self, other: Self) -> Self:
        """Compose two maps to ``A B``."""

    @abstractmethod
    def __add__(self, other: Self) -> Self:
        """Sum ``A + B``."""

    @abstractmethod
    def __sub__(self, other: Self) -> Self:
        """Return ``A − B``."""

    @abstractmethod
    def __mul__(self, number: Tensor | float) -> Self:
        """Multiply the map by a number, or by one number per row of the batch."""

    @property
    @abstractmethod
    def T(self) -> Self:
        """The transposed map."""

    @abstractmethod
    def gram(self) -> Self:
        """Return ``A Aᵀ``: the covariance that noise has after the map."""

    @abstractmethod
    def hypot(self, other: Self) -> Self:
        """Return a matrix square root of ``A Aᵀ + B Bᵀ`` for this map `A` and the `other` map `B`: positive numbers or
        lower-triangular matrices.
        """

    @abstractmethod
    def inv(self) -> Self:
        """Return the inverse map."""

    @abstractmethod
    def at_most(self, bound: float) -> Self:
        """Return the map with numbers above `bound` lowered to it; matrices as they are."""

    @abstractmethod
    def sqrt(self) -> Self:
        """Return the symmetric square root of a positive semi-definite map."""

    @abstractmethod
    def cholesky(self) -> Self:
        """Return the lower-triangular root ``L`` with ``L Lᵀ = A``."""

    @abstractmethod
    def log_abs_det(self) -> Tensor:
        """Return ``log |det A|`` over the channels: one value per datum coordinate and row of the batch."""

    @abstractmethod
    def complete(self, S: Self) -> tuple[Self, Self]:
        """Return ``(A, B)`` such that ``[[C, S], [A, B]]`` is orthogonal, for this map `C` and a map `S` with ``C Cᵀ + S
        Sᵀ = 1``.
        """

    @abstractmethod
    def regress(self, S: Self, A: Self, B: Self, P: Self) -> tuple[Self, Self, Self]:
        """Return the regression of ``v = A x + B z`` on ``y = C x + S z``, for this map `C`, a state `x` of covariance `P`
        and standard noise `z`.

        It consists of the symmetric map `W` that makes ``W y`` white, the covariance of `v` with ``W y``, by which this is the
        best linear estimate of `v`, and the symmetric root of the covariance of what is left.
        """

    @abstractmethod
    def one(self) -> Self:
        """Return the identity map of the same kind."""

    __rmul__ = __mul__


@final
class Scale(Operator):
    """Multiplication by a number `c` of shape ``()``, or one per row, ``(B,)``.

    >>> Scale(2.0)(torch.ones(3, 2)).sum().item()
    12.0
    """

    def __init__(self, c: Tensor | float) -> None:
        self.c = torch.as_tensor(c, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        # A 0-dimensional CPU tensor multiplies like a Python number: no copy to the device, no promotion of x.
        return x * (self.c if self.c.ndim == 0 else rows(self.c, x))

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        return add_product(y, rows(self.c, x) if self.c.ndim else self.c, x)

    def prepared(self, like: Tensor | None) -> Scale:
        return self if like is None else self._of(self.c.to(at_least_single(like.dtype)))

    @classmethod
    def _of(cls, c: Tensor) -> Scale:
        """Make the map of a number in any dtype."""
        scale = cls.__new__(cls)
        scale.c = c
        return scale

    def __getitem__(self, i: int) -> Scale:
        return self if self.c.ndim == 0 else self._of(self.c[i])

    def matrix(self) -> Tensor:
        return self.c[..., None, None]

    def __matmul__(self, other: Scale) -> Scale:
        return Scale(self.c * other.c)

    def __add__(self, other: Scale) -> Scale:
        return Scale(self.c + other.c)

    def __sub__(self, other: Scale) -> Scale:
        return Scale(self.c - other.c)

    def __mul__(self, number: Tensor | float) -> Scale:
        return Scale(self.c * number)

    __rmul__ = __mul__

    @property
    def T(self) -> Scale:
        return self

    def gram(self) -> Scale:
        return Scale(self.c.square())

    def hypot(self, other: Scale) -> Scale:
        return Scale(torch.hypot(self.c, other.c))

    def inv(self) -> Scale:
        return Scale(1.0 / self.c)

    def at_most(self, bound: float) -> Scale:
        return Scale(self.c.clamp_max(bound))

    def sqrt(self) -> Scale:
        return Scale(
            torch.where(self.c > -1e-12, self.c.clamp_min(0), self.c).sqrt()
        )  # rounding alone is that close to 0

    def cholesky(self) -> Scale:
        return self.sqrt()

    def log_abs_det(self) -> Tensor:
        return self.c.abs().log()

    def complete(self, S: Scale) -> tuple[Scale, Scale]:
        return Scale(-S.c), self

    def regress(self, S: Scale, A: Scale, B: Scale, P: Scale) -> tuple[Scale, Scale, Scale]:
        std = P.c.sqrt()
        size = torch.hypot(self.c * std, S.c)
        left = (self.c * B.c - S.c * A.c).abs() * std / size  # Lagrange's identity: no difference of close numbers
        return Scale(1.0 / size), Scale((A.c * P.c * self.c + B.c * S.c) / size), Scale(left)

    def one(self) -> Scale:
        return Scale(torch.ones_like(self.c))


@final
class Matrix(Operator):
    """A matrix ``(k, k)``, or ``(B, k, k)``, acting on dimension 1 of a state of shape ``(B, k, *)``.

    Parameters
    ----------
    M
        One matrix, or one for each row; kept in float64.

    Raises
    ------
    ValueError
        When it acts, if the state has not `k` channels, or not as many rows as there are matrices; when it is inverted
        (`inv`), if a matrix is singular.

    Examples
    --------
    >>> Matrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))(torch.tensor([[[1.0], [2.0]]])).flatten().tolist()
    [2.0, 1.0]
    """

    def __init__(self, M: Tensor) -> None:
        self.M = torch.as_tensor(M, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        k = self.M.shape[-1]
        if x.ndim < 2 or x.shape[1] != k:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, but this process moves states of shape (B, {k}, *); "
                "lift the data first with sde.lift(x)."
            )
        if self.M.ndim > 2:
            rows(self.M[:, 0, 0], x)  # refuses another number of rows
        M = self.M.to(x.device, x.dtype, non_blocking=True)
        return apply_matrix(M, x.reshape(len(x), k, -1)).reshape(x.shape)

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        return y.add_(self(x))

    def prepared(self, like: Tensor | None) -> Matrix:
        return self if like is None else self._of(self.M.to(like.device, at_least_single(like.dtype)))

    @classmethod
    def _of(cls, M: Tensor) -> Matrix:
        """Make the map of a matrix in any dtype."""
        matrix = cls.__new__(cls)
        matrix.M = M
        return matrix

    def __getitem__(self, i: int) -> Matrix:
        return self if self.M.ndim == 2 else self._of(self.M[i])

    def matrix(self) -> Tensor:
        return self.M

    def __matmul__(self, other: Matrix) -> Matrix:
        return Matrix(self.M @ other.M)

    def __add__(self, other: Matrix) -> Matrix:
        return Matrix(self.M + other.M)

    def __sub__(self, other: Matrix) -> Matrix:
        return Matrix(self.M - other.M)

    def __mul__(self, number: Tensor | float) -> Matrix:
        return Matrix(self.M * torch.as_tensor(number, dtype=torch.float64)[..., None, None])

    __rmul__ = __mul__

    @property
    def T(self) -> Matrix:
        return Matrix(self.M.mT)

    def gram(self) -> Matrix:
        return Matrix(self.M @ self.M.mT)

    def hypot(self, other: Matrix) -> Matrix:
        return (self.gram() + other.gram()).cholesky()

    def inv(self) -> Matrix:
        inverse, info = torch.linalg.inv_ex(self.M)
        if info.any():
            raise ValueError(
                "a matrix of coefficients has no inverse: the state has no noise in some direction. Ask at a later time, or give "
                "the process some there from the start (Sigma_0)."
            )
        return Matrix(inverse)

    def at_most(self, bound: float) -> Matrix:
        return self

    def sqrt(self) -> Matrix:
        values, vectors = torch.linalg.eigh(0.5 * (self.M + self.M.mT))
        return Matrix(vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.mT)  # rounding alone is below 0

    def cholesky(self) -> Matrix:
        return Matrix(torch.linalg.cholesky(self.M))

    def log_abs_det(self) -> Tensor:
        return torch.linalg.slogdet(self.M).logabsdet

    def complete(self, S: Matrix) -> tuple[Matrix, Matrix]:
        M = self.inv() @ S
        W = (M.one() + M.T @ M).sqrt().inv()
        return W @ M.T * -1.0, W

    def regress(self, S: Matrix, A: Matrix, B: Matrix, P: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        whiten = (self @ P @ self.T + S.gram()).sqrt().inv()
        explained = (A @ P @ self.T + B @ S.T) @ whiten
        return whiten, explained, (A @ P @ A.T + B.gram() - explained.gram()).sqrt()

    def one(self) -> Matrix:
        return Matrix(torch.eye(self.M.shape[-1], dtype=torch.float64).expand(self.M.shape))


def as_operator(G: Operator | Tensor | float) -> Operator:
    """Return the value of a process's `diffusion` method as an operator: numbers and ``(B,)`` tensors scale the noise."""
    return G if isinstance(G, Operator) else Scale(torch.as_tensor(G).detach().cpu())


def add_product(y: Tensor, c: Tensor, x: Tensor) -> Tensor:
    """Return ``y + c x`` in the memory of `y`, for a `c` that is a number on the CPU or broadcasts over `x` on its device."""
    # addcmul rounds a number to the dtype of x before it multiplies, which half precision cannot afford.
    return y.addcmul_(x, c) if c.ndim or x.dtype.itemsize > 2 else y.add_(x * c)


def rows(c: Tensor, x: Tensor) -> Tensor:
    """Return `c` of shape ``(B,)`` or ``()`` in the dtype and on the device of `x`, shaped to multiply `x` row by row.

    Raises
    ------
    ValueError
        If `c` has neither one value nor as many as `x` has rows.
    """
    if c.ndim and (c.ndim > 1 or x.ndim == 0 or len(c) not in (1, len(x))):
        raise ValueError(
            f"one coefficient per row was expected, shape () or ({len(x) if x.ndim else 1},), got {tuple(c.shape)} "
            f"for a state of shape {tuple(x.shape)}; pass t of shape () or (B,)."
        )
    c = c.to(x.device, x.dtype, non_blocking=True)  # the step goes on: no accelerator is waited for
    return c.reshape(-1, *[1] * (x.ndim - 1)) if c.ndim else c
