"""What is made for data in units of their spread does to ``a x + b`` what it does to `x`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sdegen
from sdegen import guidance, losses, models, samplers
from sdegen.laws import Units
from sdegen.models import ScoreModel
from sdegen.processes.quadrature import van_loan
from sdegen.training.settings import constant_rate

LAW = sdegen.data.random_mixture(2, modes=3, seed=1)


class Own(sdegen.ScalarSDE):
    """A process of two methods."""

    def f(self, t: Tensor) -> Tensor:
        return -3 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 6 * t).sqrt()


class Lifted(sdegen.MatrixSDE):
    """A process of two matrices, whose state has the data in its second channel."""

    def __init__(self) -> None:
        self.Sigma_0 = torch.diag(torch.tensor([0.3, 0.0], dtype=torch.float64))

    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([[-4.0, -2.0], [2.0, 0.0]], dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        return torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        G = self.G(t)
        return van_loan(self.F(t), G @ G.mT, t - s)

    def embed(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x), x], 1)

    def extract(self, u: Tensor) -> Tensor:
        return u[:, 1]

    def fill(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        rest = torch.distributions.Normal(0.0, 0.3**0.5)
        v = rest.scale * z[:, 0]
        return torch.stack([v, x], 1), rest.log_prob(v).flatten(1).sum(1)


class Walk(sdegen.SDE):
    """A nonlinear process with a prior of its own."""

    T = 2.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x - 0.3 * torch.sin(3 * x)

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 1.0

    def prior(self, moments: Any) -> Any:
        return sdegen.GaussianMixture(torch.ones(1), torch.zeros_like(moments.mean)[None], 0.3 * torch.ones(1))


class Change(NamedTuple):
    """A change ``a x + b`` of the data."""

    a: Tensor
    b: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (self.a * x.double() + self.b).to(x.dtype)

    def back(self, y: Tensor) -> Tensor:
        return (y.double() - self.b) / self.a

    def law(self, law: Any) -> sdegen.GaussianMixture:
        full = law._full() * torch.outer(self.a, self.a)
        return sdegen.GaussianMixture(law.weights, self.a * law.means + self.b, full)

    @property
    def rounding(self) -> float:
        """What float64 leaves of a number with the offset, in units of the spread."""
        return float(1e-14 * (1 + (self.b / self.a).abs().max()))


def columns(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


exponents = st.integers(-20, 20)
powers = st.builds(lambda i, j: Change(columns(2.0**i, 2.0**j), columns(0, 0)), exponents, exponents)
sizes = st.floats(-6, 6).map(lambda e: 10**e)
offsets = st.floats(-1e6, 1e6)
changes = st.builds(lambda a, c, b, d: Change(columns(a, c), columns(b * a, d * c)), sizes, sizes, offsets, offsets)

PROCESSES: dict[str, Callable[[], Any]] = {
    "VP": sdegen.VP, "VE": sdegen.VE, "EDM": sdegen.EDM, "OU": sdegen.OU, "SubVP": sdegen.SubVP, "DDPM": sdegen.DDPM,
    "Cosine": sdegen.Cosine, "Rectified": sdegen.Rectified, "two methods": Own, "CLD": lambda: sdegen.CLD(sigma_0=0.1),
    "two matrices": Lifted, "learned": sdegen.LearnedSchedule, "learned SDE": sdegen.LearnedSDE,
}  # fmt: skip
ASKED = (
    models.NoiseParametrization, models.DataParametrization, models.VelocityParametrization, models.ScoreParametrization,
    models.EDMParametrization, models.StraightParametrization,
)  # fmt: skip
SAMPLERS: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "ddim": lambda: samplers.DDIM(4),
    "ddim, eta 1": lambda: samplers.DDIM(4, eta=1.0),
    "ancestral": lambda: samplers.Ancestral(4),
    "heun": lambda: samplers.Heun(3),
    "euler-maruyama": lambda: samplers.EulerMaruyama(5),
    "reverse diffusion": lambda: samplers.ReverseDiffusion(5),
    "singlestep": lambda: samplers.Singlestep(4),
    "multistep": lambda: samplers.Multistep(4, reference=samplers.PointMass()),
    "exponential": lambda: samplers.ExponentialSDE(4),
    "secant": lambda: samplers.SecantSDE(4),
    "churn": lambda: samplers.Churn(4),
    "restart": lambda: samplers.Restart(samplers.Heun(4), [samplers.Interval(0.1, 0.5, 2, 2)]),
    "predictor-corrector": lambda: samplers.PredictorCorrector(samplers.EulerMaruyama(4), samplers.Langevin(1, h=0.1)),
    "annealed": lambda: samplers.AnnealedLangevin(4, h=0.1),
    "flow": lambda: samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3),
    "adaptive": lambda: samplers.AdaptiveSDE(rtol=0.5, atol=0.5),
}


@cache
def made(process: str) -> Any:
    """One process of a kind for all tests, whose tables are made once."""
    sde = PROCESSES[process]()
    sde.marginal(0.5 * sde.T)
    return sde


class Net(nn.Module):
    """A smooth network without learning: what it says depends on every input."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        W = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        self.W = nn.Parameter(0.5 * W)

    def forward(self, x: Tensor, level: Tensor, label: Any = None) -> Tensor:
        one = (-1, *[1] * (x.ndim - 1))
        shift = level.reshape(one) + (0.0 if label is None else torch.as_tensor(label).reshape(one))
        return torch.tanh(x @ self.W + shift)


def learned(sde: Any, law: Any, asks: Any = None, seed: int = 0) -> sdegen.Model:
    model = sdegen.Model(Net(seed), sde.in_units(law.moments().units()), asks)
    model.moments = law.moments()
    return model.requires_grad_(False)


def exact(sde: Any, law: Any) -> sdegen.Exact:
    return sdegen.Exact(sde.in_units(law.moments().units()), law)


def drawn(model: ScoreModel, sampler: str, **cond: Any) -> Tensor | str:
    """Samples, or the sentence of a sampler that does not suit the process."""
    with torch.no_grad():
        try:
            return sdegen.sample(model, 4, sampler=SAMPLERS[sampler](), seed=3, **cond)
        except (TypeError, ValueError) as refusal:
            return str(refusal)


def same(got: Any, want: Any, change: Change, tolerance: float) -> None:
    """Samples in the other units are those in the first, to rounding."""
    assert type(got) is type(want)
    if not isinstance(want, str):
        scale = 1 + change.rounding / 1e-14
        assert (change.back(got) - want).abs().max() <= tolerance * scale * (1 + want.abs().max())


@given(
    st.sampled_from(sorted(PROCESSES)), st.sampled_from(ASKED), st.sampled_from(sorted(SAMPLERS)), powers, st.booleans()
)
def test_samples_scale_with_the_data_to_the_bit(
    process: str, asks: Any, sampler: str, change: Change, single: bool
) -> None:
    sde = made(process)
    if sde.snr(sde.T) == 0 and issubclass(asks, models.NoiseParametrization):
        asks = models.EDMParametrization
    here, there = (learned(sde, law, asks()) for law in (LAW, change.law(LAW)))
    if single:
        here, there = here.float(), there.float()
    want, got = drawn(here, sampler), drawn(there, sampler)
    assert type(got) is type(want)
    if isinstance(want, Tensor) and isinstance(got, Tensor):
        assert torch.equal(got.double(), want.double() * change.a)


@settings(max_examples=settings().max_examples // 3)
@example("Cosine", "default", Change(columns(1e3, 3e-4), columns(2e5, -3)), True)  # whose steps are measured
@given(st.sampled_from(sorted(PROCESSES)), st.sampled_from(sorted(SAMPLERS)), changes, st.booleans())
def test_samples_follow_the_data(process: str, sampler: str, change: Change, truth: bool) -> None:
    make = exact if truth else learned
    here, there = (make(made(process), law) for law in (LAW, change.law(LAW)))
    loose = 1e-6 if sampler in ("flow", "adaptive") else 1e-8 if process == "CLD" else 1e-9  # whose root is a table
    same(drawn(there, sampler), drawn(here, sampler), change, loose)


def log_volume(change: Change) -> float:
    return float(change.a.log().sum())


def close(got: Tensor, want: Tensor, change: Change, tolerance: float = 1e-6) -> None:
    scale = 1 + change.rounding / 1e-14
    assert (got - want).abs().max() <= tolerance * scale * (1 + want.abs().max())


KINDS = ("VP", "EDM", "two methods", "CLD", "two matrices")
mild = st.builds(
    lambda a, c, b, d: Change(columns(a, c), columns(b * a, d * c)), sizes, sizes, st.floats(-9, 9), st.floats(-9, 9)
)


@settings(max_examples=settings().max_examples // 3)
@given(st.sampled_from(KINDS), mild, st.booleans())
@pytest.mark.slow
def test_densities_differ_by_the_volume_of_the_change(process: str, change: Change, truth: bool) -> None:
    make = exact if truth else learned
    here, there = (make(made(process), law) for law in (LAW, change.law(LAW)))
    x = LAW.sample(3, torch.Generator().manual_seed(0))
    y = change(x)

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    how: dict[str, Any] = {"tolerance": 0.1, "draws": 2}
    want, got = (sdegen.log_prob(m, v, generator=seeded(), **how) for m, v in ((here, x), (there, y)))
    close(got, want - log_volume(change), change)
    want, got = (sdegen.elbo(m, v, draws=4, generator=seeded()).value for m, v in ((here, x), (there, y)))
    close(got, want - log_volume(change), change)
    want, got = (sdegen.discrete_elbo(m, v, 5, generator=seeded()).value for m, v in ((here, x), (there, y)))
    close(got, want - log_volume(change), change)
    x, found = sdegen.sample_with_log_prob(here, 3, seed=0, tolerance=0.1)
    y, more = sdegen.sample_with_log_prob(there, 3, seed=0, tolerance=0.1)
    if x.ndim == 2:  # data, not states
        close(change.back(y), x, change)
        close(more.value, found.value - log_volume(change), change)
        pair = sdegen.likelihood.diffusion_hierarchy(there, torch.tensor([0.9, 0.4, 0.1]) * there.sde.T)
        first = sdegen.likelihood.diffusion_hierarchy(here, torch.tensor([0.9, 0.4, 0.1]) * here.sde.T)
        want, got = first.terms(x, seeded()), pair.terms(y, seeded())
        close(got[:-1], want[:-1], change)
        close(got[-1], want[-1] + log_volume(change), change)


@settings(max_examples=settings().max_examples // 3)
@given(st.sampled_from(KINDS), mild)
def test_data_are_encoded_edited_and_joined_alike(process: str, change: Change) -> None:
    here, there = (learned(made(process), law) for law in (LAW, change.law(LAW)))
    x = LAW.sample(6, torch.Generator().manual_seed(0))
    y, heun = change(x), samplers.Heun(4)
    want, got = (samplers.encode_with_error(m, v, steps=4, seed=0) for m, v in ((here, x), (there, y)))
    close(got.z, want.z, change)
    close(change.back(samplers.decode(there, got.z, steps=4)), samplers.decode(here, want.z, steps=4), change)
    weights = torch.tensor([0.0, 0.4, 1.0])
    ends = [samplers.interpolate(m, *v.chunk(2), weights, steps=4, seed=0) for m, v in ((here, x), (there, y))]
    close(change.back(ends[1]), ends[0], change)
    for sampler in (None, heun):
        edited = [sdegen.edit(m, v, 0.4 * m.sde.T, sampler=sampler, seed=0) for m, v in ((here, x), (there, y))]
        close(change.back(edited[1]), edited[0], change)


A = torch.tensor([[1.0, -0.5]], dtype=torch.float64)


def seen_through(change: Change) -> tuple[guidance.measurements.Linear, Tensor]:
    """A measurement of the changed data that sees what `A` sees of the first, but for a known number."""
    there = A / change.a
    return guidance.measurements.Linear(there, 0.3), there @ change.b


def ones(change: Change) -> Change:
    """One change of both columns: what is done to all coordinates of a datum together follows no other."""
    return Change(change.a[:1].expand(2), change.b[:1].expand(2))


WRAPPERS: dict[str, Callable[[Any, Change], Any]] = {
    "DPS": lambda m, c: guidance.DPS(m, seen_through(c)[0], scale=0.1),
    "PiGDM": lambda m, c: guidance.PiGDM(m, seen_through(c)[0]),
    "moment matching": lambda m, c: guidance.MomentMatching(m, seen_through(c)[0], iterations=1),
    "replacement": lambda m, c: guidance.Replacement(m, guidance.measurements.Mask(torch.tensor([True, False]), 0.1)),
    "class": lambda m, c: guidance.ClassifierFree(m, 2.0),
    "projected class": lambda m, c: guidance.APG(m, 2.0),
    "fitted class": lambda m, c: guidance.CFGZeroStar(m, 2.0),
    "rescaled class": lambda m, c: guidance.RescaledGuidance(m, 2.0),
    "autoguidance": lambda m, c: guidance.Autoguidance(m, learned(made("VP"), c.law(LAW), seed=1), 2.0),
    "class, its answer rescaled": lambda m, c: guidance.Rescaled(guidance.ClassifierFree(m, 2.0), 0.5),
    "noise": lambda m, c: guidance.EpsilonScaling(m, guidance.LinearScale(1.0, 0.1)),
    "exact classifier": lambda m, c: guidance.ClassifierGuidance(
        m, guidance.ExactClassifier(m.sde, [c.law(LAW.in_units(Units(0.5, v))) for v in (1.0, 2.0)])
    ),
    "clipped": lambda m, c: guidance.Clipped(m, float(c(columns(-1, -1))[0]), float(c(columns(0.5, 0.5))[0])),
    "dynamic": lambda m, c: guidance.DynamicThreshold(m, float(c(columns(-1, -1))[0]), float(c(columns(0.5, 0.5))[0])),
}


@given(st.sampled_from(sorted(WRAPPERS)), mild)
def test_guided_samples_follow_the_data(name: str, change: Change) -> None:
    if name in ("clipped", "dynamic"):
        change = ones(change)
    still = Change(columns(1, 1), columns(0, 0))
    y = torch.tensor([0.7], dtype=torch.float64)
    found = []
    for c in (still, change):
        model = WRAPPERS[name](learned(made("VP"), c.law(LAW)), c)
        cond: dict[str, Any] = {"label": 1} if "class" in name else {}
        if isinstance(model, guidance.MeasurementGuidance):
            cond = {"y": y + seen_through(c)[1]}
        if isinstance(model, guidance.Replacement):
            cond = {"y": c(columns(0.2, 0.2))[:1]}
        found.append(c.back(sdegen.sample(model, 4, sampler=samplers.DDIM(5), seed=0, **cond)))
    close(found[1], found[0], change)


@settings(max_examples=max(3, settings().max_examples // 4))
@given(st.sampled_from(KINDS[:3]), sizes, st.floats(-9, 9), st.booleans())
def test_bits_of_bytes_do_not_depend_on_the_numbers_that_stand_for_them(
    process: str, a: float, b: float, truth: bool
) -> None:
    make, images = exact if truth else learned, torch.tensor([[0, 255], [100, 131]], dtype=torch.uint8)
    change = Change(columns(a, a), columns(a * b, a * b))
    found = []
    for c in (Change(columns(1, 1), columns(0, 0)), change):
        ends = c(columns(-3.0, 3.0)).tolist()
        bits = sdegen.bits_per_dim(
            make(made(process), c.law(LAW)), images, sdegen.data.Scaling(*ends), draws=2, tolerance=0.1,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        found.append(bits)
    close(found[1].value, found[0].value, change)
    close(found[1].stderr, found[0].stderr, change)


@settings(max_examples=max(3, settings().max_examples // 4))
@given(mild)
def test_data_are_repainted_alike(change: Change) -> None:
    mask, found = guidance.measurements.Mask(torch.tensor([True, False]), 0.1), []
    for c in (Change(columns(1, 1), columns(0, 0)), change):
        model = guidance.Replacement(learned(made("VP"), c.law(LAW)), mask)
        again = guidance.repaint(model, samplers.DDIM(6), jump=2, repeats=2)
        x = sdegen.sample(model, 4, sampler=again, seed=0, y=c(columns(0.2, 0.2))[:1])
        found.append(c.back(x))
    close(found[1], found[0], change)


@settings(max_examples=max(3, settings().max_examples // 4))
@given(st.sampled_from(["DPS", "PiGDM"]), st.sampled_from(("VP", "EDM", "two methods")), mild)
def test_weighted_particles_follow_the_data(name: str, process: str, change: Change) -> None:
    y, found = torch.tensor([0.7], dtype=torch.float64), []
    for c in (Change(columns(1, 1), columns(0, 0)), change):
        model = WRAPPERS[name](learned(made(process), c.law(LAW)), c)
        found.append(guidance.twisted_smc(model, 8, steps=6, seed=0, y=y + seen_through(c)[1]))
    close(change.back(found[1].x), found[0].x, change)
    close(found[1].weights, found[0].weights, change)
    assert found[1].resampled == found[0].resampled


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [("none", 1e-3, 5), ("PiGDM", 200, -3), ("class", 1e5, 8), ("noise", 3e-6, -9), ("replacement", 40, 2)],
)
@pytest.mark.turns("PiGDM-*", "replacement-*", "noise-*", "class-100000.0-8")
def test_solvers_are_fitted_alike_to_guided_models_too(name: str, a: float, b: float) -> None:
    """Their times and errors, which are those of states, do not change with the data."""
    change, found = Change(columns(a, a), columns(a * b, a * b)), []
    y = torch.tensor([0.7], dtype=torch.float64)
    for c in (Change(columns(1, 1), columns(0, 0)), change):
        model = WRAPPERS.get(name, lambda m, c: m)(learned(made("VP"), c.law(LAW)), c)
        cond: dict[str, Any] = {"label": 1} if name == "class" else {}
        if name == "PiGDM":
            cond = {"y": y + seen_through(c)[1]}
        if name == "replacement":
            cond = {"y": c(columns(0.2, 0.2))[:1]}
        solver = samplers.fit_solver(model, steps=3, paths=32, rounds=2, progress=False, **cond)
        assert isinstance(solver, samplers.Fitted) and solver.error < 0.8 * solver.default_error
        found.append((solver, c.back(sdegen.sample(model, 4, sampler=solver, seed=0, **cond))))
    (first, want), (solver, got) = found
    close(got, want, change, 1e-4)
    close(solver.stops, first.stops, change, 1e-4)
    assert solver.error == pytest.approx(first.error, rel=1e-2)


@pytest.mark.parametrize("change", [0.0, 1e-9, -1e-9, 1e-3, -1e-3])
@pytest.mark.parametrize("of", ["mean", "std"])
def test_units_agree_where_neither_lies_above_nor_below(of: str, change: float) -> None:
    """To a millionth of the standard deviation in every coordinate, whichever of the two is asked."""
    mean, std = torch.tensor([5.0, 0.0], dtype=torch.float64), torch.tensor([2.0, 1.0], dtype=torch.float64)
    moved = {"mean": mean, "std": std} | {of: {"mean": mean, "std": std}[of] + torch.tensor([0.0, change]).double()}
    ours, other = Units(mean, std), Units(**moved)
    assert ours.agree(other) is other.agree(ours) is (abs(change) < 1e-6)


def test_models_with_data_in_other_units_are_not_mixed() -> None:
    model, other = learned(sdegen.VP(), LAW), learned(sdegen.VP(), Change(columns(3, 3), columns(0, 0)).law(LAW))
    with pytest.raises(ValueError, match=r"units of scale .* model\.sde"):
        guidance.Autoguidance(model, other, 2.0)
    classified = guidance.ClassifierGuidance(model, guidance.NoisyClassifier(nn.Identity(), sdegen.VP()))
    with pytest.raises(ValueError, match=r"units of scale .* model\.sde"):
        sdegen.sample(classified, 2, steps=2, label=1)


def test_a_process_of_more_channels_brings_data_in_by_embed() -> None:
    with pytest.raises(TypeError, match="override embed"):

        class Old(sdegen.CLD):
            def lift(self, x: Tensor) -> Tensor:
                return torch.stack([x, x], 1)


def test_units_are_saved_with_the_process_of_any_model(tmp_path: Any) -> None:
    law = Change(columns(1e-3, 1e3), columns(5, -1e6)).law(LAW)
    model = learned(sdegen.VP(), law)
    for saved in (model, guidance.Clipped(model, -1, 1)):
        sdegen.save(saved, tmp_path / "model")
        read = sdegen.load(tmp_path / "model", classes=[Net])
        assert torch.equal(read.sde.units.std, model.sde.units.std)
        assert torch.equal(sdegen.sample(read, 3, seed=0, steps=3), sdegen.sample(saved, 3, seed=0, steps=3))
    sdegen.save(guidance.ClassifierGuidance(model, guidance.NoisyClassifier(Net(), model.sde)), tmp_path / "guided")
    read = sdegen.load(tmp_path / "guided", classes=[Net])
    assert torch.equal(read.classifier.sde.units.mean, model.sde.units.mean)


LEARNERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "VP": (lambda: sdegen.Model(Net(), sdegen.VP()), None),
    "EDM": (lambda: sdegen.Model(Net(), sdegen.EDM()), losses.Denoising(antithetic=True)),
    "noise": (lambda: sdegen.Model(Net(), sdegen.OU(), models.NoiseParametrization()), losses.InputPerturbation()),
    "CLD": (lambda: sdegen.Model(Net(), sdegen.CLD()), None),
    "two matrices": (lambda: sdegen.Model(Net(), Lifted()), losses.Denoising(pooled=False)),
    "variance": (lambda: sdegen.LearnedVariance(Doubled(), sdegen.DDPM()), losses.Hybrid(steps=10)),
    "implicit": (lambda: sdegen.Model(Net(), sdegen.VE()), losses.Implicit()),
    "schedule": (lambda: sdegen.Model(Net(), sdegen.LearnedSchedule()), losses.Variational(steps=10)),
    "walk": (lambda: sdegen.DirectModel(Net(), Walk()), losses.Denoising(times=sdegen.weightings.UniformTimes())),
    "well": (
        lambda: sdegen.DirectModel(Net(), sdegen.DoubleWell(T=2.0)),
        losses.Denoising(times=sdegen.weightings.SharedTimes()),
    ),
}


class Doubled(Net):
    """A network that answers for mean and variance."""

    def forward(self, x: Tensor, level: Tensor, label: Any = None) -> Tensor:
        return torch.cat([super().forward(x, level, label)] * 2, 1)


def fitted(kind: str, x: Tensor, label: Tensor | None) -> Any:
    make, loss = LEARNERS[kind]
    model = make().double()
    data = x if label is None else (x, label)
    sdegen.fit(model, data, steps=3, batch_size=16, lr=1e-2, warmup=0, seed=0, loss=loss, progress=False)
    return model


@pytest.mark.parametrize("kind", LEARNERS)
@settings(max_examples=max(2, settings().max_examples // 5))
@given(change=st.one_of(powers, changes), labelled=st.booleans())
@pytest.mark.turns("schedule", "well", "two matrices", "CLD")
def test_what_is_learned_follows_the_data(kind: str, change: Change, labelled: bool) -> None:
    """``sample(fit(a x + b)) = a sample(fit(x)) + b``."""
    x = LAW.sample(40, torch.Generator().manual_seed(0))
    label = torch.arange(40) % 2 if labelled else None
    cond: dict[str, Any] = {"label": 1} if labelled else {}
    here, there = (fitted(kind, v, label) for v in (x, change(x)))
    assert not torch.allclose(here.net.W, Net().W)  # something was learned
    torch.testing.assert_close(there.net.W, here.net.W, rtol=1e-6, atol=1e-6)
    if kind == "well":
        return  # reversed, it runs away unless its score is learned
    want, got = (sdegen.sample(m, 5, seed=1, steps=20 if kind == "walk" else 4, **cond) for m in (here, there))
    if change.b.abs().max() == 0:
        assert torch.equal(got, want * change.a)
    else:
        close(change.back(got), want, change, 1e-4)


class Drawn(NamedTuple):
    """A law of the changed data, whose draws are the changed draws."""

    change: Change

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.change(LAW.sample(n, generator))

    def moments(self) -> Any:
        return self.change.law(LAW).moments()


far = st.builds(lambda sign, e: sign * 10**e, st.sampled_from([-1, 1]), st.floats(5.5, 7))
far_off = st.builds(lambda a, c, b, d: Change(columns(a, c), columns(b * a, d * c)), sizes, sizes, far, far)


@settings(max_examples=max(3, settings().max_examples // 4))
@given(far_off)
def test_draws_of_a_law_lose_no_digits_far_from_zero(change: Change) -> None:
    """A network in single precision sees what it would see of a law near zero, where numbers have all their digits."""
    found = []
    for c in (Change(columns(1, 1), columns(1e4, 1e4)), change):
        model = sdegen.Model(Net(), sdegen.VP()).float()
        sdegen.fit(model, Drawn(c), steps=3, batch_size=16, lr=1e-2, warmup=0, seed=0, progress=False)
        assert model.net.W.dtype == torch.float32
        found.append(model.net.W)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_a_constant_column_is_in_units_of_the_others() -> None:
    x = torch.cat([1e-6 * torch.randn(50, 2, dtype=torch.float64) + 3, torch.full((50, 1), 1e3 + 0.1)], 1)
    units = sdegen.moments_of(x).units()
    assert abs(units.std[2] / units.std[:2].square().mean().sqrt() - 1) < 1e-12
    assert (units.std[:2] / x[:, :2].std(0, correction=0) - 1).abs().max() < 1e-9
    assert sdegen.moments_of(torch.ones(9, 2)).units().std.tolist() == [1, 1]


def test_images_have_one_mean_and_one_spread() -> None:
    x = 5 + 2 * torch.rand(50, 1, 3, 3, dtype=torch.float64) * (
        torch.arange(3.0) > 0
    )  # a column of pixels that is always 5
    units = sdegen.moments_of(x).units()
    assert units.mean.shape == () == units.std.shape
    torch.testing.assert_close(units.standardise(x).var(0, correction=0).mean(), torch.ones((), dtype=torch.float64))


def test_digits_survive_a_mean_of_a_million_spreads() -> None:
    x = (1e3 + 1e-3 * torch.randn(400, 1, dtype=torch.float64)).float()
    u = sdegen.moments_of(x).units().standardise(x)
    want = (x.double() - x.double().mean()) / x.double().std(correction=0)
    assert (u - want).abs().max() < 1e-6  # of numbers whose own spacing is a sixteenth


def test_units_that_were_given_stay(tmp_path: Any) -> None:
    mine = Units(torch.tensor(1.0), torch.tensor(2.0))
    x = LAW.sample(40)
    for model in (sdegen.Model(Net(), sdegen.VP().in_units(mine)), sdegen.Model(Net(), sdegen.VP().in_units(Units()))):
        before = model.sde.units
        sdegen.fit(model.double(), x, steps=1, batch_size=8, progress=False)
        assert model.sde.units is before
    known = sdegen.Model(Net(), sdegen.VP()).double()
    known.moments = LAW.moments()
    sdegen.fit(known, x, steps=1, batch_size=8, progress=False)
    assert known.sde.units.plain
    twice = sdegen.Model(Net(), sdegen.VP()).double()
    sdegen.fit(twice, x, steps=1, batch_size=8, progress=False)
    first = twice.sde.units
    sdegen.fit(twice, 3 * x, steps=1, batch_size=8, progress=False)
    assert twice.sde.units is first


def test_a_run_goes_on_in_its_units(tmp_path: Any) -> None:
    x = Change(columns(1e-3, 1e3), columns(5, 100))(LAW.sample(40, torch.Generator().manual_seed(0)))
    whole, parts = (sdegen.Model(Net(), sdegen.VP()).double() for _ in range(2))
    how: dict[str, Any] = {"batch_size": 8, "seed": 0, "schedule": constant_rate, "progress": False}
    sdegen.fit(whole, x, steps=4, **how)
    sdegen.fit(parts, x, steps=2, checkpoint=tmp_path, **how)
    for model in (sdegen.Model(Net(), sdegen.VP()).double(), parts):
        sdegen.fit(model, x, steps=4, checkpoint=tmp_path, **how)
        assert torch.equal(sdegen.sample(model, 3, seed=0, steps=3), sdegen.sample(whole, 3, seed=0, steps=3))
