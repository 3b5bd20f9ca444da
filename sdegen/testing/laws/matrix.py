"""The laws of a matrix SDE: its root, and the channels that are not data."""

from __future__ import annotations

__all__ = ["COUPLED", "MATRIX", "completion_follows_Sigma_0", "root_solves_its_equation"]

import math

import torch

from ...processes.matrix import CoupledSDE, MatrixSDE
from ..report import EXACT, QUADRATURE, Law, close, derivative
from .probes import data, difference_steps, times


def root_solves_its_equation(sde: CoupledSDE) -> None:
    """``R Rᵀ = Sigma`` and ``R' = (F + ½ G Gᵀ Sigma⁻¹) R``: a Cholesky factor satisfies only the first."""
    t = times(sde)
    h = difference_steps(sde, t)
    law = sde.marginal(t)
    R, Sigma = law.R.matrix(), law.covariance.matrix()
    close("R Rᵀ", R @ R.mT, sde._covariance(t), 1e-8, Sigma.abs().amax((1, 2), keepdim=True))
    F, G = (c(t).matrix().expand(R.shape) for c in (sde.drift_operator, sde.diffusion_operator))
    want = (F + 0.5 * G @ G.mT @ torch.linalg.inv(Sigma)) @ R
    slope = derivative(lambda u: sde.marginal(u).R.matrix(), t, h)
    close("R'", slope, want, QUADRATURE, want.abs().amax((1, 2), keepdim=True))


def completion_follows_Sigma_0(sde: MatrixSDE) -> None:
    """`complete` keeps the data, draws the other channels from ``Sigma_0``, and returns their log-density."""
    k = len(sde.Sigma_0)
    x = data(k, 1)
    d = x[0].numel()
    u, log_density = sde.complete(x, torch.eye(k, dtype=torch.float64)[..., None].expand(k, k, d))
    close("project(complete(x, z))", sde.project(u), x, EXACT, 1 + x.abs())
    rest, want = (u - sde.lift(x))[1:, 1:, 0].T, sde.Sigma_0[1:, 1:]
    close("covariance of the completion", rest @ rest.T, want, 1e-8, want.abs().amax())
    normal = -0.5 * torch.linalg.slogdet(want).logabsdet - 0.5 * (k - 1) * math.log(2 * math.pi)
    normal = d * (normal - 0.5 * (torch.arange(k) > 0).double())
    normal = normal + sde.log_volume(x)  # by which the density of the data themselves is less
    close("log-density of the completion", log_density, normal, 1e-8, 1.0)


COUPLED: list[Law] = [root_solves_its_equation]
MATRIX: list[Law] = [completion_follows_Sigma_0]
