"""Draws by uniform numbers hold at the ends of those numbers: at 0, and at the last number below 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import data, nets, processes
from sdegen.baselines import WGANGP, Bernoulli, CategoricalVAE, Continuous
from sdegen.processes import Stationary, times

SEED = lambda: torch.Generator().manual_seed(0)
VP = sdegen.VP()
PI = math.pi
FEW = sdegen.Moments(torch.full((2,), 0.5, dtype=torch.float64), torch.full((2,), 0.01, dtype=torch.float64))
TIMES = {
    "uniform": times.UniformTimes(),
    "stratified": times.StratifiedTimes(),
    "log": times.LogTimes(),
    "discrete": times.DiscreteTimes(10),
    "log-normal": times.LogNormalTimes(),
    "importance": times.ImportanceTimes(),
    "angle": times.AngleTimes(),
    "shared": times.SharedTimes(),
}


def relaxed(categories: int, dtype: torch.dtype) -> Tensor:
    model = CategoricalVAE(nets.Perceptron(2, categories, 4, 1), nets.Perceptron(categories, 4, 4, 1), categories).to(
        dtype
    )
    loss = model.loss(torch.ones(3, 2, dtype=dtype), generator=SEED())
    loss.sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([loss.detach(), *(p.grad.flatten() for p in model.parameters() if p.grad is not None)])


def penalised(dtype: torch.dtype) -> Tensor:
    model = WGANGP(nets.Perceptron(2, 2, 4, 1), nets.Perceptron(2, 1, 4, 1), 2).to(dtype)
    return model.penalty(torch.ones(3, 2, dtype=dtype), torch.zeros(3, 2, dtype=dtype), SEED())


LOGITS = torch.tensor([-1e4, -30.0, -1.0, -1e-7, 0.0, 1e-7, 1.0, 30.0, 1e4])

# What is drawn, and where it must lie.
DRAWS: dict[str, tuple[Callable[[torch.dtype], Tensor], float, float]] = {
    "relaxed draws of one category": (lambda dtype: relaxed(1, dtype), -1e6, 1e6),
    "relaxed draws of five": (lambda dtype: relaxed(5, dtype), -1e6, 1e6),
    "gradient penalty": (penalised, 0, 1e6),
    "Bernoulli": (lambda dtype: Bernoulli().draw(LOGITS.to(dtype), SEED()), 0, 1),
    "Bernoulli, never 1": (lambda dtype: Bernoulli().draw(torch.full((3,), -1e4, dtype=dtype), SEED()), 0, 0),
    "Bernoulli, always 1": (lambda dtype: Bernoulli().draw(torch.full((3,), 1e4, dtype=dtype), SEED()), 1, 1),
    "continuous Bernoulli": (lambda dtype: Continuous().draw(LOGITS.to(dtype), SEED()), 0, 1),
    "a random mixture": (lambda dtype: data.random_mixture(3, 4, 0).weights, 0, 1),
    "a double well": (lambda dtype: Stationary(1.0, 1.0, (2,)).sample(3, SEED()), -6, 6),
    "a steep double well": (lambda dtype: Stationary(400.0, 0.1, (2,)).sample(3, SEED()), -1.1, 1.1),
    "a shallow double well": (lambda dtype: Stationary(1e-3, 3.0, (2,)).sample(3, SEED()), -40, 40),
    "prior on a circle": (lambda dtype: processes.CircularBrownianMotion().prior(FEW).sample(3, SEED()), -PI, PI),
    "prior of a box": (lambda dtype: processes.ReflectedBrownianMotion(-2, 3).prior(FEW).sample(3, SEED()), -2, 3),
    **{
        f"{name} times": (lambda dtype, law=law: law.draw(VP, 8, SEED())[0], VP.t_min, VP.T)  # type: ignore[misc]
        for name, law in TIMES.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low", [True, False], ids=["0", "the last below 1"])
@pytest.mark.parametrize("name", DRAWS)
def test_the_ends_of_uniform_numbers_are_drawn_from(
    name: str, low: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, least, most = DRAWS[name]

    def rand(*args: Any, **keywords: Any) -> Tensor:
        u = plain(*args, **keywords)
        return torch.full_like(u, 0.0 if low else 1 - torch.finfo(u.dtype).eps / 2)

    plain = torch.rand
    monkeypatch.setattr(torch, "rand", rand)
    found = make(dtype)
    assert found.isfinite().all() and (found >= least).all() and (found <= most).all(), found


ENDS = {torch.float64: (-9.5, -8.3, 0.0, 8.209536151601386, 8.3, 9.5), torch.float32: (-6.0, -5.3, 0.0, 5.3, 6.0)}
KNOWN = {
    "geometric": (processes.GeometricBrownianMotion(), 0.7),
    "CIR": (processes.CIR(), 0.7),
    "squared Bessel": (processes.SquaredBessel(), 0.7),
    "Jacobi": (processes.Jacobi(), 0.7),
    "circle": (processes.CircularBrownianMotion(), 0.7),
    "box": (processes.ReflectedBrownianMotion(), 0.7),
}


@pytest.mark.parametrize("dtype", ENDS)
@pytest.mark.parametrize("name", KNOWN)
def test_known_laws_draw_within_the_domain_at_the_ends_of_normal_numbers(name: str, dtype: torch.dtype) -> None:
    sde, start = KNOWN[name]
    z = torch.tensor(ENDS[dtype], dtype=dtype)[:, None]
    for t in (0.05, 0.3, 1.0):
        x = sde.kernel(torch.full_like(z, start), 0.0, t * sde.T).sample(z)
        assert x.dtype == dtype and x.isfinite().all() and sde.domain.check(x).all(), (t, x)
