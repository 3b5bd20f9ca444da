"""Linear maps of a state by a small matrix: `Matrix`, and any map as a matrix over all numbers of a state."""

from __future__ import annotations

__all__ = ["Matrix", "check_channels", "full_matrix", "single_matrix"]

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from ..precision import apply_matrix, at_least_single
from .diagonal import cosine_and_sine, mean_log_snr
from .operators import Operator, rows


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
        When it acts, if the state does not have `k` channels, or as many rows as there are matrices; when it is inverted
        (`inv`), if a matrix is singular.

    Examples
    --------
    >>> Matrix(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))(torch.tensor([[[1.0], [2.0]]])).flatten().tolist()
    [2.0, 1.0]
    """

    def __init__(self, M: Tensor) -> None:
        self.M = torch.as_tensor(M, dtype=torch.float64)

    @property
    def size(self) -> int:
        """How many numbers of a state the map acts on together."""
        return self.M.shape[-1]

    def __call__(self, x: Tensor) -> Tensor:
        k = self.M.shape[-1]
        check_channels(x, k)
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

    def __getitem__(self, i: Any) -> Matrix:
        return self if self.M.ndim == 2 else self._of(self.M[i])

    def each(self, n: int) -> list[Matrix]:
        return [self] * n if self.M.ndim == 2 else [self._of(M) for M in self.M.unbind()]

    @classmethod
    def blocks(cls, maps: Sequence[Matrix], n: int) -> Matrix:
        return cls._of(torch.stack([A.M.reshape(A.M.shape[-2:]) for A in maps]).repeat_interleave(n, 0))

    def mix(self, weights: Tensor) -> Matrix:
        M = self.M.expand(weights.numel(), *self.M.shape[-2:]).unflatten(0, weights.shape)
        return self._of(torch.einsum("nm,nmij->nij", weights, M))

    @property
    def axes(self) -> None:
        return None

    def along(self, axes: Any) -> None:
        return None

    def is_finite(self) -> Tensor:
        return self.M.isfinite().flatten(-2).all(-1)

    def matrix(self) -> Tensor:
        return self.M

    def __matmul__(self, other: Matrix) -> Matrix:
        return self._of(apply_matrix(self.M, other.M))

    def __add__(self, other: Matrix) -> Matrix:
        return self._of(self.M + other.M)

    def __sub__(self, other: Matrix) -> Matrix:
        return self._of(self.M - other.M)

    def __mul__(self, number: Tensor | float) -> Matrix:
        return self._of(self.M * torch.as_tensor(number, dtype=self.M.dtype)[..., None, None])

    __rmul__ = __mul__

    @property
    def T(self) -> Matrix:
        return self._of(self.M.mT)

    def gram(self) -> Matrix:
        return self._of(apply_matrix(self.M, self.M.mT))

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

    def over(self, R: Matrix, least: float) -> Matrix:
        return (self @ R.inv()).T

    def sqrt(self) -> Matrix:
        values, vectors = torch.linalg.eigh(0.5 * (self.M + self.M.mT))
        roots = values.clamp_min(0).sqrt()  # rounding alone is below 0
        return Matrix(apply_matrix(vectors * roots[..., None, :], vectors.mT))

    def cholesky(self) -> Matrix:
        return Matrix(torch.linalg.cholesky(self.M))

    def log_abs_det(self) -> Tensor:
        return torch.linalg.slogdet(self.M).logabsdet

    def log_snr(self, S: Matrix) -> Tensor:
        c, s = torch.linalg.svdvals(self.M), torch.linalg.svdvals(S.M).flip(-1)  # cosines and sines of the same angles
        return mean_log_snr(2 * (c.log() - s.log()))

    def angle(self, S: Matrix) -> tuple[Tensor, Tensor]:
        return cosine_and_sine(self.log_snr(S))

    def complete(self, S: Matrix) -> tuple[Matrix, Matrix]:
        M = self.inv() @ S  # (−W Mᵀ, W) is orthogonal to (C, S) = C (1, M), and W makes its rows orthonormal
        W = (M.one() + M.T @ M).sqrt().inv()
        return W @ M.T * -1.0, W

    def regress(self, S: Matrix, A: Matrix, B: Matrix, P: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        whiten = (self @ P @ self.T + S.gram()).sqrt().inv()
        explained = (A @ P @ self.T + B @ S.T) @ whiten
        return whiten, explained, (A @ P @ A.T + B.gram() - explained.gram()).sqrt()

    def one(self) -> Matrix:
        return Matrix(torch.eye(self.M.shape[-1], dtype=torch.float64).expand(self.M.shape))


def check_channels(x: Tensor, k: int) -> None:
    """Refuse states that do not have `k` channels.

    Raises
    ------
    ValueError
        If the shape of `x` is not ``(B, k, *)``.
    """
    if x.ndim < 2 or x.shape[1] != k:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, but this process moves states of shape (B, {k}, *); "
            "lift the data first with sde.lift(x)."
        )


def full_matrix(A: Operator, d: int) -> Tensor:
    """Return a map as a matrix over all `d` numbers of a state, flattened: ``(..., d, d)``.

    Raises
    ------
    ValueError
        If `d` is no multiple of the numbers that the map acts on together.
    """
    if d % A.size:
        raise ValueError(
            f"the process moves states of {A.size} numbers, and there are {d} here; give data, or moments of data, of its shape."
        )
    M = A.matrix()
    one = torch.eye(d // A.size, dtype=M.dtype)
    return (M[..., :, None, :, None] * one[:, None, :]).reshape(*M.shape[:-2], d, d)


def single_matrix(A: Operator, d: int) -> Tensor:
    """Return a map of one time as a matrix over all `d` numbers of a state, ``(d, d)``; raise as `full_matrix`."""
    return full_matrix(A, d).reshape(d, d)
