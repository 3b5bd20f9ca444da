"""What a model knows of its data travels with its weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen.models import Trainable

RING = sdegen.data.gaussian_ring()
MODELS: dict[str, Callable[[], Trainable]] = {
    "Model": lambda: sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()),
    "LearnedVariance": lambda: sdegen.LearnedVariance(sdegen.nets.MLP(2, width=16, depth=1, out=4), sdegen.DDPM()),
    "DirectModel": lambda: sdegen.DirectModel(sdegen.nets.MLP(2, width=16, depth=1), sdegen.DoubleWell()),
    "matrix": lambda: sdegen.Model(sdegen.nets.MLP(4, width=16, depth=1), sdegen.CLD()),
}


def trained(kind: str, data: Tensor) -> Trainable:
    model = MODELS[kind]()
    sdegen.fit(model, data, steps=2, batch_size=16, seed=0, progress=False)
    return model


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_state_dict_is_the_whole_model(kind: str, dtype: torch.dtype) -> None:
    model = trained(kind, 5 * RING.sample(64, torch.Generator().manual_seed(0)).float()).to(dtype)
    other = MODELS[kind]().to(dtype)
    other.load_state_dict(model.state_dict())
    assert other.moments is not None
    for got, want in zip(other.moments, model.require_moments(), strict=True):
        assert torch.equal(got, want)
        assert got.dtype == torch.float64  # whatever the weights are moved to
    x = other.sde.lift(torch.randn(8, 2, generator=torch.Generator().manual_seed(1)).to(dtype))
    t = 0.3 * model.sde.T
    assert torch.equal(other.eval().score(x, t), model.eval().score(x, t))


def test_a_state_dict_without_moments_is_refused_unless_that_is_meant() -> None:
    model = trained("Model", RING.sample(64).float())
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("moments")}
    with pytest.raises(RuntimeError, match=r"moments\.mean"):
        MODELS["Model"]().load_state_dict(weights)
    known = model.moments
    assert model.load_state_dict(weights, strict=False).missing_keys == ["moments.mean", "moments.covariance"]
    assert model.moments is known
    model.load_state_dict(MODELS["Model"]().state_dict())
    assert model.moments is None  # of a model that never saw data


def test_a_wrapped_model_has_its_moments_in_the_state_dict() -> None:
    model = trained("Model", RING.sample(64).float())
    outer = sdegen.models.Conditioned(sdegen.guidance.Clipped(MODELS["Model"](), -1, 1))
    outer.load_state_dict(sdegen.models.Conditioned(sdegen.guidance.Clipped(model, -1, 1)).state_dict())
    assert torch.equal(outer.require_moments().covariance, model.require_moments().covariance)


def test_a_wrapper_reads_the_process_of_the_model_inside() -> None:
    model = MODELS["Model"]()
    outer = sdegen.guidance.Clipped(sdegen.guidance.ClassifierFree(model, 2.0), -1, 1)
    model.sde = sdegen.VP(0.2, 10.0)
    assert outer.sde is model.sde


@pytest.mark.turns("OU", "EDM")
@pytest.mark.parametrize(
    "sde", [sdegen.VP(), sdegen.VE(), sdegen.EDM(), sdegen.CLD(), sdegen.OU(T=1.0)], ids=lambda s: type(s).__name__
)
def test_a_process_that_has_not_forgotten_the_data_is_not_started_from_a_gaussian(sde: sdegen.LinearSDE) -> None:
    ring = sdegen.data.gaussian_ring()
    factor = 10 / (sde.snr(sde.T) * ring.moments().variance()).sqrt().item()  # ten times the noise at T
    wide = sdegen.GaussianMixture(ring.weights, factor * ring.means, factor**2 * ring.covariances)
    with pytest.raises(ValueError, match=r"has not forgotten the data at T = .*spread by 10 times the noise.*in_units"):
        sdegen.sample(sdegen.Exact(sde, wide), 2, steps=5)
    own = sde.in_units(wide.moments().units())
    x = sdegen.sample(sdegen.Exact(own, wide), 2000, steps=20, seed=0) / factor
    assert ((x.norm(dim=1) - 4).abs() < 1.2).double().mean() > 0.95  # on the ring, whose modes have a spread of 0.3


@settings(max_examples=12, deadline=None)
@given(offset=st.floats(0, 11), scale=st.floats(-3, 3), sign=st.sampled_from([-1, 1]))
def test_samples_come_back_in_a_dtype_that_tells_them_apart(offset: float, scale: float, sign: int) -> None:
    """Far from zero, where the numbers of float32 lie further apart than data do, and near, where float32 is kept."""
    a, ratio = 10.0**scale, sign * 10.0**offset
    x, made = RING.sample(64, torch.Generator().manual_seed(0)), []
    x = (x - x.mean(0)) / x.std(0, correction=0)
    for data in (x, a * (x + ratio)):
        model = MODELS["Model"]()
        for weight in model.parameters():
            weight.data.fill_(0.05)
        sdegen.fit(model, data, steps=2, batch_size=16, seed=0, progress=False)
        made.append(sdegen.sample(model, 50, steps=5, seed=0))
    near, far = made
    assert near.dtype == torch.float32
    assert far.dtype == (torch.float32 if 10**offset < 0.03 / torch.finfo(torch.float32).eps else torch.float64)
    assert (far.double() / a - ratio - near).abs().max() < (0.03 if far.dtype == torch.float32 else 1e-3)
    assert far.double().std(0).min() > 0.5 * a


def test_a_column_that_does_not_vary_has_the_root_mean_square_spread_of_those_that_do() -> None:
    units = sdegen.Moments(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 0.0, 9.0])).units()
    assert torch.allclose(units.std, torch.tensor([2.0, 6.5**0.5, 3.0]).double()) and units.mean.tolist() == [1, 2, 3]
    assert sdegen.Moments(torch.ones(2), torch.zeros(2)).units().std.tolist() == [1, 1]


def test_one_number_for_units_of_columns_is_their_root_mean_square() -> None:
    assert sdegen.laws.Units(torch.zeros(2), torch.tensor([3.0, 4.0])).scale == pytest.approx(12.5**0.5)
    assert sdegen.laws.Units(1.0, 0.2).scale == pytest.approx(0.2)
