"""Models made of models, and the loss against exposure bias: readings agree, samplers agree, minimisers are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import grids, losses, weightings
from sdegen.guidance import ClassifierFree, EpsilonScaling, LinearScale
from sdegen.models import Conditioned, Exact, ScoreModel
from sdegen.samplers import DDIM, Ancestral, EulerMaruyama, Heun, ProbabilityFlow, learned_variance, sample
from sdegen.testing import affine_moments, check_model
from sdegen.testing.samplers import gaussian_data

DATA = gaussian_data()
SDES = [sdegen.VP(), sdegen.VE(), sdegen.Cosine(), sdegen.DDPM(), sdegen.CLD(sigma_0=0.1)]
name = lambda s: type(s).__name__


def states(sde: Any, n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    t = sde.T * torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    return sde.perturb(DATA.sample(n, g), t, generator=g).x, t


# --- noise divided by a factor ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.05, 0.9, LinearScale(1.02, 0.3)], ids=str)
@pytest.mark.parametrize("sde", SDES, ids=name)
def test_all_readings_are_those_of_the_scaled_noise(sde: Any, scale: Any) -> None:
    inner = Exact(sde, DATA)
    model = EpsilonScaling(inner, scale)
    assert check_model(model).passed, check_model(model)
    x, t = states(sde)
    factor = scale(t) if callable(scale) else torch.full_like(t, scale)
    factor = factor.reshape(-1, *[1] * (x.ndim - 1))
    eps = inner.noise(x, t) / factor
    at = sde.marginal(t)
    close = lambda got, want: torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    close(model.noise(x, t), eps)
    close(model.score(x, t), inner.score(x, t) / factor)
    close(model.denoise(x, t), at.Phi.inv()(x - at.R(eps)))
    close(model.velocity(x, t), at.A(model.denoise(x, t)) + at.B(eps))
    for got, want in zip(model.estimate(x, t), (model.denoise(x, t), eps), strict=True):
        close(got, want)
    for i in (0, 5):  # one time for all rows, and a plain number
        close(model.estimate(x[i : i + 1], t[i])[0], model.denoise(x, t)[i : i + 1])
        close(model.estimate(x[i : i + 1], t[i].item())[0], model.denoise(x, t)[i : i + 1])


@pytest.mark.parametrize("scale", [1.1, LinearScale(1.1)], ids=str)
def test_every_sampler_follows_the_scaled_dynamics(scale: Any) -> None:
    # OU on standard normal data: score = −x, so dx/dt = −x + (1 + eta²) x / scale with noise eta √2.
    T, sde = 1.5, sdegen.OU(T=1.5)
    data = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    model = EpsilonScaling(Exact(sde, data), scale)
    model.distribution = data  # what affine_moments starts from
    a = 1 - 1 / 1.1
    flow = math.exp(2 * a * T)
    b = 1 - 2 / 1.1
    reverse = math.exp(2 * b * T) + (math.exp(2 * b * T) - 1) / b
    grid, even = grids.Angle(end=0.0), grids.Uniform(end=0.0)
    for sampler, want in (
        (DDIM(500, grid), flow),
        (Heun(60, grid), flow),
        (ProbabilityFlow(30, grid, method="rk4"), flow),
        (EulerMaruyama(800, even, eta=0.0), flow),
        (EulerMaruyama(800, even), reverse),
        (Ancestral(800, grid), reverse),
        (DDIM(800, grid, eta=1.0), reverse),
    ):
        variance = affine_moments(sampler, model)[1].item()
        assert abs(variance / want - 1) < 8e-3, (type(sampler).__name__, variance, want)
    assert flow > 1.25  # the factor is felt


def test_the_default_sampler_follows_them_too() -> None:
    model = EpsilonScaling(Exact(sdegen.VP(), sdegen.data.gaussian_ring()), LinearScale(1.02, 0.05))
    x_T = model.sde.prior(model.moments).sample(20, torch.Generator().manual_seed(0))
    default, heun = (sample(model, x_T=x_T, **how) for how in ({"steps": 200}, {"sampler": Heun(200)}))
    torch.testing.assert_close(default, heun, rtol=0, atol=0.03)
    assert (sample(model.model, x_T=x_T, steps=200) - default).abs().max() > 0.1


@pytest.mark.parametrize("sde", [sdegen.Cosine(), sdegen.Rectified()], ids=name)
def test_where_the_state_is_noise_it_is_refused_or_left(sde: Any) -> None:
    inner, x = Exact(sde, DATA), torch.randn(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"alpha = 0 at t = 1 of .*start the grid at t_max"):
        sample(EpsilonScaling(inner, 1.01), 4, sampler=DDIM(4))
    assert sample(EpsilonScaling(inner, 1.01), 4, sampler=DDIM(40, grids.Angle(start=sde.t_max))).isfinite().all()
    gentle = EpsilonScaling(inner, lambda t: torch.where(t < 1, 1.01, 1.0))
    assert sample(gentle, 4, sampler=DDIM(4)).isfinite().all()
    t = torch.tensor([1.0, 0.5, 1.0, 0.5], dtype=torch.float64)
    for got, want in zip(gentle.estimate(x, t), inner.estimate(x, t), strict=True):
        torch.testing.assert_close(got[::2], want[::2], rtol=1e-12, atol=1e-12)
        assert (got[1::2] - want[1::2]).abs().min() > 1e-6
    with pytest.raises(ValueError, match="alpha = 0 at t = 1 "):
        EpsilonScaling(inner, 1.01).estimate(x, t)


def test_scale_one_is_the_model_itself() -> None:
    sde = sdegen.Cosine()
    inner = Exact(sde, DATA)
    pair = [sample(m, 8, sampler=DDIM(10), seed=0) for m in (inner, EpsilonScaling(inner, 1.0))]
    assert torch.equal(*pair)


@pytest.mark.parametrize("wrap", [lambda m: EpsilonScaling(m, 1.01), lambda m: ClassifierFree(m, 2.0)])
def test_wrappers_have_the_dtype_conditions_and_moments_of_the_network(wrap: Any) -> None:
    net = sdegen.nets.MLP(2, width=16, depth=1, classes=3)
    inner = sdegen.Model(net, sdegen.VP())
    model = wrap(inner)
    assert model.moments is None and model.sde is inner.sde
    inner.moments = DATA.moments()  # fitted later: seen through
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    for training in (True, False):
        inner.train(training)
        x = sample(model, 5, sampler=DDIM(4), seed=0, label=torch.tensor([0, 1, 2, 0, 1]))
        assert x.dtype == torch.float32 and inner.training == model.training == training
    bound = Conditioned(model, label=torch.tensor(1))
    y, t = torch.randn(4, 2), torch.full((4,), 0.5, dtype=torch.float64)
    label = torch.ones(4, dtype=torch.long)
    torch.testing.assert_close(bound.estimate(y, t)[0], model.estimate(y, t, label=label)[0])
    assert not torch.equal(model.score(y, t, label=label), model.score(y, t, label=label - 1))


def test_learned_variances_are_kept() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return torch.cat([0.1 * x, x], 1)

    inner = sdegen.LearnedVariance(Twice(), sdegen.VP())
    inner.moments = DATA.moments()
    assert sample(EpsilonScaling(inner, 1.01), 3, sampler=Ancestral(4, variance=learned_variance)).shape == (3, 2)
    plain = EpsilonScaling(Exact(sdegen.VP(), DATA), 1.01)
    with pytest.raises(TypeError, match="no learned variance"):
        sample(plain, 3, sampler=Ancestral(4, variance=learned_variance))


def test_a_nonlinear_score_is_scaled_too() -> None:
    inner = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), sdegen.DoubleWell())
    x, t = torch.randn(3, 1), torch.full((3,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(EpsilonScaling(inner, 2.0).score(x, t), 0.5 * inner.score(x, t))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_scales_that_mean_nothing_are_refused(scale: float) -> None:
    inner = Exact(sdegen.VP(), DATA)
    with pytest.raises(ValueError, match="must be positive"):
        EpsilonScaling(inner, scale)
    with pytest.raises(ValueError, match=r"scale = .* at t = \[0.5\]"):
        EpsilonScaling(inner, lambda t: t * 0 + scale).score(torch.zeros(1, 2), 0.5)


# --- guidance without a classifier --------------------------------------------------------------------------------


class Two(ScoreModel):
    """Exact for one of two laws by `label`, and for their mixture without."""

    def __init__(self, sde: Any) -> None:
        means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
        law = sdegen.GaussianMixture
        both = law(torch.full((2,), 0.5), means, torch.full((2,), 0.1))
        self.laws = {0: law(torch.ones(1), means[:1], torch.ones(1) * 0.1), None: both}
        self.sde, self.moments, self.asked = sde, both.moments(), 0

    def _at(self, label: Any) -> Exact:
        self.asked += 1
        return Exact(self.sde, self.laws[label])

    def score(self, x: Tensor, t: Any, label: Any = None, **cond: Any) -> Tensor:
        return self._at(label).score(x, t)

    def estimate(self, x: Tensor, t: Any, label: Any = None, **cond: Any) -> tuple[Tensor, Tensor]:
        return self._at(label).estimate(x, t)


@pytest.mark.parametrize("sde", SDES, ids=name)
@pytest.mark.parametrize("interval", [None, (0.2, 0.6)])
def test_guided_readings_extrapolate_and_agree(sde: Any, interval: Any) -> None:
    inner = Two(sde)
    model = ClassifierFree(inner, 3.0, interval=interval and tuple(sde.T * v for v in interval))
    assert check_model(Conditioned(model, label=0)).passed
    x, t = states(sde)
    inside = torch.ones_like(t, dtype=torch.bool) if interval is None else (t >= 0.2 * sde.T) & (t <= 0.6 * sde.T)
    assert inside.any() and (interval is None or not inside.all())
    weight = torch.where(inside, 3.0, 1.0).reshape(-1, *[1] * (x.ndim - 1))
    for reading in ("score", "velocity", "noise", "denoise"):
        given, null = getattr(inner, reading)(x, t, label=0), getattr(inner, reading)(x, t)
        got = getattr(model, reading)(x, t, label=0)
        torch.testing.assert_close(got, null + weight * (given - null), rtol=1e-9, atol=1e-9)


def test_scale_one_and_times_outside_ask_once() -> None:
    inner = Two(sdegen.VP())
    x, t = states(inner.sde)
    one, inside = ClassifierFree(inner, 1.0), ClassifierFree(inner, 3.0, interval=(0.0, 0.3))
    want = inner.estimate(x, 0.5, label=0)
    for model, count in ((one, 1), (inside, 1), (ClassifierFree(inner, 3.0), 2)):
        inner.asked = 0
        got = model.estimate(x, torch.tensor(0.5, dtype=torch.float64), label=0)
        assert inner.asked == count
        assert torch.equal(got[0], want[0]) == (count == 1)
    torch.testing.assert_close(ClassifierFree(inner, 0.0).score(x, t, label=0), inner.score(x, t))


def test_the_null_condition_is_a_label_or_its_absence() -> None:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=3), sdegen.VP())
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    x, t = torch.randn(4, 2), torch.full((4,), 0.5, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 0])
    absent, minus = ClassifierFree(inner, 2.0), ClassifierFree(inner, 2.0, null={"label": torch.tensor(-1)})
    got = minus.velocity(x, t, label=label)
    assert torch.equal(got, absent.velocity(x, t, label=label))
    assert not torch.allclose(got, inner.velocity(x, t, label=label))


def test_guidance_pushes_samples_away_from_the_other_class() -> None:
    inner = Two(sdegen.VP())
    means = [
        sample(ClassifierFree(inner, scale), 400, sampler=DDIM(40), seed=0, label=0)[:, 0].mean()
        for scale in (1.0, 4.0)
    ]
    assert abs(means[0] - 1) < 0.1 and means[1] > means[0] + 0.02


def test_guidance_refuses_what_means_nothing() -> None:
    inner = Two(sdegen.VP())
    with pytest.raises(ValueError, match="scale = nan; give a finite number"):
        ClassifierFree(inner, math.nan)
    with pytest.raises(ValueError, match=r"interval = \(0.5, 0.2\); give"):
        ClassifierFree(inner, 2.0, interval=(0.5, 0.2))


# --- saving -------------------------------------------------------------------------------------------------------

WRAPPERS: dict[str, Any] = {
    "noise divided": lambda m: EpsilonScaling(m, 1.05),
    "noise divided by a schedule": lambda m: EpsilonScaling(m, LinearScale(1.02, 0.3)),
    "guided": lambda m: ClassifierFree(m, 2.5),
    "guided in an interval from a label": lambda m: ClassifierFree(m, 2.5, {"label": torch.tensor(2)}, (0.2, 0.6)),
    "both": lambda m: ClassifierFree(EpsilonScaling(m, 1.05), 2.5, interval=(0.2, 0.6)),
}


def labelled(dtype: torch.dtype) -> sdegen.Model:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=3), sdegen.VP()).to(dtype)
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    inner.moments = DATA.moments()
    return inner


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_comes_back_from_a_file(wrap: str, tmp_path: Any, dtype: torch.dtype) -> None:
    inner = labelled(dtype)
    model = WRAPPERS[wrap](inner).train()
    sdegen.save(model, tmp_path / "model")
    again = sdegen.load(tmp_path / "model")
    assert type(again) is type(model) and type(again.model) is type(model.model) and not again.training
    for mine, its in zip(again.moments, inner.moments or (), strict=True):
        assert torch.equal(mine, its)
    x, t = states(inner.sde)
    x, cond = x.to(dtype), {"label": torch.tensor([0, 1, 2, 0, 1, 2])}
    model.eval()
    for reading in ("score", "velocity", "noise", "denoise"):
        one, two = (getattr(m, reading)(x, t, **cond) for m in (model, again))
        assert torch.equal(one, two) and not torch.equal(one, getattr(inner, reading)(x, t, **cond))
    assert torch.equal(*(sample(m, 6, sampler=DDIM(4), seed=0, **cond) for m in (model, again)))


class Bump:
    """A schedule of the user's."""

    def __init__(self, height: float) -> None:
        self.height = height

    def __call__(self, t: Tensor) -> Tensor:
        return 1 + self.height * t * (1 - t)


def test_a_schedule_of_the_user_s_is_asked_for(tmp_path: Any) -> None:
    sdegen.save(EpsilonScaling(labelled(torch.float64), Bump(0.4)), tmp_path / "model")
    with pytest.raises(ValueError, match=r"uses the class 'Bump'; pass it: load\(path, classes=\[Bump\]\)"):
        sdegen.load(tmp_path / "model")
    assert sdegen.load(tmp_path / "model", [Bump]).scale.height == 0.4


def test_a_schedule_without_a_class_is_not_saved(tmp_path: Any) -> None:
    model = EpsilonScaling(labelled(torch.float64), lambda t: 1 + 0.1 * t)
    with pytest.raises(TypeError, match=r"^model\.scale is a function, .*\.LinearScale, or save the model inside"):
        sdegen.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    sdegen.save(model.model, tmp_path / "model")


def test_moments_are_given_to_the_model_inside() -> None:
    inner = labelled(torch.float64)
    inner.moments = None
    ClassifierFree(EpsilonScaling(inner, 1.01), 2.0).moments = DATA.moments()
    assert inner.moments is not None and torch.equal(inner.moments.mean, DATA.moments().mean)


# --- perturbed inputs ---------------------------------------------------------------------------------------------


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
    lift = torch.kron((at.Phi.matrix() @ sde.e)[:, None], eye)
    R = torch.kron(at.R.matrix(), eye)
    total = lift @ moments.covariance @ lift.T + (1 + gamma**2) * R @ R.T
    return R.T @ torch.linalg.inv(total), lift @ moments.mean


@pytest.mark.parametrize("weighting", [weightings.InverseVariance(), weightings.Uniform()], ids=name)
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
    with pytest.raises(ValueError, match=r"gamma = .*at least 0"):
        losses.InputPerturbation(gamma)
