"""Matrices of linear SDEs: moments where the coefficients are constant, Cholesky factors of singular covariances, and the root
`R` along which deterministic samplers move noise.

All of it is float64, vectorised over times, and differentiable. Moments for other coefficients are in `panels` and
`matrix_panels`.
"""

from __future__ import annotations

__all__ = ["RootTable", "psd_cholesky", "van_loan"]

import math

import torch
from torch import Tensor

from ..laws.interpolation import lagrange
from .matrix_panels import MatrixPanels
from .panels import ALLOWED, OfTime, panel_rule

STEADY = 1e-11  # error of the turn of a root over one panel


def van_loan(A: Tensor, Q: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``exp(A tau)`` and ``∫_0^tau exp(A u) Q exp(Aᵀ u) du``, by one matrix exponential.

    C. Van Loan, *Computing integrals involving the matrix exponential*, 1978.

    Parameters
    ----------
    A, Q
        Matrices ``(..., k, k)``.
    tau
        Durations of shape ``(...)``.
    """
    k = A.shape[-1]
    zero = torch.zeros_like(A)
    block = torch.cat([torch.cat([-A, Q], -1), torch.cat([zero, A.mT], -1)], -2)
    E = torch.linalg.matrix_exp(block * tau[..., None, None])
    Phi = E[..., k:, k:].mT
    Sigma = Phi @ E[..., :k, k:]
    return Phi, 0.5 * (Sigma + Sigma.mT)


class RootTable:
    """A table over time of the matrix root ``R`` of a covariance ``Sigma(t)`` that solves ``dR/dt = (F + ½ G Gᵀ Sigma⁻¹) R``; or,
    with noise, of the matrix that solves ``dR/dt = (F + ½ (1 + eta²) G Gᵀ Sigma⁻¹) R``.

    A deterministic sampler moves noise as ``R(s) R(t)⁻¹``, which is the probability flow with this root only (Q. Zhang,
    M. Tao, Y. Chen, *gDDIM: Generalized denoising diffusion implicit models*, 2022, arXiv:2206.05564). Write ``R = L Q``
    with `L` the Cholesky factor and ``R(T) = L(T)``. Then ``Q' = Omega Q`` with `Omega` antisymmetric. `Q` is integrated from T
    towards 0 in ``log t`` on panels (`matrix_panels.MatrixPanels`), and interpolated by the polynomials of these. With
    ``Sigma(0)`` singular, `Q` turns without limit in ``log t``, and is held constant below ``start * T``. With noise, `Q` also
    grows.

    Parameters
    ----------
    F, G, Sigma
        Functions of times ``(n,)`` that return ``(n, k, k)``.
    T
        The last time.
    number, start
        Number of panels to begin with, and where the first begins as a fraction of T.
    eta
        How much noise the reversed process has whose deviations `R` moves.

    Raises
    ------
    ValueError
        If `Sigma` is singular at a time after 0; at a call, if the root has an estimated error above a millionth.
    """

    def __init__(
        self,
        F: OfTime,
        G: OfTime,
        Sigma: OfTime,
        T: float,
        number: int = 512,
        start: float = 1e-8,
        eta: float = 0.0,
    ) -> None:
        self.F, self.G, self.Sigma, self.T, self.eta = F, G, Sigma, T, eta
        low, high = math.log(T * start), math.log(T)
        panels = MatrixPanels(self._turn, None, low, high, number, STEADY)
        self.edges, self.error = panels.edges, panels.error
        Q = [torch.eye(panels.Phi.shape[-1], dtype=torch.float64)]
        back, between = (torch.linalg.inv(P) if eta else P.mT for P in (panels.Phi, panels.Psi))
        for step in back.flip(0):
            Q.append(step @ Q[-1])
        self.Q = between @ torch.stack(Q[:-1]).flip(0)[:, None]  # (panels, points, k, k)

    def _turn(self, log_t: Tensor) -> Tensor:
        """Return `Omega` at times ``(n,)``."""
        t = log_t.exp().clamp_max(self.T)
        S = self.Sigma(t)
        k = S.shape[-1]
        F, G = (torch.as_tensor(c(t), dtype=torch.float64).expand(len(t), k, k) for c in (self.F, self.G))
        L, singular = torch.linalg.cholesky_ex(S)
        if singular.any():
            raise ValueError(
                f"the covariance of the state given its datum is singular at t = {t[singular > 0][0].item():.6g}, where it has "
                "no root that the probability flow could follow; give every channel noise from the start, by G or by Sigma_0."
            )
        L_inv = torch.linalg.inv(L)
        noise = L_inv @ G @ (L_inv @ G).mT  # L⁻¹ G Gᵀ L⁻ᵀ
        drift = L_inv @ F @ L
        rate = drift + drift.mT + noise  # L⁻¹ Sigma' L⁻ᵀ
        lower = rate.tril(-1) + 0.5 * torch.diag_embed(rate.diagonal(dim1=-2, dim2=-1))  # L⁻¹ L'
        Omega = drift + 0.5 * noise - lower
        turn = 0.5 * (Omega - Omega.mT)  # antisymmetric but for rounding
        return t[:, None, None] * (turn + 0.5 * self.eta**2 * noise if self.eta else turn)

    def __call__(self, t: Tensor) -> Tensor:
        """Return ``R(t)``, of shape ``(*t.shape, k, k)``."""
        u = t.clamp_min(self.edges[0].exp()).log().clamp(self.edges[0], self.edges[-1]).reshape(-1)
        i = (torch.searchsorted(self.edges, u.detach().contiguous(), right=True) - 1).clamp(0, len(self.edges) - 2)
        self._check(u, i)
        place = (u - self.edges[i]) / (self.edges[i + 1] - self.edges[i])
        weights = lagrange(panel_rule(self.Q.shape[1]).nodes, place)
        Q = torch.einsum("pn,npab->nab", weights, self.Q[i])
        if not self.eta:
            Q = 0.5 * Q @ (3 * torch.eye(Q.shape[-1], dtype=Q.dtype) - Q.mT @ Q)  # back onto the orthogonal matrices
        return psd_cholesky(self.Sigma(t)) @ Q.reshape(*t.shape, *Q.shape[1:])

    def _check(self, u: Tensor, i: Tensor) -> None:
        """Refuse times, given as logarithms in the panels `i`, if the errors of the panels from there to T sum to too much."""
        error = self.error[-1] - self.error[i]
        if not (error <= ALLOWED).all():
            k = int(error.nan_to_num(nan=torch.inf).argmax())
            raise ValueError(
                f"the root of the covariance is not accurate enough: at t = {u[k].exp().item():.6g} it has an estimated error of "
                f"{error[k].item():.1g}, since F and G change too fast after it; smooth them there."
            )


def psd_cholesky(Sigma: Tensor) -> Tensor:
    """Return the lower Cholesky factor of positive *semi*-definite matrices ``(..., k, k)``: a zero pivot gives a zero
    column.
    """
    k = Sigma.shape[-1]
    columns: list[Tensor] = []
    rest = Sigma
    for j in range(k):
        pivot = rest[..., j, j].clamp_min(0)  # rounding alone is below 0
        safe = torch.where(pivot > 0, pivot, torch.ones_like(pivot))
        column = torch.where((pivot > 0)[..., None], rest[..., :, j] / safe.sqrt()[..., None], 0.0)
        column = torch.cat([torch.zeros_like(column[..., :j]), column[..., j:]], -1)
        columns.append(column)
        rest = rest - column[..., :, None] * column[..., None, :]
    return torch.stack(columns, -1)
