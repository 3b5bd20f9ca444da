"""The stops of the default, moved to where both of its endings are nearest to the flow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, sample, samplers
from sdegen.samplers import Multistep, measure_profile
from sdegen.samplers.profiles import affordable, profile_cost
from sdegen.samplers.stops import Moved, _fit, _Paths, move_stops
from sdegen.samplers.trials import level

RING = sdegen.data.gaussian_ring()


def target(seed: int) -> sdegen.GaussianMixture:
    """A mixture of two to eight modes in two to twelve dimensions, of uneven weights and widths."""
    g = torch.Generator().manual_seed(seed)
    d, modes = (int(torch.randint(2, high, (), generator=g)) for high in (13, 9))
    weights, widths, apart = (
        torch.rand(size, dtype=torch.float64, generator=g) + low
        for size, low in ((modes, 0.1), (modes, 0.05), (1, 0.5))
    )
    means = 2 * apart * torch.randn(modes, d, dtype=torch.float64, generator=g)
    return sdegen.GaussianMixture(weights / weights.sum(), means, (0.7 * widths).square())


def distances(model: Any, x_T: Tensor, sampler: Any, fine: Any) -> Tensor:
    """Median and root-mean-square distance of sample and posterior mean from the flow's, single ones cut at ten medians."""
    found = []
    for final in ("sample", "denoise"):
        d = (
            sample(model, x_T=x_T, sampler=sampler, final=final) - sample(model, x_T=x_T, sampler=fine, final=final)
        ).norm(dim=1)
        found += [d.median(), d.minimum(10 * d.median()).square().mean().sqrt()]
    return torch.stack(found)


def gain(model: Any, x_T: Tensor, steps: int) -> Tensor:
    """The four distances with the stops as they were moved over those with the grid's own; 1 where they were not."""
    own = samplers.default(model, steps)
    if not isinstance(own.grid, Moved):
        return torch.ones(4, dtype=torch.float64)
    plain = samplers.Multistep(steps, own.grid.grid, own.order, own.reference, own.clock, own.corrector)  # type: ignore[attr-defined]
    grid = grids.Angle(end=own.grid.end, scale=level(model.moments), power=0.5)
    fine = Multistep(160, grid, 3, clock=samplers.share, corrector=True)
    return distances(model, x_T, own, fine) / distances(model, x_T, plain, fine)


@pytest.mark.slow
def test_moved_stops_are_nearer_to_the_flow_on_other_paths() -> None:
    """Of mixtures that nothing was chosen on: in the mean by a twentieth or more, nowhere behind by more than a quarter."""
    ratios = []
    for seed in range(90, 98):
        law, sde = target(seed), (sdegen.VP, sdegen.EDM)[seed % 2]()
        model = sdegen.Exact(sde, law)
        x_T = sde.prior(law.moments()).sample(256, torch.Generator().manual_seed(seed)).double()
        ratios += [gain(model, x_T, steps) for steps in (5, 8)]
    found = torch.stack(ratios)
    assert found.max() < 1.25 and (found.log().mean(0).exp() < 0.95).all(), found


def test_a_moved_grid_stops_at_its_fractions_and_keeps_the_ends() -> None:
    sde, inner = sdegen.VP(), grids.Angle(end=0.01, scale=0.3)
    stops = torch.tensor([0.0, 0.3, 0.35, 0.9, 1.0], dtype=torch.float64)
    known = inner.spread(sde, 0.01, sde.T, stops.flip(0))
    assert torch.allclose(Moved(inner, stops)(sde, 5), known, rtol=1e-12)
    even = Moved(inner, torch.linspace(0, 1, 5, dtype=torch.float64))
    for n in (2, 4, 9):
        assert torch.allclose(even(sde, n), inner(sde, n), rtol=1e-12)
    later = Moved(inner, stops)
    later.start, later.end = 0.5, 0.1
    assert later(sde, 4)[[0, -1]].tolist() == [0.5, 0.1]


def test_stops_that_are_nearer_on_the_paths_of_the_fit_alone_are_left() -> None:
    """Paths held back whose flow ends elsewhere are judged by, whatever the others say."""
    model = sdegen.Exact(sdegen.VP(), RING)
    x_T = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solver = Multistep(5, grids.Angle(power=0.5), 2)
    flow = sample(model, x_T=x_T, sampler=Multistep(160, grids.Angle(power=0.5), 3), final="sample")
    fit, same = (model, x_T[::2], flow[::2]), (model, x_T[1::2], flow[1::2])
    stops = move_stops(fit, same, solver)
    assert stops[0] == 0 and stops[-1] == 1 and (stops.diff() > 0).all()
    its_own = sample(model, x_T=x_T[1::2], sampler=solver, final="sample")
    assert len(move_stops(fit, (model, x_T[1::2], its_own), solver)) == 0
    nowhere = torch.full_like(flow[::2], torch.nan)
    assert len(move_stops((model, x_T[::2], nowhere), (model, x_T[1::2], nowhere), solver)) == 0
    assert len(move_stops(fit, same, Multistep(1))) == 0


def test_stops_are_moved_where_a_training_can_pay_for_it() -> None:
    few, many = 16 * profile_cost(stops=False), 16 * profile_cost()
    assert affordable(few)[2] is affordable(many - 1)[2] is False and affordable(many)[2] is True
    assert affordable(few)[1] and affordable(many)[0] == 16
    data = RING.sample(16, torch.Generator().manual_seed(0))
    model = sdegen.Exact(sdegen.VP(), RING)
    assert (measure_profile(model, data, steps=(5,), stops=False).stops < 0).all()
    rows = measure_profile(model, data, steps=(5,)).stops >= 0
    assert rows.nonzero().unique_consecutive(dim=0)[:, 0].tolist() == [5] * 6


def test_files_without_stops_are_read_and_sample_the_same() -> None:
    """What was written before stops were moved has a profile with choices alone."""

    def made() -> Any:
        return sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())

    model = made()
    model.moments = RING.moments()
    data = RING.sample(16, torch.Generator().manual_seed(0))
    model.profile = measure_profile(model, data, steps=(5,), stops=False)
    older = {k: v for k, v in model.state_dict().items() if k != "profile.stops"}
    assert len(older) == len(model.state_dict()) - 1
    again = made()
    again.load_state_dict(older)
    assert again.profile is not None and (again.profile.stops < 0).all()
    assert torch.equal(sample(again, 5, steps=5, seed=0), sample(model, 5, steps=5, seed=0))
    again.load_state_dict({k: v for k, v in older.items() if k != "profile.choices"})
    assert again.profile is None


@pytest.mark.parametrize("size", [1e-4, 1e-9])
def test_stops_of_points_that_are_close_end_where_their_grid_does(size: float) -> None:
    points = size * RING.sample(12, torch.Generator().manual_seed(0))
    model = sdegen.Exact(sdegen.VP(), sdegen.Empirical(points))
    x = sample(model, 6, steps=5, seed=0)
    assert (x[:, None] - points).norm(dim=2).min(1).values.max() < 0.5 * size


def test_of_a_law_that_is_one_gaussian_nothing_is_left_to_move() -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[0.04, 4.0]]))
    model = sdegen.Exact(sdegen.VP(), law)
    x = sample(model, 2000, steps=5, seed=0)
    assert (x.var(0) / torch.tensor([0.04, 4.0]) - 1).abs().max() < 0.2


def test_distances_are_of_each_sample_at_both_endings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Medians, and root mean squares with single distances cut at ten medians."""
    d = torch.tensor([[1.0, 2.0, 3.0, 4.0, 100.0], [2.0, 2.0, 2.0, 6.0, 6.0]], dtype=torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(2, 5, 3, dtype=torch.float64), dim=2)
    monkeypatch.setattr(_Paths, "miss", lambda self, solver: d[..., None] * directions)
    found = _Paths.distances(object.__new__(_Paths), Multistep(2))
    cut = d.minimum(10 * torch.tensor([[3.0], [2.0]]))
    torch.testing.assert_close(found, torch.stack([torch.tensor([3.0, 2.0]), cut.square().mean(1).sqrt()], 1).to(found))


@pytest.mark.parametrize("place", [None, 0, 1, 2, 3])
def test_moved_stops_are_taken_where_all_four_distances_are_smaller(
    place: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Median and root mean square at both endings: none of them may grow."""
    steps = 2 if place is None else 3  # two have one stop between the ends
    model, solver = sdegen.Exact(sdegen.VP(), RING), Multistep(steps, grids.Angle(power=0.5), 1)
    x_T = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = torch.full((4,), 0.9)
    if place is not None:
        found[place] = 1.01
    told = {True: found.reshape(2, 2), False: torch.ones(2, 2)}
    monkeypatch.setattr(_Paths, "distances", lambda self, solver: told[isinstance(solver.grid, Moved)])
    run = model, x_T, sample(model, x_T=x_T, sampler=Multistep(20, grids.Angle(power=0.5), 3), final="sample")
    assert len(move_stops(run, run, solver)) == (3 if place is None else 0)


def test_stops_that_move_nothing_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every end the same wherever a run stops: there is no slope to follow."""
    model, solver = sdegen.Exact(sdegen.VP(), RING), Multistep(3, grids.Angle(power=0.5), 1)
    monkeypatch.setattr(_Paths, "miss", lambda self, solver: torch.ones(2, 8, 2, dtype=torch.float64))
    x = torch.zeros(8, 2, dtype=torch.float64)
    assert torch.equal(_fit(_Paths(model, x, x, solver), solver), torch.linspace(0, 1, 4, dtype=torch.float64))
    assert len(move_stops((model, x, x), (model, x, x), solver)) == 0
