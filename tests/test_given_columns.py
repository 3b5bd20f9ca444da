"""Some columns of a table given others: the laws are those that are known, and what is given comes back as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.conditions import Conditions
from sdegen.data import CategoryColumn, CountColumn, GappedColumn, NumberColumn, PositiveColumn, Table, TableRows
from sdegen.laws.coordinates import StickBreaking
from sdegen.likelihood import TableDensity
from sdegen.nets import MLP, Vector

MEAN, STD = torch.tensor([2.0, -1.0]).double(), torch.tensor([3.0, 0.5]).double()
PAIR = Table({"a": NumberColumn(), "b": PositiveColumn()})  # a and log b are normal, of correlation 0.8


class Pair(sdegen.ScoreModel):
    """What a network learns of `PAIR` without an error: the conditional law of what is asked for, and noise for the rest."""

    def __init__(self) -> None:
        self.sde = sdegen.VP(beta_max=60).in_coordinates(PAIR.coordinates)  # at T nothing of the data is left
        self.moments = sdegen.Moments(MEAN, STD**2 * torch.ones(2).double())
        self.covariance = STD[:, None] * torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double() * STD

    @property
    def conditions(self) -> Conditions:
        return Conditions(frozenset({"known"}), kinds={"known": Vector(2, gaps=True, dropout=None)})

    @property
    def like(self) -> Tensor:
        return torch.zeros(())

    def score(self, x: Tensor, t: Tensor | float, /, known: Tensor | None = None) -> Tensor:
        known = torch.full((2,), math.nan) if known is None else known
        rows = known.expand(len(x), 2)
        given, off = ~rows.isnan(), torch.tensor([1, 0])
        gap = torch.where(given, rows - MEAN, 0.0)
        slope = self.covariance[0, 1] / STD[off] ** 2  # of each number on the other
        mean = MEAN + torch.where(given, 0.0, gap[:, off] * slope)
        alone = given | given[:, off]
        variance = torch.where(given | ~given[:, off], STD**2, STD**2 * (1 - 0.8**2))
        covariance = torch.diag_embed(variance)
        covariance[:, 0, 1] = covariance[:, 1, 0] = torch.where(alone[:, 0], 0.0, self.covariance[0, 1])
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        C = alpha[..., None] ** 2 * covariance + sigma[..., None] ** 2 * torch.eye(2).double()
        return -torch.linalg.solve(C, x.double() - alpha * mean).to(x)


EXACT = TableDensity(PAIR, Pair())


def rows_of_pairs(n: int, seed: int) -> dict[str, np.ndarray]:
    z = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u = MEAN + STD * torch.stack([z[:, 0], 0.8 * z[:, 0] + 0.6 * z[:, 1]], 1)
    return {"a": u[:, 0].numpy(), "b": u[:, 1].exp().numpy()}


@pytest.mark.slow
def test_densities_of_columns_given_others_are_those_of_the_law() -> None:
    """By the chain rule in both orders, and each factor as it is known."""
    frame = rows_of_pairs(6, 0)
    a, b = (torch.from_numpy(frame[name]) for name in "ab")
    given = torch.distributions.LogNormal(MEAN[1] + 0.8 * STD[1] * (a - MEAN[0]) / STD[0], 0.6 * STD[1])
    b_given_a, both = EXACT.log_prob(frame, given=["a"], draws=2), EXACT.log_prob(frame, draws=1)
    assert torch.allclose(b_given_a, given.log_prob(b), atol=0.02)
    assert torch.allclose(both - b_given_a, torch.distributions.Normal(MEAN[0], STD[0]).log_prob(a), atol=0.02)
    other = torch.distributions.LogNormal(MEAN[1], STD[1]).log_prob(b)
    assert torch.allclose(both - EXACT.log_prob(frame, given=("b",), draws=2), other, atol=0.02)


MIXED = Table(
    {"n": NumberColumn(), "c": CountColumn(), "k": CategoryColumn(("x", "y", "z")), "g": GappedColumn(PositiveColumn())}
)
FRAME = {"n": [0.5, -1.0, 2.0], "c": [0, 3, 1], "k": ["x", "z", "y"], "g": [1.5, None, 0.2]}
UNITS = sdegen.Moments(torch.arange(6).double() / 3, torch.arange(1, 7).double())


def known_model(table: Table, width: int = 8, depth: int = 1) -> sdegen.Model:
    torch.manual_seed(0)
    net = MLP(table.width, width=width, depth=depth, conditions={"known": Vector(table.width, gaps=True, dropout=None)})
    return sdegen.Model(net, sdegen.VP().in_coordinates(table.coordinates))


def mixed_terms(x: Tensor) -> Tensor:
    """The log-densities of the columns of `MIXED`, which do not depend on each other here, from vectors of entries."""
    back = MIXED.decode(x)
    count = torch.distributions.Poisson(2.0).log_prob(torch.from_numpy(back["c"]).double())
    kind = torch.tensor([0.5, 0.2, 0.3]).double()[["xyz".index(k) for k in back["k"]]].log()
    there = x[:, 4] > 0
    price = torch.distributions.LogNormal(0.3, 0.8, validate_args=False).log_prob(x[:, 5])
    gap = torch.where(there, math.log(0.6) + price, math.log(0.4))
    return torch.stack([torch.distributions.Normal(0.0, 2.0).log_prob(x[:, 0]), count, kind, gap], 1)


def mixed_log_prob(model: sdegen.Model, x: Tensor, batch: int | None, known: Tensor | None) -> Tensor:
    """What the flow of a model without an error would say of vectors: entries that are asked for, and noise elsewhere."""
    x, given = x.double(), torch.zeros(len(x), 6, dtype=torch.bool) if known is None else ~known.isnan()
    noise = given | torch.cat([torch.zeros(len(x), 5, dtype=torch.bool), (x[:, 4:5] < 0) | given[:, 4:5]], 1)
    law = torch.distributions.Normal(UNITS.mean, UNITS.covariance.sqrt())
    spent = (law.log_prob(MIXED.coordinates(x)) + MIXED.coordinates.slope(x).log()).masked_fill(~noise, 0).sum(1)
    volumes = torch.tensor([0.0, 0.0, math.log(math.pi * 0.81), math.log(1.8)])
    asked = torch.stack([~given[:, places].any(1) for places in MIXED.places.values()], 1)
    return spent + (mixed_terms(x) - volumes).masked_fill(~asked, 0).sum(1)


@pytest.mark.parametrize("given", [(), ("n",), ("c", "k"), ("g",), ("n", "g"), ("c", "k", "g")])
def test_noise_and_its_volume_are_taken_from_densities(given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a law that is known the bound is exact, with one draw, whatever is given, missing or dequantised."""
    monkeypatch.setattr("sdegen.likelihood.tables.log_prob", mixed_log_prob)
    model = known_model(MIXED).double()
    model.moments = UNITS
    terms = mixed_terms(MIXED.encode(FRAME, torch.Generator().manual_seed(1)))
    truth = terms[:, [name not in given for name in MIXED.columns]].sum(1)
    assert torch.allclose(TableDensity(MIXED, model).log_prob(FRAME, given, draws=2), truth, atol=1e-9)


def test_samples_of_columns_given_others_have_the_law_of_these() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = np.log(EXACT.sample(2000, {"a": 5.0}, generator)["b"])
    assert drawn.mean() == pytest.approx(-1 + 0.8 * 0.5, abs=5 * 0.3 / 2000**0.5)
    assert drawn.std() == pytest.approx(0.3, rel=0.08)


def test_what_is_given_comes_back_as_it_was_and_the_rest_is_drawn() -> None:
    given = {"b": np.array([0.1, 0.3, 1 / 3]), "a": 2}
    gaps = Table({"a": GappedColumn(PositiveColumn()), "b": PositiveColumn(), "c": CategoryColumn(["no", "yes"])})
    net = MLP(
        gaps.width, width=8, depth=1, conditions={"known": Vector(gaps.width, gaps=True, dropout=None, joined=True)}
    )
    model = sdegen.Model(net, sdegen.VP().in_coordinates(gaps.coordinates))
    model.moments = sdegen.Moments(torch.zeros(4), torch.ones(4))
    with pytest.raises(ValueError, match="batch = 0"):
        TableDensity(gaps, model, batch=0)
    law = TableDensity(gaps, model, sampler=sdegen.samplers.DDIM(3))
    drawn = law.sample(3, given)
    assert drawn["b"].tolist() == given["b"].tolist() and drawn["a"].tolist() == [2, 2, 2]
    assert set(drawn["c"]) <= {"no", "yes"} and list(drawn) == ["a", "b", "c"]
    some = np.linspace(0.1, 7, 40) / 3  # of which not all come back from a logarithm and an exponential
    frame = {"a": [*some, None, math.nan], "b": [*some, 3.0, 4.0], "c": ["no", "yes"] * 21}
    filled = law.sample(42, frame)
    assert filled["a"][:40].tolist() == some.tolist() and np.isfinite(filled["a"]).all()
    assert filled["b"].tolist() == frame["b"] and filled["c"].tolist() == frame["c"]


def test_nothing_given_is_the_law_of_all_columns() -> None:
    one, other = (EXACT.sample(5, given, torch.Generator().manual_seed(3)) for given in (None, {}))
    x = sdegen.sample(EXACT.model, 5, generator=torch.Generator().manual_seed(3))
    for name, column in PAIR.decode(x).items():
        np.testing.assert_allclose(one[name], column)
        np.testing.assert_array_equal(one[name], other[name])


def test_each_number_of_columns_is_known_as_often_and_no_row_is_known_whole() -> None:
    rows = TableRows(MIXED, FRAME)
    _, cond = rows.read(torch.zeros(4000, dtype=torch.long), torch.Generator().manual_seed(0))
    there = ~cond["known"].isnan()
    columns = torch.stack([there[:, where].all(1) for where in MIXED.places.values()], 1)
    shares = columns.sum(1).bincount(minlength=5) / 4000
    assert shares[4] == 0 and (shares[:4] - 0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5
    assert (columns.double().mean(0) - 0.375).abs().max() < 0.04
    flag, entry = there[:, MIXED.places["g"]].unbind(1)
    assert (flag | ~entry).all()  # an entry is never known where it is not known to be there
    assert abs((flag & ~entry).double().mean() - 0.5 * 0.625) < 0.04


def test_vectors_hold_entries_where_they_are_asked_for_and_noise_elsewhere() -> None:
    rows, which = TableRows(MIXED, FRAME), torch.arange(3).repeat(3000)
    x, cond = rows.read(which, torch.Generator().manual_seed(0))
    u, known = MIXED.coordinates(x), cond["known"]
    back = MIXED.decode(x)
    for name in "nck":
        asked = known[:, MIXED.places[name]].isnan().all(1).numpy()
        np.testing.assert_array_equal(np.array(FRAME[name])[which][asked], back[name][asked])
    # The same entry is told whatever its noise, and what a network is told of an entry is what it is asked with.
    told = MIXED.ask({"n": FRAME["n"], "c": FRAME["c"], "k": FRAME["k"]})[which]
    seen = ~known.isnan()
    seen[:, MIXED.places["g"]] = False
    assert torch.equal(known[seen], told[seen])
    # The place of a number that is known holds noise of the column's mean and spread, the same for all entries.
    mean, std = float(np.mean(FRAME["n"])), float(np.std(FRAME["n"]))
    for row in range(3):
        noise = u[~known[:, 0].isnan() & (which == row), 0]
        assert abs(noise.mean().item() - mean) < 5 * std / len(noise) ** 0.5
        assert noise.std().item() == pytest.approx(std, rel=0.1)
    missing = u[which == 1, MIXED.places["g"].stop - 1]  # of the entry that is not there
    assert missing.isfinite().all() and known[which == 1, MIXED.places["g"].stop - 1].isnan().all()


def test_a_run_on_rows_of_a_table_goes_on_to_the_last_bit(tmp_path) -> None:
    ask = {"batch_size": 16, "seed": 0, "schedule": sdegen.training.constant_rate, "progress": False}
    whole, parts = known_model(MIXED), None
    sdegen.fit(whole, TableRows(MIXED, FRAME), steps=6, **ask)
    for steps in (2, 6):
        parts = known_model(MIXED)
        sdegen.fit(parts, TableRows(MIXED, FRAME), steps=steps, checkpoint=tmp_path / "run", **ask)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


GIVEN = {
    "word": ({"n": "warm"}, "column 'n' has 'warm'.*no number"),
    "nan": ({"n": math.nan}, "column 'n'.*GappedColumn"),
    "unseen": ({"k": "w"}, "column 'k'.*'w'.*one of the 3 categories"),
    "fraction": ({"c": 0.5}, "column 'c'.*whole number"),
    "negative": ({"g": -1.0}, "column 'g'.*positive"),
    "unknown": ({"height": 1.0}, "leave out .'height'"),
    "rows": ({"n": [1.0, 2.0]}, "given has 2 rows for n = 3"),
    "all": (dict(FRAME, g=1.0), "every entry is given"),
    "no frame": ([1.0], "frame is a list"),
}


@pytest.mark.parametrize("case", GIVEN)
def test_what_cannot_be_given_is_refused_in_a_sentence(case: str) -> None:
    model = known_model(MIXED)
    model.moments = sdegen.Moments(torch.zeros(6), torch.ones(6))
    given, words = GIVEN[case]
    with pytest.raises((ValueError, TypeError), match=words):
        TableDensity(MIXED, model).sample(3, given)


def test_densities_that_cannot_be_asked_for_are_refused() -> None:
    frame = rows_of_pairs(2, 0)
    for given, words in ((["a", "b"], "leave one of them out"), (["c"], "leave out ..c"), ("a", "given is a str")):
        with pytest.raises((ValueError, TypeError), match=words):
            EXACT.log_prob(frame, given=given)
    with pytest.raises(ValueError, match=r"column 'a'.*GappedColumn"):
        EXACT.log_prob({**frame, "a": [1.0, math.nan]})
    with pytest.raises(ValueError, match=r"column 'a'.*GappedColumn"):
        TableRows(PAIR, {**frame, "a": [1.0, math.nan]})


def test_other_units_than_those_of_training_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"given\['b'\] has 370.0 in row 1.*units of training"):
        EXACT.sample(2, {"b": [0.37, 370.0]})


def test_a_network_that_is_not_told_what_is_known_is_refused() -> None:
    sde = sdegen.VP().in_coordinates(PAIR.coordinates)
    with pytest.raises(TypeError, match="declares no condition 'known'"):
        TableDensity(PAIR, sdegen.Model(MLP(2), sde))
    for kind in (Vector(3, gaps=True, dropout=None), Vector(2, dropout=None), Vector(2, gaps=True, dropout=0.1)):
        with pytest.raises(ValueError, match=r"declare it as nets.Vector\(2, gaps=True, dropout=None, joined=True\)"):
            TableDensity(PAIR, sdegen.Model(MLP(2, conditions={"known": kind}), sde))


class Shares(NumberColumn):
    """Two shares of a whole, of which the third is the rest: no coordinate is a function of one of them."""

    width, coordinates = 2, StickBreaking()


def test_columns_whose_coordinates_mix_numbers_are_refused() -> None:
    mixing = Table({"a": NumberColumn(), "shares": Shares()})
    with pytest.raises(ValueError, match="no function of one number each"):
        TableDensity(mixing, known_model(mixing))


@pytest.mark.slow
def test_entries_that_are_missing_are_drawn_from_their_law() -> None:
    """Dear things are missing more often, and their price is another: given the kind neither is."""
    generator = torch.Generator().manual_seed(0)
    dear = torch.rand(8000, generator=generator) < 0.3
    price = (2.0 * dear + 0.4 * torch.randn(8000, generator=generator)).exp()
    gone = torch.rand(8000, generator=generator) < torch.where(dear, 0.6, 0.1)
    frame = {
        "kind": np.array(["cheap", "dear"])[dear.long().numpy()],
        "price": np.where(gone.numpy(), np.nan, price.double().numpy()),
    }
    table = Table.of(frame)
    model = known_model(table, 64, 2)
    sdegen.fit(model, TableRows(table, frame), steps=1500, batch_size=256, seed=0, progress=False)
    law = TableDensity(table, model)
    filled = law.sample(8000, frame, generator)
    for kind, mean in (("cheap", 0.0), ("dear", 2.0)):
        drawn = np.log(filled["price"][(filled["kind"] == kind) & gone.numpy()])
        assert drawn.mean() == pytest.approx(mean, abs=0.15) and drawn.std() == pytest.approx(0.4, rel=0.45)
