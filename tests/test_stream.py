"""Batches of one's own train as rows do, go on after an interruption or are refused, and end where nothing more comes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sdegen
from sdegen import fit
from sdegen.data import Source, Stream
from sdegen.data.moments import join_moments
from sdegen.data.stream import source_of
from sdegen.laws import moments_of
from sdegen.training import constant_rate

RING = sdegen.data.gaussian_ring()
X = RING.sample(40, torch.Generator().manual_seed(1))
LABEL = torch.arange(40) % 3
CPU = torch.device("cpu")
flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()])


def stream(data):
    return Stream(data, torch.float64, CPU)


def few(source, n):
    batches = source.batches(8, torch.Generator())
    return [next(batches) for _ in range(n)]


def model(classes=0):
    torch.manual_seed(0)
    return sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1, classes=classes), sdegen.VP()).double()


class Passes:
    """An iterable that begins anew, without length."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize(
    "data", [lambda: DataLoader(X, batch_size=16), lambda: iter(X.split(16)), lambda: Passes(X.split(16))],
    ids=["loader", "iterator", "iterable"],
)  # fmt: skip
def test_a_batch_size_that_batches_of_ones_own_would_not_have_is_refused(data, size):
    with pytest.raises(ValueError, match=rf"batch_size = {size}, and batches of data have 16 rows"):
        fit(model(), data(), steps=1, batch_size=size, progress=False)
    fit(model(), data(), steps=1, batch_size=16, progress=False)
    fit(model(), DataLoader(X[:5], batch_size=size), steps=1, batch_size=size, progress=False)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (lambda: DataLoader(TensorDataset(X), batch_size=16), set()),
        (lambda: DataLoader(X, batch_size=16), set()),
        (lambda: DataLoader(TensorDataset(X, LABEL), batch_size=16), {"label"}),
        (lambda: Passes([(x, {"label": k, "mask": x[:, 0]}) for x, k in zip(X.split(16), LABEL.split(16))]), {"label", "mask"}),
        (lambda: (x for x in X.split(16)), set()),
    ],
    ids=["rows", "tensors", "labels", "conditions", "generator"],
)  # fmt: skip
def test_batches_come_as_they_are_with_their_conditions(data, names):
    source = source_of(data(), torch.float64, CPU)
    found = few(source, 3)
    assert isinstance(source, Stream) and source.cond.keys() == names
    assert [len(batch.x) for batch in found] == [16, 16, 8]
    assert torch.equal(torch.cat([batch.x for batch in found]), X)
    assert all(batch.cond.keys() == names for batch in found)
    if "label" in names:
        assert torch.equal(torch.cat([batch.cond["label"] for batch in found]), LABEL)


def test_passes_follow_each_other():
    found = few(stream(DataLoader(X, batch_size=16)), 7)
    assert torch.equal(torch.cat([batch.x for batch in found]), torch.cat([X, X, X[:16]]))


def test_an_iterator_loses_nothing_to_what_is_read_ahead():
    many = RING.sample(50, torch.Generator().manual_seed(2))
    found = few(stream(iter(many.split(1))), 50)
    assert torch.equal(torch.cat([batch.x for batch in found]), many)


@pytest.mark.parametrize("dim", [2, 100])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_moments_of_parts_are_those_of_the_whole(dim, size, generator):
    x = torch.randn(40, dim, dtype=torch.float64, generator=generator) * 3 + 5
    one, other = join_moments((len(part), moments_of(part)) for part in x.split(size)), moments_of(x)
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.covariance, other.covariance)


def test_moments_are_those_of_the_first_pass(device):
    source = stream(DataLoader(X, batch_size=7))
    torch.testing.assert_close(source.moments(torch.Generator()).covariance, moments_of(X).covariance)
    again = Source(X, torch.float64, CPU).moments(torch.Generator())
    torch.testing.assert_close(source.moments(torch.Generator()).mean, again.mean)


def test_of_an_endless_iterator_the_first_batches_give_the_moments():
    read = []

    def endless():
        while True:
            read.append(None)
            yield RING.sample(8)

    source = stream(endless())
    assert len(read) == 16 and few(source, 20) and len(read) == 20


def test_of_large_passes_65536_rows_give_the_moments():
    read = []

    class Large:
        def __iter__(self):
            for k in range(10):
                read.append(None)
                yield torch.full((20_000, 1), float(k), dtype=torch.float64)

    assert stream(Large()).moments(torch.Generator()).mean.item() == 1.5 and len(read) == 4


def test_a_loader_of_all_rows_trains_as_the_rows_do():
    """A full batch in the order of the rows: the same losses, but for the order in which the rows are drawn."""
    plain = lambda model, x, generator=None: (model.net(x, x[:, 0]) - 1).square().sum(1)
    settings = {"steps": 10, "batch_size": 40, "seed": 0, "warmup": 1, "loss": plain}
    one, other = model(), model()
    fit(one, X, **settings)
    fit(other, DataLoader(X, batch_size=40), **settings)
    torch.testing.assert_close(flat(one), flat(other), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(one.moments.covariance, other.moments.covariance)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_labels_of_a_loader_reach_the_network_and_are_lost(accumulate):
    loader = DataLoader(TensorDataset(X, LABEL), batch_size=16)
    run = fit(model(3), loader, steps=7, seed=0, p_uncond=0.5, accumulate=accumulate)
    assert run.steps == 7


# --- going on ---------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stopping(step):
    if step.step == 7:
        raise Stop


def shuffled():
    return DataLoader(X, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(5))


def endless():
    generator = torch.Generator().manual_seed(6)
    while True:
        yield RING.sample(8, generator)


class Jittered(Dataset):
    """Data that get new noise, from torch's own generator, whenever they are read."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + 0.1 * torch.randn(X[i].shape)


def jittered(workers=1):
    return DataLoader(Jittered(), batch_size=16, num_workers=workers, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "data",
    [lambda: DataLoader(X, batch_size=16), shuffled, endless, jittered],
    ids=["order", "seed", "iterator", "noise of a worker"],
)
def test_a_run_goes_on_with_the_batches_it_would_have_had(data, tmp_path):
    settings = {"steps": 12, "seed": 0, "warmup": 1}
    whole, parted = model(), model()
    fit(whole, data(), **settings)
    with pytest.raises(Stop):
        fit(model(), data(), checkpoint=tmp_path, every=5, callbacks=[stopping], **settings)
    torch.manual_seed(9)
    run = fit(parted, data(), checkpoint=tmp_path, every=5, **settings)
    assert run.steps == 12 and torch.equal(flat(parted), flat(whole))


def test_batches_in_another_order_are_refused_when_a_run_goes_on(tmp_path):
    settings = {"seed": 0, "warmup": 1, "schedule": constant_rate, "checkpoint": tmp_path}
    one, other = model(), model()
    fit(one, DataLoader(X, batch_size=16, shuffle=True), steps=5, **settings)
    torch.manual_seed(9)  # else both loaders would draw the same orders
    with pytest.raises(
        ValueError, match=r"^the first 5 batches of the data are not those that the run had, .*generator=torch"
    ):
        fit(other, DataLoader(X, batch_size=16, shuffle=True), steps=9, **settings)


def test_a_refusal_of_noise_that_does_not_come_again_says_that_a_worker_or_no_loader_is_needed(tmp_path):
    settings = {"seed": 0, "warmup": 1, "schedule": constant_rate, "checkpoint": tmp_path}
    fit(model(), jittered(0), steps=5, **settings)
    torch.manual_seed(9)
    with pytest.raises(ValueError, match=r"num_workers=1 at least if items draw random numbers; or give the data set"):
        fit(model(), jittered(0), steps=9, **settings)
    settings["checkpoint"] = tmp_path / "rows"
    whole, parted = model(), model()
    fit(whole, Jittered(), steps=9, **(settings | {"checkpoint": tmp_path / "whole"}))
    fit(parted, Jittered(), steps=5, **settings)
    torch.manual_seed(9)
    fit(parted, Jittered(), steps=9, **settings)
    assert torch.equal(flat(parted), flat(whole))


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_an_exhausted_iterator_ends_in_a_sentence_and_leaves_the_weights():
    net = model()
    before = flat(net)
    says = r"^data is a generator that is exhausted after 3 batches and gives no other pass; give an iterable that begins anew"
    with pytest.raises(ValueError, match=says):
        fit(net, (x for x in X.split(16)), steps=9, seed=0, warmup=1)
    assert not torch.equal(flat(net), before) and not net.training


def test_a_pass_without_batches_ends_in_a_sentence():
    class Once:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(X.split(16)) if self.passes < 3 else iter(())

    with pytest.raises(ValueError, match="Once that is exhausted after 3 batches"):
        few(stream(Once()), 4)


@pytest.mark.parametrize(
    ("items", "error", "says"),
    [
        ([], ValueError, r"that gave no batch; give at least one"),
        (["a"], TypeError, r"^batch 1 of the data is a str"),
        ([X, X.float()], ValueError, r"^batch 2 of the data is torch\.float32 on cpu, the model torch\.float64"),
        ([X.byte()], TypeError, r"^batch 1 of the data has dtype torch\.uint8; convert"),
        ([X, X / 0], ValueError, r"^batch 2 of the data holds NaN or infinite values"),
        ([X[:0]], ValueError, r"^batch 1 of the data is empty"),
        ([(X, LABEL[:3])], ValueError, r"^condition 'label' has 3 rows for 40"),
        ([(X, LABEL), X], ValueError, r"^batch 2 of the data has the conditions \[\], the first \['label'\]"),
        ([(X, LABEL, LABEL)], TypeError, r"^batch 1 of the data is a tuple"),
    ],
    ids=["none", "text", "dtype", "bytes", "infinite", "empty", "rows", "conditions", "three"],
)
def test_batches_that_cannot_be_are_named(items, error, says):
    with pytest.raises(error, match=says):
        few(stream(Passes(items)), 3)


def test_a_batch_of_fewer_rows_than_parts_is_refused():
    with pytest.raises(ValueError, match=r"a batch of 2 rows cannot be split in 3"):
        fit(model(), Passes([X[:2]]), steps=1, accumulate=3, seed=0)


def test_a_list_or_an_array_is_no_stream():
    for data, instead in (
        ([X, X, X], "give one tensor, .* or iter"),
        (X.numpy(), "give a tensor, .* an iterable of batches"),
    ):
        with pytest.raises(TypeError, match=rf"^data is an? (list|ndarray); {instead}"):
            source_of(data, torch.float64, CPU)
