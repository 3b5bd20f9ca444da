"""Readings at both ends of a process: the limit where there is one, a sentence where there is none, and never NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import guidance
from sdegen.models import (
    Conditioned,
    DataParametrization,
    EDMParametrization,
    NoiseParametrization,
    Parametrization,
    ScoreModel,
    ScoreParametrization,
    StraightParametrization,
    VelocityParametrization,
    from_denoiser,
    from_network,
)

RING = sdegen.data.gaussian_ring()
READINGS = ("score", "denoise", "noise", "velocity", "estimate")
KINDS: list[type[Parametrization]] = [
    EDMParametrization, NoiseParametrization, DataParametrization, VelocityParametrization, ScoreParametrization,
    StraightParametrization,
]  # fmt: skip


class Own(sdegen.ScalarSDE):
    """A process by its coefficients."""

    def f(self, t: Tensor) -> Tensor:
        return -10 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t).sqrt()


SDES = [
    sdegen.VP(), sdegen.SubVP(), sdegen.VE(), sdegen.OU(), sdegen.EDM(), sdegen.Cosine(), sdegen.Rectified(), sdegen.DDPM(),
    Own(), sdegen.CLD(), sdegen.CLD(sigma_0=0.1),
]  # fmt: skip


class Net(nn.Module):
    """Any network for states of any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.7, 0.2, -0.4], dtype=torch.float64))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        level = level.reshape(-1, *[1] * (x.ndim - 1))
        return (self.w[0] * x + self.w[1] * level).tanh() + self.w[2]


def networks(sde: Any) -> Iterator[tuple[str, Callable[[], ScoreModel]]]:
    for kind in KINDS:
        yield kind.__name__, lambda kind=kind: sdegen.Model(Net(), sde, kind())  # type: ignore[misc]
    for kind in KINDS[1:]:
        yield f"foreign {kind.__name__}", lambda kind=kind: from_network(Net(), sde, kind())  # type: ignore[misc]
    yield "denoiser", lambda: from_denoiser(Net(), None, sde)


def models(sde: Any) -> Iterator[tuple[str, Callable[[], ScoreModel]]]:
    exact = sdegen.Exact(sde, RING)
    yield "Exact", lambda: exact
    yield "Empirical", lambda: sdegen.Exact(sde, sdegen.Empirical(RING.sample(5)))
    yield "ExactConditional", lambda: Conditioned(sdegen.ExactConditional(sde, [RING, RING], RING), label=1)
    yield "DirectModel", lambda: sdegen.DirectModel(Net(), sde)
    yield from networks(sde)
    laws = [sdegen.GaussianMixture(torch.ones(1), m[None], v[None]) for m, v in zip(RING.means, RING.covariances)]
    classes = sdegen.ExactConditional(sde, laws, RING)
    net = sdegen.Model(Net(), sde)
    net.moments = RING.moments()
    classifier = guidance.ExactClassifier(sde, laws)
    seen = sdegen.measurements.Mask(torch.tensor([True, False]), std=0.5)
    for name, inside in (("Exact", exact), ("Model", net)):
        yield f"autoguidance, {name}", lambda inside=inside: guidance.Autoguidance(inside, exact, 2.0)  # type: ignore[misc]
        yield f"classifier, {name}", lambda m=inside: Conditioned(guidance.ClassifierGuidance(m, classifier), label=1)  # type: ignore[misc]
        yield f"measured, {name}", lambda m=inside: Conditioned(guidance.PiGDM(m, seen), y=torch.ones(3, 1))  # type: ignore[misc]
    yield "classes", lambda: Conditioned(guidance.ClassifierFree(classes, 2.0), label=1)


def readings(model: ScoreModel, x: Tensor, t: Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name in READINGS:
        yield name, lambda name=name: getattr(model, name)(x, t)
    one = model.sde.marginal(t).Phi.one()  # type: ignore[attr-defined]
    for name in READINGS[:-1]:
        yield f"asked for {name}", lambda name=name: model.answer(x, model.ask(t[None], **{name: one})[0])


def tried(read: Callable[[], Any]) -> Any:
    """What is returned, or the sentence of a refusal."""
    try:
        with torch.no_grad():
            return read()
    except (TypeError, ValueError) as refusal:
        return str(refusal)


def fault(sde: Any, name: str, reading: str, end: float, value: Any, x: Tensor) -> str:
    """What is wrong with a reading at an end; nothing if it is right."""
    if isinstance(value, str):
        said = value.endswith(".") and len(value) > 40
        return "" if said and (name == "Empirical" or expected_refusal(sde, name, reading, end)) else value
    value = torch.stack(value) if isinstance(value, tuple) else value
    if not value.isfinite().all():
        return "not finite"
    still = reading == "denoise" and end == 0.0 and sde.is_scalar and sde.sigma_0 == 0
    return "not the state" if still and (value - x).abs().max() > 1e-9 else ""


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.turns("CLD*", "SubVP*", "VE*", "OU*")
def test_readings_at_both_ends_are_numbers_or_refused_in_a_sentence(sde: Any) -> None:
    drawn, faults = 0, []
    for name, make in models(sde):
        model = tried(make)
        if isinstance(model, str):  # a parametrisation without meaning there
            assert model.endswith(".")
            continue
        for end in (0.0, sde.T):
            x_0, t = RING.sample(3, torch.Generator().manual_seed(1)), torch.tensor(end, dtype=torch.float64)
            x = sde.perturb(x_0, t, generator=torch.Generator().manual_seed(0)).x
            for reading, read in readings(model, x, t):
                drawn += 1
                if wrong := fault(sde, name, reading, end, tried(read), x):
                    faults.append((name, reading, end, wrong))
    assert not faults, faults
    assert drawn > 150


def expected_refusal(sde: Any, name: str, reading: str, end: float) -> bool:
    """A score where there is no noise, of what does not predict it; data where there is no signal, from a score; and matrices
    that are singular there.
    """
    at = sde.marginal(torch.tensor(end, dtype=torch.float64))
    silent, clear = sde.snr(end) == 0, bool(at.R.log_abs_det().isneginf())
    if not sde.is_scalar:
        return clear and ("score" in reading or "Data" in name or "Score" in name or name == "DirectModel")
    return (clear and "score" in reading) or (bool(silent) and name in ("DirectModel",) and "score" not in reading)


@pytest.mark.parametrize("sde", [s for s in SDES if s.is_scalar], ids=repr)
def test_readings_of_networks_are_continuous_at_the_data(sde: Any) -> None:
    x = RING.sample(4, torch.Generator().manual_seed(1))
    made = {name: tried(make) for name, make in networks(sde)}
    models = {name: model for name, model in made.items() if not isinstance(model, str)}
    assert len(models) >= 5, made  # the others are parametrisations without meaning there
    for name, model in models.items():
        with torch.no_grad():
            for reading in ("denoise", "noise", "velocity"):
                at, near = (getattr(model, reading)(x, t) for t in (0.0, 1e-13 * sde.T))
                assert (at - near).abs().max() < 1e-2 * (1 + at.abs().max()), (name, reading)


def test_the_score_of_a_smooth_law_has_its_limit_at_the_data() -> None:
    x = RING.sample(4, torch.Generator().manual_seed(1))
    for sde in (sdegen.VP(), sdegen.Rectified(), sdegen.Cosine(), sdegen.OU()):
        model = sdegen.Exact(sde, RING)
        assert (model.score(x, 0.0) - RING.score(x)).abs().max() < 1e-9
        assert (model.velocity(x, 0.0)).abs().max() < 1e-9  # no noise is expected where there is none


def test_likelihoods_start_at_the_data_with_every_parametrisation() -> None:
    x = RING.sample(2, torch.Generator().manual_seed(1))
    for kind in KINDS:
        torch.manual_seed(0)
        model = sdegen.Model(sdegen.nets.MLP(2, 8, 1), sdegen.VP(), kind(std=3.0)).double()
        model.moments = RING.moments()
        assert sdegen.log_prob(model, x, tolerance=1e-2).isfinite().all()
