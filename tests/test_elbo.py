"""Evidence lower bounds against closed forms, on every kind of linear process."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import scipy.integrate
import torch
from torch import Tensor, nn

import sdegen
from sdegen import discrete_elbo, elbo
from sdegen.data import Scaling
from sdegen.laws import Units
from sdegen.likelihood.chain import last_log_mass, last_log_prob, step_divergence
from sdegen.processes.times import AngleTimes, ImportanceTimes

RING = sdegen.data.gaussian_ring()
PROCESSES = [
    sdegen.VP(), sdegen.SubVP(), sdegen.VE(), sdegen.OU(), sdegen.EDM(), sdegen.Cosine(), sdegen.Rectified(), sdegen.DDPM(),
    sdegen.CLD(),
]  # fmt: skip
name = lambda sde: type(sde).__name__


def data_law(sde: Any) -> Any:
    """The law of the state at 0 for numbers, of the data for larger states."""
    return sde.diffused(RING, 0.0) if sde.is_scalar else RING


def normal(v: float, d: int = 2) -> sdegen.GaussianMixture:
    return sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, d), torch.full((1,), v))


class Scaled(sdegen.ScoreModel):
    """A score that is off by a factor."""

    def __init__(self, model: Any, factor: float) -> None:
        self.model, self.factor, self.sde, self.moments = model, factor, model.sde, model.moments

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        return self.factor * self.model.score(x, t, **cond)


# --- the bound of the process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES, ids=name)
def test_the_bound_of_a_true_score_is_the_density(sde: Any, generator: torch.Generator) -> None:
    x = RING.sample(60, generator)
    found = elbo(sdegen.Exact(sde, RING), x, prior=sde.diffused(RING, sde.T), draws=250, generator=generator)
    error = (found.value - data_law(sde).log_prob(x)) / found.stderr
    assert error.mean().abs() < 4 / 60**0.5  # without bias
    assert 0.75 < error.std() < 1.3  # and of the error that is claimed


def test_what_a_wrong_score_loses_is_its_error_along_the_path(generator: torch.Generator) -> None:
    # For a score off by a factor c on N(0, v): E log p − E ELBO = ½ (c − 1)² ∫ g² E‖s‖² dt, with E‖s‖² = d / (alpha² v + sigma²).
    # The reversed SDE ends in N(0, V(0)), dV/dt = 2 (f + c g² / (alpha² v + sigma²)) V − g²: the bound is below that density.
    sde, v, c, n = sdegen.VP(), 0.25, 1.3, 800
    law = normal(v)

    def coefficients(t: float) -> tuple[float, float, float]:
        at = sde.marginal(t)
        f, g = (operator(t).matrix().item() for operator in (sde.drift_operator, sde.diffusion_operator))
        return f, g**2, at.Phi.matrix().item() ** 2 * v + at.covariance.matrix().item()

    def rate(t: float) -> float:
        _, g2, q = coefficients(t)
        return 0.5 * (c - 1) ** 2 * g2 * 2 / q

    def widening(t: float, V: float) -> float:
        f, g2, q = coefficients(t)
        return 2 * (f + c * g2 / q) * V - g2

    gap = scipy.integrate.quad(rate, 0, 1)[0]
    V = scipy.integrate.solve_ivp(widening, (1, 0), [coefficients(1.0)[2]], rtol=1e-8, atol=1e-10).y[0, -1]
    x = law.sample(n, generator)
    model = Scaled(sdegen.Exact(sde, law), c)
    prior = sde.diffused(law, sde.T)
    found = elbo(model, x, draws=64, prior=prior, generator=generator)
    lost = law.log_prob(x) - found.value
    assert gap > 0.5
    assert abs(lost.mean() - gap) < 4 * lost.std() / n**0.5
    above = normal(V).log_prob(x) - found.value
    assert above.mean() > 4 * above.std() / n**0.5 and above.mean() < gap


@pytest.mark.parametrize("law", [sdegen.OU(T=1.0)], ids=name)
def test_a_prior_that_misses_costs_its_gap(law: Any, generator: torch.Generator) -> None:
    x = RING.sample(2000, generator)
    standard = normal(1.0)
    lost = RING.log_prob(x) - elbo(sdegen.Exact(law, RING), x, prior=standard, draws=32, generator=generator).value
    gap = sdegen.metrics.kl(standard, law.diffused(RING, 1.0), n=200_000, seed=0)
    assert abs(lost.mean() - gap.value) < 4 * lost.std() / 2000**0.5


def test_every_row_is_bounded_under_its_own_condition(generator: torch.Generator) -> None:
    laws = [normal(v) for v in (0.1, 1.0, 4.0)]
    model, sde = sdegen.ExactConditional(sdegen.VP(), laws, normal(2.0)), sdegen.VP()
    label, x = torch.tensor([2, 0, 1, 0, 2]), 0.5 * torch.randn(5, 2, dtype=torch.float64, generator=generator)
    own = torch.stack([laws[k].log_prob(row[None])[0] for k, row in zip(label.tolist(), x, strict=True)])
    prior = sde.diffused(normal(1.0), sde.T)  # of noise alone, to a few thousandths
    found = elbo(model, x, draws=400, prior=prior, generator=generator, label=label)
    assert ((found.value - own).abs() < 5 * found.stderr + 0.01).all()


def test_times_even_in_the_angle_take_variance_out(generator: torch.Generator) -> None:
    x = RING.sample(50, generator)
    for sde in (sdegen.VP(), sdegen.Rectified()):
        model = sdegen.Exact(sde, RING)
        even, log = (
            elbo(model, x, draws=200, times=law, generator=generator) for law in (AngleTimes(), ImportanceTimes())
        )
        assert even.stderr.square().mean() < 0.6 * log.stderr.square().mean()


def test_directions_without_data_do_no_harm(generator: torch.Generator) -> None:
    # One coordinate is constant in the data that the moments were measured on, and the law there is narrow.
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[1.0, 1e-4]]))
    model = sdegen.Exact(sdegen.VP(), law)
    model.moments = sdegen.Moments(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.0])))
    x = law.sample(200, generator)
    found = elbo(model, x, prior=model.sde.diffused(law, 1.0), draws=200, generator=generator)
    error = found.value - law.log_prob(x)
    assert error.mean().abs() < 4 * error.std() / 200**0.5
    assert found.stderr.mean() < 1


# --- the chain ----------------------------------------------------------------------------------------------------------


def test_terms_of_the_chain_on_gaussian_data_are_the_closed_form(generator: torch.Generator) -> None:
    """``½ (snr_{k−1} − snr_k) d v / (1 + v snr_k)``, and what the decoder and the prior are to cost."""
    sde, v, d, n = sdegen.VP(), 0.25, 2, 20_000
    law = normal(v)
    x = law.sample(n, generator)
    prior = sde.diffused(law, sde.T)
    found = discrete_elbo(sdegen.Exact(sde, law), x, 20, prior=prior, generator=generator)
    snr = sde.snr(found.times)
    left = v / (1 + v * snr)
    truth = 0.5 * d * torch.cat([(snr[1:] - snr[:-1]) * left[:-1], (snr * left + (2 * math.pi / snr).log())[-1:]])
    error = found.terms[1:].mean(1) - truth
    assert (error.abs() < 4 * found.terms[1:].std(1) / n**0.5).all()
    mutual = 0.5 * d * (1 + v * snr[0]).log()  # KL(q(x_T | x) ‖ law at T), in the mean over data
    assert abs(found.terms[0].mean() - mutual) < 4 * found.terms[0].std() / n**0.5 + 1e-9
    torch.testing.assert_close(found.value, -found.terms.sum(0))


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.Rectified(), sdegen.EDM(), sdegen.CLD()], ids=name)
@pytest.mark.slow
def test_the_chain_rises_to_the_process_at_rate_one(sde: Any, generator: torch.Generator) -> None:
    model, x = sdegen.Exact(sde, RING), RING.sample(1500, generator)
    truth = RING.log_prob(x)
    gaps = [
        (truth - discrete_elbo(model, x, n, draws=2, generator=generator).value).mean().item() for n in (100, 200, 400)
    ]
    assert gaps[-1] > 0  # a bound
    for coarse, fine in itertools.pairwise(gaps):
        assert 1.75 < coarse / fine < 2.35


def test_a_chain_with_learned_variances_is_bounded_with_them(generator: torch.Generator) -> None:
    """Variances that are learned beat ``beta tilde`` where data have a density: the reversed step is wider than for points."""

    class Wide(nn.Module):
        """The best Gaussian's velocity for N(0, 1), which is zero, and the larger of the two variances."""

        def __init__(self) -> None:
            super().__init__()
            self.u = nn.Parameter(torch.tensor(20.0))

        def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
            return torch.cat([0 * x, self.u.expand_as(x)], 1)

    law = normal(1.0)
    x = law.sample(2000, generator).float()
    learned = sdegen.LearnedVariance(Wide(), sdegen.VP(), sdegen.models.VelocityParametrization())
    learned.moments = law.moments()
    label = torch.zeros(2000, dtype=torch.long)
    wide = discrete_elbo(learned, x, 50, draws=2, generator=generator, label=label)
    narrow = discrete_elbo(sdegen.Exact(sdegen.VP(), law), x, 50, draws=2, generator=generator)
    gap = law.log_prob(x).mean() - wide.value.mean()
    assert -0.05 < gap < 0.2 * (law.log_prob(x).mean() - narrow.value.mean())


def test_the_divergence_of_a_step_of_coupled_channels_is_that_of_two_gaussians(generator: torch.Generator) -> None:
    """Given data the mean at `s` is ``Phi_s x_0 + K (x_t − Phi_t x_0)``, with Kalman's gain `K`."""
    sde = sdegen.CLD()
    model, x, s, t = sdegen.Exact(sde, RING), RING.sample(6, generator).double(), 0.3, 0.6
    perturbed = sde.perturb(x, t, generator=generator)
    at_s, at_t, P = sde.marginal(s), sde.marginal(t), sde.transition(s, t).Phi.matrix()
    S = at_s.covariance.matrix()
    K = S @ P.T @ torch.linalg.inv(at_t.covariance.matrix())
    missed = (sde.lift(x) - model.estimate(perturbed.x, t)[0]).reshape(6, 2, 2)
    apart = torch.einsum("ij,bjd->bid", at_s.Phi.matrix() - K @ at_t.Phi.matrix(), missed)
    nats = 0.5 * torch.einsum("bid,ij,bjd->b", apart, torch.linalg.inv(S - K @ P @ S), apart)
    torch.testing.assert_close(step_divergence(model, x, s, t, perturbed), nats / 4, rtol=1e-8, atol=1e-12)


def test_learned_variances_do_not_teach_the_mean(generator: torch.Generator) -> None:
    """The bound trains what they add, and the mean is left to the loss (A. Nichol and P. Dhariwal, 2021, arXiv:2102.09672)."""
    net = nn.Linear(2, 4).double()
    net.forward = lambda x, level: nn.functional.linear(x, net.weight, net.bias)
    model, x, sde = sdegen.LearnedVariance(net, sdegen.VP()), RING.sample(8, generator), sdegen.VP()
    model.moments = RING.moments()
    s, t = torch.full((8,), 0.4).double(), torch.full((8,), 0.5).double()
    step_divergence(model, x, s, t, sde.perturb(x, t, generator=generator)).sum().backward()
    assert (net.weight.grad[:2] == 0).all() and (net.weight.grad[2:] != 0).all()


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("units", [Units(), Units(0.3, 0.5), Units(torch.tensor([-0.4]), torch.tensor([2.0]))])
def test_the_last_step_spreads_bytes_as_a_normal_whose_ends_reach_to_infinity(
    units: Units, levels: int, generator: torch.Generator
) -> None:
    scaling, sde, law = Scaling(-1, 1, levels), sdegen.VP().in_units(units), normal(0.3, 1)
    model, u = sdegen.Exact(sde, law), torch.arange(levels, dtype=torch.uint8)[:, None]
    for y, t in ((0.9, 0.05), (-0.2, 0.3)):  # near an end, and with much noise
        one = sde.perturb(torch.tensor([[y]]).double(), torch.tensor(t).double(), torch.zeros(1, 1).double())
        given = one._replace(x=one.x.expand(levels, 1))
        mass = last_log_mass(model, scaling.middles(u), torch.tensor(t).double(), given, scaling).exp()
        assert mass.sum().item() == pytest.approx(1, abs=1e-9)
        spread = torch.distributions.Normal(
            sde.project(model.denoise(one.x, t))[0, 0], sde.units.std.max() * sde.snr(t).rsqrt()
        )
        edges = spread.cdf(scaling.middles(u[:, 0])[:-1] + 0.5 * scaling.step)
        want = torch.cat([edges, edges.new_ones(1)]).diff(prepend=edges.new_zeros(1))
        assert torch.allclose(mass, want, atol=1e-9)


@pytest.mark.parametrize("byte", [0, 1])
def test_a_mean_on_the_edge_between_two_cells_leaves_each_its_half(byte: int) -> None:
    model, scaling, t = sdegen.Exact(sdegen.VP(), normal(0.3, 1)), Scaling(-1, 1, 2), torch.tensor(0.05).double()
    still = torch.zeros(1, 1, dtype=torch.float64)
    given = model.sde.perturb(still, t, still)
    found = last_log_mass(model, scaling.middles(torch.tensor([[byte]], dtype=torch.uint8)), t, given, scaling)
    assert model.denoise(given.x, t).item() == 0 and found.exp().item() == pytest.approx(0.5, rel=1e-12)


def test_chains_of_given_times(generator: torch.Generator) -> None:
    model, x = sdegen.Exact(sdegen.DDPM(), RING), RING.sample(20, generator)
    times = torch.arange(1000, 0, -100).double() / 1000
    found = discrete_elbo(model, x, times.clone().requires_grad_(), generator=generator)
    assert torch.equal(found.times, times) and found.terms.shape == (11, 20)
    assert not found.times.requires_grad and not found.terms.requires_grad
    assert found.stderr.isnan().all()  # one chain cannot tell
    coarse = times.float()  # they stand for the numbers that they are
    one, same = (
        discrete_elbo(model, x, t, generator=torch.Generator().manual_seed(0)) for t in (coarse, coarse.double())
    )
    assert one.times.dtype == torch.float64 and torch.equal(one.times, coarse.double())
    assert torch.equal(one.terms, same.terms)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_has_no_bound_is_refused() -> None:
    x = torch.zeros(3, 2, dtype=torch.float64)
    model = sdegen.Exact(sdegen.VP(), RING)
    for bound in (elbo, discrete_elbo):
        with pytest.raises(TypeError, match="DoubleWell is not linear"):
            bound(sdegen.DirectModel(sdegen.nets.MLP(2, width=4), sdegen.DoubleWell()), x)
        with pytest.raises(TypeError, match=r"x has dtype torch\.int64"):
            bound(model, x.long())
        with pytest.raises(ValueError, match="draws = 0"):
            bound(model, x, draws=0)
        with pytest.raises(ValueError, match="does not know its data's moments"):
            bound(sdegen.Model(sdegen.nets.MLP(2), sdegen.VP()), x.float())
    with pytest.raises(ValueError, match="steps = 0"):
        discrete_elbo(model, x, 0)
    with pytest.raises(ValueError, match="decreases from noise to data"):
        discrete_elbo(model, x, torch.tensor([0.1, 0.5]))


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM(), sdegen.CLD(sigma_0=0.1)], ids=lambda s: type(s).__name__)
def test_the_last_term_is_the_normal_density_around_the_denoised_state(sde: Any, generator: torch.Generator) -> None:
    law = sdegen.testing.gaussian_data()
    model, t = sdegen.Exact(sde, law), torch.tensor([0.05, 0.2, 0.4], dtype=torch.float64) * sde.T
    x = law.sample(3, generator)
    noised = sde.perturb(x, t, generator=generator)
    spread = sde.snr(t).rsqrt()[:, None]
    mean = sde.project(model.denoise(noised.x, t))
    want = torch.distributions.Normal(mean, spread).log_prob(x).sum(1)
    torch.testing.assert_close(last_log_prob(model, x, t, noised), want, rtol=1e-8, atol=1e-8)
