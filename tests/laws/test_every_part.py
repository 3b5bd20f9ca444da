"""Every model, wrapper, parametrisation, weighting and law of times of the library holds to the laws of its kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from quiet import quietly
from torch import Tensor, nn

import sdegen
from sdegen import CLD, DDPM, EDM, OU, VE, VP, Cosine, Rectified, SubVP, guidance
from sdegen.laws.marginals import Marginal
from sdegen.laws.operators import Scale
from sdegen.models.parametrizations import (
    DataParametrization,
    EDMParametrization,
    NoiseParametrization,
    Parametrization,
    ScoreParametrization,
    VelocityParametrization,
)
from sdegen.models.score import ScoreModel
from sdegen.models.wrapper import Conditioned, Wrapper
from sdegen.processes.times import (
    AngleTimes,
    DiscreteTimes,
    ImportanceTimes,
    LogNormalTimes,
    SharedTimes,
    StratifiedTimes,
    TimeLaw,
    UniformTimes,
)
from sdegen.testing import (
    Report,
    check_model,
    check_parametrization,
    check_sde,
    check_times,
    check_weighting,
    check_wrapper,
    gaussian_data,
)
from sdegen.training.weightings import (
    EDMWeighting,
    InverseVarianceWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SNRWeighting,
    UniformWeighting,
    Weighting,
)

SDES = [VP(), SubVP(), VE(), EDM(), OU(), DDPM(), Cosine(), Rectified(), CLD(), CLD(sigma_0=0.1)]
name = lambda value: type(value).__name__
RING = sdegen.data.gaussian_ring(5)


def modes() -> list[sdegen.GaussianMixture]:
    """The law of each mode of the ring."""
    one = torch.ones(1)
    return [sdegen.GaussianMixture(one, m[None], v[None]) for m, v in zip(RING.means, RING.covariances, strict=True)]


def network(sde: sdegen.LinearSDE, parametrization: Parametrization | None = None, labels: int = 0) -> sdegen.Model:
    """A network off its start, with dropout, which is not to be heard."""
    torch.manual_seed(0)
    net = sdegen.nets.MLP(2 * len(sde.Sigma_0), width=16, depth=2, **({"classes": labels} if labels else {}))
    nn.init.normal_(net.last.weight, std=0.3)
    model = sdegen.Model(net, sde, parametrization).double()
    model.moments = RING.moments()
    return model


MODELS: dict[str, Callable[[Any], ScoreModel]] = {
    "exact": lambda sde: sdegen.Exact(sde, RING),
    "exact by label": lambda sde: Conditioned(sdegen.ExactConditional(sde, modes(), RING), label=3),
    "exact of points": lambda sde: sdegen.Exact(
        sde, sdegen.Empirical(RING.sample(20, torch.Generator().manual_seed(0)))
    ),
    "network": network,
    "network, velocity": lambda sde: network(sde, VelocityParametrization()),
    "network in single precision": lambda sde: network(sde).float(),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("sde", SDES, ids=name)
@pytest.mark.parametrize("kind", MODELS)
def test_every_model_holds_to_its_laws(kind: str, sde: sdegen.LinearSDE) -> None:
    points = kind == "exact of points" and sde.Sigma_0[0, 0] == 0
    expected = {"readings_are_finite_at_both_ends": "a law of points has no density where there is no noise"}
    report = quietly(check_model, MODELS[kind](sde), expected if points else None)
    assert report.passed, report


def test_models_of_nonlinear_processes_hold_to_the_laws_of_a_score() -> None:
    sde = sdegen.DoubleWell()
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.3]))
    direct = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), sde).double()
    direct.moments = law.moments()
    assert check_model(direct).passed, check_model(direct)
    truth = check_model(sdegen.FokkerPlanck(sde, law))
    assert truth.passed, truth


# Each wrapper, and the same told to change nothing.
Wrap = Callable[[Any], ScoreModel]
LABELLED = {"label": 1}
WRAPPERS: dict[str, tuple[Wrap, Wrap | None]] = {
    "conditioned": (lambda m: Conditioned(m, **LABELLED), lambda m: Conditioned(m)),
    "without": (lambda m: guidance.Without(m, **LABELLED), lambda m: guidance.Without(m)),
    "epsilon scaling": (lambda m: guidance.EpsilonScaling(m, 1.05), lambda m: guidance.EpsilonScaling(m, 1.0)),
    "classifier-free": (
        lambda m: Conditioned(guidance.ClassifierFree(m, 2.0), **LABELLED),
        lambda m: guidance.ClassifierFree(m, 1.0),
    ),
    "rescaled guidance": (
        lambda m: Conditioned(guidance.RescaledGuidance(m, 2.0, 0.7), **LABELLED),
        lambda m: guidance.RescaledGuidance(m, 1.0),
    ),
    "autoguidance": (
        lambda m: guidance.Autoguidance(m, sdegen.Exact(m.sde, gaussian_data()), 1.5),
        lambda m: guidance.Autoguidance(m, sdegen.Exact(m.sde, gaussian_data()), 1.0),
    ),
    "product": (
        lambda m: guidance.Product([(m, 1.5), (sdegen.Exact(m.sde, gaussian_data()), -0.5)]),
        lambda m: guidance.Product([(m, 1.0)]),
    ),
    "classifier": (
        lambda m: Conditioned(guidance.ClassifierGuidance(m, guidance.ExactClassifier(m.sde, modes())), **LABELLED),
        lambda m: Conditioned(
            guidance.ClassifierGuidance(m, guidance.ExactClassifier(m.sde, modes()), 0.0), **LABELLED
        ),
    ),
    "rescaled": (
        lambda m: Conditioned(guidance.Rescaled(guidance.ClassifierFree(m, 2.0)), **LABELLED),
        lambda m: guidance.Rescaled(guidance.ClassifierFree(m, 1.0)),
    ),
    "clipped": (lambda m: guidance.Clipped(m, -1.0, 1.0), lambda m: guidance.Clipped(m, -math.inf, math.inf)),
    "dynamic threshold": (lambda m: guidance.DynamicThreshold(m, -0.2, 0.3, 0.5), None),
    **{
        kind.__name__: (
            lambda m, kind=kind: Conditioned(kind(m, SEEN), y=torch.tensor([0.7], dtype=torch.float64)),  # type: ignore[misc]
            (lambda m, kind=kind: Conditioned(kind(m, SEEN, 0.0), y=torch.tensor([0.7], dtype=torch.float64)))  # type: ignore[misc]
            if kind is not guidance.Replacement
            else None,
        )
        for kind in (guidance.DPS, guidance.PiGDM, guidance.MomentMatching, guidance.Replacement)
    },
}
SEEN = sdegen.guidance.measurements.Mask(torch.tensor([True, False]), std=0.3)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("sde", [VP(), EDM(), Cosine(), CLD(sigma_0=0.1)], ids=name)
@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.turns("*-CLD")
def test_every_wrapper_of_the_truth_holds_to_its_laws(kind: str, sde: sdegen.LinearSDE) -> None:
    wrap, neutral = WRAPPERS[kind]
    scaled = kind == "epsilon scaling" and sde.snr(sde.T) == 0
    expected = {"readings_are_finite_at_both_ends": "without signal the noise is the state itself and cannot be scaled"}
    report = quietly(
        check_wrapper, wrap, sdegen.ExactConditional(sde, modes(), RING), neutral, expected if scaled else None
    )
    assert report.passed, report


@pytest.mark.parametrize("kind", ["conditioned", "epsilon scaling", "classifier-free", "clipped", "dynamic threshold"])
def test_every_wrapper_of_a_network_holds_to_its_laws(kind: str) -> None:
    wrap, neutral = WRAPPERS[kind]
    report = quietly(check_wrapper, wrap, network(VP(), labels=3), neutral)
    assert report.passed, report


def test_wrappers_of_a_learned_variance_hand_it_on() -> None:
    torch.manual_seed(0)
    model = sdegen.LearnedVariance(sdegen.nets.MLP(2, width=8, depth=1, out=4), VP()).double()
    model.moments = RING.moments()
    assert model.reversal is not None
    wraps: list[Wrap] = [Conditioned, WRAPPERS["epsilon scaling"][0], WRAPPERS["clipped"][0]]
    for wrap in wraps:
        report = quietly(check_wrapper, wrap, model)
        assert report.passed, report


PARAMETRIZATIONS: dict[str, Parametrization] = {
    "noise": NoiseParametrization(),
    "data": DataParametrization(),
    "velocity": VelocityParametrization(),
    "score": ScoreParametrization(),
    "EDM": EDMParametrization(),
    "EDM with detail": EDMParametrization(detail=0.3),
}
AT_THE_DATA = {
    "coefficients_are_finite_at_both_ends": "where one channel has no noise its answer says nothing of the velocity"
}


@pytest.mark.parametrize("sde", SDES, ids=name)
@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_every_parametrization_holds_to_its_laws(kind: str, sde: sdegen.LinearSDE) -> None:
    parametrization = PARAMETRIZATIONS[kind]
    if kind in ("noise", "score") and sde.snr(sde.T) == 0:
        with pytest.raises(ValueError, match=r"alpha\(T\) = 0"):
            check_parametrization(parametrization, sde)
        return
    singular = kind == "data" and not sde.is_scalar and sde.Sigma_0[0, 0] == 0
    report = quietly(check_parametrization, parametrization, sde, AT_THE_DATA if singular else None)
    assert report.passed, report


# Each weighting, with lambda by the coefficients of the process; Sigma and G Gᵀ across the channels where it has several.
WEIGHTINGS: dict[str, tuple[Weighting, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "uniform": (UniformWeighting(), lambda S, GG, snr: torch.eye(S.shape[-1]).double().expand(S.shape)),
    "inverse variance": (InverseVarianceWeighting(), lambda S, GG, snr: S),
    "likelihood": (LikelihoodWeighting(), lambda S, GG, snr: GG),
    "snr": (SNRWeighting(0.3), lambda S, GG, snr: S * (1 + 0.3 / snr)),
    "EDM": (EDMWeighting(0.5), lambda S, GG, snr: S * (1 + 4 / snr)),
    "min snr": (MinSNRWeighting(5.0), lambda S, GG, snr: S * (5 / snr).clamp_max(1)),
}


@pytest.mark.parametrize("sde", SDES, ids=name)
@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_every_weighting_holds_to_its_laws(kind: str, sde: sdegen.LinearSDE) -> None:
    weighting, of = WEIGHTINGS[kind]

    def weight(t: Tensor) -> Tensor:
        """The documented lambda, in the frame of the noise: ``W = Rᵀ ...`` so that ``W Wᵀ`` is read off as ``Wᵀ W`` of Sigma."""
        S = sde.marginal(t).covariance.matrix()
        GG = (sde.diffusion_operator(t) @ sde.diffusion_operator(t).T).matrix().expand(S.shape)
        return of(S, GG, sde.snr(t)[:, None, None])

    report = quietly(check_weighting, weighting, sde, weight)
    assert report.passed, report


TIMES: dict[str, Callable[[], TimeLaw]] = {
    "uniform": UniformTimes,
    "stratified": StratifiedTimes,
    "importance": ImportanceTimes,
    "importance of a density": lambda: ImportanceTimes(lambda sde, t: 1 + 3 * t / sde.T),
    "angle": AngleTimes,
    "shared": lambda: SharedTimes(number=16),
    "shared, of the angle": lambda: SharedTimes(AngleTimes(), number=16),
    "discrete": lambda: DiscreteTimes(1000),
    "log-normal": LogNormalTimes,
}


@pytest.mark.turns("angle-VP")
@pytest.mark.parametrize(
    ("kind", "sde"),
    [
        # Every time is searched for, and on CLD that takes minutes.
        pytest.param(kind, sde, marks=[pytest.mark.slow] if (kind, name(sde)) == ("log-normal", "CLD") else [])
        for kind in TIMES
        for sde in (VP(), EDM(), Cosine(), OU(), CLD(), sdegen.DoubleWell())
        if (kind, name(sde)) != ("log-normal", "DoubleWell")  # which has no noise levels
    ],
    ids=lambda value: value if isinstance(value, str) else name(value),
)
def test_every_law_of_times_holds_to_its_laws(kind: str, sde: sdegen.SDE) -> None:
    expected = {"factor_undoes_the_law": "the law is part of the objective"} if kind == "log-normal" else None
    report = quietly(check_times, TIMES[kind](), sde, expected)
    assert report.passed, report


# --- parts that are right up to rounding --------------------------------------------------------------------------------

ROUNDING = 2e-12  # of each row of a batch, by which sums in another order may differ


class RoundedWeights(UniformWeighting):
    """One number at all times, rounded as the batch is long."""

    def __init__(self, size: float) -> None:
        self.size = size

    def __call__(self, sde: Any, t: Tensor) -> Any:
        return Scale(self.size * (1 + ROUNDING * len(t)) * torch.ones_like(t))


class RoundedModel(ScoreModel):
    """The true score of data of a size, rounded as the batch is long."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.truth = sdegen.Exact(VP(), sdegen.data.gaussian_ring(radius=4 * size, std=size))
        self.sde, self.moments = self.truth.sde, self.truth.moments

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        return self.truth.score(x, t) * (1 + ROUNDING * len(x))


class Slope(ScoreModel):
    """A score that falls by a number."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size, self.sde, self.moments = size, VP(), RING.moments()

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        return -self.size * x


class Rounds(Wrapper):
    """The model inside, its score rounded."""

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        return self.model.score(x, t, **cond) * (1 + ROUNDING) + ROUNDING

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        return ScoreModel.estimate(self, x, t, **cond)


class RoundedLevel(EDMParametrization):
    """A noise level in units of a size, rounded as the batch is long."""

    size: float

    def c_noise(self, at: Marginal) -> Tensor:
        level = super().c_noise(at)
        return self.size * level * (1 + ROUNDING * level.numel())


class RoundedDrift(sdegen.ScalarSDE):
    """A rate of a size, rounded as the batch is long."""

    def __init__(self, size: float) -> None:
        self.size = size

    def f(self, t: Tensor) -> Tensor:
        return -10 * self.size * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * self.size * t).sqrt()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) * (1 + ROUNDING * len(x))


def rounded_level(size: float) -> RoundedLevel:
    made = RoundedLevel()
    made.size = size
    return made


ROUNDED: dict[str, Callable[[float], Report]] = {
    "weighting": lambda size: check_weighting(RoundedWeights(size), VP()),
    "model": lambda size: check_model(RoundedModel(size)),
    "parametrisation": lambda size: check_parametrization(rounded_level(size), VP()),
    "SDE": lambda size: check_sde(RoundedDrift(size)),
    "wrapper": lambda size: check_wrapper(Rounds, Slope(size), neutral=Rounds),
    "wrapper where the score is 0": lambda size: check_wrapper(Rounds, Slope(0.0 * size), neutral=Rounds),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("size", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("kind", ROUNDED)
def test_what_is_right_up_to_rounding_holds_whatever_its_size(kind: str, size: float) -> None:
    report = ROUNDED[kind](size)
    assert report.passed, report


class Reuses(Slope):
    """A score that is formed in the state that it is asked about."""

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        return x.mul_(-self.size)


class ReusesInEstimates(Slope):
    """A model that spoils the state where it is asked for clean data."""

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        x_0, eps = super().estimate(x, t)
        x.mul_(1.0 + self.size)
        return x_0, eps


@pytest.mark.parametrize("size", [1.0, -1.0, 0.5])
def test_a_model_that_changes_the_state_it_is_asked_about_is_seen(size: float) -> None:
    found = check_model(Reuses(size))
    assert "score(x, t) changes x in place" in str(found) or size == -1.0, found
    assert "estimate changed what it was given in place" in str(check_model(ReusesInEstimates(0.1)))
    assert "in place" not in str(check_model(Slope(size)))


def test_reports_name_what_was_looked_at() -> None:
    reports = {
        "Exact": check_model(sdegen.Exact(VP(), RING)),
        "SNRWeighting on VP": check_weighting(SNRWeighting(), VP()),
        "AngleTimes on VP": check_times(AngleTimes(), VP()),
        "NoiseParametrization on VP": check_parametrization(NoiseParametrization(), VP()),
    }
    for subject, report in reports.items():
        assert report.subject == subject and str(report).startswith(f"{subject}: "), str(report)
