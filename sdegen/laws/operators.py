"""Linear maps of a state: their interface, and multiplication by a number (`Scale`). Others multiply each number of a state, in
its own axes or in those of an orthonormal basis (`diagonal.Diagonal`), or are a small matrix (`matrices.Matrix`).

Every coefficient of a linear process is one of these, so kernels, samplers and losses are written once for all of them.
Coefficients are float64 tensors on the CPU; they take the dtype and device of the state at the moment they act on it, and
nowhere else. Nothing here knows about time.
"""

from __future__ import annotations

__all__ = ["Elementwise", "Operator", "Scale", "add_product", "as_operator", "rows"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self, final

import torch
from torch import Tensor

from ..arguments import asked_as
from ..precision import at_least_single
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
        """Add ``A x`` to `y`, in the memory of `y`, and return `y`; for one number in a single pass."""

    def beside(self, y: Tensor, x: Tensor) -> Tensor:
        """Return ``y + A x``, a new tensor; for numbers in a single pass."""
        return y + self(x)

    @abstractmethod
    def prepared(self, like: Tensor | None) -> Self:
        """Return the map with coefficients in the dtype, float32 at least, and on the device of a network's weight `like`."""

    @abstractmethod
    def __getitem__(self, i: Any) -> Self:
        """Return the map of one row, or of some; the map itself where there is one for all."""

    def each(self, n: int) -> list[Self]:
        """Return the maps of `n` rows, one after another; `n` times the same map where it has no rows."""
        return [self[i] for i in range(n)]

    @classmethod
    @abstractmethod
    def blocks(cls, maps: Sequence[Self], n: int) -> Self:
        """Return the map that acts on blocks of `n` rows, the first of `maps` on the first block."""

    @abstractmethod
    def mix(self, weights: Tensor) -> Self:
        """Return the sums ``Σ_j weights[i, j] A_{i m + j}`` of the maps of `n` blocks of `m` rows, for weights ``(n, m)``."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """Return the map as a float64 matrix over the numbers it acts on together, ``(..., k, k)``; ``k = 1`` for a number."""

    @property
    @abstractmethod
    def axes(self) -> Any:
        """The orthonormal axes along which the map multiplies by numbers: a basis, or None for those of the state."""

    @abstractmethod
    def along(self, axes: Any) -> Tensor | None:
        """Return the numbers, ``(rows, d)`` or ``(rows, 1)``, by which the map multiplies coordinates along orthonormal axes, the
        states' own for None; None where the map is not diagonal along them.
        """

    @abstractmethod
    def is_finite(self) -> Tensor:
        """Tell whether all coefficients are finite, for each row: ``()`` or ``(B,)``."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many numbers of a state the map acts on together: the sides of `matrix`."""

    @abstractmethod
    def __matmul__(self, other: Any) -> Any:
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
    def over(self, R: Self, least: float) -> Self:
        """Return ``R⁻ᵀ Aᵀ`` for this map `A`, whose numbers below `least` are raised to it; matrices as they are."""

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
    def log_snr(self, S: Self) -> Tensor:
        """Return the logarithm of the signal-to-noise ratio of ``C x + S z``, for this map `C` and a map `S` with
        ``C Cᵀ + S Sᵀ = 1``: ``()`` or ``(B,)``.

        It is the ratio of a single noisy number that would tell as much of a datum of unit variance as ``C x + S z`` tells of
        each number of `x`: ``log(1 + snr)`` is the mean of ``log(1 + s²)`` over the singular values `s` of ``S⁻¹ C``.
        """

    @abstractmethod
    def angle(self, S: Self) -> tuple[Tensor, Tensor]:
        """Return the cosine and the sine of the angle ``atan(1 / √snr)`` with the ratio of `log_snr`, of the same maps."""

    @abstractmethod
    def complete(self, S: Self) -> tuple[Self, Self]:
        """Return ``(A, B)`` such that ``[[C, S], [A, B]]`` is orthogonal, for this map `C` and a map `S` with ``C Cᵀ + S
        Sᵀ = 1``.
        """

    @abstractmethod
    def regress(self, S: Self, A: Self, B: Self, P: Self) -> tuple[Self, Self, Self]:
        """Return the regression of ``v = A x + B z`` on ``y = C x + S z``, for this map `C`, a state `x` of covariance `P`
        and standard noise `z`.

        It consists of three maps: the symmetric map `W` that makes ``W y`` white; the covariance of `v` with ``W y``, which times
        ``W y`` is the best linear estimate of `v`; and the symmetric root of the covariance of what is left of `v`.
        """

    @abstractmethod
    def one(self) -> Self:
        """Return the identity map of the same kind."""

    __rmul__ = __mul__


class Elementwise(Operator):
    """The base class of maps that multiply every number of a state by a number of its own; their algebra is that of these
    numbers.

    Attributes
    ----------
    c
        The numbers.
    """

    c: Tensor

    @abstractmethod
    def _of(self, c: Tensor) -> Self:
        """Make a map of the same kind with other numbers, in any dtype."""

    @property
    def T(self) -> Self:
        return self

    def gram(self) -> Self:
        return self._of(self.c.square())

    def hypot(self, other: Self) -> Self:
        return self._of(torch.hypot(self.c, other.c))

    def inv(self) -> Self:
        return self._of(1.0 / self.c)

    def at_most(self, bound: float) -> Self:
        return self._of(self.c.clamp_max(bound))

    def over(self, R: Self, least: float) -> Self:
        return self._of(self.c.clamp_min(least) / R.c)

    def sqrt(self) -> Self:
        # Rounding alone is that close to 0.
        return self._of(torch.where(self.c > -1e-12, self.c.clamp_min(0), self.c).sqrt())

    def cholesky(self) -> Self:
        return self.sqrt()

    def complete(self, S: Self) -> tuple[Self, Self]:
        return self._of(-S.c), self

    def regress(self, S: Self, A: Self, B: Self, P: Self) -> tuple[Self, Self, Self]:
        std = P.c.sqrt()
        size = torch.hypot(self.c * std, S.c)
        left = (self.c * B.c - S.c * A.c).abs() * std / size  # Lagrange's identity: no difference of close numbers
        explained = (A.c * P.c * self.c + B.c * S.c) / size
        return self._of(1.0 / size), self._of(explained), self._of(left)

    def one(self) -> Self:
        return self._of(torch.ones_like(self.c))


@final
class Scale(Elementwise):
    """Multiplication by a number `c` of shape ``()``, or one per row, ``(B,)``.

    >>> Scale(2.0)(torch.ones(3, 2)).sum().item()
    12.0
    """

    size = 1
    axes = None

    def __init__(self, c: Tensor | float) -> None:
        self.c = torch.as_tensor(c, dtype=torch.float64)

    def _of(self, c: Tensor) -> Scale:
        made = Scale.__new__(Scale)
        made.c = c
        return made

    def __matmul__(self, other: Any) -> Any:
        if other.__class__ is not Scale:
            return other @ self  # a number commutes
        made = Scale.__new__(Scale)  # without another call: a step of training composes five times, and multiplies
        made.c = self.c * other.c
        return made

    def __add__(self, other: Any) -> Any:
        return self._of(self.c + other.c) if other.__class__ is Scale else other + self

    def __sub__(self, other: Any) -> Any:
        return self._of(self.c - other.c) if other.__class__ is Scale else other * -1.0 + self

    def __call__(self, x: Tensor) -> Tensor:
        # A 0-dimensional CPU tensor multiplies like a Python number: no copy to the device, no promotion of x.
        return x * (self.c if self.c.ndim == 0 else rows(self.c, x))

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        return add_product(y, rows(self.c, x) if self.c.ndim else self.c, x)

    def beside(self, y: Tensor, x: Tensor) -> Tensor:
        if self.c.ndim:
            return torch.addcmul(y, x, rows(self.c, x))
        return torch.addcmul(y, x, self.c) if x.dtype.itemsize > 2 else y + x * self.c  # as in `add_product`

    def prepared(self, like: Tensor | None) -> Scale:
        return self if like is None else self._of(self.c.to(at_least_single(like.dtype)))

    def __getitem__(self, i: Any) -> Scale:
        return self if self.c.ndim == 0 else self._of(self.c[i])

    def each(self, n: int) -> list[Scale]:
        return [self._of(c) for c in self.c.unbind()] if self.c.ndim else [self] * n

    @classmethod
    def blocks(cls, maps: Sequence[Scale], n: int) -> Scale:
        return maps[0]._of(torch.stack([A.c.reshape(()) for A in maps]).repeat_interleave(n))

    def mix(self, weights: Tensor) -> Scale:
        return self._of((weights * self.c.expand(weights.numel()).reshape(weights.shape)).sum(1))

    def matrix(self) -> Tensor:
        return self.c[..., None, None]

    def along(self, axes: Any) -> Tensor:
        return self.c.reshape(-1, 1)

    def is_finite(self) -> Tensor:
        return self.c.isfinite()

    def __mul__(self, number: Tensor | float) -> Scale:
        made = Scale.__new__(Scale)
        made.c = self.c * number
        return made

    __rmul__ = __mul__

    def log_abs_det(self) -> Tensor:
        return self.c.abs().log()

    def log_snr(self, S: Scale) -> Tensor:
        return 2 * (self.c.abs().log() - S.c.log())

    def angle(self, S: Scale) -> tuple[Tensor, Tensor]:
        return self.c, S.c


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


def as_operator(A: Operator | Tensor | float) -> Operator:
    """Return an operator as it is, and a number, or one for each row, as a `Scale`."""
    return A if isinstance(A, Operator) else Scale(A)
