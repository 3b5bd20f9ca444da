"""Covariances of the components of a mixture, and posteriors of Gaussians that are seen through linear maps: `Covariances`."""

from __future__ import annotations

__all__ = ["Covariances"]

from typing import Any

import torch
from torch import Tensor

from ..answers import versions
from ..precision import uncast
from .bases import Basis
from .diagonal import Diagonal
from .matrices import full_matrix
from .operators import Operator, rows

OWN = object()  # says that each covariance has axes of its own
Seen = tuple[Tensor, Tensor, Tensor]  # what `Covariances.see` returns


class Covariances:
    """Covariances of `K` components over `d` numbers, kept as ``U diag(lam) Uᵀ``.

    Maps that are diagonal along their axes `U` keep the coordinates along these independent: a posterior is then a division.

    Parameters
    ----------
    given
        Isotropic variances ``(K,)``, diagonals ``(K, *)``, or full matrices ``(K, d, d)``.
    shape
        The sizes ``(K, d)``.
    full
        Whether `given` holds full matrices.
    basis
        The orthonormal basis along whose axes diagonals lie; None for the numbers' own axes.

    Attributes
    ----------
    lam
        The variances along the axes, ``(K, d)`` or ``(K, 1)``.
    U
        The axes of each full matrix, ``(K, d, d)``; None where the axes are those of the basis.

    Raises
    ------
    ValueError
        If matrices are not symmetric, or given in a basis.
    """

    def __init__(self, given: Tensor, shape: torch.Size, full: bool, basis: Basis | None) -> None:
        self.given, self.shape, self.basis = given, shape, basis
        self.U: Tensor | None = None
        if not full:
            self.lam = given.reshape(len(given), -1)
            return
        if basis is not None:
            raise ValueError("covariances are full matrices, which are in no basis; give diagonals, or no basis.")
        if not torch.allclose(given, given.mT, rtol=1e-6, atol=1e-12):
            raise ValueError("covariances is not symmetric; symmetrise it: (C + C.mT) / 2.")
        self._decompose()

    def _decompose(self) -> None:
        """Find the axes of full matrices, and the variances along them."""
        with torch.inference_mode(False):  # kept for calls that are differentiated, too
            self.lam, self.U = torch.linalg.eigh(self.given)
        self._seen = versions(self.given)

    def renew(self) -> None:
        """Find axes and variances again, if full matrices have been changed in place."""
        now = versions(self.given) if self.U is not None else []  # none where changes are not counted
        if now and now != self._seen:
            self._decompose()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of. The tensors of a copy count their changes anew, so a copy finds the axes once more when
        it is first asked.
        """
        self.renew()
        return vars(self) | {"_seen": []}

    def matrices(self) -> Tensor:
        """Return the covariances as full matrices, ``(K, d, d)``."""
        if self.U is not None:
            return self.given
        if self.basis is None or self.given.ndim == 1:
            return torch.diag_embed(self.lam.expand(self.shape))
        return Diagonal(self.given, self.basis).matrix()

    def axes_of(self, A: Operator) -> Any:
        """Return the axes along which the covariances are diagonal; for isotropic ones, which are so along any, those of a
        map.
        """
        self.renew()
        if self.U is not None:
            return OWN
        return A.axes if self.lam.shape[1] == 1 else self.basis

    def colour(self, k: Tensor, z: Tensor) -> Tensor:
        """Return noise with the covariances of the components `k` ``(n,)``, from standard normal `z` ``(n, *)``."""
        self.renew()
        flat = z.reshape(len(z), -1) * self.lam[k].sqrt()
        if self.U is not None:
            return (self.U[k] @ flat[..., None])[..., 0]
        return flat if self.basis is None else self.basis.inverse(flat.reshape(z.shape)).reshape(flat.shape)

    def see(self, y: Tensor, means: Tensor, C: Operator, S: Operator) -> Seen:
        """Condition `x` of each component on ``y = C x + S z``, and return three tensors.

        With the mean `m` of a component and the covariance `V` of `y`: ``V⁻¹ (y − C m)``, and what seeing `y` adds to `m`, both
        ``(B, K, d)``; and ``(y − C m)ᵀ V⁻¹ (y − C m) + log |V|``, ``(B, K)``.

        Parameters
        ----------
        y
            ``(B, *)``.
        means
            The means `m`, ``(K, *)``.
        C, S
            Maps of the data and of the noise.
        """
        axes = self.axes_of(C)
        c, s = C.along(axes), S.along(axes)
        with uncast(y):
            if c is None or s is None:
                return self._see_by_matrices(y, means, C, S)
            rows(c[:, 0], y)  # refuses another number of rows
            return self._see_along(axes, y, means, c.to(y)[:, None], s.to(y)[:, None])

    def _see_along(self, axes: Any, y: Tensor, means: Tensor, c: Tensor, s: Tensor) -> Seen:
        """Return what `see` does, along axes in which all maps and covariances are diagonal, ``(rows, 1, d or 1)``."""
        B, (K, d), basis = len(y), self.shape, axes if isinstance(axes, Basis) else None
        m = means.to(y)
        if basis is not None:
            y, m = basis(y), basis(m)
        lam, U = self.lam.to(y), None if self.U is None else self.U.to(y)
        residual = y.reshape(B, 1, d) - c * m.reshape(K, d)
        if U is not None:
            residual = torch.einsum("kji,bkj->bki", U, residual)
        variance = c.square() * lam + s.square()  # (B or 1, K, d or 1)
        q = residual / variance
        log_det = variance.log().sum(-1) * (d // variance.shape[-1] if d else 1)
        quadratic, out = (residual * q).sum(-1) + log_det, (q, c * lam * q)
        if U is not None:
            precise, pulled = (torch.einsum("kij,bkj->bki", U, v) for v in out)
        elif basis is not None:
            precise, pulled = (basis.inverse(v.reshape(B * K, *y.shape[1:])).reshape(B, K, d) for v in out)
        else:
            precise, pulled = out
        return precise, pulled, quadratic

    def _see_by_matrices(self, y: Tensor, means: Tensor, C: Operator, S: Operator) -> Seen:
        """Return what `see` does where maps and covariances share no axes."""
        K, d = self.shape
        M = full_matrix(C, d).reshape(-1, 1, d, d)
        rows(M[:, 0, 0, 0], y)  # refuses another number of rows
        gain = self.matrices() @ M.mT  # (rows, K, d, d)
        L = torch.linalg.cholesky(M @ gain + full_matrix(S.gram(), d).reshape(-1, 1, d, d))
        residual = y.reshape(len(y), 1, d) - (M @ means.reshape(K, d, 1))[..., 0].to(y)
        white = torch.linalg.solve_triangular(L.to(y), residual[..., None], upper=False)
        precise = torch.linalg.solve_triangular(L.mT.to(y), white, upper=True)
        log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1).to(y)
        return precise[..., 0], (gain.to(y) @ precise)[..., 0], white.square().sum((-2, -1)) + log_det
