"""Log-densities by the probability flow against closed forms."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdegen
from benchmarks.likelihood_table import ours, score_sde
from sdegen import estimate_log_prob, grids, log_prob, metrics, samplers
from sdegen.laws.derivatives import ExactDivergence, Hutchinson, HutchPlusPlus
from sdegen.likelihood import path

RING = sdegen.data.gaussian_ring()


class Own(sdegen.ScalarSDE):
    """The README's process."""

    def f(self, t: torch.Tensor) -> torch.Tensor:
        return -10 * t

    def g(self, t: torch.Tensor) -> torch.Tensor:
        return (1 + 20 * t).sqrt()


SCALAR = [
    sdegen.VP(), sdegen.SubVP(), sdegen.VE(), sdegen.OU(), sdegen.EDM(), sdegen.Cosine(), sdegen.Rectified(), sdegen.DDPM(),
    Own(),
]  # fmt: skip
name = lambda sde: type(sde).__name__


def law_at(sde: sdegen.LinearSDE, t: float) -> sdegen.GaussianMixture:
    return sde.diffused(RING, t)


@pytest.mark.parametrize("sde", SCALAR, ids=name)
@pytest.mark.turns("Rectified", "DDPM", "SubVP", "EDM", "Cosine", "OU", "VE", "Own")
def test_exact_model_from_the_true_terminal_law_gives_the_closed_form(sde: sdegen.LinearSDE) -> None:
    x = RING.sample(60, torch.Generator().manual_seed(0))
    got = log_prob(sdegen.Exact(sde, RING), x, prior=law_at(sde, sde.T))
    assert (got - law_at(sde, 0.0).log_prob(x)).abs().max() < 1e-5


@pytest.mark.turns("OU", "EDM", "SubVP", "Rectified")
@pytest.mark.parametrize("sde", SCALAR, ids=name)
def test_the_field_of_one_time_asks_the_process_nothing_more(
    sde: sdegen.LinearSDE, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sdegen.Model(sdegen.nets.MLP(2, 8, 1), sde).double()
    flow, y = sde.flow(model), torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tau = flow.clock(torch.tensor(0.4 * sde.T, dtype=torch.float64))
    want, field = flow.velocity(y, tau), flow.field(tau)
    monkeypatch.setattr(sdegen.LinearSDE, "marginal", lambda self, t: pytest.fail(f"the law at {t} was formed again"))
    torch.testing.assert_close(field(y), want, rtol=0, atol=0)


@pytest.mark.slow
def test_critically_damped_langevin_joint_and_data_marginal() -> None:
    sde = sdegen.CLD()
    model = sdegen.Exact(sde, RING)
    x = RING.sample(60, torch.Generator().manual_seed(0))
    u, log_v = sde.complete(x, torch.randn(60, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    joint = log_prob(model, u, joint=True, prior=law_at(sde, sde.T))
    assert (joint - RING.log_prob(x) - log_v).abs().max() < 1e-5
    x = x[:6]
    marginal = log_prob(model, x, draws=2, prior=law_at(sde, sde.T), generator=torch.Generator().manual_seed(2))
    assert (marginal - RING.log_prob(x)).abs().max() < 1e-5


@pytest.mark.slow
def test_a_matrix_process_is_followed_in_the_chart_of_its_gaussian() -> None:
    """In plain `t` and `u` the same error takes twice as many evaluations; and the way back is the same way."""
    sde = sdegen.CLD()
    model = sdegen.Exact(sde, RING)
    u, found = sdegen.sample_with_log_prob(model, 50, seed=0, prior=law_at(sde, sde.T), tolerance=1e-6)
    assert found.evaluations <= 260
    truth = law_at(sde, 0.0).log_prob(u)
    assert (found.value - truth).abs().max() < 2e-4  # towards the data errors grow
    again = log_prob(model, u, joint=True, prior=law_at(sde, sde.T), tolerance=1e-6)
    assert (again - truth).abs().max() < 2e-5


class Driven(sdegen.MatrixSDE):
    """Position and a velocity that starts at rest, driven at a rate that changes, up to T = 2."""

    T = 2.0
    Sigma_0 = torch.diag(torch.tensor([0.01, 0.0], dtype=torch.float64))

    def F(self, t: torch.Tensor) -> torch.Tensor:
        rate = (1 + t)[..., None, None]
        return rate * torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)

    def G(self, t: torch.Tensor) -> torch.Tensor:
        rate = (1 + t).sqrt()[..., None, None]
        return 2 * rate * torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


@pytest.mark.slow
def test_a_state_that_starts_at_a_point_is_followed_close_to_it() -> None:
    sde = Driven()
    law = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[1.0]]), torch.tensor([0.5]))
    model = sdegen.Exact(sde, law)
    x = sdegen.sample(
        model, 4000, sampler=samplers.ProbabilityFlow(12, grids.Quadratic(end=1e-3), method="rk4"), seed=0
    )
    stderr = (0.51 / 4000) ** 0.5  # of the mean; Sigma_0 smooths the data
    assert abs(x.mean() - 1) < 4 * stderr
    assert abs(x.var() / 0.51 - 1) < 4 * (2 / 4000) ** 0.5


def test_a_matrix_process_that_was_followed_can_be_pickled() -> None:
    sde = sdegen.CLD()
    model = sdegen.Exact(sde, RING)
    x = sdegen.sample(model, 3, sampler=samplers.Heun(3), seed=0)
    again = pickle.loads(pickle.dumps(sde))
    assert torch.equal(sdegen.sample(sdegen.Exact(again, RING), 3, sampler=samplers.Heun(3), seed=0), x)


def test_a_divergence_that_is_not_a_number_stops_the_run() -> None:
    class Kinked(sdegen.Exact):
        """Finite, with a derivative that is not from the middle on."""

        def estimate(self, x, t, **cond):
            x_0, eps = super().estimate(x, t, **cond)
            return (x_0 + 0 * (x - x.detach()).abs().sqrt() if t > 0.5 else x_0), eps

    with pytest.raises(ValueError, match=r"could not be followed beyond t = 0\.[5-6]\d*, .* it is not finite"):
        log_prob(Kinked(sdegen.VP(), RING), RING.sample(3, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("sde", [*SCALAR, sdegen.CLD()], ids=name)
def test_prior_gap_is_small_and_is_the_whole_difference(sde: sdegen.LinearSDE) -> None:
    gap = metrics.prior_gap(sde, RING)
    assert 0 <= gap.value < 1e-3


@pytest.mark.slow
def test_with_a_prior_the_likelihood_is_off_by_its_gap() -> None:
    # T = 1 leaves a gap that shows: KL(data ‖ model) is then exactly KL(law at T ‖ prior). The matched Gaussian leaves
    # 0.02 nats of the 0.32 that a standard normal prior would.
    sde = sdegen.OU(T=1.0)
    model = sdegen.Exact(sde, RING)
    standard = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    law = law_at(sde, 1.0)
    x = RING.sample(3000, torch.Generator().manual_seed(0))
    gaps = {None: metrics.prior_gap(sde, RING).value, standard: metrics.kl(standard, law, n=200_000, seed=0).value}
    assert abs(gaps[standard] - 0.32) < 0.01 and abs(gaps[None] - 0.0208) < 0.001
    for prior, gap in gaps.items():
        u = RING.log_prob(x) - log_prob(model, x, prior=prior, tolerance=1e-5)
        assert abs(u.mean() - gap) < 4 * u.std() / len(u) ** 0.5


SIX = [sdegen.VP(), sdegen.VE(), sdegen.OU(), sdegen.EDM(), sdegen.Rectified(), sdegen.CLD()]


@pytest.mark.turns("VE", "EDM", "OU", "CLD")
@pytest.mark.parametrize("sde", SIX, ids=name)
def test_hutchinson_is_unbiased_and_knows_its_error(sde: sdegen.LinearSDE) -> None:
    x = RING.sample(100, torch.Generator().manual_seed(0))
    z = torch.randn(sde.lift(x).shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    x, rest = sde.complete(x, z)  # of a state larger than the data the joint density
    model = sdegen.Exact(sde, RING)
    exact = sde.diffused(RING, 0.0).log_prob(x) if sde.is_scalar else RING.log_prob(sde.project(x)) + rest
    estimated = partial(estimate_log_prob, joint=True, prior=law_at(sde, sde.T))
    probes = torch.Generator().manual_seed(1)
    found = estimated(model, x, divergence=Hutchinson(8), tolerance=1e-3, generator=probes)
    error = found.value - exact
    assert error.mean().abs() < 4 * error.std() / 100**0.5
    # Student's law of eight probes: 4 standard errors are passed one time in two hundred.
    assert (error.abs() <= 4 * found.stderr + 1e-3).sum() >= 97
    claimed = found.stderr.square().mean().sqrt()
    assert 0.7 < error.square().mean().sqrt() / claimed < 1.4  # the errors are of the size that is claimed
    assert estimated(model, x[:2], divergence=Hutchinson(), tolerance=1e-3).stderr.isnan().all()


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM(), sdegen.Rectified()], ids=name)
def test_a_hundred_and_twenty_evaluations_for_a_millionth(sde: sdegen.LinearSDE) -> None:
    x = RING.sample(200, torch.Generator().manual_seed(0))
    found = estimate_log_prob(sdegen.Exact(sde, RING), x, prior=law_at(sde, sde.T), tolerance=1e-6)
    assert found.evaluations <= 120
    assert (found.value - law_at(sde, 0.0).log_prob(x)).abs().max() < 1e-6


@pytest.mark.slow
def test_half_the_evaluations_of_adaptive_runge_kutta_in_time_at_the_same_error() -> None:
    # RK45 over the batch as one vector, from t = 1e-5 on; its error falls with its evaluations as a power between tolerances
    runs = [score_sde(tolerance, torch.float64, 300, 0) for tolerance in (1e-4, 1e-5, 1e-6, 1e-7)]
    peer = {column: np.log([run[column][0] for run in runs]) for column in runs[0]}
    for tolerance, columns in ((1e-4, ("mean error", "largest")), (1e-5, ("largest",))):
        found = ours("VP", tolerance, None, torch.float64, 300, 0)
        for column in columns:
            same = np.exp(np.interp(-np.log(found[column][0]), -peer[column], peer["evaluations"]))
            assert found["evaluations"][0] <= same / 2


def flat() -> sdegen.GaussianMixture:
    """Sixteen dimensions, of which two, not along the axes, carry most of the divergence of the flow."""
    generator = torch.Generator().manual_seed(4)
    U = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=generator))[0]
    widths = torch.linspace(0.2, 3.0, 16, dtype=torch.float64)
    widths[:2] = 1e-3
    means = torch.stack([0 * U[0], U[5]])
    return sdegen.GaussianMixture(torch.full((2,), 0.5), means, (U * widths @ U.T).expand(2, 16, 16))


@pytest.mark.slow
def test_hutchpp_is_unbiased_and_knows_its_error_which_is_smaller() -> None:
    law = flat()
    x = law.sample(60, torch.Generator().manual_seed(0))
    model = sdegen.Exact(sdegen.VP(), law)
    exact = log_prob(model, x, tolerance=1e-5)
    errors = {}
    for divergence in (Hutchinson(12), HutchPlusPlus(6)):  # twelve derivatives each
        probe = torch.Generator().manual_seed(1)
        found = estimate_log_prob(model, x, divergence=divergence, tolerance=1e-5, generator=probe)
        error = found.value - exact
        assert error.mean().abs() < 4 * error.std() / 60**0.5
        assert 0.6 < error.square().mean().sqrt() / found.stderr.square().mean().sqrt() < 1.6
        errors[type(divergence)] = error.square().mean()
    assert errors[HutchPlusPlus] < 0.3 * errors[Hutchinson]


@pytest.mark.turns("heun2")
@pytest.mark.parametrize("method", ["heun2", "rk4"])
def test_what_half_as_many_steps_change_is_told_as_the_error(method: str) -> None:
    """Of steps of order two and four a half as long one is off by a quarter and a sixteenth, which both bound the error."""
    model, x = sdegen.Exact(sdegen.VP(), RING), RING.sample(20, torch.Generator().manual_seed(0))
    truth = log_prob(model, x, tolerance=1e-9)
    for steps in (8, 16, 40):
        found, coarse = (estimate_log_prob(model, x, method=method, steps=n) for n in (steps, steps // 2))
        torch.testing.assert_close(found.stderr, (found.value - coarse.value).abs())
        assert (found.value - truth).norm() < found.stderr.norm() and found.evaluations > coarse.evaluations


def test_hutchpp_with_as_many_directions_as_coordinates_is_exact() -> None:
    x = RING.sample(20, torch.Generator().manual_seed(0))
    model = sdegen.Exact(sdegen.VP(), RING)
    found = estimate_log_prob(model, x, divergence=HutchPlusPlus(2))
    assert (found.value - log_prob(model, x)).abs().max() < 1e-6 and found.stderr.max() < 1e-6


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.Rectified(), sdegen.CLD()], ids=name)
@pytest.mark.slow
def test_samples_come_with_their_density(sde: sdegen.LinearSDE) -> None:
    model, n = sdegen.Exact(sde, RING), 200 if sde.is_scalar else 8
    u, found = sdegen.sample_with_log_prob(model, n, seed=3)
    assert (found.value - log_prob(model, u, joint=True)).abs().max() < 1e-4
    again, _ = sdegen.sample_with_log_prob(model, n, seed=3)
    assert torch.equal(u, again)
    x = sde.project(u)
    assert x.shape == (n, 2)
    if n > 100:  # and they are samples
        assert abs(found.value.mean() - RING.log_prob(x).mean()) < 1e-3
        assert metrics.sliced_wasserstein(x, RING.sample(n, torch.Generator().manual_seed(5)), seed=0).value < 1.0
    given = law_at(sde, sde.T)
    y, exact = sdegen.sample_with_log_prob(model, 4, seed=0, prior=given)
    assert (exact.value - log_prob(model, y, joint=True, prior=given)).abs().max() < 1e-4


@pytest.mark.slow
def test_samples_of_a_network_come_with_their_density_in_its_dtype(device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).to(device, dtype)
    sdegen.fit(model, RING, steps=30, batch_size=128, seed=0, progress=False)
    for prior in (None, law_at(model.sde, 1.0)):
        x, found = sdegen.sample_with_log_prob(model, 8, seed=1, prior=prior)
        assert x.dtype == dtype and x.device.type == device.type
        assert (found.value - log_prob(model, x, prior=prior)).abs().max() < 0.01


def test_a_flow_that_cannot_be_followed_says_where() -> None:
    class Broken(sdegen.Exact):
        def estimate(self, x, t, **cond):
            x_0, eps = super().estimate(x, t, **cond)
            return (x_0 * torch.nan, eps) if t > 0.5 else (x_0, eps)

    x = RING.sample(3, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"could not be followed beyond t = 0\.[5-6]\d*, where sigma = 0\.9\d*"):
        log_prob(Broken(sdegen.VP(), RING), x)


@pytest.mark.parametrize("shape", [(8,), (2, 2, 3), (7,), (2, 3)], ids=str)
def test_an_exact_divergence_of_many_numbers_that_nobody_asked_for_is_told_of(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path, "LONG", 8)
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, *shape), torch.ones(1, *shape))
    model, x, d = sdegen.Exact(sdegen.VP(), law), torch.ones(1, *shape, dtype=torch.float64), math.prod(shape)
    how: dict[str, Any] = {"method": "euler", "steps": 2}
    calls: list[Callable[..., Any]] = [
        lambda **how: sdegen.log_prob(model, x, **how),
        lambda **how: sdegen.sample_with_log_prob(model, 1, seed=0, **how),
    ]
    for call in calls:
        for divergence in (None, ExactDivergence(), Hutchinson(2)):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                call(divergence=divergence, **how)
            told = [str(w.message) for w in said if "exact divergence of states" in str(w.message)]
            assert len(told) == (d >= 8 and divergence is None), told
            assert all(f"of {d} numbers takes as many passes" in text and "Hutchinson" in text for text in told)


@pytest.mark.slow
def test_a_density_goes_in_parts() -> None:
    law, most = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.ones(1, 2)), 0
    model = sdegen.Exact(sdegen.VP(), law)

    class Watched(sdegen.ScoreModel):
        """The true score, and how many rows come at a time."""

        sde, moments = model.sde, model.moments

        def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
            nonlocal most
            most = max(most, len(x))
            return model.score(x, t)

    parts, x = sdegen.Density(Watched(), samplers.DDIM(3), batch=3), law.sample(4)
    assert torch.allclose(parts.log_prob(x), law.log_prob(x), atol=1e-3)
    drawn = [d.sample(4, torch.Generator().manual_seed(1)) for d in (parts, sdegen.Density(model, samplers.DDIM(3)))]
    assert torch.allclose(*drawn, atol=1e-9) and most == 3
    with pytest.raises(ValueError, match="batch = 0; it must be a whole number"):
        sdegen.Density(model, batch=0)


def test_bad_likelihood_arguments_are_refused() -> None:
    model, x = sdegen.Exact(sdegen.VP(), RING), RING.sample(3, torch.Generator().manual_seed(0))
    with pytest.raises(TypeError, match=r"divergence is a str; give ExactDivergence\(\), Hutchinson\(probes=4\) or"):
        log_prob(model, x, divergence="hutch")
    with pytest.raises(ValueError, match="probes = 0"):
        sdegen.sample_with_log_prob(model, 3, divergence=Hutchinson(0))
    with pytest.raises(ValueError, match="tolerance = 0"):
        log_prob(model, x, tolerance=0)


@pytest.mark.turns("given1")
@pytest.mark.parametrize("given", [sdegen.data.Scaling(-1, 1, 8), sdegen.data.Dequantisation(-8 / 7, 8 / 7, 8)])
def test_bits_per_dim_close_in_on_the_mass_of_cells(given: sdegen.data.Scaling) -> None:
    # Both have the same cells. One coarse cell of N(0, 0.3²): the density varies in it, and draws of the noise average it.
    scaling = sdegen.data.Scaling(-1, 1, levels=8)
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.09]))
    model = sdegen.Exact(sdegen.VP(), law)
    images = torch.full((40, 1), 5, dtype=torch.uint8)
    centre, half = scaling(images)[0].item(), scaling.step / 2
    normal = torch.distributions.Normal(torch.tensor(0.0).double(), 0.3)
    truth = -(normal.cdf(torch.tensor(centre + half)) - normal.cdf(torch.tensor(centre - half))).log2().item()
    u = torch.linspace(centre - half, centre + half, 10_001, dtype=torch.float64)
    bound = -normal.log_prob(u).mean().item() / math.log(2) - math.log2(scaling.step)
    generator = torch.Generator().manual_seed(0)
    one, few, many = (
        sdegen.bits_per_dim(model, images, given, draws=k, tolerance=1e-3, generator=generator) for k in (1, 8, 64)
    )
    assert bound > truth + 0.05
    assert abs(one.value.mean() - bound) < 4 * one.value.std() / 40**0.5
    assert one.value.mean() > few.value.mean() > many.value.mean()  # the bound falls with the number of draws
    assert abs(many.value.mean() - truth) < 0.02
    assert 0.75 < many.stderr.square().mean().sqrt() / many.value.std() < 1.3
    by_probes = [
        sdegen.bits_per_dim(
            sdegen.Exact(sdegen.VP(), RING), images[:4].reshape(2, 2), divergence=Hutchinson(),
            generator=torch.Generator().manual_seed(7),
        ).value
        for _ in range(2)
    ]  # fmt: skip
    assert torch.equal(*by_probes)
    with pytest.raises(TypeError, match="takes bytes"):
        sdegen.bits_per_dim(model, images.float())


def test_conditions_go_with_their_rows_through_draws() -> None:
    laws = [sdegen.GaussianMixture(torch.ones(1), torch.full((1, 1), m), torch.full((1,), 0.04)) for m in (-0.5, 0.5)]
    model = sdegen.ExactConditional(sdegen.CLD(), laws, laws[0])
    x, label = torch.tensor([[-0.5], [0.5]], dtype=torch.float64), torch.tensor([0, 1])
    value = log_prob(model, x, label=label, draws=2, tolerance=1e-4)
    assert (value - laws[0].log_prob(x[:1])).abs().max() < 0.02


def test_density_of_a_nonlinear_process_at_rest() -> None:
    # DoubleWell started from its stationary law: the flow does not move, and the density is the stationary one.
    sde = sdegen.DoubleWell()

    class AtRest(sdegen.ScoreModel):
        moments = sdegen.Moments(torch.zeros(1), torch.eye(1))

        def __init__(self) -> None:
            self.sde = sde

        def score(self, x, t, **cond):
            return sde.prior(self.moments).score(x)

    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    law = sde.prior(AtRest.moments)
    torch.testing.assert_close(log_prob(AtRest(), x), law.log_prob(x), rtol=0, atol=1e-6)
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    assert abs(torch.trapezoid(law.log_prob(grid).exp(), grid[:, 0]).item() - 1) < 1e-8


def test_a_trained_networks_density_integrates_to_one(device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=32, depth=1), sdegen.VP()).to(device, dtype)
    sdegen.fit(model, RING, steps=60, batch_size=128, seed=0)
    side = torch.linspace(-12, 12, 73, dtype=torch.float64)
    points = torch.cartesian_prod(side, side).to(device, dtype)
    values = torch.cat([log_prob(model, block, tolerance=1e-3) for block in points.split(2000)])
    mass = values.double().exp().sum() * (side[1] - side[0]) ** 2
    assert abs(mass.item() - 1) < 0.01


class Cut(nn.Module):
    """A network whose derivatives are cut off somewhere on the way."""

    def __init__(self, cut):
        super().__init__()
        torch.manual_seed(0)
        self.line, self.cut = nn.Linear(2, 2), cut

    def forward(self, x, level):
        return self.line(x).tanh() + self.cut(x)


def with_moments(net):
    model = sdegen.Model(net, sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(2), torch.eye(2))
    return model.eval()


CUTS = {
    "detached": lambda x: 2 * x.detach().sin(),
    "detached in part": lambda x: x + 2 * x.detach().sin(),
    "an array": lambda x: torch.as_tensor(2 * np.sin(x.detach().numpy())),
    "other data": lambda x: 2 * x.data.sin(),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", CUTS)
def test_a_network_without_its_derivatives_has_no_density(cut, dtype):
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^the model's derivatives by the state.*elbo"):
        sdegen.log_prob(with_moments(Cut(CUTS[cut]).to(dtype)), x, tolerance=1e-2)
    whole = lambda x: 2 * x.sin()
    same, passed = (  # forward mode passes `no_grad`
        sdegen.log_prob(with_moments(Cut(f).to(dtype)), x, tolerance=1e-2) for f in (whole, torch.no_grad()(whole))
    )
    assert torch.allclose(same, passed, atol=1e-3)


@pytest.mark.parametrize("slope", [1e-6, 1e-9, 1e-12, 0.0])
def test_a_network_whose_slope_is_lost_in_rounding_has_a_density(slope):
    """As that of a network is whose data the noise leaves as they are: differences of values are 0 then, and the slope is not."""

    class Still(nn.Module):
        def forward(self, x, level):
            return 0.01 + slope * x.sin()

    for n in (1, 5):
        x = torch.randn(n, 2, generator=torch.Generator().manual_seed(n))
        assert sdegen.log_prob(with_moments(Still()), x, tolerance=1e-2).isfinite().all()
