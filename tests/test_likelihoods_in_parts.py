"""Likelihoods with `batch=`: rows go in parts, and each has the times, noise and probes that it has in the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sdegen
from sdegen import baselines, nets, samplers
from sdegen.laws.derivatives import Hutchinson, HutchPlusPlus

RING = sdegen.data.gaussian_ring()


class Labelled(nn.Module):
    """A network with a condition that has a row for each datum, and a watch on how many rows come at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.most = nn.Parameter(torch.tensor([0.5, 0.3], dtype=torch.float64)), 0

    def forward(self, x: Tensor, level: Tensor, shift: Tensor | float = 0.0) -> Tensor:
        self.most = max(self.most, len(x))
        extra = shift.reshape(-1, *[1] * (x.ndim - 1)) if isinstance(shift, Tensor) else shift
        mixed = x + 0.5 * x.roll(1, -1)  # of coordinates, or no sign of a probe would matter
        return (self.w[0] * mixed + extra).tanh() * self.w[1]


def model_on(sde: Any) -> sdegen.Model:
    model = sdegen.Model(Labelled(), sde).double()
    model.moments = RING.moments()
    return model


PROCESSES = [sdegen.VP(), sdegen.Rectified(), sdegen.CLD()]
LOOSE = {"tolerance": 1e-2}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


# Name: what it does, and how much the result may differ: rounding, or what the steps of an integrator make of another part.
DOORS: dict[str, tuple[Callable[..., Any], float]] = {
    "log_prob": (lambda m, x, **h: sdegen.estimate_log_prob(m, x, draws=1, generator=seeded(), **LOOSE, **h), 0.1),
    "Hutchinson": (
        lambda m, x, **h: sdegen.estimate_log_prob(
            m, x, draws=2, divergence=Hutchinson(3), generator=seeded(), method="heun2", steps=4, **h
        ),
        1e-9),
    "Hutch++": (
        lambda m, x, **h: sdegen.estimate_log_prob(
            m, x, draws=2, divergence=HutchPlusPlus(1), generator=seeded(), method="heun2", steps=4, **h
        ),
        1e-9),
    "elbo": (lambda m, x, **h: sdegen.elbo(m, x, draws=3, generator=seeded(), **h), 1e-9),
    "discrete_elbo": (lambda m, x, **h: sdegen.discrete_elbo(m, x, 3, draws=2, generator=seeded(), **h), 1e-9),
    "encode": (lambda m, x, **h: samplers.encode(m, x, steps=3, seed=0, **h), 1e-9),
    "encode_with_error": (lambda m, x, **h: samplers.encode_with_error(m, x, steps=3, seed=0, **h), 1e-9),
}  # fmt: skip


def numbers(found: Any) -> list[Tensor]:
    return [v for v in found if isinstance(v, Tensor)] if isinstance(found, tuple) else [found]


@settings(max_examples=3, deadline=None, derandomize=True)
@given(n=st.integers(4, 6), batch=st.integers(1, 3), rows=st.booleans())
@pytest.mark.parametrize("sde", PROCESSES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.turns("*-CLD", "*-Rectified", "log_prob-VP")
def test_parts_are_the_whole(door: str, sde: Any, n: int, batch: int, rows: bool) -> None:
    call, allowed = DOORS[door]
    model, x = model_on(sde), RING.sample(n, torch.Generator().manual_seed(1))
    cond = {"shift": torch.linspace(-1, 1, n, dtype=torch.float64)} if rows else {"shift": 0.4}
    whole = numbers(call(model, x, **cond))
    model.net.most = 0
    parts = numbers(call(model, x, batch=batch, **cond))
    assert model.net.most <= batch
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=allowed, atol=allowed, equal_nan=True)


@pytest.mark.parametrize("hardest", range(4))
@pytest.mark.turns("1", "2", "0")
def test_evaluations_are_those_of_the_part_that_took_most(hardest: int) -> None:
    """Wherever it comes: a point that the flow carries off the ring takes more steps than the others."""
    model = sdegen.Exact(sdegen.VP(), RING)
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0], [4.0, 0.0], [30.0, 3.0]], dtype=torch.float64).roll(hardest, 0)
    alone = [sdegen.estimate_log_prob(model, row[None], draws=1, **LOOSE).evaluations for row in x]
    assert max(alone) == alone[hardest] > min(alone)
    assert sdegen.estimate_log_prob(model, x, draws=1, batch=1, **LOOSE).evaluations == max(alone)


def test_bits_and_samples_with_densities_go_in_parts_too() -> None:
    model = model_on(sdegen.VP())
    images = torch.randint(0, 256, (5, 2), dtype=torch.uint8, generator=seeded())
    how = {"method": "heun2", "steps": 4}
    for call in (
        lambda **h: sdegen.bits_per_dim(model, images, draws=2, generator=seeded(), **how, **h),
        lambda **h: sdegen.sample_with_log_prob(model, 5, seed=0, **how, **h)[1],
    ):
        for a, b in zip(numbers(call()), numbers(call(batch=2)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("batch", [0, -1, 2.5, True])
def test_what_is_no_number_of_rows_is_refused(door: str, batch: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="batch = "):
        DOORS[door][0](model_on(sdegen.VP()), RING.sample(2), batch=batch)


def chain() -> Any:
    """A diffusion model as a hierarchical VAE."""
    return sdegen.diffusion_hierarchy(model_on(sdegen.VP()), torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64))


def coder(**how: Any) -> Any:
    return baselines.VAE(nets.Perceptron(2, 4), nets.Perceptron(2, 4), latent=2, **how)


# Name: a model, and what is read from it.
READINGS: dict[str, tuple[Callable[[], Any], Callable[..., Any]]] = {
    "Hierarchy.terms": (chain, lambda m, x, **h: m.terms(x, seeded(), **h)),
    "HierarchicalVAE.terms": (
        lambda: baselines.HierarchicalVAE((2,), latents=(3, 1), skip=True),
        lambda m, x, **h: m.terms(x, seeded(), **h)),
    "HierarchicalVAE.importance_bound": (
        lambda: baselines.HierarchicalVAE((2,)), lambda m, x, **h: m.importance_bound(x, 3, seeded(), **h)),
    "VAE.bound": (coder, lambda m, x, **h: m.bound(x, seeded(), **h)),
    "VAE.importance_bound": (coder, lambda m, x, **h: m.importance_bound(x, 3, seeded(), **h)),
    "CategoricalVAE.bound": (
        lambda: baselines.CategoricalVAE(nets.Perceptron(2, 3), nets.Perceptron(3, 4), 3),
        lambda m, x, **h: m.bound(x, **h)),
    "CategoricalVAE.log_prob": (
        lambda: baselines.CategoricalVAE(nets.Perceptron(2, 3), nets.Perceptron(3, 4), 3),
        lambda m, x, **h: m.log_prob(x, **h)),
    "RealNVP.log_prob": (lambda: baselines.RealNVP((2,), width=8), lambda m, x, **h: m.log_prob(x, **h)),
    "ResidualFlow.log_prob": (
        lambda: baselines.ResidualFlow((2,), blocks=2, width=8), lambda m, x, **h: m.log_prob(x, **h)),
    "ResidualFlow.estimate": (
        lambda: baselines.ResidualFlow((2,), blocks=2, width=8), lambda m, x, **h: m.estimate(x, 2, seeded(), **h)),
}  # fmt: skip


@settings(max_examples=3, deadline=None, derandomize=True)
@given(n=st.integers(3, 8), batch=st.integers(1, 5))
@pytest.mark.parametrize("name", READINGS)
def test_readings_of_baselines_go_in_parts(name: str, n: int, batch: int) -> None:
    make, read = READINGS[name]
    torch.manual_seed(0)
    model, x = make(), RING.sample(n, torch.Generator().manual_seed(1))
    most = []
    if isinstance(model, nn.Module):
        model = model.double().eval()
        for part in model.modules():
            if isinstance(part, nn.Linear) and not isinstance(model, baselines.CategoricalVAE):
                part.register_forward_hook(lambda part, given, out: most.append(len(given[0])))
    whole = numbers(read(model, x))
    most.clear()
    parts = numbers(read(model, x, batch=batch))
    if most and not name.startswith("ResidualFlow.log_prob"):  # which asks for whole Jacobians, by rows of its own
        assert max(most) <= batch
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for wrong in (0, 2.5):
        with pytest.raises(ValueError, match="batch = "):
            read(model, x, batch=wrong)
