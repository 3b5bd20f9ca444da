"""Moments of linear SDEs from their coefficients, by quadrature and moment ODEs: ``(f, g) -> (alpha, sigma)`` and ``(F, G)
-> (Phi, Sigma, R)``.

All of it is float64, vectorised over times, and differentiable. Scalar processes integrate on `panels`, which know their own
error.
"""

from __future__ import annotations

__all__ = ["RootTable", "matrix_moments", "psd_cholesky", "scalar_moments", "van_loan"]

import math

import torch
from torch import Tensor

from .panels import OfTime, Panels


def scalar_moments(f: OfTime, g: OfTime, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``log alpha`` and the log-variance of ``x_t`` given ``x_s`` for ``dx = f x dt + g dw``, by quadrature on panels of
    each interval (`panels.Panels`).

    Parameters
    ----------
    f, g
        Drift and diffusion coefficients, elementwise functions of time.
    s, t
        Times ``(n,)``, ``s < t``, float64.
    """
    pairs = [Panels(f, g, first.item(), last.item(), number=16)(last) for first, last in zip(s, t, strict=True)]
    log_alpha, log_variance = (torch.stack(values) for values in zip(*pairs, strict=True))
    return log_alpha, log_variance


def van_loan(A: Tensor, Q: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``exp(A tau)`` and ``∫_0^tau exp(A u) Q exp(Aᵀ u) du``, by one matrix exponential.

    C. Van Loan, *Computing integrals involving the matrix exponential*, 1978.

    Parameters
    ----------
    A, Q
        ``(..., k, k)``.
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


def matrix_moments(F: OfTime, G: OfTime, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``Phi`` and ``Sigma`` of ``x_t | x_s`` for ``dx = F x dt + G dw``, by the moment ODEs.

    ``Phi' = F Phi`` and ``Sigma' = F Sigma + Sigma Fᵀ + G Gᵀ``, integrated for all pairs of times at once on a common
    clock ``u`` in [0, 1] (Dormand–Prince 8, relative tolerance 1e-11).
    """
    from torchdiffeq import odeint  # loads on use

    k = torch.as_tensor(F(t.reshape(-1)[0])).shape[-1]
    span = (t - s)[..., None, None]

    def rhs(u: Tensor, state: Tensor) -> Tensor:
        now = s + u * (t - s)
        F_, G_ = (torch.as_tensor(c(now), dtype=torch.float64).expand(*now.shape, k, k) for c in (F, G))
        Phi, Sigma = state[..., :k], state[..., k:]
        moved = F_ @ Sigma
        return span * torch.cat([F_ @ Phi, moved + moved.mT + G_ @ G_.mT], -1)

    eye = torch.eye(k, dtype=torch.float64).expand(*t.shape, k, k)
    start = torch.cat([eye, torch.zeros_like(eye)], -1)
    clock = torch.tensor([0.0, 1.0], dtype=torch.float64)
    # Without step_t the solver would step past the end and interpolate back, at a lower order.
    end = odeint(rhs, start, clock, rtol=1e-11, atol=1e-14, method="dopri8", options={"step_t": clock[1:]})[-1]
    return end[..., :k], end[..., k:]


class RootTable:
    """A table over time of the matrix root ``R`` of a covariance ``Sigma(t)`` that solves ``dR/dt = (F + ½ G Gᵀ Sigma⁻¹) R``.

    A deterministic sampler moves noise as ``R(s) R(t)⁻¹``; only this root makes that the probability flow (Q. Zhang,
    M. Tao, Y. Chen, *gDDIM: Generalized denoising diffusion implicit models*, 2022, arXiv:2206.05564). Write ``R = L Q``
    with `L` the Cholesky factor and ``R(T) = L(T)``. Then ``Q' = Omega Q`` with `Omega` antisymmetric, which is
    integrated from T towards 0 in ``log t`` by the fourth-order Magnus expansion, and interpolated by cubic Hermite
    polynomials. With ``Sigma(0)`` singular, Q turns without limit in ``log t``: below ``start * T`` it is held.

    Parameters
    ----------
    F, G, Sigma
        Functions of times ``(n,)`` that return ``(n, k, k)``.
    T
        The last time.
    nodes, start
        Number of nodes, and the first of them as a fraction of T.
    """

    def __init__(self, F: OfTime, G: OfTime, Sigma: OfTime, T: float, nodes: int = 8193, start: float = 1e-8):
        self.Sigma = Sigma
        self.log_t = torch.linspace(math.log(T * start), math.log(T), nodes, dtype=torch.float64)
        h = self.log_t[1] - self.log_t[0]

        def Omega(log_t: Tensor) -> Tensor:
            t = log_t.exp().clamp_max(T)
            S = Sigma(t)
            k = S.shape[-1]
            F_, G_ = (torch.as_tensor(c(t), dtype=torch.float64).expand(len(t), k, k) for c in (F, G))
            L = torch.linalg.cholesky(S)
            L_inv = torch.linalg.inv(L)
            noise = L_inv @ G_ @ (L_inv @ G_).mT  # L⁻¹ G Gᵀ L⁻ᵀ
            drift = L_inv @ F_ @ L
            rate = drift + drift.mT + noise  # L⁻¹ Sigma' L⁻ᵀ
            lower = rate.tril(-1) + 0.5 * torch.diag_embed(rate.diagonal(dim1=-2, dim2=-1))  # L⁻¹ L'
            Omega = drift + 0.5 * noise - lower
            return t[:, None, None] * 0.5 * (Omega - Omega.mT)  # antisymmetric but for rounding

        middle, offset = 0.5 * (self.log_t[1:] + self.log_t[:-1]), h * math.sqrt(3) / 6
        first, second = Omega(middle - offset), Omega(middle + offset)
        magnus = 0.5 * h * (first + second) + math.sqrt(3) / 12 * h.square() * (second @ first - first @ second)
        steps = torch.linalg.matrix_exp(-magnus)
        Q = [torch.eye(steps.shape[-1], dtype=torch.float64)]
        for step in steps.flip(0):
            Q.append(step @ Q[-1])
        self.Q = torch.stack(Q).flip(0)
        self.dQ = Omega(self.log_t) @ self.Q * h  # per interval

    def __call__(self, t: Tensor) -> Tensor:
        """Return ``R(t)``, of shape ``(*t.shape, k, k)``."""
        low, high = self.log_t[0], self.log_t[-1]
        place = (t.clamp_min(low.exp()).log().clamp(low, high) - low) / (high - low) * (len(self.log_t) - 1)
        i = place.detach().long().clamp_max(len(self.log_t) - 2)
        u = (place - i)[..., None, None]
        Q = (
            (2 * u**3 - 3 * u**2 + 1) * self.Q[i]
            + (u**3 - 2 * u**2 + u) * self.dQ[i]
            + (3 * u**2 - 2 * u**3) * self.Q[i + 1]
            + (u**3 - u**2) * self.dQ[i + 1]
        )
        Q = 0.5 * Q @ (3 * torch.eye(Q.shape[-1], dtype=Q.dtype) - Q.mT @ Q)  # back onto the orthogonal matrices
        return psd_cholesky(self.Sigma(t)) @ Q


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
