"""The best linear guess of one vector from another, and its errors in units of their spread: `LinearGuess`."""

from __future__ import annotations

__all__ = ["LinearGuess"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_tensor
from ..show import show_call

FAR = 5.0  # standardised data are clipped to this many standard deviations


class LinearGuess(OfTensors):
    """A linear guess ``m(x) = A f(x) + b`` of vectors `u` from data, and its standardised errors ``r = L⁻¹ (u − m(x))``.

    `f` standardises the data and clips them to five standard deviations, so that no datum sends the guess far away; `L` is the
    Cholesky root of the covariance of the errors. If `u` and the data are jointly Gaussian, `r` is standard normal whatever the
    data, and there is nothing left for a network to learn.

    Parameters
    ----------
    mean, std
        Mean and standard deviation of the data, ``(k,)``.
    A, b
        The coefficients of the guess, ``(d, k)`` and ``(d,)``.
    L
        The root, ``(d, d)``, lower triangular.

    Raises
    ------
    TypeError
        If an argument is not a tensor of floating-point numbers.
    ValueError
        If shapes do not belong together, numbers are not finite, or spreads not positive.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, mean: Tensor, std: Tensor, A: Tensor, b: Tensor, L: Tensor) -> None:
        k, d = (len(check_tensor(name, v, ndim=1)) for name, v in (("mean", mean), ("b", b)))
        check_tensor("std", std, shape=(k,)), check_tensor("A", A, shape=(d, k)), check_tensor("L", L, shape=(d, d))
        if not ((std > 0).all() and (L.diagonal() > 0).all()):
            raise ValueError("std or the diagonal of L holds numbers that are not positive; give spreads.")
        self.mean, self.std, self.A, self.b, self.L = (v.detach().double().cpu() for v in (mean, std, A, b, L))

    @classmethod
    def of(cls, u: Tensor, x: Tensor) -> tuple[LinearGuess, Tensor]:
        """Fit the guess to pairs by least squares, and return it with its leave-one-out residuals `r`, ``(N, d)``.

        The ridge is as weak as one pair of unit spread. Residuals of pairs that the guess was fitted to are too small, by a
        share that grows with the number of coefficients; residuals of pairs that were left out are as large as on new pairs.

        Parameters
        ----------
        u, x
            Vectors and data, ``(N, d)`` and ``(N, k)``.

        Raises
        ------
        ValueError
            If some coordinate of `u` is the same in all pairs, or follows from the others.
        """
        u, x = u.double().cpu(), x.double().cpu()
        mean, std = x.mean(0), x.std(0, correction=0)
        std = torch.where(std > 1e-12 * mean.abs(), std, 1.0)  # the other coordinates are constant
        # At first a guess without slope, for its features, to which the slope is then fitted.
        guess = cls(mean, std, torch.zeros(u.shape[1], x.shape[1]), u.mean(0), torch.eye(u.shape[1]))
        features = guess._features(x)
        rows = torch.cat([features, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        ridge = torch.eye(rows.shape[1], dtype=torch.float64)
        ridge[-1, -1] = 0.0
        root = torch.linalg.cholesky(rows.T @ rows + ridge)
        fitted = torch.cholesky_solve(rows.T @ u, root)
        leverage = torch.linalg.solve_triangular(root, rows.T, upper=False).square().sum(0)
        missed = (u - rows @ fitted) / (1 - leverage)[:, None]
        L, singular = torch.linalg.cholesky_ex(missed.T @ missed / len(missed))
        if singular:
            raise ValueError(
                "a coordinate of theta is the same in all pairs, or follows from the others and the data; leave it out, or add "
                "noise."
            )
        guess.A, guess.b, guess.L = fitted[:-1].T, fitted[-1], L
        return guess, torch.linalg.solve_triangular(L, missed.T, upper=False).T

    def miss(self, u: Tensor, x: Tensor) -> Tensor:
        """Return the errors ``r = L⁻¹ (u − m(x))`` of the guess of vectors ``(B, d)`` from data ``(B, k)``."""
        missed = u.double().cpu() - self._mean(x)
        return torch.linalg.solve_triangular(self.L, missed.T, upper=False).T.to(u)

    def restore(self, r: Tensor, x: Tensor) -> Tensor:
        """Return the vectors ``m(x) + L r`` for which the guess has the errors `r`: the inverse of `miss`."""
        return (self._mean(x) + r.double().cpu() @ self.L.T).to(r)

    @property
    def log_det(self) -> float:
        """The difference of the log-density of `u` from that of `r`, ``−log det L``."""
        return -self.L.diagonal().log().sum().item()

    def _features(self, x: Tensor) -> Tensor:
        """Return ``f(x)``, the standardised and clipped data."""
        return ((x.double().cpu() - self.mean) / self.std).clamp(-FAR, FAR)

    def _mean(self, x: Tensor) -> Tensor:
        """Return ``m(x)``, the guess itself."""
        return self._features(x) @ self.A.T + self.b
