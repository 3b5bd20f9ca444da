"""Training on inputs with more noise than their times say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from labelled import DATA
from torch import Tensor, nn

import sdegen
from sdegen import losses, weightings
from sdegen.guidance import (
    EpsilonScaling,
)
from sdegen.models import ScoreModel
from sdegen.models.exact import Exact

name = lambda s: type(s).__name__


class At(weightings.TimeLaw):
    """One time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        return torch.full((n,), self.t, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


class Affine(ScoreModel):
    """Noise that is affine in the state: ``eps = M (x − m)`` over the flattened state, at one time."""

    def __init__(self, sde: Any, M: Tensor, m: Tensor) -> None:
        self.sde, self.M, self.m, self.moments = sde, M, m, DATA.moments()

    def noise(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return ((x.flatten(1) - self.m) @ self.M.T).reshape(x.shape)

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return self.sde.marginal(t).score_from_noise(self.noise(x, t))


def optimum(sde: Any, t: float, gamma: float) -> tuple[Tensor, Tensor]:
    """``Rᵀ (Phi P Phiᵀ + (1 + gamma²) R Rᵀ)⁻¹`` and ``Phi m``, over the flattened state."""
    at, moments = sde.marginal(t), DATA.moments()
    eye = torch.eye(2, dtype=torch.float64)
    lift = torch.kron(at.Phi.matrix() @ sde.embedding.matrix(1), eye)
    R = torch.kron(at.R.matrix(), eye)
    total = lift @ moments.covariance @ lift.T + (1 + gamma**2) * R @ R.T
    return R.T @ torch.linalg.inv(total), lift @ moments.mean


@pytest.mark.turns("CLD-*")
@pytest.mark.thinned(2)
@pytest.mark.parametrize("weighting", [weightings.InverseVarianceWeighting(), weightings.UniformWeighting()], ids=name)
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VE(), sdegen.CLD(sigma_0=0.1)], ids=name)
def test_the_minimiser_under_perturbed_inputs_is_the_gaussian_one(sde: Any, weighting: Any) -> None:
    gamma, t = 0.5, sde.time(1.0).item()
    loss = losses.InputPerturbation(gamma, weighting, At(t))

    def gradient(of: float, direction: Tensor) -> Tensor:
        """One row a datum: of the loss at the optimum for another gamma, in a direction of the linear map."""
        M, m = optimum(sde, t, of)
        n = 40_000
        x_0 = DATA.sample(n, torch.Generator().manual_seed(1))
        values = []
        for h in (1e-2, -1e-2):  # the loss is quadratic: its central difference is the derivative
            model = Affine(sde, M + h * direction, m)
            values.append(loss(model, x_0, generator=torch.Generator().manual_seed(2)))
        return (values[0] - values[1]) / 2e-2

    M = optimum(sde, t, gamma)[0]
    apart = optimum(sde, t, 0.0)[0] - M  # where the two optima differ the loss at the other one has a slope
    drawn = torch.randn(M.shape, dtype=M.dtype, generator=torch.Generator().manual_seed(9)) @ M
    for of, direction, vanishes in ((gamma, apart, True), (gamma, drawn, True), (0.0, apart, False)):
        slope = gradient(of, direction)
        assert (abs(slope.mean()) < 4 * slope.std() / len(slope) ** 0.5) == vanishes


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VE(), sdegen.CLD()], ids=name)
@pytest.mark.parametrize("antithetic", [False, True])
def test_without_extra_noise_it_is_denoising(sde: Any, antithetic: bool) -> None:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).double()
    models = [Exact(sde, DATA), inner, EpsilonScaling(Exact(sde, DATA), 1.2)]
    x_0 = DATA.sample(50)
    for model in models:
        got, want = (
            loss(model, x_0, generator=torch.Generator().manual_seed(3))
            for loss in (
                losses.InputPerturbation(0.0, antithetic=antithetic),
                losses.Denoising(pooled=False, antithetic=antithetic),
            )
        )
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_it_trains_a_network_and_takes_conditions() -> None:
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=2), sdegen.VP())
    data = (DATA.sample(100).float(), torch.arange(100) % 2)
    run = sdegen.fit(model, data, steps=20, batch_size=32, seed=0, loss=losses.InputPerturbation(0.1))
    assert run.steps == 20
    variance = losses.Hybrid(losses.InputPerturbation(0.1))
    assert isinstance(variance.denoising, losses.Denoising)


def test_it_trains_where_there_is_no_signal_and_on_nonlinear_processes() -> None:
    cosine = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.Cosine())
    assert losses.InputPerturbation(0.1, times=At(1.0))(cosine, DATA.sample(4).float()).isfinite().all()
    well = sdegen.DirectModel(sdegen.nets.MLP(1, width=16, depth=1), sdegen.DoubleWell())
    for p in well.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    pair = [
        loss(well, torch.randn(8, 1, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1))
        for loss in (losses.InputPerturbation(0.0), losses.Denoising(pooled=False))
    ]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf])
def test_gamma_is_checked(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma = .*(at least 0|finite)"):
        losses.InputPerturbation(gamma)
