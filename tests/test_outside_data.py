"""Data and laws as others make them: data sets that are random, laws of torch.distributions, and what is no data at all."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributions as D
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

import sdegen
from sdegen import fit, metrics
from sdegen.data import Source, collect
from sdegen.data.fingerprint import Fingerprint, standardised, tolerance
from sdegen.laws.outside import TorchLaw, as_law

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small() -> sdegen.Model:
    torch.manual_seed(0)
    return sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1), sdegen.VP())


class Listed(Dataset):
    """A data set of the rows that it is given, read one by one."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.rows[i]


class Noisy(Dataset):
    """Rows with noise of any of the usual sources, the number of the row in the label."""

    def __init__(self, by: str, n: int = 16) -> None:
        self.by, self.n, self.read = by, n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read += 1
        numbers = {
            "torch": lambda: torch.randn(2),
            "numpy": lambda: torch.from_numpy(np.random.randn(2)).float(),  # noqa: NPY002
            "python": lambda: torch.tensor([random.gauss(0, 1), random.gauss(0, 1)]),
        }[self.by]()
        return torch.tensor([float(i), 0.0]) + 0.1 * numbers, i


# --- a Dataset --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["torch", "numpy", "python"])
def test_random_rows_are_other_ones_in_every_pass(by: str) -> None:
    source, passes = Source(Noisy(by), torch.float32, CPU), 20
    batches = source.batches(8, seeded(0))
    x = torch.cat([next(batches).x for _ in range(2 * passes)])
    assert len(x.unique(dim=0)) == 16 * passes  # every one of them another


@pytest.mark.parametrize("by", ["torch", "numpy", "python"])
def test_random_rows_are_those_of_the_seed_and_leave_the_users_generators_alone(by: str) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    drawn = []
    for seed in (1, 1, 2):
        source = Source(Noisy(by), torch.float32, CPU)
        batches = source.batches(8, seeded(seed))
        drawn.append(torch.cat([next(batches).x for _ in range(5)]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.isin(drawn[2][:, 1], drawn[0][:, 1]).any()
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[2]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_rows_and_labels_stay_together_and_moments_are_those_of_a_pass() -> None:
    source = Source(Noisy("torch", 40), torch.float32, CPU)
    batch = next(source.batches(32, seeded(0)))
    assert (batch.x[:, 0] - batch.cond["label"]).abs().max() < 1
    mean, covariance = source.moments(seeded(0))
    assert abs(mean[0] - 19.5) < 0.1 and abs(covariance[0, 0] / ((40**2 - 1) / 12) - 1) < 0.02
    assert abs(covariance[1, 1] - 0.01) < 0.008
    whole = list(source.once(7))
    assert torch.cat([part.cond["label"] for part in whole]).tolist() == list(range(40))
    assert torch.equal(whole[0].x, next(iter(source.once(7))).x)


def test_a_run_on_random_rows_goes_on_where_it_stopped(tmp_path: Any) -> None:
    asked: dict[str, Any] = {"batch_size": 6, "seed": 0, "progress": False, "loss": label_free}
    whole, parts = small(), [small(), small()]
    fit(whole, Noisy("numpy"), steps=9, **asked)

    class Stop(Exception):
        pass

    def stop(step: Any) -> None:
        if step.step == 5:
            raise Stop

    with pytest.raises(Stop):
        fit(parts[0], Noisy("numpy"), steps=9, checkpoint=tmp_path, every=4, callbacks=[stop], **asked)
    fit(parts[1], Noisy("numpy"), steps=9, checkpoint=tmp_path, **asked)
    for a, b in zip(whole.parameters(), parts[1].parameters(), strict=True):
        assert torch.equal(a, b)


def label_free(model: Any, x: Tensor, generator: Any = None, label: Any = None) -> Tensor:
    return sdegen.losses.Denoising()(model, x, generator=generator)


def test_tensors_that_a_data_set_holds_are_not_read_row_by_row() -> None:
    x, label = torch.randn(12, 2), torch.arange(12)
    plain = TensorDataset(x, label)
    for data in (plain, Subset(plain, list(range(11, -1, -1))), ConcatDataset([Subset(plain, [3, 4]), plain])):
        source, table = Source(data, torch.float32, CPU), collect(data)
        assert isinstance(source.x, Tensor) and torch.equal(source.x, table[0])
        assert torch.equal(source.cond["label"], table[1]["label"])
    (alone,) = (Source(TensorDataset(x), torch.float32, CPU),)
    assert torch.equal(alone.x, x) and not alone.cond  # type: ignore[arg-type]


ROWS: dict[str, tuple[Callable[[], list[Any]], tuple[int, ...]]] = {
    "tensors": (lambda: [torch.randn(2) for _ in range(4)], (2,)),
    "arrays": (lambda: [np.random.default_rng(i).standard_normal(2, np.float32) for i in range(4)], (2,)),
    "lists": (lambda: [[0.5, 1.0 * i, 2.0] for i in range(4)], ()),
    "a label": (lambda: [(torch.randn(2), i) for i in range(4)], (2,)),
    "a NumPy label": (lambda: [(torch.randn(2), np.int64(i)) for i in range(4)], (2,)),
    "conditions": (lambda: [(torch.randn(2), {"a": i, "b": torch.ones(3)}) for i in range(4)], (2,)),
    "one in a tuple": (lambda: [(torch.randn(3, 3),) for _ in range(4)], (3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("kind", [k for k in ROWS if k != "lists"])
def test_rows_of_many_kinds_are_read(kind: str) -> None:
    make, shape = ROWS[kind]
    batch = next(Source(Listed(make()), torch.float32, CPU).batches(6, seeded(0)))
    assert batch.x.shape == (6, *shape) and batch.x.dtype == torch.float32
    assert all(len(value) == 6 for value in batch.cond.values())


def pictures(*sizes: tuple[int, int], mode: str = "RGB") -> list[Any]:
    from PIL import Image

    return [Image.new(mode, size, 3 * i) for i, size in enumerate(sizes)]


def test_pictures_of_pil_are_read_with_their_channels_first() -> None:
    image = pictures((5, 4), (5, 4))[1]
    image.putpixel((2, 1), (10, 20, 30))
    x, cond = collect(Listed([(image, 7), (image, 8)]))
    assert x.shape == (2, 3, 4, 5) and x.dtype == torch.uint8 and cond["label"].tolist() == [7, 8]
    assert x[0, :, 1, 2].tolist() == [10, 20, 30]
    assert collect(Listed(pictures((5, 4), (5, 4), mode="L")))[0].shape == (2, 1, 4, 5)
    assert len(sdegen.data.from_dataset(Listed([(image, 7), (image, 8)]))) == 2


class Lengthless(Dataset):
    def __getitem__(self, i: int) -> Tensor:
        return torch.zeros(2)


BAD: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a number": lambda: 5.0,
    "a string": lambda: "data.csv",
    "bytes": lambda: b"data",
    "a class": lambda: TensorDataset,
    "a law's class": lambda: D.Normal,
    "a function": lambda: torch.randn,
    "an empty tensor": lambda: torch.zeros(0, 2),
    "no axes": lambda: torch.tensor(1.0),
    "whole numbers": lambda: torch.arange(6).reshape(3, 2),
    "complex numbers": lambda: torch.zeros(3, 2, dtype=torch.complex64),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
    "a tensor without numbers": lambda: torch.zeros(3, 2, device="meta"),
    "batches of two shapes": lambda: iter([torch.zeros(2, 2), torch.zeros(2, 3)]),
    "a law of two shapes": lambda: Widening(),
    "NaN": lambda: torch.tensor([[0.0, math.nan]]),
    "a list of numbers": lambda: [1.0, 2.0, 3.0],
    "a ragged list": lambda: [[1.0, 2.0], [3.0]],
    "an empty list": lambda: [],
    "a list of strings": lambda: ["a", "b", "c"],
    "an array": lambda: np.zeros((3, 2), np.float32),
    "an object array": lambda: np.array([[1.0], None], dtype=object),
    "an array of strings": lambda: np.array(["a", "b"]),
    "a dict": lambda: {"x": torch.zeros(3, 2)},
    "pictures": lambda: pictures((4, 4), (4, 4), (4, 4)),
    "a pair of strings": lambda: ("a", "b"),
    "labels that are none": lambda: (torch.zeros(3, 2), "abc"),
    "a list of labels": lambda: (torch.zeros(3, 2), [0, 1, 2]),
    "labels too few": lambda: (torch.zeros(3, 2), torch.arange(2)),
    "an empty Dataset": lambda: Listed([]),
    "a Dataset without a length": Lengthless,
    "rows of two shapes": lambda: Listed([torch.zeros(2), torch.zeros(3)]),
    "rows of two dtypes": lambda: Listed([torch.zeros(2), torch.zeros(2).double()]),
    "rows of halves": lambda: Listed([torch.zeros(2).half()] * 2),
    "rows of two kinds": lambda: Listed([torch.zeros(2), (torch.zeros(2), 1)]),
    "rows of strings": lambda: Listed(["a", "b"]),
    "rows of None": lambda: Listed([None, None]),
    "ragged rows": lambda: Listed([([[1.0, 2.0], [3.0]], 0)] * 2),
    "rows of objects": lambda: Listed([np.array([None, 1], dtype=object)] * 2),
    "rows of three values": lambda: Listed([(torch.zeros(2), 0, 1)] * 2),
    "rows of none": lambda: Listed([()] * 2),
    "strings for labels": lambda: Listed([(torch.zeros(2), "cat"), (torch.zeros(2), "dog")]),
    "other conditions": lambda: Listed([(torch.zeros(2), {"a": 1}), (torch.zeros(2), {"b": 1})]),
    "conditions in one row": lambda: Listed([(torch.zeros(2), {"a": 1}), (torch.zeros(2), 3)]),
    "labels of two shapes": lambda: Listed([(torch.zeros(2), torch.zeros(2)), (torch.zeros(2), torch.zeros(1))]),
    "rows of NaN": lambda: Listed([torch.zeros(2), torch.tensor([0.0, math.nan])]),
    "rows of pictures": lambda: Listed(pictures((4, 4), (4, 4))),
    "rows of pictures of two sizes": lambda: Listed(pictures((4, 4), (4, 5))),
    "three tensors": lambda: TensorDataset(torch.zeros(3, 2), torch.arange(3), torch.arange(3)),
    "a Dataset of bytes": lambda: TensorDataset(torch.zeros(3, 2, dtype=torch.uint8)),
    "a law of counts": lambda: Countless(),
}  # fmt: skip


class Widening:
    """A law whose draws have another shape each time."""

    width = 1

    def sample(self, n: int, generator: Any = None) -> Tensor:
        self.width += 1
        return torch.zeros(n, self.width)


class Countless:
    """A law that draws whole numbers of another shape than it was asked for."""

    def sample(self, n: int, generator: Any = None) -> list[int]:
        return [1, 2]


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_data_is_refused_in_a_sentence(kind: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        fit(small(), BAD[kind](), steps=3, batch_size=2, seed=0, loss=label_free, progress=False)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 300, message
    assert type(caught.value) in (TypeError, ValueError) and "object" not in message.split(";")[0].replace(
        "objects", ""
    )


BAD_IMAGES: dict[str, Callable[[], Any]] = {
    "pictures of two sizes": lambda: sdegen.data.from_arrays(pictures((4, 4), (4, 5)), channels_last=True),
    "ragged lists": lambda: sdegen.data.from_arrays([[1, 2], [3]]),
    "words": lambda: sdegen.data.from_arrays(["a", "b"]),
    "objects": lambda: sdegen.data.from_arrays(np.array([None, 1], dtype=object)),
    "nothing": lambda: sdegen.data.from_arrays(None),
    "an empty list": lambda: sdegen.data.from_arrays([]),
    "numbers": lambda: sdegen.data.from_arrays(np.zeros((2, 4, 4))),
    "words for labels": lambda: sdegen.data.from_arrays(np.zeros((2, 4, 4), np.uint8), ["a", "b"]),
    "ragged labels": lambda: sdegen.data.from_arrays(np.zeros((2, 4, 4), np.uint8), [[1], [1, 2]]),
    "no labels": lambda: sdegen.data.from_arrays(np.zeros((2, 4, 4), np.uint8), [None, 1]),
    "words for groups": lambda: sdegen.data.from_arrays(np.zeros((2, 4, 4), np.uint8), group=["a", "b"]),
    "no set": lambda: sdegen.data.from_dataset(None),
    "a set of words": lambda: sdegen.data.from_dataset(["a", "b"]),
    "a set of nothing": lambda: sdegen.data.from_dataset([None]),
    "a set with words": lambda: sdegen.data.from_dataset([(np.zeros((4, 4), np.uint8), "cat")]),
    "a ragged set": lambda: sdegen.data.from_dataset([([[1, 2], [3]], 1)]),
    "a set of objects": lambda: sdegen.data.from_dataset([np.array([[None]], dtype=object)]),
    "four axes": lambda: sdegen.data.from_dataset([np.zeros((2, 2, 2, 2), np.uint8)]),
    "an empty set": lambda: sdegen.data.from_dataset([]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_what_is_no_image_is_refused_in_a_sentence(kind: str) -> None:
    with pytest.raises((TypeError, ValueError, OSError)) as caught:
        BAD_IMAGES[kind]()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 250 and "np." not in message, message


@pytest.mark.parametrize("unit", [1e-3, 1.0, 250.0])
def test_how_far_fingerprints_lie_apart_does_not_hang_on_the_unit_of_data(unit: float) -> None:
    x = 5 + 2 * torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 7.0  # which does not vary
    plain, moments = sdegen.moments_of(x), sdegen.moments_of(unit * x)
    want = (x - x.mean(0)) / x.var(0, correction=0).sqrt().where(x.var(0) > 1e-20, 1.0)
    varies = [0, 2]
    torch.testing.assert_close(standardised(unit * x, moments)[:, varies], want[:, varies], rtol=1e-8, atol=1e-8)
    keep = lambda m: m._replace(mean=m.mean[varies], covariance=m.covariance[varies][:, varies])
    allowed = [tolerance(keep(m), torch.float32) for m in (moments, plain)]
    assert allowed[0] == pytest.approx(allowed[1], rel=1e-9)
    assert allowed[1] == pytest.approx(1e-6 + 10 * 2**-23 * (1 + (x.mean(0) / x.std(0))[varies].max().item()), rel=0.02)


def test_fingerprints_see_rows_that_change_places_however_far_apart() -> None:
    x = torch.randn(10_000, 3, generator=seeded(0))
    other = x.clone()
    other[[5, 4096 + 5]] = other[[4096 + 5, 5]]  # the same place in two parts of the sum

    def value(rows: Tensor) -> Tensor:
        sums = Fingerprint()
        sums.add(rows)
        return sums.value()

    assert (value(x) - value(other)).abs().max() > 1e-4
    assert torch.equal(value(x), value(x.clone()))


# --- laws of torch.distributions --------------------------------------------------------------------------------------

MATRIX = torch.tensor([[1.0, 0.3], [0.3, 0.5]])
LAWS: dict[str, Callable[[], D.Distribution]] = {
    "Normal": lambda: D.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])),
    "independent": lambda: D.Independent(D.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])), 1),
    "Gaussian": lambda: D.MultivariateNormal(torch.tensor([1.0, 2.0]), MATRIX),
    "low rank": lambda: D.LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.full((2,), 0.5)),
    "mixture": lambda: D.MixtureSameFamily(
        D.Categorical(torch.tensor([0.3, 0.7])),
        D.Independent(D.Normal(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), torch.tensor([[0.5, 1.0], [1.0, 0.3]])), 1),
    ),
    "full mixture": lambda: D.MixtureSameFamily(
        D.Categorical(torch.tensor([0.3, 0.7])),
        D.MultivariateNormal(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), torch.stack([MATRIX, 2 * MATRIX])),
    ),
    "Laplace": lambda: D.Laplace(torch.tensor([0.0, 1.0]), 0.7),
    "Student": lambda: D.StudentT(torch.tensor([5.0, 6.0])),
    "uniform": lambda: D.Uniform(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 2.0])),
    "gamma": lambda: D.Gamma(torch.tensor([2.0, 3.0]), 1.0),
    "Dirichlet": lambda: D.Dirichlet(torch.tensor([2.0, 3.0])),
    "mixture of Laplace": lambda: D.MixtureSameFamily(
        D.Categorical(torch.tensor([0.5, 0.5])), D.Independent(D.Laplace(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5), 1)
    ),
    "transformed": lambda: D.TransformedDistribution(D.Normal(torch.zeros(2), 1.0), [D.transforms.TanhTransform()]),
}  # fmt: skip
GAUSSIAN = ["Normal", "independent", "Gaussian", "low rank", "mixture", "full mixture"]


def density(law: D.Distribution, x: Tensor) -> Tensor:
    value = law.log_prob(x)
    return value.sum(1) if value.ndim == 2 else value


@pytest.mark.parametrize("name", LAWS)
def test_a_law_of_torch_is_taken_as_a_law(name: str) -> None:
    """Fitting, its own density, its own samples: as of any law here."""
    theirs = LAWS[name]()
    law = as_law(theirs)
    state = torch.get_rng_state()
    x = law.sample(4000, seeded(0))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, law.sample(4000, seeded(0)))
    assert not torch.equal(x, law.sample(4000, seeded(1))) and x.shape == (4000, 2)
    theirs_x = theirs.sample((4000,))
    for q in (0.2, 0.5, 0.8):  # the quantiles of either agree within five standard errors
        assert ((x[:, 0] < theirs_x[:, 0].quantile(q)).double().mean() - q).abs() < 5 * (2 * q * (1 - q) / 4000) ** 0.5
    points = theirs_x[:50].double()
    assert torch.allclose(law.log_prob(points), density(theirs, points.float()).double(), atol=1e-4)
    assert isinstance(law, sdegen.GaussianMixture if name in GAUSSIAN else TorchLaw)
    model = small()
    run = fit(model, theirs, steps=3, batch_size=16, seed=0, progress=False)
    assert all(math.isfinite(loss) for loss in run.loss)
    again = small()
    fit(again, theirs, steps=3, batch_size=16, seed=0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", LAWS)
def test_kl_takes_a_law_of_torch(name: str) -> None:
    theirs = LAWS[name]()
    value, stderr = metrics.kl(theirs, theirs, n=500, seed=0)
    assert abs(value) <= 1e-9 + 3 * stderr
    if name == "Gaussian":
        other = D.MultivariateNormal(torch.zeros(2), torch.eye(2))
        found = metrics.kl(other, theirs, n=4000, seed=0)
        assert abs(found.value - D.kl_divergence(theirs, other).item()) < 4 * found.stderr


@pytest.mark.parametrize("name", LAWS)
def test_an_exact_model_of_a_law_of_torch_is_right_or_refused(name: str) -> None:
    theirs = LAWS[name]()
    if name not in GAUSSIAN:
        with pytest.raises(TypeError, match=r"the law is a .*, whose noised states have no closed form here; give a"):
            sdegen.Exact(sdegen.VP(), theirs)
        return
    model = sdegen.Exact(sdegen.VP(), theirs)
    x = theirs.sample((20,)).requires_grad_()
    (score,) = torch.autograd.grad(density(theirs, x).sum(), x)
    assert torch.allclose(model.score(x.detach().double(), 0.0), score.double(), atol=1e-4)


def test_points_outside_of_the_support_have_no_density() -> None:
    law = as_law(LAWS["uniform"]())
    x = torch.tensor([[0.5, 0.5], [2.0, 0.0], [0.5, -3.0]], dtype=torch.float64)
    assert law.log_prob(x).tolist() == pytest.approx([-math.log(3.0), -math.inf, -math.inf])


@pytest.mark.parametrize(
    ("theirs", "by_hand"),
    [
        (D.Gamma(torch.tensor([2.0, 3.5]).double(), 1.5), lambda x: torch.tensor([1.0, 2.5]) / x - 1.5),
        (D.Beta(torch.tensor([2.0, 0.5]).double(), 3.0), lambda x: torch.tensor([1.0, -0.5]) / x - 2.0 / (1 - x)),
        (D.Gumbel(torch.zeros(2).double(), 2.0), lambda x: 0.5 * ((-x / 2).exp() - 1)),
    ],
)
def test_a_law_of_torch_has_the_score_of_its_density(theirs: D.Distribution, by_hand: Any) -> None:
    law = as_law(theirs)
    x = law.sample(50, seeded(0))
    assert torch.allclose(law.score(x), by_hand(x), rtol=1e-12)
    bent = torch.func.jacrev(law.score)(x[:1]).reshape(2, 2).diagonal()  # a score is differentiated again
    slope = torch.func.jacrev(by_hand)(x[:1]).reshape(2, 2).diagonal()
    assert torch.allclose(bent, slope.double(), rtol=1e-12)


def test_points_outside_of_the_support_have_no_score() -> None:
    score = as_law(LAWS["uniform"]()).score(torch.tensor([[0.5, 0.5], [2.0, 0.0]], dtype=torch.float64))
    assert torch.equal(score[0], torch.zeros(2, dtype=torch.float64)) and score[1].isnan().all()


def test_a_prior_of_torch_starts_samples_and_likelihoods() -> None:
    class Own(sdegen.VP):
        def prior(self, moments: Any) -> D.Distribution:
            return D.Normal(torch.zeros(2, dtype=torch.float64), 1.0)

    ring = sdegen.data.gaussian_ring()
    ours, own = sdegen.Exact(sdegen.VP(), ring), sdegen.Exact(Own(), ring)
    assert sdegen.sample(own, 5, seed=0, steps=4).shape == (5, 2)
    x = ring.sample(4, seeded(0))
    given = D.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    assert torch.allclose(sdegen.log_prob(own, x), sdegen.log_prob(ours, x, prior=given), atol=1e-6)


def test_batches_written_to_one_buffer_are_read_as_they_were() -> None:
    """An iterator is read ahead; what is read is kept, whatever the iterator does with its memory next."""

    def batches() -> Iterator[Tensor]:
        buffer = torch.empty(2, 1)
        for i in range(100):
            yield buffer.fill_(i)

    stream = sdegen.data.Stream(batches(), torch.float32, torch.device("cpu"))
    given = stream.batches(2, torch.Generator())
    assert [next(given).x[0, 0].item() for _ in range(30)] == list(range(30))
    assert [batch.x[0, 0].item() for batch in stream.few(2)] == list(range(4))
    assert stream.moments(torch.Generator()).mean.item() == pytest.approx(7.5)


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode, "detached"])
def test_a_loss_without_a_gradient_is_refused(how: Any) -> None:
    def loss(model: Any, x: Tensor, generator: Any = None) -> Tensor:
        value = model.score(x, 0.5).square().sum(1)
        return value.detach() if how == "detached" else value

    model = small()
    with (
        pytest.raises(ValueError, match=r"the loss has no gradient; train outside torch\.no_grad"),
        nullcontext() if how == "detached" else how(),
    ):
        fit(
            model,
            torch.zeros(8, 2) + torch.arange(8)[:, None],
            steps=1,
            batch_size=4,
            seed=0,
            loss=loss,
            progress=False,
        )
