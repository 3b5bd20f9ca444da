"""Sets of images: parts, splits, batches and training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sdegen
from sdegen.data import (
    Dequantisation,
    Images,
    Scaled,
    Scaling,
    Source,
    Split,
)

# --- sets -------------------------------------------------------------------------------------------------------------


def number(images):
    return images.x[:, 0, 0, 0].tolist()


def test_a_part_keeps_what_is_known_of_its_images(images):
    for rows in (slice(3, 9), torch.tensor([3, 4, 5, 6, 7, 8]), (torch.arange(12) >= 3) & (torch.arange(12) < 9)):
        part = images[rows]
        assert number(part) == [3, 4, 5, 6, 7, 8] and len(part) == 6
        assert part.labels.tolist() == [0, 1, 2, 0, 1, 2] and part.group.tolist() == [1, 1, 1, 2, 2, 2]
        assert part.label_names == images.label_names
    assert images[images.labels == 0].counts().tolist() == [4, 0, 0]


@pytest.mark.parametrize("grouped", [True, False])
def test_a_split_is_a_partition_by_groups(images, grouped):
    images = images if grouped else Images(images.x, images.labels, images.label_names)
    seen = set()
    for seed in range(20):
        train, test = images.split(0.75, seed)
        assert sorted(number(train) + number(test)) == list(range(12)) and len(train) == 9
        if grouped:
            assert set(train.group.tolist()).isdisjoint(test.group.tolist())
        for part in (train, test):
            assert part.labels.tolist() == [i % 3 for i in number(part)]
        assert number(images.split(0.75, seed).train) == number(train)
        seen.add(tuple(number(test)))
    assert len(seen) == 4 if grouped else len(seen) > 10


def test_joining_undoes_a_split_but_for_order(images):
    images = Images(images.x, torch.arange(12), tuple("abcdefghijkl"), images.group)
    parts = images.split(0.75, seed=3)
    whole = parts.joined()
    assert number(whole) == number(parts.train) + number(parts.test) and sorted(number(whole)) == list(range(12))
    assert whole.labels.tolist() == number(whole) and whole.label_names == images.label_names
    assert whole.group.tolist() == [i // 3 for i in number(whole)]
    bare = Images(images.x)
    assert bare.split(0.5).joined().labels is None
    least = Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).split(0.5)
    assert len(least.train) == len(least.test) == 1


@pytest.mark.parametrize("name", ["label_names", "levels", "labels", "group"])
def test_parts_that_differ_are_not_joined(images, name):
    """Else labels or groups would be lost, or mean the names of the other part."""
    one = {"x": images.x // 2, "labels": torch.arange(12) % 2, "label_names": ("a", "b"), "group": images.group}
    other = one | {name: {"label_names": ("b", "a"), "levels": 255}.get(name)}
    with pytest.raises(ValueError, match=rf"^the parts of the split differ in {name}; give both the same"):
        Split(Images(**one), Images(**other)).joined()


def test_a_set_is_frozen(images):
    with pytest.raises(AttributeError):
        images.x = images.x[:2]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: Images(x.float()), TypeError, r"dtype torch.float32; images are bytes"),
        (lambda x: Images(x[:, 0]), ValueError, r"shape \(12, 4, 5\); expected \(N, C, H, W\)"),
        (lambda x: Images(x[:0]), ValueError, r"at least one image"),
        (lambda x: Images(x, levels=17), ValueError, r"with levels = 17 its largest is 16"),
        (lambda x: Images(x, torch.zeros(12)), TypeError, r"labels has dtype torch.float32; give whole numbers"),
        (lambda x: Images(x, torch.arange(11)), ValueError, r"labels has shape \(11,\); expected \(12,\)"),
        (lambda x: Images(x, group=torch.arange(3)), ValueError, r"group has shape \(3,\); expected \(12,\)"),
        (lambda x: Images(x, torch.arange(12) % 3, ("a", "b")), ValueError, r"labels run from 0 to 2 for 2 label_names"),
        (lambda x: Images(x, torch.arange(12) - 1, tuple("a" * 12)), ValueError, r"labels run from -1"),
        (lambda x: Images(x).counts(), ValueError, r"no labels to count"),
        (lambda x: Images(x).split(1.0), ValueError, r"fraction = 1.0 of 12 images leaves a part of the split empty"),
        (lambda x: Images(x, group=torch.zeros(12).long()).split(), ValueError, r"of 1 groups leaves a part"),
        (lambda x: Scaled(Images(x), Scaling(levels=17)), ValueError, r"images have 256 levels, the scaling 17"),
    ],
    ids=[
        "float", "grey", "empty", "levels", "float labels", "labels", "group", "names", "negative", "count", "fraction",
        "one group", "scaling",
    ],
)  # fmt: skip
def test_what_is_no_set_is_refused(images, call, error, message):
    with pytest.raises(error, match=message):
        call(images.x)


# --- training ---------------------------------------------------------------------------------------------------------


def test_batches_are_the_images_with_their_labels(images, device, dtype):
    source = Source(images.scaled(0, 255), dtype, device)
    batches = source.batches(4, torch.Generator().manual_seed(0))
    seen = [next(batches) for _ in range(6)]  # two passes
    for batch in seen:
        assert batch.x.dtype == dtype and batch.x.device.type == batch.cond["label"].device.type == device.type
        rows = batch.x[:, 0, 0, 0].round().long()
        assert torch.equal(Scaling(0, 255).inverse(batch.x).cpu(), images.x[rows.cpu()])
        assert torch.equal(batch.cond["label"], rows % 3)
    for part in (seen[:3], seen[3:]):
        assert sorted(torch.cat([b.x for b in part])[:, 0, 0, 0].round().long().tolist()) == list(range(12))
    assert next(Source(Images(images.x).scaled(), dtype, device).batches(4, torch.Generator())).cond == {}


def test_dequantising_noise_is_drawn_for_every_batch(images, device, dtype):
    source = Source(images[:1].dequantised(), dtype, device)
    draw = lambda seed: [b.x for b, _ in zip(source.batches(1, torch.Generator().manual_seed(seed)), range(3))]
    one, two, three = draw(0)
    assert not torch.equal(one, two) and not torch.equal(two, three)
    assert all(torch.equal(Dequantisation().inverse(x).cpu(), images.x[:1]) for x in (one, two, three))
    assert all(torch.equal(a, b) for a, b in zip(draw(0), [one, two, three], strict=True))


@pytest.mark.parametrize("channels", [1, 3], ids=["full covariance", "diagonal"])
@pytest.mark.parametrize("n", [50, 9000], ids=["one part", "parts"])
def test_moments_are_those_of_the_numbers(channels, n, device, dtype, generator):
    x = torch.randint(0, 256, (n, channels, 5, 5), dtype=torch.uint8, generator=generator)
    x[n // 2 :] //= 3  # parts that differ
    images = Images(x, levels=256)
    mean, covariance = Source(images.scaled(-1, 3), dtype, device).moments(generator)
    expected = sdegen.moments_of(Scaling(-1, 3)(x, torch.float64))
    assert covariance.ndim == (2 if channels == 1 else 1)
    torch.testing.assert_close(mean, expected.mean)
    torch.testing.assert_close(covariance, expected.covariance)
    # Noise adds its own: in the mean over many draws, those of the dequantised numbers.
    mean, covariance = images.dequantised(-1, 3).moments()
    cell = 4 / 256
    torch.testing.assert_close(mean, -1 + cell * (x.double().mean(0) + 0.5))
    noise = torch.full((25 * channels,), cell**2 / 12, dtype=torch.float64)
    bytes_only = sdegen.moments_of(x).covariance * cell**2
    torch.testing.assert_close(covariance, bytes_only + (noise.diag() if channels == 1 else noise))


class Net(nn.Module):
    """A network that notes the labels it is given, and what they are given with."""

    def __init__(self, shape, classes):
        super().__init__()
        self.flat, self.embed, self.shape = (
            nn.Linear(math.prod(shape), math.prod(shape)),
            nn.Embedding(classes, 1),
            shape,
        )
        self.seen = []

    def forward(self, x, t, label):
        self.seen.append(label.clone())
        return (self.flat(x.flatten(1)) + self.embed(label)).reshape(x.shape)


@pytest.mark.parametrize("way", ["scaled", "dequantised"])
def test_images_can_be_fitted(images, way, device, dtype):
    data = getattr(images, way)(-1, 1)
    torch.manual_seed(0)
    model = sdegen.Model(Net((3, 4, 5), 3), sdegen.VP()).to(device, dtype)
    run = sdegen.fit(model, data, steps=300, batch_size=12, seed=0)
    assert sum(run.loss[-50:]) < 0.8 * sum(run.loss[:50])
    assert all(sorted(label.tolist()) == sorted(images.labels.tolist()) for label in model.net.seen)
    torch.testing.assert_close(model.moments.mean, data.moments().mean)
    made = sdegen.sample(model, 6, steps=3, seed=0, label=torch.arange(6, device=device) % 3)
    assert data.scaling.inverse(made, clip=True).shape == (6, 3, 4, 5)


def test_bytes_are_not_trained_on_unsaid(images, device, dtype):
    with pytest.raises(TypeError, match=r"images are bytes; say what numbers they become: images.scaled\(-1, 1\)"):
        Source(images, dtype, device)
    with pytest.raises(TypeError, match=r"a Split has two parts; .* split.train.scaled\(-1, 1\)"):
        Source(images.split(0.5, seed=0), dtype, device)


def test_a_split_prints_what_it_holds(images):
    assert repr(Split(images[:8], Images(images.x[8:]))) == (
        "Split(train=Images(8 of 3×4×5, 3 classes), test=Images(4 of 3×4×5))"
    )


@pytest.mark.parametrize(
    "part", [slice(2, 5), torch.tensor([3, 0]), torch.arange(6) % 2 == 0], ids=["slice", "indices", "mask"]
)
def test_a_part_of_scaled_images_is_the_scaled_part(part):
    images = Images(torch.arange(96, dtype=torch.uint8).reshape(6, 1, 4, 4), torch.arange(6) % 3, ("a", "b", "c"))
    scaled = images.scaled(-1, 1).flipped(1.0)
    found = scaled[part]
    assert type(found) is type(scaled) and found.flips == 1.0 and len(found) == len(images[part])
    assert torch.equal(found.rows(), scaled.rows(part))
    assert torch.equal(found.images.labels, images.labels[part])
