"""Toy laws are the laws they describe; batches hold every row once a pass, with the conditions that go with it."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import sdegen
from sdegen.data import Source, gaussian_grid, gaussian_ring, random_mixture

LAWS = {
    "ring": gaussian_ring(),
    "wide ring": gaussian_ring(modes=5, radius=2.0, std=0.3),
    "grid": gaussian_grid(3),
    "random": random_mixture(2, modes=4),
    "random in five": random_mixture(5),
}


@pytest.fixture(params=LAWS, ids=str)
def law(request):
    return LAWS[request.param]


# --- laws -------------------------------------------------------------------------------------------------------------


def test_samples_have_the_moments_of_the_law(law, generator):
    n = 40_000
    x = law.sample(n, generator)
    mean, covariance = law.moments()
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(n)).all()


def test_log_prob_is_the_density_that_samples_have(law, generator):
    # Importance sampling from the moment-matched Gaussian, twice as wide: the density integrates to one, and a test
    # function has under it the mean it has over samples.
    mean, covariance = law.moments()
    n = 40_000
    wide = torch.distributions.MultivariateNormal(mean, 4 * covariance)
    y = mean + torch.randn(n, len(mean), dtype=torch.float64, generator=generator) @ wide.scale_tril.T
    ratio = (law.log_prob(y) - wide.log_prob(y)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(n)
    test = lambda x: x.sin().sum(1)
    weighted, plain = ratio * test(y), test(law.sample(n, generator))
    assert abs(weighted.mean() - plain.mean()) < 5 * math.hypot(weighted.std(), plain.std()) / math.sqrt(n)


def test_ring_has_its_closed_moments_and_its_symmetry(generator):
    modes, radius, std = 6, 3.0, 0.4
    ring = gaussian_ring(modes, radius, std)
    mean, covariance = ring.moments()
    torch.testing.assert_close(mean, torch.zeros(2).double(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(covariance, (0.5 * radius**2 + std**2) * torch.eye(2).double())
    angle = 2 * math.pi / modes
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    x = 3 * torch.randn(50, 2, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(ring.log_prob(x @ turn.T), ring.log_prob(x), rtol=1e-9, atol=1e-9)
    assert torch.allclose(ring.means.norm(dim=1), torch.full((modes,), radius).double())


def test_grid_is_a_product_of_two_equal_lines(generator):
    side, spacing, std = 4, 1.5, 0.25
    grid = gaussian_grid(side, spacing, std)
    places = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
    line = sdegen.GaussianMixture(torch.full((side,), 1 / side), places[:, None], torch.full((side,), std**2))
    x = 2 * torch.randn(50, 2, dtype=torch.float64, generator=generator)
    expected = line.log_prob(x[:, :1]) + line.log_prob(x[:, 1:])
    torch.testing.assert_close(grid.log_prob(x), expected, rtol=1e-6, atol=1e-6)  # weights are given in float32


def test_random_mixture_is_its_seed():
    one, same, other = random_mixture(3, seed=1), random_mixture(3, seed=1), random_mixture(3, seed=2)
    x = torch.zeros(1, 3)
    assert torch.equal(one.log_prob(x), same.log_prob(x)) and not torch.equal(one.log_prob(x), other.log_prob(x))
    std = random_mixture(3, modes=200).covariances.sqrt()
    assert std.min() >= 0.1 and std.max() <= 0.5 and std.std() > 0.08  # uniform: 0.4 / √12 = 0.115


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_ring(modes=0), r"modes = 0, .*expected modes >= 1"),
        (lambda: gaussian_ring(std=0.0), r"std = 0.0: expected .* std > 0"),
        (lambda: gaussian_grid(side=0), r"side = 0, .*expected side >= 1"),
        (lambda: random_mixture(0), r"dim = 0, .*must be at least 1"),
    ],
    ids=["modes", "std", "side", "dim"],
)
def test_impossible_laws_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- batches ----------------------------------------------------------------------------------------------------------


class Rows(Dataset):
    """A map-style data set of (row, label) pairs, labels as plain integers."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], i


@pytest.fixture
def rows(device, dtype):
    """Ten rows that know their number: ``x[i] = (i, −i)``."""
    i = torch.arange(10, dtype=dtype, device=device)
    return torch.stack([i, -i], 1)


def drawn(source, size, count, seed=0):
    batches = source.batches(size, torch.Generator().manual_seed(seed))
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("size", [1, 3, 5, 10, 25])
def test_every_row_is_seen_once_a_pass(rows, device, dtype, size):
    batches = drawn(Source(rows, dtype, device), size, 50 // size)  # up to five passes
    seen = torch.cat([b.x for b in batches])[:, 0].long().tolist()
    assert all(len(b.x) == size for b in batches)
    passes = [seen[i : i + 10] for i in range(0, len(seen) - 9, 10)]
    assert passes and all(sorted(p) == list(range(10)) for p in passes)
    assert len({tuple(p) for p in passes}) == len(passes)  # each pass in an order of its own
    assert list(range(10)) not in passes


def test_a_seed_is_an_order(rows, device, dtype):
    order = lambda seed: torch.cat([b.x for b in drawn(Source(rows, dtype, device), 4, 5, seed)])
    assert torch.equal(order(1), order(1)) and not torch.equal(order(1), order(2))


@pytest.mark.parametrize(
    "data",
    [
        lambda x, i: (x, i),
        lambda x, i: [x, i],
        lambda x, i: (x, {"label": i}),
        lambda x, i: TensorDataset(x, i),
        lambda x, i: Rows(x),
        lambda x, i: (x, {"label": i, "other": torch.stack([i, i], 1)}),
    ],
    ids=["pair", "list", "dict", "TensorDataset", "Dataset", "two conditions"],
)
def test_conditions_stay_with_their_rows(rows, device, dtype, data):
    source = Source(data(rows, torch.arange(10, device=device)), dtype, device)
    for batch in drawn(source, 4, 7):
        for value in batch.cond.values():
            value = value.reshape(4, -1)
            assert (value == batch.x[:, :1]).all() and value.dtype == torch.long
        assert "label" in batch.cond


@pytest.mark.parametrize("wrap", [lambda x: x, TensorDataset, lambda x: (x, {})], ids=["tensor", "dataset", "pair"])
def test_data_alone_has_no_conditions(rows, device, dtype, wrap):
    (batch,) = drawn(Source(wrap(rows), dtype, device), 10, 1)
    assert batch.cond == {}
    assert torch.equal(batch.x.sort(0).values[:, 0], rows[:, 0])


def test_a_law_is_drawn_afresh_in_the_dtype_asked_for(device, dtype):
    one, two = drawn(Source(gaussian_ring(), dtype, device), 8, 2)
    assert one.x.dtype == dtype and one.x.device.type == device.type
    assert not torch.equal(one.x, two.x)
    expected = gaussian_ring().sample(8, torch.Generator().manual_seed(0))
    assert torch.equal(one.x.cpu(), expected.to(dtype))  # untouched: neither scaled nor shuffled


def test_data_is_given_as_it_is(device, dtype, generator):
    x = 100 + 7 * torch.randn(6, 1, 4, 4, dtype=dtype, generator=generator).to(device)
    (batch,) = drawn(Source(x, dtype, device), 6, 1)
    assert torch.equal(batch.x.flatten(1).sort(0).values, x.flatten(1).sort(0).values)


def test_moments_are_those_of_what_is_drawn(rows, device, dtype, generator):
    mean, covariance = Source(rows, dtype, device).moments(generator)
    torch.testing.assert_close(mean, torch.tensor([4.5, -4.5], dtype=torch.float64))
    torch.testing.assert_close(covariance, 8.25 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64))
    ring = gaussian_ring()
    for a, b in zip(Source(ring, dtype, device).moments(generator), ring.moments(), strict=True):
        assert torch.equal(a, b)


def test_moments_in_coordinates_are_those_of_the_data_with_all_their_digits(generator):
    x = torch.rand(50, 2, generator=generator) * 1e-3 + 1  # in float32
    found, known = (Source(v, v.dtype, v.device).moments(generator, sdegen.coordinates.Log()) for v in (x, x.double()))
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_moments_of_a_law_that_gives_none_are_estimated(device, dtype, generator):
    class Silent:
        def sample(self, n, generator=None):
            return gaussian_ring().sample(n, generator)

    mean, covariance = Source(Silent(), dtype, device).moments(generator)
    exact = gaussian_ring().moments()
    error = exact.covariance[0, 0].item() * math.sqrt(2 / 65_536)
    assert (mean - exact.mean).abs().max() < 5 * math.sqrt(exact.covariance[0, 0].item() / 65_536)
    assert (covariance - exact.covariance).abs().max() < 5 * error


def test_a_data_set_may_yield_several_conditions(rows, device, dtype):
    class Named(Rows):
        def __getitem__(self, i):
            return self.x[i], {"label": i, "other": torch.tensor([i, i])} | ({"more": i} if i == self.odd else {})

    data = Named(rows)
    data.odd = None
    for batch in drawn(Source(data, dtype, device), 4, 5):
        assert batch.cond["label"].shape == (4,) and batch.cond["other"].shape == (4, 2)
        assert all((value.reshape(4, -1).to(device) == batch.x[:, :1]).all() for value in batch.cond.values())
    data.odd = 7
    with pytest.raises(
        ValueError, match=r"row 7 of the Dataset has \['label', 'more', 'other'\], row 0 \['label', 'other'\]"
    ):
        Source(data, dtype, device).moments(torch.Generator().manual_seed(0))


def test_an_iterable_data_set_of_rows_is_refused(device, dtype):
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(2)

    with pytest.raises(TypeError, match=r"data is a Stream, which gives rows one by one; give the batches of torch"):
        Source(Stream(), dtype, device)


@pytest.mark.parametrize("faulty", [[3], [0], [3, 5, 6], list(range(20)), [0, 19]], ids=str)
def test_an_index_error_from_within_a_row_is_not_taken_for_the_end_of_a_data_set(faulty: list[int]) -> None:
    class Ragged(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 20

        def __getitem__(self, i: int) -> Any:
            parts = [1.0] if i in faulty else [1.0, 2.0]
            return torch.tensor([parts[0], parts[1]])

    with pytest.raises(IndexError, match=r"^list index out of range") as refused:
        sdegen.data.collect(Ragged())
    assert refused.value.__notes__ == [f"from row {faulty[0]} of 20 of the Ragged"]


def test_a_row_of_an_iterator_that_is_used_up_is_told_so() -> None:
    class Once(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.rows = iter(torch.randn(20, 2))

        def __len__(self) -> int:
            return 20

        def __getitem__(self, i: int) -> Any:
            return next(self.rows)

    rows = Once()
    assert sdegen.data.collect(rows)[0].shape == (20, 2)
    with pytest.raises(RuntimeError, match=r"^row 0 of the Once raises StopIteration, .* any number, at any time\.$"):
        sdegen.data.collect(rows)
    with pytest.raises(RuntimeError, match=r"^row .* of the Once raises StopIteration"):
        sdegen.fit(sdegen.Model(sdegen.nets.MLP(2, width=4), sdegen.VP()), Once(), steps=20, progress=False)


@pytest.mark.parametrize(("said", "held"), [(20, 19), (20, 3), (7, 1)])
def test_a_dataset_with_fewer_rows_than_it_says_is_told_so(said: int, held: int) -> None:
    class Short(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return said

        def __getitem__(self, i: int) -> Any:
            if i >= held:
                raise IndexError(i)
            return torch.zeros(2)

    with pytest.raises(IndexError, match=f"Short says it has {said} rows, and its row .* raises IndexError"):
        sdegen.fit(
            sdegen.Model(sdegen.nets.MLP(2, width=4), sdegen.VP()), Short(), steps=2, batch_size=4, progress=False
        )


def test_a_table_is_no_law_though_it_has_sample() -> None:
    class Table:
        """What pandas and polars call so."""

        def sample(self, n: int | None = None) -> Any:
            raise ValueError("Please enter a value for frac OR n, not both")

        def to_numpy(self) -> Any:
            return np.zeros((4, 2))

    model = sdegen.Model(sdegen.nets.MLP(2, width=4), sdegen.VP())
    with pytest.raises(TypeError, match="is a table, no law; give its numbers as a tensor"):
        sdegen.fit(model, Table(), steps=1, progress=False)


@pytest.mark.parametrize("kind", ["leaf", "of a graph", "condition", "batches", "rows"])
def test_data_in_a_graph_of_derivatives_are_refused(kind: str) -> None:
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    leaf, label = x.clone().requires_grad_(), torch.zeros(16, 1)
    data: Any = {
        "leaf": leaf,
        "of a graph": 2 * leaf,
        "condition": (x, {"y": label.requires_grad_()}),
        "batches": torch.utils.data.DataLoader(TensorDataset(2 * leaf), batch_size=4),
        "rows": TensorDataset(2 * leaf),
    }[kind]
    kinds = {"y": sdegen.nets.Vector(1, dropout=0.1)} if kind == "condition" else {}
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, conditions=kinds), sdegen.VP())
    with pytest.raises(ValueError, match="requires gradients, and training gives none to data"):
        sdegen.fit(model, data, steps=3, batch_size=4, progress=False)
    assert leaf.grad is None


def test_a_lazy_layer_without_a_shape_is_named() -> None:
    class Lazy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.LazyLinear(2)

        def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.layer(x)
            return answer

    model = sdegen.Model(Lazy(), sdegen.VP())
    with pytest.raises(ValueError, match=r"the weight net\.layer\.weight has no shape yet"):
        sdegen.fit(model, torch.zeros(4, 2), steps=1, progress=False)
    model.net(torch.zeros(1, 2), torch.zeros(1))
    sdegen.fit(model, torch.randn(8, 2), steps=1, batch_size=4, progress=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_data_that_rounding_brings_together_are_refused_where_they_are_cast(dtype):
    """Rounding at `far` in units of the spread of one: refused from three hundredths on, in the dtype that they are kept in."""
    kept = torch.promote_types(dtype, torch.float32)
    rows = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    limit = 0.03 / torch.finfo(kept).eps  # the largest error of rounding is between a quarter and half of far * eps
    for far, lost in ((limit, False), (8 * limit, True)):
        far = min(far, 1e12)
        with pytest.raises(ValueError, match="hardly tells its rows apart") if lost and far < 1e12 else nullcontext():
            Source(rows + far, dtype, torch.device("cpu"), cast=True)
