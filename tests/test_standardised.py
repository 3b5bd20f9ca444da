"""What a baseline learns is the law of the data in units of their spread: of ``a x + b`` what it learns of `x`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sdegen
from sdegen import baselines as b
from sdegen import nets
from sdegen.laws import Units

DATA = sdegen.data.gaussian_ring().sample(64, torch.Generator().manual_seed(0))
DATA = (DATA - DATA.mean(0)) / DATA.std(0, correction=0)


def perceptron(a: int, c: int) -> nn.Module:
    return nets.Perceptron(a, c, 8, 1)


MODELS: dict[str, Callable[[], Any]] = {
    "RealNVP": lambda: b.RealNVP((2,), couplings=2, width=8),
    "ResidualFlow": lambda: b.ResidualFlow((2,), blocks=2, width=8),
    "ContinuousFlow": lambda: b.ContinuousFlow(nets.MLP(2, width=8, depth=1), (2,), steps=2, tolerance=1e-4),
    "ContinuousFlow with probes": lambda: b.ContinuousFlow(nets.MLP(2, width=8, depth=1), (2,), steps=2, probes=True),
    "GAN": lambda: b.GAN(perceptron(2, 2), perceptron(2, 1), 2),
    "GAN with r1": lambda: b.GAN(perceptron(2, 2), perceptron(2, 1), 2, r1=0.1),
    "WGAN": lambda: b.WGAN(perceptron(2, 2), perceptron(2, 1), 2),
    "WGANGP": lambda: b.WGANGP(perceptron(2, 2), perceptron(2, 1), 2),
    "VAE": lambda: b.VAE(perceptron(2, 4), perceptron(2, 4), 2),
    "CategoricalVAE": lambda: b.CategoricalVAE(perceptron(2, 3), perceptron(3, 4), 3),
    "HierarchicalVAE": lambda: b.HierarchicalVAE((2,), (2, 1), width=8),
    "Autoencoder": lambda: b.Autoencoder(perceptron(2, 1), perceptron(1, 2)),
}
SMALL, LARGE = 1e-3, 1e4


def fitted(kind: str, data: Tensor, scale: float = 1.0) -> Any:
    torch.manual_seed(1)
    model = (
        b.VAE(perceptron(2, 4), perceptron(2, 2), 2, b.Gaussian(0.3 * scale)) if kind == "of a std" else MODELS[kind]()
    )
    sdegen.fit(model, data, steps=3, batch_size=16, seed=0, progress=False)
    return model.eval()


def readings(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Everything that a model says of data, by name; densities with the sign that their shift has."""
    found: dict[str, Tensor] = {}
    g = torch.Generator().manual_seed
    if hasattr(model, "log_prob"):
        found["log_prob"] = model.log_prob(x)
    if hasattr(model, "estimate"):
        found["estimate"] = model.estimate(x, 2, g(1))[0]
    if hasattr(model, "importance_bound"):
        found["importance_bound"] = model.importance_bound(x, 2, g(1))
    if isinstance(model, b.VAE):
        found["elbo"] = model.bound(x, g(1)).elbo
    if isinstance(model, b.CategoricalVAE):
        found["elbo"] = model.bound(x).elbo
    if isinstance(model, b.HierarchicalVAE):
        found["elbo"] = -model.terms(x, g(1)).sum(0)
    if not isinstance(model, (b.Adversarial, b.Autoencoder)):
        found["loss"] = -2 * model.loss(x, generator=g(2))  # in nats per coordinate
    return {name: value.detach().double() for name, value in found.items()}


@pytest.mark.turns("ContinuousFlow with probes")
@pytest.mark.parametrize("kind", [*MODELS, "of a std"])
@settings(max_examples=4, deadline=None)
@given(
    exponents=st.tuples(*[st.floats(math.log10(SMALL), math.log10(LARGE))] * 2),
    offset=st.floats(-50, 50),
)
@pytest.mark.turns("ContinuousFlow")
def test_a_baseline_of_scaled_data_is_the_scaled_baseline(
    kind: str, exponents: tuple[float, float], offset: float
) -> None:
    one = kind == "of a std"  # which is one for all coordinates
    a = 10.0 ** torch.tensor([exponents[0], exponents[0 if one else 1]], dtype=torch.float64)
    there = a * (DATA + offset)
    near, far = fitted(kind, DATA), fitted(kind, there, a[0].item())
    assert torch.allclose(far.units.std, a * near.units.std, rtol=1e-9, atol=0)
    if hasattr(near, "sample"):
        made = [m.sample(40, generator=torch.Generator().manual_seed(3)).double() for m in (near, far)]
        assert torch.allclose(made[1] / a - offset, made[0], atol=2e-4)
    for name, value in readings(near, DATA).items():
        shifted = readings(far, there)[name] + a.log().sum()
        assert torch.allclose(shifted, value, atol=2e-3, rtol=1e-4), name
    if hasattr(near, "codes"):
        assert torch.allclose(far.codes(there), near.codes(DATA), atol=1e-4)
    if isinstance(near, (b.VAE, b.Autoencoder)):
        z = near.codes(DATA)
        assert torch.allclose(far.decode(z).double() / a - offset, near.decode(z).double(), atol=2e-4)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind", [k for k in MODELS if k != "Autoencoder"])
@pytest.mark.parametrize(("mean", "std"), [(5e4, 1e3), (100.0, 10.0), (1e9, 1.0)])
def test_samples_have_the_place_and_the_spread_of_the_data(kind: str, mean: float, std: float) -> None:
    x = fitted(kind, mean + std * DATA).sample(200, generator=torch.Generator().manual_seed(0)).double()
    assert (x - mean).abs().max() < 20 * std
    assert x.std() > 1e-3 * std


@pytest.mark.turns("ContinuousFlow with probes")
@pytest.mark.parametrize("kind", MODELS)
def test_units_are_part_of_the_state_and_of_a_file(kind: str, tmp_path: Path) -> None:
    data = 7 + 3 * DATA
    model, again = fitted(kind, data), MODELS[kind]()
    again.load_state_dict(model.state_dict())
    sdegen.save(model, tmp_path / "model.safetensors")
    loaded = sdegen.load(tmp_path / "model.safetensors")
    for other in (again.eval(), loaded):
        assert torch.equal(other.units.std, model.units.std) and torch.equal(other.units.mean, model.units.mean)
        assert torch.equal(other.moments.covariance, model.moments.covariance)
        for name, value in readings(model, data).items():
            assert torch.allclose(readings(other, data)[name], value, atol=1e-5), name
    sdegen.fit(again, 2 * data, steps=1, batch_size=16, progress=False)
    assert torch.equal(again.units.std, model.units.std)  # in which the weights have been trained


def test_units_that_are_given_stay() -> None:
    model = MODELS["RealNVP"]()
    model.units = Units()
    sdegen.fit(model, 3 * DATA, steps=1, batch_size=16, progress=False)
    assert model.units.plain


IMAGES = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
BOUNDED: dict[str, Callable[[], Any]] = {
    "Bernoulli": lambda: b.VAE(nets.Down((1, 4, 4), 4, 4), nets.Up(2, (1, 4, 4), 4), 2, b.Bernoulli()),
    "Continuous": lambda: b.VAE(nets.Down((1, 4, 4), 4, 4), nets.Up(2, (1, 4, 4), 4), 2, b.Continuous()),
    "hierarchical": lambda: b.HierarchicalVAE((1, 4, 4), (2,), width=4, likelihood=b.Bernoulli()),
    "categorical": lambda: b.CategoricalVAE(nets.Down((1, 4, 4), 3, 4), nets.Up(3, (1, 4, 4), 4), 3, b.Bernoulli()),
    "bounded decoder": lambda: b.Autoencoder(nets.Down((1, 4, 4), 2, 4), nets.Up(2, (1, 4, 4), 4, bounded=True)),
    "bounded generator": lambda: b.GAN(nets.Up(2, (1, 4, 4), 4, bounded=True), nets.Down((1, 4, 4), 1, 4), 2),
    "Logit": lambda: b.RealNVP((1, 4, 4), couplings=2, width=4, depth=1, scales=1, first=b.Logit(0.01)),
    "Marginals": lambda: b.ResidualFlow((1, 4, 4), blocks=1, width=4, first=b.Marginals(torch.full((1, 4, 4, 2), 0.5))),
}


@pytest.mark.parametrize("kind", BOUNDED)
def test_a_model_of_numbers_in_an_interval_takes_them_as_they_are(kind: str) -> None:
    model = BOUNDED[kind]()
    sdegen.fit(model, IMAGES, steps=2, batch_size=16, progress=False)
    assert model.units.plain and model.given_units is None
    for wrong in (2 * IMAGES - 1, 255 * IMAGES, IMAGES - 3):
        refused = BOUNDED[kind]()
        with pytest.raises(
            ValueError, match=r"is made for numbers from 0 to 1, and the data have means up to .*; bring them"
        ):
            sdegen.fit(refused, wrong, steps=2, batch_size=16, progress=False)
        assert refused.moments is None


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "likelihoods": (BOUNDED["Bernoulli"], BOUNDED["Continuous"]),
    "bounds": (lambda: b.ResidualFlow((2,), 1, 4, bound=0.5), lambda: b.ResidualFlow((2,), 1, 4, bound=0.9)),
    "first maps": (
        lambda: b.RealNVP((2,), 2, 4, first=b.Logit(0.01)),
        lambda: b.RealNVP((2,), 2, 4, first=b.Logit(0.1)),
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_weights_of_another_baseline_are_refused(kind: str) -> None:
    model, other = (make() for make in PAIRS[kind])
    with pytest.raises(ValueError, match="the weights were trained with"):
        other.load_state_dict(model.state_dict())
