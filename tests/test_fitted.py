"""Fitted solvers: better on paths they were not fitted to, the default where they are not, and files that hold them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import sdegen
from sdegen import grids, guidance, measurements, samplers
from sdegen.conditions import Conditions
from sdegen.samplers import Fitted, Multistep, ProbabilityFlow, default, share
from sdegen.samplers.parameters import Parameters
from sdegen.samplers.robust import cut_weights
from sdegen.samplers.search import Search
from sdegen.samplers.student import Student, robust_least_squares
from sdegen.testing import gaussian_data

RING = sdegen.data.gaussian_ring(modes=8, radius=4.0, std=0.3)


@pytest.fixture(scope="module")
def fitted() -> samplers.Sampler:
    return samplers.fit_solver(sdegen.Exact(sdegen.VP(), RING), steps=6, paths=256, seed=1, final="sample")


def distance(sampler: samplers.Sampler, x_T: Tensor) -> Tensor:
    model = sdegen.Exact(sdegen.VP(), RING)
    times = sampler.times(model.sde, False)
    flow = ProbabilityFlow(1, grids.Given(times[[0, -1]]), rtol=1e-9, atol=1e-9)
    want = sdegen.sample(model, x_T=x_T, sampler=flow, final="sample")
    return (sdegen.sample(model, x_T=x_T, sampler=sampler, final="sample") - want).norm(dim=1)


def test_fitted_solver_beats_the_default_on_new_paths(fitted: samplers.Sampler) -> None:
    assert isinstance(fitted, Fitted) and fitted.steps == 6
    x_T = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    ours, plain = distance(fitted, x_T), distance(default(sdegen.Exact(sdegen.VP(), RING), 6), x_T)
    assert ours.median() < 0.25 * plain.median()
    assert ours.square().mean().sqrt() < 0.6 * plain.square().mean().sqrt()


@pytest.mark.slow
def test_a_fit_goes_on_through_rounds_that_gain_little() -> None:
    """After one round that helps and four that do not, the fifth takes two fifths of the error, and later ones half of it."""
    fitted = samplers.fit_solver(sdegen.Exact(sdegen.VP(), RING), steps=5, final="sample", end=1e-3, progress=False)
    assert isinstance(fitted, Fitted)
    assert fitted.error < 0.01 < 0.15 * fitted.default_error


def test_a_solver_is_judged_on_paths_that_nothing_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []
    searches: list[Search] = []
    error = Search.error

    def watched(self: Search, sampler: samplers.Sampler, paths: Any) -> float:
        asked.append(paths.states[0])
        searches.append(self)
        return error(self, sampler, paths)

    monkeypatch.setattr(Search, "error", watched)
    model = sdegen.Exact(sdegen.VP(), RING)
    solver = samplers.fit_solver(model, steps=4, paths=64, rounds=1, seed=3, final="sample")
    assert isinstance(solver, Fitted)
    train, choose, held = (part.states[0] for part in (searches[0].train, searches[0].choose, searches[0].held))
    assert [len(part) for part in (train, choose, held)] == [32, 16, 16]
    assert len(torch.cat([train, choose, held]).unique(dim=0)) == 64
    assert all(torch.equal(x, choose) for x in asked[:-2]) and all(torch.equal(x, held) for x in asked[-2:])
    for found, sampler in ((solver.error, solver), (solver.default_error, default(model, 4, eta=0.0))):
        apart = distance(sampler, held)  # from the flow itself; no single one counts for more than ten medians
        assert found == pytest.approx(apart.minimum(10 * apart.median()).square().mean().sqrt().item(), rel=0.02)


@pytest.mark.parametrize("final", ["sample", "denoise"])
def test_the_teacher_is_at_no_distance_from_its_own_paths(final: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "FINE", 12)
    model = sdegen.Exact(sdegen.VP(), RING)
    search = Search(model, 4, 32, 0, final, None, {})
    teacher = Multistep(12 + search.denoise, grids.Angle(scale=search.scale, power=0.5), 3, clock=share, corrector=True)
    assert [search.error(teacher, paths) for paths in (search.train, search.choose, search.held)] == [0, 0, 0]


@pytest.mark.slow
def test_a_solver_ends_where_the_default_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "FINE", 8)
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1), sdegen.VP(), end=0.2)
    model.moments = gaussian_data().moments()
    for end, last in ((None, 0.2), (0.4, 0.4)):
        search = Search(model, 3, 16, 0, "denoise", end, {})
        for times in (search.fine, search.plain.times(model.sde, True), search.first_solver(grids.Angle(), 1).stops):
            assert times[-1].item() == pytest.approx(last)
    exact = sdegen.Exact(sdegen.VP(), RING)
    before = default(exact, 6).grid.end
    Search(exact, 6, 16, 0, "sample", 0.3, {})
    assert default(exact, 6).grid.end == before  # the default of others is left as it was


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_least_squares_that_few_rows_do_not_move(dtype: torch.dtype) -> None:
    seed = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, 3, generator=seed).to(dtype)
    theta = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    target = (features.double() @ theta).to(dtype)
    exact = robust_least_squares(features, target)
    assert exact.dtype is torch.float64
    assert_close(exact, theta, rtol=0, atol=2e-3)  # the ridge is a thousandth of the features
    first = features[..., :1]  # one column f has the answer Σ w f·y / (1.001 Σ w f·f)
    assert_close(
        robust_least_squares(first, (0.3 * first[..., 0].double()).to(dtype)), theta[:1] / 1.001, rtol=1e-6, atol=0
    )
    target[:6] += 1e4  # a tenth of the rows
    assert_close(robust_least_squares(features, target), exact, rtol=0, atol=2e-3)
    assert_close(
        robust_least_squares(1e6 * features, 1e6 * target), robust_least_squares(features, target), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("number", [2, 3, 6])
def test_a_student_steps_from_each_of_its_stops_to_the_next(number: int) -> None:
    stops = torch.linspace(1.0, 0.1, number, dtype=torch.float64)
    student = Student(stops, 2, samplers.Normal(), {})
    assert student.steps == number - 1 and torch.equal(student.times(sdegen.VP(), False), stops)


def test_where_fitting_does_not_help_the_default_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = lambda self, fitted, rounds, bar: Fitted(fitted.stops, 3 * fitted.factors, fitted.order, fitted.denoise)
    monkeypatch.setattr(Search, "refine", spoilt)
    model = sdegen.Exact(sdegen.VP(), RING)
    with pytest.warns(UserWarning, match="fitting 4 steps did not help") as caught:
        solver = samplers.fit_solver(model, steps=4, paths=64, rounds=1)
    assert type(solver) is Multistep and repr(solver) == repr(default(model, 4, eta=0.0))
    assert caught[0].filename == __file__


def test_factors_of_one_are_the_analytic_weights() -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    times = grids.Angle()(model.sde, 7)
    plain = Multistep(6, grids.Given(times), 2, clock=share, corrector=True)
    one = Fitted(times, torch.ones(11, 3), 2, False)
    x_T = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = (sdegen.sample(model, x_T=x_T, sampler=s, final="sample") for s in (plain, one))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_runs_that_begin_midway_are_whole_runs() -> None:
    # Factors act late, times early: each column of the Jacobian must be the difference of two whole runs.
    model = sdegen.Exact(sdegen.VP(), RING)
    search = Search(model, 4, 32, 0, "denoise", None, {})
    with torch.no_grad():
        parameters = Parameters(model.sde, search.first_solver(grids.Angle(), 2), model)
        p, h = parameters.start, torch.finfo(torch.float64).eps ** 0.4
        r, trail = search.residuals(parameters, p)
        J = search.jacobian(parameters, p, r, trail)
        assert set(parameters.acts) == {0, 1, 2}
        for i in range(len(p)):
            q = p.clone()
            q[i] += h
            run = sdegen.sample(model, x_T=search.train.states[0], sampler=parameters.sampler(q))
            assert_close(J[..., i], ((run - search.train.ends) - r) / h, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_conditions_belong_to_their_paths() -> None:
    # Each class has its own distribution: with the classes shuffled against the paths nothing could be fitted.
    left, right = (sdegen.GaussianMixture(RING.weights, RING.means * s, RING.covariances) for s in (1.0, 0.5))

    class Conditional(sdegen.Exact):
        conditions = Conditions(frozenset({"label"}))

        def estimate(self, x: Tensor, t: Any, /, label: Any = None, **cond: Any) -> tuple[Tensor, Tensor]:
            a, b = (sdegen.Exact(self.sde, law).estimate(x, t) for law in (left, right))
            return tuple(torch.where(label[:, None] == 0, u, v) for u, v in zip(a, b, strict=True))  # type: ignore[return-value]

    model = Conditional(sdegen.VP(), left)
    label = torch.arange(256) % 2
    solver = samplers.fit_solver(model, steps=5, paths=256, final="sample", label=label)
    assert solver.error < 0.5 * solver.default_error  # type: ignore[attr-defined]


@pytest.mark.slow
def test_guided_models_are_fitted_to_conditions_that_are_drawn(tmp_path: Path) -> None:
    """Judged under measurements that nothing was fitted under, and again under others."""
    seen = measurements.Mask(torch.tensor([True, False]), std=0.5)
    model = guidance.MomentMatching(sdegen.Exact(sdegen.VP(), RING), seen)

    def draw(n: int, generator: torch.Generator) -> dict[str, Any]:
        return {"y": seen.sample(RING.sample(n, generator), generator)}

    solver = samplers.fit_solver(model, steps=3, paths=64, rounds=1, conditions=draw)
    assert isinstance(solver, Fitted) and isinstance(solver.reference, samplers.MatchedConditional)
    assert solver.error is not None and solver.default_error is not None and solver.error < 0.8 * solver.default_error
    g = torch.Generator().manual_seed(5)
    x_T, new = torch.randn(50, 2, dtype=torch.float64, generator=g), draw(50, g)
    fine = Multistep(40, grids.Angle(power=0.5), 3, samplers.MatchedConditional(), share, True)
    plain = default(sdegen.Conditioned(model, **new), 3)
    sdegen.save(solver, tmp_path / "solver.safetensors")
    back = sdegen.load(tmp_path / "solver.safetensors")
    x, y, z, want = (sdegen.sample(model, x_T=x_T, sampler=s, **new) for s in (solver, plain, back, fine))
    assert torch.equal(x, z)
    assert (x - want).norm(dim=1).median() < 0.8 * (y - want).norm(dim=1).median()


def test_conditions_that_cannot_be_drawn_are_refused() -> None:
    model = sdegen.ExactConditional(sdegen.VP(), [RING, RING], RING)
    labels = torch.zeros(16, dtype=torch.int64)
    for conditions, cond, kind, message in (
        (lambda n, g: labels, {}, TypeError, "conditions returned a Tensor; return a dictionary"),
        (lambda n, g: {"label": labels}, {"label": 1}, ValueError, "label was given and drawn; give it, or"),
        (lambda n, g: {"label": 1}, {}, ValueError, "conditions returned none with a row for each of 16 paths; return"),
        (lambda n, g: {"labels": labels}, {}, TypeError, "no argument 'labels'"),
    ):
        with pytest.raises(kind, match=message):
            samplers.fit_solver(model, steps=2, paths=16, conditions=conditions, **cond)
    for eta in (0.0, 1.0):
        for rows in (4, 8, 15):  # as many as some of the paths are, or as none
            with pytest.raises(ValueError, match="one for each of 16"):
                samplers.fit_solver(model, steps=2, paths=16, eta=eta, label=torch.zeros(rows, dtype=torch.long))


def test_gaussian_data_leave_nothing_to_fit() -> None:
    # The default is exact there: whatever comes back is no worse, and where it is the default a warning says so.
    model = sdegen.Exact(sdegen.VP(), gaussian_data())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler = samplers.fit_solver(model, steps=3, paths=32, rounds=2, final="sample")
    told = any("did not help" in str(w.message) for w in caught)
    assert told != isinstance(sampler, Fitted)


def test_fits_for_the_denoising_end_too() -> None:
    model = sdegen.Exact(sdegen.EDM(), RING)
    sampler = samplers.fit_solver(model, steps=4, paths=64, seed=0, rounds=2)
    calls = 0

    class Counting(sdegen.Exact):
        def _observed(self, x: Tensor, at: object) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            return super()._observed(x, at)  # type: ignore[arg-type]

    sdegen.sample(Counting(sdegen.EDM(), RING), 8, sampler=sampler, seed=0)
    assert calls == 4
    if isinstance(sampler, Fitted):
        with pytest.raises(ValueError, match="fitted for final"):
            sdegen.sample(model, 8, sampler=sampler, final="sample")


def test_weights_that_a_move_has_not_have_a_factor_of_one(fitted: Fitted) -> None:
    """The first move has one evaluation to weigh."""
    assert fitted.factors[0, 0] != 1 and (fitted.factors[0, 1:] == 1).all()


def test_save_and_load(fitted: Fitted, tmp_path: Path) -> None:
    sdegen.save(fitted, tmp_path / "solver.safetensors")
    back = sdegen.load(tmp_path / "solver.safetensors")
    model = sdegen.Exact(sdegen.VP(), RING)
    a, b = (sdegen.sample(model, 7, sampler=s, seed=3, final="sample") for s in (fitted, back))
    assert torch.equal(a, b)


def test_refusals() -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    with pytest.raises(TypeError, match="CLD"):
        samplers.fit_solver(sdegen.Exact(sdegen.CLD(), RING))
    with pytest.raises(ValueError, match="steps = 1"):
        samplers.fit_solver(model, steps=1)
    with pytest.raises(ValueError, match="final = 'end'"):
        samplers.fit_solver(model, final="end")
    with pytest.raises(ValueError, match="rounds = -1"):
        samplers.fit_solver(model, rounds=-1)
    model.moments = None
    with pytest.raises(ValueError, match="moments"):
        samplers.fit_solver(model)


@pytest.mark.parametrize(
    ("numbers", "eta", "paths"),
    [
        (2, 0.0, 512),
        (128, 0.0, 512),
        (256, 0.0, 256),
        (2048, 0.0, 64),
        (8, 0.5, 8192),
        (16, 0.5, 4096),
        (2048, 0.5, 64),
    ],
)
def test_states_of_more_numbers_are_fitted_on_fewer_paths(
    numbers: int, eta: float, paths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def search(model: Any, steps: int, paths: int, *_: Any) -> None:
        raise Asked(paths)

    for name in ("Search", "LawSearch"):
        monkeypatch.setattr(f"sdegen.samplers.fitting.{name}", search)
    model = sdegen.Model(sdegen.nets.MLP(numbers, width=1, depth=1), sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(numbers), torch.ones(numbers))
    with pytest.raises(Asked, match=f"^{paths}$"):
        samplers.fit_solver(model, steps=4, eta=eta)


@pytest.mark.parametrize("cut", [0.5, 2.0, 10.0])
def test_a_residual_counts_as_one_of_the_size_of_the_cut_at_most(cut: float) -> None:
    size = torch.rand(101, generator=torch.Generator().manual_seed(0), dtype=torch.float64).square() * 30
    weights = cut_weights(size, cut)
    assert (weights[size <= cut * size.median()] == 1).all()
    assert_close(weights * size.square(), size.clamp_max(cut * size.median()).square())
