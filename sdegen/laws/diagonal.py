"""Linear maps of a state that multiply each of its coordinates along orthonormal axes by a number of its own: `Diagonal`."""

from __future__ import annotations

__all__ = ["Diagonal", "cosine_and_sine", "mean_log_snr"]

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from ..precision import at_least_single
from ..show import with_article
from .bases import Basis
from .operators import Elementwise, Scale, add_product
from .vectors import sum_rows


@final
class Diagonal(Elementwise):
    """Multiplication of every number of a state by a number of its own, ``Q diag(c) Qᵀ``: `c` of shape ``(1, *)`` for all rows,
    or ``(B, *)``.

    Maps in one basis `Q` commute, and their sums and products are those of their numbers. The numbers of a linear process are
    float64 on the CPU; those of a noise that depends on the state have its dtype and device, and derivatives by it.

    Parameters
    ----------
    c
        The numbers, one row at least.
    basis
        The orthonormal axes `Q`; by default those of the state's own numbers.

    Raises
    ------
    ValueError
        If `c` has no rows; when it acts, if the state has another shape; if it is composed with a map in another basis.

    Examples
    --------
    >>> Diagonal(torch.tensor([[1.0, 3.0]]))(torch.ones(2, 2)).tolist()
    [[1.0, 3.0], [1.0, 3.0]]
    """

    def __init__(self, c: Tensor, basis: Basis | None = None) -> None:
        if c.ndim == 0:
            raise ValueError("a diagonal needs its rows, (1, *) or (B, *); for one number take Scale.")
        self.c, self.basis = c if c.is_floating_point() else c.double(), basis

    def _of(self, c: Tensor) -> Diagonal:
        """Return the map with other numbers along the same axes, unchecked."""
        made = Diagonal.__new__(Diagonal)
        made.c, made.basis = c, self.basis
        return made

    def _numbers(self, other: Any) -> Tensor:
        """Return the numbers of another map along the same axes."""
        if other.__class__ is Scale:
            return self._over_rows(other.c)
        if other.__class__ is not Diagonal or not (other.basis is self.basis or other.basis == self.basis):
            raise ValueError(
                f"a map that is diagonal in {_name(self.basis)} was composed with {with_article(type(other).__name__)}"
                f"{f' in {_name(other.basis)}' if isinstance(other, Diagonal) else ''}; write both in one basis."
            )
        numbers: Tensor = other.c
        return numbers

    def _over_rows(self, number: Tensor) -> Tensor:
        """Return a number, or one for each row, shaped to multiply the numbers of a row."""
        number = number.to(self.c.device, self.c.dtype)
        return number.reshape(-1, *[1] * (self.c.ndim - 1)) if number.ndim else number

    @property
    def size(self) -> int:
        """How many numbers of a state the map acts on together."""
        return self.c.shape[1:].numel()

    @property
    def axes(self) -> Basis | None:
        return self.basis

    def along(self, axes: Any) -> Tensor | None:
        return self.c.flatten(1) if axes is self.basis or axes == self.basis else None

    def __call__(self, x: Tensor) -> Tensor:
        c = self._on(x)
        return x * c if self.basis is None else self.basis.inverse(c * self.basis(x))

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        return add_product(y, self._on(x), x) if self.basis is None else y.add_(self(x))

    def beside(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.addcmul(y, x, self._on(x)) if self.basis is None else y + self(x)

    def _on(self, x: Tensor) -> Tensor:
        """Return the numbers in the dtype and on the device of a state, of whose shape they are."""
        (rows, *shape), (states, *own) = self.c.shape, x.shape
        if shape != own or rows not in (1, states):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, where each number of states ({'B' if rows == 1 else rows}, "
                f"{', '.join(map(str, shape))}) has a coefficient of its own; give states of that shape."
            )
        return self.c.to(x.device, x.dtype, non_blocking=True)

    def prepared(self, like: Tensor | None) -> Diagonal:
        return self if like is None else self._of(self.c.to(like.device, at_least_single(like.dtype)))

    def __getitem__(self, i: Any) -> Diagonal:
        if len(self.c) == 1:
            return self
        return self._of(self.c[i : i + 1] if isinstance(i, int) else self.c[i])

    def each(self, n: int) -> list[Diagonal]:
        return [self] * n if len(self.c) == 1 else [self._of(c[None]) for c in self.c.unbind()]

    @classmethod
    def blocks(cls, maps: Sequence[Diagonal], n: int) -> Diagonal:
        return maps[0]._of(torch.cat([A.c for A in maps]).repeat_interleave(n, 0))

    def mix(self, weights: Tensor) -> Diagonal:
        c = self.c.expand(weights.numel(), *self.c.shape[1:]).unflatten(0, weights.shape)
        return self._of(torch.einsum("nm,nm...->n...", weights, c))

    def matrix(self) -> Tensor:
        c = self.c.flatten(1).double().cpu()
        if self.basis is None:
            return torch.diag_embed(c)
        d = c.shape[1]
        Q = self.basis(torch.eye(d, dtype=torch.float64).reshape(d, *self.c.shape[1:])).reshape(d, d)
        return (Q * c[:, None, :]) @ Q.T

    def is_finite(self) -> Tensor:
        return self.c.isfinite().flatten(1).all(1)

    def __matmul__(self, other: Any) -> Diagonal:
        return self._of(self.c * self._numbers(other))

    def __add__(self, other: Any) -> Diagonal:
        return self._of(self.c + self._numbers(other))

    def __sub__(self, other: Any) -> Diagonal:
        return self._of(self.c - self._numbers(other))

    def __mul__(self, number: Tensor | float) -> Diagonal:
        return self._of(self.c * (self._over_rows(number) if isinstance(number, Tensor) else number))

    __rmul__ = __mul__

    def log_abs_det(self) -> Tensor:
        return sum_rows(self.c.abs().log())

    def log_snr(self, S: Diagonal) -> Tensor:
        return mean_log_snr(2 * (self.c.abs().log() - S.c.log()).flatten(1))

    def angle(self, S: Diagonal) -> tuple[Tensor, Tensor]:
        return cosine_and_sine(self.log_snr(S))


def _name(basis: Basis | None) -> str:
    """Return the name of a basis in a message."""
    return "the state's own axes" if basis is None else repr(basis)


def cosine_and_sine(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine and the sine of the angle with ``log(cos² / sin²) = log_snr``, with all digits at both ends."""
    return (0.5 * logsigmoid(log_snr)).exp(), (0.5 * logsigmoid(-log_snr)).exp()


def mean_log_snr(levels: Tensor) -> Tensor:
    """Return the logarithm of the ratio ``snr`` whose ``log(1 + snr)`` is the mean of ``log(1 + snr_i)`` over the last axis.

    `levels` are the logarithms ``log snr_i``, so that the result is finite where the ratios themselves overflow.
    """
    # log(1 + s) is s to rounding where s is below e^-37, and log s where it is above e^37.
    small = levels < -37
    log_information = torch.where(small, levels, softplus(levels.clamp_min(-37)).log())
    log_mean = log_information.logsumexp(-1) - math.log(levels.shape[-1])
    information = log_mean.exp()
    middle = torch.expm1(information.clamp(1e-16, 37)).log()
    return torch.where(log_mean < -37, log_mean, torch.where(information > 37, information, middle))
