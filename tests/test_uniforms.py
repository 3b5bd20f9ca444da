"""Draws by uniform numbers hold at the ends of those numbers: at 0, and at the last number below 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import nets
from sdegen.baselines import WGANGP, Bernoulli, CategoricalVAE, Continuous
from sdegen.processes import times

SEED = lambda: torch.Generator().manual_seed(0)
VP = sdegen.VP()
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
    "continuous Bernoulli": (lambda dtype: Continuous().draw(LOGITS.to(dtype), SEED()), 0, 1),
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
