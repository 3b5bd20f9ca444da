"""Exponential integrators around the data's own Gaussian on processes that are not scalar: exact on Gaussian data in one step at
every noise level, the same however a process is written, and of the orders that they claim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_coordinate_processes import DATA, Coloured, Principal, Q, Spiral, Uneven, W, White
from torch import Tensor

import sdegen
from sdegen import grids, samplers
from sdegen.laws import bases
from sdegen.samplers import ExponentialSDE, Matched, MatchedConditional, Multistep, Normal, PointMass, Singlestep
from sdegen.samplers.clocks import angle
from sdegen.samplers.directions import Scalar
from sdegen.samplers.exponential import plan_pieces
from sdegen.samplers.moves import add_multiple, multiply
from sdegen.samplers.steps import run_plan
from sdegen.testing.affine import affine_moments, response
from sdegen.testing.samplers import observed_order

L = torch.linalg.inv(W.W)
SPIRAL, COLOURED = Spiral(), Coloured()  # whose tables serve all tests
ETAS = (0.0, 0.5, 1.0)


def gaussian(covariance: Tensor) -> sdegen.GaussianMixture:
    return sdegen.GaussianMixture(torch.ones(1), torch.tensor([[0.6, -0.4]]).double(), covariance.double()[None])


SKEW = gaussian(torch.tensor([[0.9, 0.3], [0.3, 0.4]]))
ROUND = gaussian(0.7 * torch.eye(2, dtype=torch.float64))
STRAIGHT = gaussian(torch.tensor([[0.9, 0.0], [0.0, 0.4]]))
ALONG = gaussian(Q @ torch.tensor([[0.9, 0.0], [0.0, 0.4]]).double() @ Q.T)
IMAGES = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 1, 3, 3), torch.tensor([0.5]))
FLAT = gaussian(torch.tensor([[0.9, 0.0], [0.0, 1e-10]]))

CASES: dict[str, tuple[Callable[[], sdegen.LinearSDE], sdegen.GaussianMixture, samplers.Reference]] = {
    "by coordinate": (Uneven, STRAIGHT, Matched()),
    "in a basis": (Principal, ALONG, Matched()),
    "blurred": (lambda: sdegen.Blurring((1, 3, 3)), IMAGES, Matched()),
    "by coordinate, correlated data": (Uneven, SKEW, Matched()),
    "in a basis, correlated data": (Principal, SKEW, Matched()),
    "correlated": (lambda: SPIRAL, SKEW, Matched()),
    "correlated, all but flat": (lambda: SPIRAL, FLAT, Matched()),
    "with momenta": (sdegen.CLD, SKEW, Matched()),
    "with momenta, one variance": (lambda: sdegen.CLD(sigma_0=0.1), ROUND, Normal(0.7)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.turns("*flat", "blurred", "by coordinate, correlated data", "with momenta, one variance")
def test_gaussian_data_are_exact_in_one_step_at_every_noise_level(case: str) -> None:
    make, law, reference = CASES[case]
    model = sdegen.Exact(make(), law)
    for eta in ETAS:
        sampler = ExponentialSDE(1, order=1, eta=eta, reference=reference)
        want = model.sde.diffused(law, sampler.times(model.sde, False)[-1]).moments()
        for found, known in zip(affine_moments(sampler, model), want, strict=True):
            assert (found - known.reshape(found.shape)).abs().max() < 1e-10


@pytest.mark.parametrize("case", CASES)
def test_a_run_of_one_step_is_what_the_model_says_where_it_begins(case: str) -> None:
    """It moves no state before: there are no times for coefficients."""
    make, law, reference = CASES[case]
    model = sdegen.Exact(make(), law)
    x = model.sde.prior(law.moments()).sample(2, torch.Generator().manual_seed(0))
    for sampler in (ExponentialSDE(1, reference=reference), Multistep(1, None, 2, reference, corrector=True)):
        found = sdegen.sample(model, x_T=x, sampler=sampler, seed=0)
        torch.testing.assert_close(found, model.sde.project(model.denoise(x, model.sde.T)).to(found))
        assert sampler.updates(model, torch.tensor([0.5]).double()).moves.s.tolist() == []


def test_stages_lead_to_data_without_noise_where_the_model_is_not_asked() -> None:
    model, sampler = sdegen.Exact(sdegen.CLD(), SKEW), Singlestep(1, grids.Angle(end=0.0), reference=Matched())
    want = model.sde.diffused(SKEW, 0.0).moments()
    for found, known in zip(affine_moments(sampler, model), want, strict=True):
        assert (found - known.reshape(found.shape)).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("make", "law"),
    [(sdegen.VP, SKEW), (sdegen.VP, ROUND), (sdegen.EDM, STRAIGHT), (Uneven, STRAIGHT)],
)
def test_an_update_by_the_velocity_of_the_reference_is_its_flow(
    make: Callable[[], sdegen.LinearSDE], law: sdegen.GaussianMixture
) -> None:
    """``x_s = m_s + √C_s √C_t⁻¹ (x − m_t)``, whatever the mean."""
    model = sdegen.Exact(make(), law)
    pieces = plan_pieces(model.sde, model, Matched(), angle)
    assert isinstance(pieces, Scalar)
    t, s = model.sde.T * torch.tensor([[0.6], [0.25]], dtype=torch.float64)
    (m_t, C_t), (m_s, C_s) = (model.sde.diffused(law, v[0]).moments() for v in (t, s))
    x = m_t + torch.tensor([[0.7, -1.0], [2.0, 0.3]], dtype=torch.float64)
    carry, shift, weight = pieces.jump(t, s)
    y = multiply(carry, pieces.enter(x), shift)
    found = pieces.leave(add_multiple(y, weight, pieces.enter(model.velocity(x, t[0]))), x)
    (e_t, Q_t), (e_s, Q_s) = (torch.linalg.eigh(C) for C in (C_t, C_s))
    turned = Q_s @ e_s.sqrt().diag() @ Q_s.T @ Q_t @ e_t.rsqrt().diag() @ Q_t.T
    torch.testing.assert_close(found, m_s + (x - m_t) @ turned.T, rtol=1e-9, atol=1e-9)


def white(law: sdegen.GaussianMixture) -> sdegen.GaussianMixture:
    return sdegen.GaussianMixture(law.weights, W(law.means), W.W @ law.covariances @ W.W.T)


def three_ways(law: sdegen.GaussianMixture) -> dict[str, tuple[sdegen.Exact, Tensor]]:
    """One process in three of the four ways to write it, each with the map from its states to those of the first."""
    one = torch.eye(2, dtype=torch.float64)
    return {
        "full": (sdegen.Exact(COLOURED, law), one),
        "axes": (sdegen.Exact(Principal(), law), one),
        "white": (sdegen.Exact(White(), white(law)), L),
    }


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.turns("0.0", "1.0")
def test_one_process_written_three_ways_makes_the_same_step_in_law(eta: float) -> None:
    # The fourth way, drift and diffusion of an unknown kind, has no posterior means, and exponential integrators refuse it.
    times = torch.tensor([2.0, 0.7, 0.1], dtype=torch.float64)
    sampler = ExponentialSDE(2, grids.Given(times), 2, eta, reference=Matched())
    found = {way: (response(sampler, model), to) for way, (model, to) in three_ways(SKEW).items()}
    want, _ = found["full"]
    for made, to in found.values():
        back = torch.linalg.inv(to)
        for a, b in (
            (to @ made.A @ back, want.A),
            (to @ made.b, want.b),
            (to @ made.B @ made.B.T @ to.T, want.B @ want.B.T),
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("way", "steps", "tolerance"), [("axes", 6, 1e-12), ("white", 120, 5e-3)])
@pytest.mark.turns("white*")
def test_one_process_written_otherwise_flows_to_the_same_samples_of_any_law(
    way: str, steps: int, tolerance: float
) -> None:
    # In the axes the clock is the same, so that the error of the steps is too.
    end, ways = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), three_ways(DATA)
    drawn = [
        sdegen.sample(model, x_T=end @ torch.linalg.inv(to).T, sampler=Multistep(steps, order=2), final="sample") @ to.T
        for model, to in (ways["full"], ways[way])
    ]
    assert (drawn[0] - drawn[1]).abs().max() < tolerance


ORDERS: dict[str, tuple[Callable[[], sdegen.LinearSDE], Callable[[int], samplers.Sampler]]] = {
    "by coordinate, eta 0.5": (Uneven, lambda n: ExponentialSDE(n, order=2, eta=0.5)),
    "by coordinate, stages": (Uneven, lambda n: Singlestep(n, order=2)),
    "by coordinate, point mass, eta 0.5": (
        Uneven,
        lambda n: ExponentialSDE(n, order=2, eta=0.5, reference=PointMass()),
    ),
    "in a basis, corrected": (Principal, lambda n: Multistep(n, order=1, corrector=True)),
    "correlated, eta 0.5": (lambda: COLOURED, lambda n: ExponentialSDE(n, order=2, eta=0.5)),
    "correlated, point mass, eta 0.5": (
        lambda: COLOURED,
        lambda n: ExponentialSDE(n, order=2, eta=0.5, reference=PointMass()),
    ),
    "correlated, corrected": (lambda: COLOURED, lambda n: Multistep(n, order=1, corrector=True)),
}


@pytest.mark.parametrize("case", ORDERS)
@pytest.mark.turns("*point mass*", "*stages", "*corrected", "correlated, eta 0.5")
def test_errors_around_another_gaussian_fall_at_the_order_claimed(case: str) -> None:
    sde, make = ORDERS[case]
    found, error = observed_order(lambda n: on(make(n)), sde(), (16, 32))
    assert error < 0.02
    assert found > (make(1).convergence_order or 0.0) - 0.15


def on(sampler: Any) -> samplers.Sampler:
    """The sampler on a grid that ends where the clock is regular."""
    sampler.grid = grids.Angle(end=0.02)
    return sampler


def test_the_reference_is_the_data_s_gaussian_wherever_it_can_be() -> None:
    x = torch.zeros(4, 2, dtype=torch.float64)
    for model in (sdegen.Exact(Uneven(), STRAIGHT), sdegen.Exact(SPIRAL, SKEW)):
        by_default = sdegen.sample(model, x_T=x, sampler=Multistep(2), final="sample")
        assert torch.equal(
            by_default, sdegen.sample(model, x_T=x, sampler=Multistep(2, reference=Matched()), final="sample")
        )
        model.moments = None
        around = [
            sdegen.sample(model, x_T=x, sampler=Multistep(2, reference=r), final="sample") for r in (None, PointMass())
        ]
        assert torch.equal(*around)


def test_data_of_many_numbers_are_followed_around_a_point() -> None:
    many = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 20).double(), torch.ones(1, 20).double())
    model, x = sdegen.Exact(sdegen.CLD(), many), torch.ones(2, 2, 20, dtype=torch.float64)
    around = [
        sdegen.sample(model, x_T=x, sampler=Multistep(2, reference=r), final="sample") for r in (None, PointMass())
    ]
    assert torch.equal(*around)
    large = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 200).double(), torch.ones(1, 200).double())
    with pytest.raises(
        ValueError, match=r"matrices of 400 numbers on CLD, 256 at most; choose the reference PointMass\(\)"
    ):
        sdegen.sample(sdegen.Exact(sdegen.CLD(), large), 2, sampler=Multistep(2, reference=Matched()))


def test_a_basis_gives_a_covariance_along_its_axes() -> None:
    sde, C = Principal(), SKEW.covariances[0]
    torch.testing.assert_close(sde.along(C), Q.T @ C @ Q)
    torch.testing.assert_close(sde.variances(C), (Q.T @ C @ Q).diagonal()[None])
    v = torch.tensor([0.9, 0.4], dtype=torch.float64)
    known = bases.Axes(Q).variances(v[None])
    torch.testing.assert_close(sde.variances(v), known)


def test_what_is_interpolated_is_as_wide_as_states_are_by_their_noise() -> None:
    """``(P / sin)^lean``, the root of ``(alpha² c + sigma²) / sigma²`` to that power."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.tensor([0.3]))
    model = sdegen.Exact(sdegen.VP(), law)
    pieces = Scalar(model.sde, model, Matched().law(model), samplers.share, 1.0, 0.5)
    t = torch.linspace(0.02, 1.0, 9, dtype=torch.float64)
    at = model.sde.marginal(t)
    alpha, sigma = (A.matrix()[:, 0, 0] for A in (at.Phi, at.R))
    want = ((0.3 * alpha**2 + sigma**2) / sigma**2) ** 0.25
    found = pieces.leaning(pieces.angles(pieces.phi(t), t)).reshape(9, -1)
    torch.testing.assert_close(found, want[:, None].expand_as(found), rtol=1e-6, atol=0)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("make", [Uneven, Coloured, Principal, White], ids=lambda make: make.__name__)
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_samples_of_many_labels_have_each_the_mean_of_its_own(make: Callable[[], sdegen.LinearSDE], eta: float) -> None:
    laws = [sdegen.GaussianMixture(torch.ones(1), torch.full((1, 2), v), torch.tensor([0.4])) for v in (0.3, 1.2, 0.7)]
    model = sdegen.ExactConditional(make(), laws[:2], laws[2])
    label, sampler = torch.arange(5) % 2, ExponentialSDE(4, eta=eta, reference=MatchedConditional())
    together = sdegen.sample(model, 5, sampler=sampler, seed=0, label=label)
    for k in (0, 1):
        alone = sdegen.sample(model, 5, sampler=sampler, seed=0, label=k)
        torch.testing.assert_close(together[label == k], alone[label == k], rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("learned", [False, True])
def test_constants_of_evaluations_may_stand_in_the_updates_instead(learned: bool, order: int) -> None:
    """A fit of weights needs them in the evaluations, and a plan of fewest steps in the updates: the states are the same."""
    torch.manual_seed(0)
    law = sdegen.GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[0.3, 1.2], [2.0, -0.5]]), torch.tensor([0.1, 0.4])
    )
    model: sdegen.ScoreModel = sdegen.Exact(sdegen.VP(), law)
    if learned:
        model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP()).double()
        model.moments = sdegen.Moments(torch.tensor([0.3, 1.2]), torch.tensor([0.1, 0.4]))
    sampler = Multistep(6, order=order, reference=Matched())
    times = sampler.times(model.sde, True)
    apart = sampler.updates(model, times)
    assert apart.evaluations.constants is not None and (apart.evaluations.scales is not None) == learned
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = [run_plan(sampler, plan.steps(), model, x)[-1][0] for plan in (apart, apart.merged())]
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)
