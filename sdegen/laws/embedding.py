"""How data become states, by the linear map `E` of a process, and what noised states then tell of the data: `Embedding`.

Where states are the data themselves (`Whole`), all numbers of a state tell of the datum. Where each number of a datum becomes
several of a state (`IntoChannels`), one weighted sum of these tells all that the state knows of the number, an `Observation`;
where `m` numbers become `k` (`Lift`), `m` sums do.
"""

from __future__ import annotations

__all__ = ["Embedding", "IntoChannels", "Lift", "Observation", "Reduction", "Row", "WHOLE", "Whole", "Wide"]

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..precision import apply_matrix
from ..show import show_call
from .kernels import Transition
from .matrices import Matrix, check_channels, single_matrix
from .operators import Operator, Scale, rows


class Reduction(NamedTuple):
    """The reduction of states at given times to what they tell of their data, ``y = W x = C x_0 + S zeta`` with
    ``C Cᵀ + S Sᵀ = 1`` and standard noise `zeta`.

    The density of a state is that of `y` times a Gaussian that does not depend on the data, so that
    ``∇ log p(x) = Wᵀ ∇ log p(y) − rest x``.

    Attributes
    ----------
    W
        The map ``y = W x`` of states.
    C, S
        Maps of the data and of their noise; cosine and sine for numbers.
    rest
        The precision of that Gaussian; None where there is none.
    """

    W: Any
    C: Operator
    S: Operator
    rest: Matrix | None

    def __repr__(self) -> str:
        return show_call(self)

    def score(self, x: Tensor, of_y: Tensor) -> Tensor:
        """Return the score of the state `x` from `of_y`, the score of the statistic `y`."""
        score: Tensor = self.W.T(of_y)
        return score if self.rest is None else score - self.rest(x)

    def noise(self, x: Tensor, of_y: Tensor, R: Operator) -> Tensor:
        """Return the posterior mean of the noise that the root `R` scales, ``−Rᵀ`` times the score of the state `x`, from
        `of_y`, the score of the statistic `y`; ``−Sᵀ of_y`` where nothing is left.
        """
        return -self.S.T(of_y) if self.rest is None else -R.T(self.score(x, of_y))


class Observation(NamedTuple):
    """The sufficient statistic of a state for its datum, and how it was made.

    Attributes
    ----------
    y
        The sufficient statistic, of the shape of the data.
    by
        The reduction of the state.
    """

    y: Tensor
    by: Reduction

    def __repr__(self) -> str:
        return show_call(self)


class Embedding(ABC):
    """The base class of linear maps `E` that make states of data."""

    __repr__ = show_call

    @abstractmethod
    def reduce(self, law: Transition) -> Reduction:
        """Return how states ``x = Phi E x_0 + R z`` are reduced to their sufficient statistic for the datum."""

    @abstractmethod
    def matrix(self, d: int) -> Tensor:
        """Return `E` for data of `d` numbers, ``(n, d)``, with `n` the numbers of a state."""

    def shape(self, event: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a state of data of the shape `event`; here the same."""
        return tuple(event)

    def seen_through(self, law: Transition, d: int) -> tuple[Tensor, Tensor]:
        """Return the matrix ``Phi E``, ``(n, d)``, and the covariance ``R Rᵀ``, ``(n, n)``, of states of data of `d` numbers."""
        E = self.matrix(d)
        n = len(E)
        return single_matrix(law.Phi, n) @ E, single_matrix(law.covariance, n)

    def seen_along(self, law: Transition, axes: Any) -> tuple[Tensor, Tensor] | None:
        """Return the diagonals of ``Phi E`` and of the covariance along orthonormal axes, each ``(1, d)`` or ``(1, 1)``, where
        both are diagonal there; None otherwise.
        """
        return None


class Whole(Embedding):
    """The embedding of states that are the data: ``E = 1``, and with a root `r` of ``Phi Phiᵀ + R Rᵀ`` the statistic is
    ``y = r⁻¹ x``.
    """

    def reduce(self, law: Transition) -> Reduction:
        """Return the normalisation of states, which loses nothing."""
        return Reduction(law.r_inv, law.C, law.S, None)

    def matrix(self, d: int) -> Tensor:
        """Return the identity."""
        return torch.eye(d, dtype=torch.float64)

    def seen_along(self, law: Transition, axes: Any) -> tuple[Tensor, Tensor] | None:
        """Return the diagonals of ``Phi`` and of the covariance, where both are diagonal along the axes; None otherwise."""
        c, v = law.Phi.along(axes), law.covariance.along(axes)
        return None if c is None or v is None else (c, v)


WHOLE = Whole()


class IntoChannels(Embedding):
    """The embedding of each number of a datum into `k` channels of a state, by a vector `e`.

    Up to scale the sum ``eᵀ Phiᵀ Sigma⁻¹ x`` over its channels tells all that a state knows of the number.

    Parameters
    ----------
    e
        The state that a datum of 1 becomes, float64 ``(k,)``.
    """

    def __init__(self, e: Tensor) -> None:
        self.e = e

    def reduce(self, law: Transition) -> Reduction:
        """Return the reduction of a state to ``y = c x_0 + s zeta``, a number for each number of the datum.

        The formula is written with ``M = Phi e eᵀ Phiᵀ + Sigma``, which is regular where ``Sigma`` is not, but for directions at
        rest.
        """
        e = self.e
        p = law.Phi.matrix() @ e  # (..., k)
        M = p[..., :, None] * p[..., None, :] + law.covariance.matrix()
        resting = _at_rest(M)
        L = torch.linalg.cholesky(M + resting)
        L_inv = torch.linalg.solve_triangular(L, torch.eye(len(e), dtype=L.dtype), upper=False)
        a = (L_inv @ p[..., None])[..., 0]
        norm = a.norm(dim=-1, keepdim=True)
        unit = torch.where(norm > 0, a / norm, torch.eye(len(e), dtype=a.dtype)[0])  # alpha = 0: any direction
        g = (L_inv.mT @ unit[..., None])[..., 0]
        s = (law.R.matrix().mT @ g[..., None])[..., 0].norm(dim=-1)
        rest = L_inv.mT @ L_inv - g[..., :, None] * g[..., None, :] - resting
        return Reduction(Row(g), Scale((g * p).sum(-1)), Scale(s), Matrix(rest))

    def matrix(self, d: int) -> Tensor:
        """Return `E` for data of `d` numbers, ``(k d, d)``, one channel after the other."""
        return torch.kron(self.e[:, None].contiguous(), torch.eye(d, dtype=torch.float64))

    def shape(self, event: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of `k` channels of data."""
        return len(self.e), *event


class Lift(Embedding):
    """The embedding of `m` numbers of a datum into `k` numbers of a state by a matrix `E`, along dimension 1: `m` weighted sums
    of the state tell all that it knows of the datum.

    With ``E = 1`` states are the data, as for `Whole`; with one column they are the channels of `IntoChannels`, for data with one
    number along dimension 1.

    Parameters
    ----------
    E
        Float64 ``(k, m)``, of rank `m`.
    """

    def __init__(self, E: Tensor) -> None:
        self.E = E

    def reduce(self, law: Transition) -> Reduction:
        """Return the reduction of a state to ``y = C x_0 + S zeta``, as many numbers as the datum has.

        With ``P = Phi E``, ``L Lᵀ = P Pᵀ + Sigma`` and the orthonormal columns `Q` of ``L⁻¹ P = Q C``, it is ``y = Qᵀ L⁻¹ x``,
        and `S` is a root of the covariance of the noise in `y`. As for `IntoChannels`, the formula is regular where ``Sigma`` is
        not, but for directions at rest.
        """
        P = law.Phi.matrix() @ self.E
        M = P @ P.mT + law.covariance.matrix()
        resting = _at_rest(M)
        L = torch.linalg.cholesky(M + resting)
        L_inv = torch.linalg.solve_triangular(L, torch.eye(len(self.E), dtype=L.dtype), upper=False)
        Q, C = torch.linalg.qr(L_inv @ P)
        W = Q.mT @ L_inv
        S = torch.linalg.qr((W @ law.R.matrix()).mT, mode="r").R.mT
        return Reduction(Wide(W), Matrix(C), Matrix(S), Matrix(L_inv.mT @ L_inv - W.mT @ W - resting))

    def matrix(self, d: int) -> Tensor:
        """Return `E` for data of `d` numbers, ``(k d / m, d)``.

        Raises
        ------
        ValueError
            If `d` is no multiple of `m`.
        """
        m = self.E.shape[1]
        if d % m:
            raise ValueError(
                f"the process lifts {m} numbers, and there are {d} here; give data, or moments of data, of its shape."
            )
        return torch.kron(self.E.contiguous(), torch.eye(d // m, dtype=torch.float64))

    def shape(self, event: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a state, `k` numbers for the `m` along the first dimension of data."""
        return len(self.E), *event[1:]


def _at_rest(M: Tensor) -> Tensor:
    """Return the projection on the directions in which states have neither data nor noise, and so tell nothing, of matrices ``M``
    ``(..., k, k)`` of their second moments; 0 where there are none.
    """
    singular = torch.linalg.cholesky_ex(M).info > 0
    if not singular.any():
        return torch.zeros_like(M)
    values, vectors = torch.linalg.eigh(M)
    least = M.shape[-1] * torch.finfo(M.dtype).eps * values[..., -1:]
    still = (values <= least) & singular[..., None]
    return (vectors * still.to(M)[..., None, :]) @ vectors.mT


class Wide:
    """The map of a state ``(B, k, *)`` to numbers ``(B, m, *)`` by a matrix along dimension 1.

    Parameters
    ----------
    M
        Float64, ``(m, k)`` or ``(B, m, k)``.

    Raises
    ------
    ValueError
        When it acts, if the state does not have `k` channels, or there are matrices for another number of rows.
    """

    __repr__ = show_call

    def __init__(self, M: Tensor) -> None:
        self.M = M

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``M x``, ``(B, m, *)``."""
        check_channels(x, self.M.shape[-1])
        rows(self.M[..., 0, 0], x)  # refuses another number of rows
        M = self.M.to(x.device, x.dtype, non_blocking=True)
        return apply_matrix(M, x.flatten(2) if x.ndim > 2 else x[..., None]).reshape(len(x), -1, *x.shape[2:])

    def T(self, y: Tensor) -> Tensor:
        """Return the transposed map of numbers ``(B, m, *)``."""
        return Wide(self.M.mT)(y)


class Row:
    """The map of a state ``(B, k, *)`` to the weighted sum ``(B, *)`` of its channels.

    Parameters
    ----------
    g
        The weights, float64, ``(k,)`` or ``(B, k)``.

    Raises
    ------
    ValueError
        When it acts, if the state does not have `k` channels, or there are weights for another number of rows.
    """

    __repr__ = show_call

    def __init__(self, g: Tensor) -> None:
        self.g = g

    def __call__(self, x: Tensor) -> Tensor:
        """Return the weighted sum, ``(B, *)``."""
        check_channels(x, self.g.shape[-1])
        rows(self.g[..., 0], x)  # refuses another number of rows
        return (self._over(x) * x).sum(1)

    def T(self, y: Tensor) -> Tensor:
        """Return the transposed map of numbers ``(B, *)``: their products with the weight of each channel, ``(B, k, *)``."""
        y = y.unsqueeze(1)
        return self._over(y) * y

    def _over(self, x: Tensor) -> Tensor:
        """Return the weights in the dtype and on the device of a state, shaped to multiply it."""
        return self.g.to(x.device, x.dtype, non_blocking=True).reshape(*self.g.shape, *[1] * (x.ndim - 2))
