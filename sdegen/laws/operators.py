"""Linear maps of a state: a number (`Scale`), one number for each of its own (`Diagonal`), or a small matrix across the channels
of a lifted state (`matrices.Matrix`).

Every coefficient of a linear process is one of these, so kernels, samplers and losses are written once for scalar
and matrix processes. Coefficients are float64 tensors on the CPU; they take the dtype and device of the state at the
moment they act on it, and nowhere else. Nothing here knows about time.
"""

from __future__ import annotations

__all__ = ["Diagonal", "Elementwise", "Operator", "Scale", "add_product", "rows"]

from abc import ABC, abstractmethod
from typing import Self, final

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

    @property
    @abstractmethod
    def size(self) -> int:
        """How many numbers of a state the map acts on together: the sides of `matrix`."""

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


class Elementwise(Operator):
    """The base class of maps that multiply every number of a state by one of their own, whose algebra is that of these numbers.

    Attributes
    ----------
    c
        The numbers.
    """

    c: Tensor

    @classmethod
    def _of(cls, c: Tensor) -> Self:
        """Make the map of numbers in any dtype."""
        made = cls.__new__(cls)
        made.c = c
        return made

    def __matmul__(self, other: Self) -> Self:
        made = self.__new__(type(self))  # without another call: a step of training composes five times
        made.c = self.c * other.c
        return made

    def __add__(self, other: Self) -> Self:
        return self._of(self.c + other.c)

    def __sub__(self, other: Self) -> Self:
        return self._of(self.c - other.c)

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

    def sqrt(self) -> Self:
        return self._of(
            torch.where(self.c > -1e-12, self.c.clamp_min(0), self.c).sqrt()
        )  # rounding alone is that close to 0

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

    def __init__(self, c: Tensor | float) -> None:
        self.c = torch.as_tensor(c, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        # A 0-dimensional CPU tensor multiplies like a Python number: no copy to the device, no promotion of x.
        return x * (self.c if self.c.ndim == 0 else rows(self.c, x))

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        return add_product(y, rows(self.c, x) if self.c.ndim else self.c, x)

    def prepared(self, like: Tensor | None) -> Scale:
        return self if like is None else self._of(self.c.to(at_least_single(like.dtype)))

    def __getitem__(self, i: int) -> Scale:
        return self if self.c.ndim == 0 else self._of(self.c[i])

    def matrix(self) -> Tensor:
        return self.c[..., None, None]

    def __mul__(self, number: Tensor | float) -> Scale:
        return Scale(self.c * number)

    __rmul__ = __mul__

    def log_abs_det(self) -> Tensor:
        return self.c.abs().log()


@final
class Diagonal(Elementwise):
    """Multiplication of every number of a state by one of its own: `c` of shape ``(1, *)`` for all rows, or ``(B, *)``.

    The numbers of a linear process are float64 on the CPU; those of a noise that depends on the state are like the state, and
    what they are differentiated by.

    Parameters
    ----------
    c
        The numbers, one row at least.

    Raises
    ------
    ValueError
        If `c` has no rows; when it acts, if the state has another shape.

    Examples
    --------
    >>> Diagonal(torch.tensor([[1.0, 3.0]]))(torch.ones(2, 2)).tolist()
    [[1.0, 3.0], [1.0, 3.0]]
    """

    def __init__(self, c: Tensor) -> None:
        if c.ndim == 0:
            raise ValueError("a diagonal needs its rows, (1, *) or (B, *); for one number take Scale.")
        self.c = c if c.is_floating_point() else c.double()

    @property
    def size(self) -> int:
        """How many numbers of a state the map acts on together."""
        return self.c[0].numel()

    def __call__(self, x: Tensor) -> Tensor:
        return x * self._on(x)

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        return add_product(y, self._on(x), x)

    def _on(self, x: Tensor) -> Tensor:
        """Return the numbers in the dtype and on the device of a state, of whose shape they are."""
        if self.c.shape[1:] != x.shape[1:] or len(self.c) not in (1, len(x)):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, where each number of states ({'B' if len(self.c) == 1 else len(self.c)}, "
                f"{', '.join(map(str, self.c.shape[1:]))}) has a coefficient of its own; give states of that shape."
            )
        return self.c.to(x.device, x.dtype, non_blocking=True)

    def prepared(self, like: Tensor | None) -> Diagonal:
        return self if like is None else self._of(self.c.to(like.device, at_least_single(like.dtype)))

    def __getitem__(self, i: int) -> Diagonal:
        if len(self.c) == 1:
            return self
        return self._of(self.c[i : i + 1] if isinstance(i, int) else self.c[i])

    def matrix(self) -> Tensor:
        return torch.diag_embed(self.c.flatten(1).double().cpu())

    def __mul__(self, number: Tensor | float) -> Diagonal:
        if isinstance(number, Tensor) and number.ndim:
            number = number.to(self.c.device, self.c.dtype).reshape(-1, *[1] * (self.c.ndim - 1))
        return self._of(self.c * number)

    __rmul__ = __mul__

    def log_abs_det(self) -> Tensor:
        return self.c.abs().log().flatten(1).sum(1)


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
