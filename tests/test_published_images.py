"""Published sets of images are the official ones, part by part."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sdegen.data import (
    digits,
    fashion_mnist,
    mnist,
    sprites,
    sprites_held_out,
)


@pytest.mark.data
def test_mnist_is_digits_on_black():
    data = mnist()
    assert data.train.x.shape[1:] == data.test.x.shape[1:] == (1, 28, 28)
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9] and data.test.labels[:3].tolist() == [7, 2, 1]
    assert data.train.counts().min() > 0 and data.train.x[..., :2, :2].max() == 0 and data.train.x.max() == 255
    assert data.train.x[data.train.labels == 1].float().mean() < data.train.x[data.train.labels == 0].float().mean() / 2
    assert data.train.label_names == tuple("0123456789")


@pytest.mark.data
def test_mnist_is_the_official_one(full_sets):
    data = mnist()
    assert data.train.x.shape == (60_000, 1, 28, 28) and data.test.x.shape == (10_000, 1, 28, 28)
    assert data.train.counts().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test.counts().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = data.train.x.float() / 255
    assert round(pixels.mean().item(), 4) == 0.1307 and round(pixels.std().item(), 4) == 0.3081
    assert (data.train.x.amax(0) == 0).sum() == 67  # pixels, at the corners, that no digit ever touches


@pytest.mark.data
def test_fashion_mnist_is_clothes_by_name():
    data = fashion_mnist()
    assert data.train.x.shape[1:] == data.test.x.shape[1:] == (1, 28, 28)
    names = [data.train.label_names[k] for k in data.train.labels[:4]]
    assert names == ["ankle boot", "T-shirt/top", "T-shirt/top", "dress"]
    ink = [
        data.train.x[data.train.labels == data.train.label_names.index(k)].float().mean() for k in ("coat", "sandal")
    ]
    assert ink[0] > 2 * ink[1]


@pytest.mark.data
def test_fashion_mnist_is_the_official_one(full_sets):
    data = fashion_mnist()
    assert data.train.x.shape == (60_000, 1, 28, 28) and data.test.x.shape == (10_000, 1, 28, 28)
    assert data.train.counts().tolist() == [6000] * 10 and data.test.counts().tolist() == [1000] * 10
    pixels = data.train.x.float() / 255
    assert round(pixels.mean().item(), 4) == 0.2860 and round(pixels.std().item(), 4) == 0.3530


@pytest.mark.data
def test_official_parts_can_be_joined_and_split_anew():
    data = mnist()
    whole = data.joined()
    n = len(data.train) + len(data.test)
    assert len(whole) == n and torch.equal(whole.counts(), data.train.counts() + data.test.counts())
    again = whole.split(0.8, seed=0)
    assert len(again.train) == 0.8 * n and len(again.test) == n - len(again.train)
    assert torch.equal(again.train.counts() + again.test.counts(), whole.counts())


@pytest.mark.data
@pytest.mark.parametrize("fold", range(5))
def test_no_group_of_sprites_is_in_two_parts(fold):
    data, held_out = sprites(fold), sprites_held_out()
    parts = [set(part.group.tolist()) for part in (*data, held_out)]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(parts, 2))
    assert len(held_out) == 309 and len(data.train) + len(data.test) == 3200 - 309
    assert abs(len(parts[0]) - 0.8 * len(parts[0] | parts[1])) <= 0.5
    counts = sum(part.counts() for part in (*data, held_out))
    assert dict(zip(held_out.label_names, counts.tolist(), strict=True)) == {
        "hero": 216,
        "creature": 1281,
        "food": 42,
        "item": 641,
        "scenery": 1020,
    }


@pytest.mark.data
def test_sprites_are_as_they_were_drawn():
    data = sprites()
    assert data.train.x.shape[1:] == (3, 16, 16)
    red, green, blue = data.joined().x.long().unbind(1)
    colours = (red * 256**2 + green * 256 + blue).unique()
    assert len(colours) == 18 and colours[-1] == 256**3 - 1  # a palette of few colours, and white behind it
    again = sprites().train
    assert torch.equal(again.x, data.train.x) and torch.equal(again.group, data.train.group)
    others = [set(sprites(fold).test.group.tolist()) for fold in range(5)]
    assert all(a != b for a, b in itertools.combinations(others, 2))


def test_sprites_of_a_user_keep_equal_tiles_together(tmp_path, generator):
    kinds = torch.randint(0, 256, (30, 16, 16, 3), dtype=torch.uint8, generator=generator).numpy()
    which = np.arange(120) % 30
    np.save(tmp_path / "tiles.npy", kinds[which])
    np.save(tmp_path / "labels.npy", np.eye(5)[which % 5])
    data = sprites(1, images=tmp_path / "tiles.npy", labels=str(tmp_path / "labels.npy"))
    assert len(data.train) == 96 and len(data.test) == 24
    same = lambda part: {tile.tobytes() for tile in part.x.numpy()}
    assert same(data.train).isdisjoint(same(data.test))
    tiles = {kind.transpose(2, 0, 1).tobytes(): k % 5 for k, kind in enumerate(kinds)}
    for part in data:
        assert [tiles[tile.tobytes()] for tile in part.x.numpy()] == part.labels.tolist()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: sprites(5), ValueError, r"fold = 5; choose one of 0 … 4"),
        (lambda x, y: sprites(images=x), TypeError, r"images and labels go together"),
        (lambda x, y: sprites(images=x[:, :8], labels=y), ValueError, r"4 of 3×8×16.*expected sprites"),
        (lambda x, y: sprites(images=x, labels=np.ones((4, 2))), ValueError, r"\(4, 2\) are not one-hot"),
        (lambda x, y: sprites(images=x / 255, labels=y), TypeError, r"x has dtype torch.float64; images are bytes"),
    ],
    ids=["fold", "half a pair", "size", "one-hot", "float"],
)
def test_what_are_no_sprites_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(np.zeros((4, 16, 16, 3), np.uint8), np.arange(4))


def test_digits_have_their_seventeen_levels():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    data = digits()
    assert data.x.shape == (1797, 1, 8, 8) and data.levels == 17 and data.x.max() == 16
    assert data.counts().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.scaled(0, 1).rows().max() == 1
    train, test = data.split(0.8, seed=0)
    assert len(train) == 1438 and len(test) == 359
