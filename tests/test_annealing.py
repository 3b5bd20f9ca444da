"""Products of laws with known densities, and mixtures: exact weights at any number of steps, exact scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import guidance, metrics
from sdegen.guidance import Mixed, Product, anneal_product, annealing
from sdegen.guidance.members import MembersInBatches
from sdegen.laws import GaussianMixture, PlanarLaw, Units, multiply_laws
from sdegen.processes import CLD, LinearSDE

UNITS = Units(torch.tensor([0.5, 0.0]), torch.tensor([2.0, 0.5]))


def gaussian(mean: float, variances: Sequence[float]) -> GaussianMixture:
    return GaussianMixture(torch.ones(1), torch.full((1, 2), mean), torch.tensor([variances]))


NARROW, WIDE = gaussian(1.0, (0.25, 0.5)), gaussian(0.0, (1.0, 1.5))


def product(sde: LinearSDE, factors: Sequence[tuple[GaussianMixture, float]]) -> Product:
    return Product([(sdegen.Exact(sde, law), power) for law, power in factors])


def scores(off: Sequence[float], stated: Sequence[float]) -> tuple[float, float]:
    """Return the shares of errors within one and two of those that are stated."""
    ratio = torch.tensor(off).abs() / torch.tensor(stated)
    return (ratio < 1).double().mean().item(), (ratio < 2).double().mean().item()


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VP().in_units(UNITS), sdegen.EDM()])
def test_few_steps_leave_the_law_and_its_normaliser(sde: LinearSDE) -> None:
    factors = [(NARROW, 2.0), (WIDE, -1.0)]
    found, truth = anneal_product(product(sde, factors), 800, steps=15, seed=1), multiply_laws(factors)
    assert found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - truth.log_normaliser) < 4 * found.evidence_error < 0.4
    mean, C = truth.law.moments()
    assert ((found.mean() - mean).abs() < 5 * (C.diagonal() / found.effective).sqrt()).all()
    spread = found.mean((found.x - found.mean()).square()) / C.diagonal()
    assert (spread.log().abs() < 0.3).all()


class Single(sdegen.Exact):
    """A true score whose states are of single precision, as those of a network are."""

    like = torch.zeros(1)


def test_weights_of_members_in_single_precision_are_as_exact() -> None:
    factors = [(NARROW, 2.0), (WIDE, -1.0)]
    model = Product([(Single(sdegen.VP(), law), power) for law, power in factors])
    found, truth = anneal_product(model, 400, steps=8, seed=1), multiply_laws(factors)
    assert found.x.dtype == torch.float32
    assert found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - truth.log_normaliser) < 4 * found.evidence_error < 0.5


def test_a_product_of_one_gaussian_has_equal_weights() -> None:
    """Its reversed steps are Gaussian, and as wide as the particles' clean states say."""
    found = anneal_product(product(sdegen.VP(), [(NARROW, 1.0)]), 1000, steps=12, seed=0)
    assert found.log_evidence == pytest.approx(0.0, abs=0.01) and found.effective > 970


@pytest.mark.parametrize("moves", [0, 1, 3])
def test_a_run_says_how_many_states_it_has_asked_its_members_about(moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    times, ask = [], MembersInBatches.log_densities

    def counted(members: MembersInBatches, x: Tensor, t: float) -> Tensor:
        times.append(t)
        return ask(members, x, t)

    monkeypatch.setattr(MembersInBatches, "log_densities", counted)
    found = anneal_product(product(sdegen.VP(), [(NARROW, 1.0)]), 20, steps=7, moves=moves, seed=0)
    assert found.evaluations == sum(t > 0 for t in times)  # of the data themselves no model is asked


def test_about_six_in_ten_moves_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    shares, move = [], annealing._move

    def noted(*args: Any) -> Any:
        moved = move(*args)
        shares.append(moved[-1])
        return moved

    monkeypatch.setattr(annealing, "_move", noted)
    anneal_product(product(sdegen.VP(), [(NARROW, 2.0), (WIDE, -1.0)]), 400, steps=100, seed=0)
    assert sum(shares[10:70]) / 60 == pytest.approx(0.6, abs=0.04) and min(shares[90:]) > 0.6


def test_particles_do_not_depend_on_the_batch() -> None:
    model = product(sdegen.VP(), [(NARROW, 2.0), (WIDE, -1.0)])
    whole, parts = (anneal_product(model, 50, steps=6, seed=0, batch=batch) for batch in (None, 16))
    assert torch.equal(whole.x, parts.x) and torch.equal(whole.weights, parts.weights)


def test_a_mixture_is_the_model_of_the_mixed_law() -> None:
    law = GaussianMixture(
        torch.tensor([0.3, 0.7]),
        torch.cat([NARROW.means, WIDE.means]),
        torch.cat([NARROW.covariances, WIDE.covariances]),
    )
    sde = sdegen.VP()
    mixed, exact = Mixed([(sdegen.Exact(sde, NARROW), 0.3), (sdegen.Exact(sde, WIDE), 0.7)]), sdegen.Exact(sde, law)
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    for t in (0.05, 0.9, torch.linspace(0.1, 0.9, 6)):
        torch.testing.assert_close(mixed.score(x, t), exact.score(x, t))
        torch.testing.assert_close(mixed.estimate(x, t), exact.estimate(x, t))
    torch.testing.assert_close(mixed.log_density(x, 0.4), exact.log_density(x, 0.4))
    torch.testing.assert_close(mixed.moments, law.moments())
    inner = Mixed([(mixed, 0.5), (exact, 0.5)])  # mixtures are members again
    torch.testing.assert_close(inner.log_density(x, 0.4), exact.log_density(x, 0.4))


@pytest.mark.parametrize("read", ["score", "denoise", "noise"])
def test_each_row_of_a_mixture_has_its_own_time_and_conditions(read: str) -> None:
    """The weights of the members are known row by row, also where these have conditions with rows of their own."""
    sde, generator = sdegen.VP(), torch.Generator().manual_seed(1)
    model = sdegen.ExactConditional(sde, [NARROW, WIDE], WIDE)
    label, other = (torch.randint(-1, 2, (6,), generator=generator) for _ in range(2))
    x, t = (
        torch.randn(6, *NARROW.event_shape, dtype=torch.float64, generator=generator),
        torch.linspace(0.1, 0.9, 6).double(),
    )

    def mixed(rows: slice) -> Mixed:
        return Mixed([(model, 0.3), (guidance.Without(model, label=other[rows]), 0.7)])

    found = getattr(mixed(slice(None)), read)(x, t, label=label)
    rows = [slice(i, i + 1) for i in range(6)]
    alone = [getattr(mixed(row), read)(x[row], t[row], label=label[row]) for row in rows]
    assert torch.allclose(found, torch.cat(alone), rtol=1e-10, atol=1e-12)


def test_densities_are_those_of_the_law_with_noise_under_conditions_too() -> None:
    labelled, x = sdegen.ExactConditional(sdegen.VP(), [NARROW, WIDE], NARROW), torch.zeros(3, 2)
    fixed = sdegen.models.Conditioned(labelled, label=1)
    want = labelled.sde.diffused(WIDE, 0.3).log_prob(x.double())
    torch.testing.assert_close(fixed.log_density(x, 0.3), want)
    torch.testing.assert_close(labelled.log_density(x, 0.3, label=torch.tensor([1, 1, 1])), want)


class Without(sdegen.Exact):
    """A model whose density is lost, or zero, at small noise."""

    value = -torch.inf

    def log_density(self, x: Tensor, t: float, /, **cond: Any) -> Tensor:
        found = super().log_density(x, t, **cond)
        return found if t > 0.3 else found * 0 + self.value


class Lost(Without):
    value = torch.nan


def test_runs_that_cannot_be_weighted_are_refused() -> None:
    for kind in (Without, Lost):
        with pytest.raises(ValueError, match=r"turned non-finite, or all vanished, at t = 0\.2"):
            anneal_product(Product([(kind(sdegen.VP(), NARROW), 1.0)]), 20, steps=20, seed=0)
    with pytest.raises(ValueError, match="the powers sum to 2; give powers of sum one"):
        anneal_product(product(sdegen.VP(), [(NARROW, 2.0)]), 10)
    with pytest.raises(ValueError, match="CLD has more numbers than the data"):
        anneal_product(product(CLD(), [(NARROW, 1.0)]), 10)
    network = sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1), sdegen.VP())
    network.moments = NARROW.moments()
    with pytest.raises(TypeError, match="Model knows a score and no density"):
        anneal_product(Product([(network, 1.0)]), 10, steps=3)
    with pytest.raises(ValueError, match="give positive ones that sum to one"):
        Mixed([(sdegen.Exact(sdegen.VP(), NARROW), 0.5)])
    with pytest.raises(TypeError, match="give a score model and its weight each"):
        Mixed([(NARROW, 1.0)])  # type: ignore[list-item]


@pytest.mark.slow
def test_the_stated_error_of_the_normaliser_is_nominal() -> None:
    factors, steps = [(NARROW, 2.0), (WIDE, -1.0)], 15
    model, truth = product(sdegen.VP(), factors), multiply_laws(factors).log_normaliser
    runs = [anneal_product(model, 400, steps=steps, seed=seed, progress=False) for seed in range(100)]
    off = [(run.log_evidence or 0.0) - truth for run in runs]
    one, two = scores(off, [run.evidence_error or 0.0 for run in runs])
    assert abs(one - 0.68) < 0.15 and two > 0.89, (one, two)
    assert abs(sum(off) / 100) < 0.02


@pytest.mark.slow
def test_the_stated_error_is_nominal_where_classes_have_borders() -> None:
    ring = sdegen.data.gaussian_ring()
    mode = GaussianMixture(torch.ones(1), ring.means[:1], ring.covariances[:1])
    law = PlanarLaw(lambda x: 3 * mode.log_prob(x) - 2 * ring.log_prob(x), (-2, -6), (10, 6), 400)
    model = product(sdegen.VP(), [(mode, 3.0), (ring, -2.0)])
    runs = [anneal_product(model, 500, steps=50, seed=seed, progress=False) for seed in range(100)]
    off = [(run.log_evidence or 0.0) - law.log_normaliser for run in runs]
    one, two = scores(off, [run.evidence_error or 0.0 for run in runs])
    assert abs(one - 0.68) < 0.12 and two > 0.87, (one, two)  # without moves .55 and .82
    assert abs(sum(off) / 100) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("w", [3.0, 5.0])
def test_guidance_in_eight_dimensions_samples_the_law_that_it_states(w: float) -> None:
    law = sdegen.data.random_mixture(8, modes=8, seed=3)
    mode = GaussianMixture(torch.ones(1), law.means[:1], law.covariances[:1])

    def odds(x: Tensor) -> Tensor:
        return law.component_log_prob(x).softmax(1)[:, 0] ** (w - 1)

    draws = torch.Generator().manual_seed(1)
    drawn = mode.sample(40_000, draws)
    share = odds(drawn)
    log_normaliser = share.mean().log().item() - (w - 1) * math.log(law.weights[0].item())
    truth = drawn[torch.rand(len(share), dtype=torch.float64, generator=draws) < share]
    found = anneal_product(product(sdegen.VP(), [(mode, w), (law, 1 - w)]), 1500, seed=0)

    def apart(x: Tensor) -> float:
        return metrics.sliced_wasserstein(x, truth[:1500], seed=0).value

    assert apart(found.sample(1500, torch.Generator().manual_seed(0))) < 2 * apart(truth[1500:3000])
    assert found.log_evidence == pytest.approx(log_normaliser, abs=0.1)


def test_wrappers_pass_densities_on() -> None:
    labelled = sdegen.ExactConditional(sdegen.VP(), [NARROW, WIDE], NARROW)
    x = torch.zeros(2, 2)
    torch.testing.assert_close(guidance.Without(labelled).log_density(x, 0.2, label=1), labelled.log_density(x, 0.2))


def test_processes_may_blur_each_coordinate_by_itself() -> None:
    laws = [
        GaussianMixture(torch.ones(1), torch.full((1, 1, 2, 2), m), torch.tensor([v]))
        for m, v in ((1.0, 0.25), (0.0, 1.0))
    ]
    factors = [(laws[0], 2.0), (laws[1], -1.0)]
    found = anneal_product(product(sdegen.Blurring((1, 2, 2)), factors), 400, steps=8, seed=1)
    assert found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - multiply_laws(factors).log_normaliser) < 4 * found.evidence_error < 0.4


def test_a_mixture_is_shown_and_saved_with_its_members(tmp_path: Path) -> None:
    mixed, path = (
        Mixed([(sdegen.Exact(sdegen.VP(), law), 0.5) for law in (NARROW, WIDE)]),
        tmp_path / "mixed.safetensors",
    )
    assert repr(mixed).startswith("Mixed(models=[(Exact(VP")
    sdegen.save(mixed, path)
    x = torch.randn(3, 2)
    assert torch.equal(sdegen.load(path).score(x, 0.5), mixed.score(x, 0.5))
    why = {"moments_and_end_are_shared": "a mixture's moments follow from its members'"}
    wrap = lambda m: Mixed([(m, 0.5), (m, 0.5)])
    assert sdegen.testing.check_wrapper(wrap, sdegen.Exact(sdegen.VP(), NARROW), expected=why).passed
