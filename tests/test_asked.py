"""A state dict says what the network was asked, and weights that were trained for something else are refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdegen
from sdegen import models, processes
from sdegen.identity import differing_constants
from sdegen.laws import Units
from sdegen.laws.coordinates import Log, SoftplusInverse
from sdegen.models import Trainable


def net() -> torch.nn.Module:
    return sdegen.nets.MLP(2, width=4, depth=1)


PROCESSES: dict[str, Callable[[], sdegen.LinearSDE]] = {
    "VP": sdegen.VP,
    "VP of another rate": lambda: sdegen.VP(0.1, 30.0),
    "VE": sdegen.VE,
    "VE that goes further": lambda: sdegen.VE(sigma_max=80.0),
    "EDM": sdegen.EDM,
    "OU": sdegen.OU,
    "SubVP": processes.SubVP,
    "Cosine": processes.Cosine,
    "Rectified": processes.Rectified,
    "VP of logarithms": lambda: sdegen.VP().in_coordinates(Log()),
    "VP of softplus": lambda: sdegen.VP().in_coordinates(SoftplusInverse()),
    "DDPM": sdegen.DDPM,
    "DDPM of other betas": lambda: sdegen.DDPM(processes.linear_betas(500)),
    "LearnedSchedule": processes.LearnedSchedule,
    "LearnedSDE": processes.LearnedSDE,
}
PARTS: dict[str, Callable[[], models.Parametrization]] = {
    "EDM": models.EDMParametrization,
    "EDM of a std": lambda: models.EDMParametrization(0.5),
    "noise": models.NoiseParametrization,
    "data": models.DataParametrization,
    "velocity": models.VelocityParametrization,
    "score": models.ScoreParametrization,
    "straight": models.StraightParametrization,
}
MODELS: dict[str, Callable[[], Trainable]] = {
    "DirectModel": lambda: sdegen.DirectModel(net(), sdegen.VP()),
    "DirectModel of a scale": lambda: sdegen.DirectModel(net(), sdegen.VP(), scale=2.0),
    "DirectModel with a base": lambda: sdegen.DirectModel(net(), sdegen.VP(), base=sdegen.data.gaussian_ring()),
    "nonlinear": lambda: sdegen.DirectModel(net(), processes.DoubleWell()),
}
MODELS |= {name: lambda make=make: sdegen.Model(net(), make()) for name, make in PROCESSES.items()}  # type: ignore[misc]
MODELS |= {
    f"predicting {name}": lambda make=make: sdegen.Model(net(), sdegen.VP(0.2), make())  # type: ignore[misc]
    for name, make in PARTS.items()
}


@pytest.mark.parametrize("kind", MODELS)
def test_weights_are_taken_by_a_model_that_was_made_again(kind: str) -> None:
    model, other = MODELS[kind](), MODELS[kind]()
    model.moments, model.sde = sdegen.Moments(torch.ones(2), torch.eye(2)), model.sde.in_units(Units(3.0, 2.0))
    for part in (model, other):
        part.to(torch.float64)  # which changes tensors of the process that are learned, and none of its constants
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(other.score(x, 0.4), model.score(x, 0.4))


def test_weights_of_any_other_model_are_refused_in_one_sentence() -> None:
    """All pairs of models whose networks have the same weights."""
    made = {kind: make() for kind, make in MODELS.items()}
    kept = {kind: model.state_dict() for kind, model in made.items()}
    pairs = [(a, b) for a, b in permutations(made, 2) if {*kept[a]} == {*kept[b]}]
    for a, b in pairs:
        before = {name: value.clone() for name, value in kept[b].items()}
        with pytest.raises(ValueError, match=r"^the weights were trained with .* make the model as it was, or"):
            made[b].load_state_dict(kept[a])
        assert all(torch.equal(value, before[name]) for name, value in made[b].state_dict().items())
    assert len(pairs) > 300


@settings(max_examples=20, deadline=None)
@given(a=st.floats(0.05, 1.0), b=st.floats(5.0, 30.0), factor=st.floats(1.001, 2.0), which=st.integers(0, 1))
def test_weights_for_other_constants_are_refused(a: float, b: float, factor: float, which: int) -> None:
    given_, changed = (a, b), (a * factor, b) if which == 0 else (a, b * factor)
    model, other = (sdegen.Model(net(), sdegen.VP(*ends)) for ends in (given_, changed))
    with pytest.raises(ValueError, match=rf"trained with sde\.beta_{'min' if which == 0 else 'max'} = "):
        other.load_state_dict(model.state_dict())


@settings(max_examples=50, deadline=None)
@given(a=st.floats(1e-3, 1e3), part=st.floats(0.0, 0.9e-6) | st.floats(1.1e-6, 1e-3))
def test_constants_of_one_number_differ_by_a_millionth_at_most(a: float, part: float) -> None:
    assert bool(differing_constants({"a": a}, {"a": a * (1 + part)})) == (part > 1e-6)


def test_weights_of_a_classifier_of_other_states_are_refused() -> None:
    """All pairs of classifiers of noised states, those of one process in other units too."""
    sdes = [make() for make in PROCESSES.values()] + [
        sdegen.VP().in_units(Units(1.0, 2.0)),
        sdegen.VP().in_units(Units(1.0, 3.0)),
    ]
    made = [sdegen.guidance.NoisyClassifier(net(), sde) for sde in sdes]
    pairs = [(a, b) for a, b in permutations(made, 2) if {*a.state_dict()} == {*b.state_dict()}]
    for a, b in pairs:
        with pytest.raises(ValueError, match=r"^the weights were trained with"):
            b.load_state_dict(a.state_dict())
    assert len(pairs) > 150
    for model in made:
        model.load_state_dict(model.state_dict())


def test_what_was_asked_is_told_of_models_inside_wrappers() -> None:
    inside = sdegen.guidance.Clipped(sdegen.Model(net(), sdegen.VP()), -1, 1)
    other = sdegen.guidance.Clipped(sdegen.Model(net(), sdegen.VE()), -1, 1)
    with pytest.raises(ValueError, match=r"trained with .*sde = processes\.VP, and the model has processes\.VE"):
        other.load_state_dict(inside.state_dict())


def test_a_state_dict_that_does_not_say_what_was_asked_is_loaded_where_that_is_meant() -> None:
    model, other = (sdegen.Model(net(), sde) for sde in (sdegen.VP(), sdegen.VE()))
    weights = {name: value for name, value in model.state_dict().items() if name != "asked"}
    with pytest.raises(RuntimeError, match=r'Missing key.*"asked"'):
        other.load_state_dict(weights)
    assert other.load_state_dict(weights, strict=False).missing_keys == ["asked"]
    assert torch.equal(next(other.parameters()), next(model.parameters()))
    with pytest.raises(ValueError, match="asked of the state dict cannot be read"):
        other.load_state_dict(weights | {"asked": torch.tensor([1, 2], dtype=torch.uint8)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_state_dict_in_half_precision_says_the_same(dtype: torch.dtype) -> None:
    model = sdegen.Model(net(), sdegen.VP())
    sdegen.Model(net(), sdegen.VP()).load_state_dict({k: v.to(dtype) for k, v in model.state_dict().items()})
