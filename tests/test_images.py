"""Published images are what their authors say, damaged ones are never used, and bytes become numbers and bytes again."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import itertools
import math
import re
import shutil
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import sdegen
from sdegen.data import (
    Dequantisation,
    File,
    Images,
    Scaled,
    Scaling,
    Source,
    Split,
    digits,
    fashion_mnist,
    from_arrays,
    from_dataset,
    from_folder,
    mnist,
    sets,
    sprites,
    sprites_held_out,
)
from sdegen.data.files import EMBEDDED

BYTES = torch.arange(256, dtype=torch.uint8)


@pytest.fixture
def images(generator):
    """Twelve images in three classes and four groups, which know their number: the first byte is it."""
    x = torch.randint(0, 256, (12, 3, 4, 5), dtype=torch.uint8, generator=generator)
    x[:, 0, 0, 0] = torch.arange(12)
    return Images(x, torch.arange(12) % 3, ("a", "b", "c"), torch.arange(12) // 3)


# --- published sets ---------------------------------------------------------------------------------------------------


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


# --- files ------------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 300
PUBLISHED = gzip.compress(CONTENT, mtime=1)


def md5(data):
    return hashlib.md5(data).hexdigest()


def a_file(*mirrors, content=True):
    return File("set/images.gz", md5(PUBLISHED), md5(CONTENT) if content else None, mirrors)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    return tmp_path


def put(folder, data):
    (folder / "set" / "images.gz").write_bytes(data)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_read_where_it_lies(folder):
    put(folder, PUBLISHED)
    (folder / "set" / "images.gz").chmod(0o400)
    assert a_file().read() == CONTENT
    assert files_in(folder) == [folder / "set" / "images.gz"]


def test_content_compressed_anew_is_the_same_file(folder):
    put(folder, gzip.compress(CONTENT, mtime=2))
    assert a_file().read() == CONTENT
    with pytest.raises(ValueError, match="is damaged"):
        a_file(content=False).read()


DAMAGED = {
    "truncated": PUBLISHED[:-7],
    "half": PUBLISHED[: len(PUBLISHED) // 2],
    "a bit flipped": PUBLISHED[:50] + bytes([PUBLISHED[50] ^ 1]) + PUBLISHED[51:],
    "no such block": PUBLISHED[:10] + b"\xff" + PUBLISHED[11:],
    "empty": b"",
    "a web page": b"<html>not found</html>",
    "other content": gzip.compress(CONTENT[1:], mtime=1),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_with_both_checksums(folder, data):
    put(folder, data)
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(folder))}.*images\.gz.*{md5(data)}, expected {md5(PUBLISHED)}"
    ):
        a_file().read()


@pytest.mark.data
def test_a_damaged_copy_of_mnist_is_not_loaded(tmp_path, monkeypatch, data_folder):
    shutil.copytree(data_folder / "mnist", tmp_path / "mnist")
    official, count = sets._MNIST["t10k-images-idx3-ubyte"][0], len(mnist().test)
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    victim = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    whole = victim.read_bytes()
    victim.write_bytes(gzip.compress(gzip.decompress(whole), 1))
    assert len(mnist().test) == count  # another header and another level: the same content
    for data in (whole[:-1], whole[:1000] + b"?" + whole[1001:]):
        victim.write_bytes(data)
        with pytest.raises(ValueError, match=f"t10k-images.*{md5(data)}, expected {official}"):
            mnist()


def test_a_damaged_copy_of_the_sprites_is_not_loaded(tmp_path, monkeypatch):
    data = (EMBEDDED / "sprites16" / "sprites16.npz").read_bytes()[:-1]
    (tmp_path / "sprites16").mkdir()
    (tmp_path / "sprites16" / "sprites16.npz").write_bytes(data)
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"{md5(data)}, expected 9e2abc760e547ad5291ddde19fe2c7d8; put the original"):
        sprites()


@pytest.mark.parametrize("named", [True, False], ids=["a folder without them", "no folder"])
def test_sprites_come_with_the_package(tmp_path, monkeypatch, named):
    if named:
        monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    else:
        monkeypatch.delenv("SDEGEN_DATA")
    assert len(sprites_held_out()) == 309 and files_in(tmp_path) == []
    assert "CC BY 4.0" in (EMBEDDED / "README.md").read_text()


def test_a_data_folder_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"SDEGEN_DATA = .*nowhere is not a folder; .* holds mnist/train"):
        mnist()
    assert files_in(tmp_path) == []


def test_what_cannot_be_downloaded_must_be_there(folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"images.gz is missing, and is not downloaded"):
        a_file().read()
    monkeypatch.delenv("SDEGEN_DATA")
    with pytest.raises(FileNotFoundError, match=r"images.gz is not downloaded; let .* SDEGEN_DATA name the folder"):
        a_file().read()


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A server on this machine: the address of its root, what it serves, and what it was asked for.

    A served value is the body; or a pair of the body and the length that is announced for it.
    """
    served, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in served:
                return self.send_error(404)
            body = served[self.path]
            body, length = body if isinstance(body, tuple) else (body, len(body))
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", served, asked
        running.shutdown()
        thread.join()


@pytest.fixture
def pooch():
    return pytest.importorskip("pooch", reason="needs pooch")


def test_a_missing_file_is_downloaded_once(folder, server, pooch):
    root, served, asked = server
    served["/a/images.gz"] = PUBLISHED
    file = a_file(f"{root}/a/")
    assert file.read() == CONTENT and file.read() == CONTENT
    assert asked == ["/a/images.gz"]
    assert [path.read_bytes() for path in files_in(folder)] == [PUBLISHED]


def test_mirrors_are_tried_in_turn(folder, server, pooch):
    root, served, asked = server
    served["/cut/images.gz"] = (PUBLISHED[:100], len(PUBLISHED))  # the connection ends early
    served["/short/images.gz"] = PUBLISHED[:100]
    served["/corrupt/images.gz"] = DAMAGED["a bit flipped"]
    served["/good/images.gz"] = PUBLISHED
    places = ("gone", "cut", "short", "corrupt", "good", "never")
    closed = "http://127.0.0.1:1"  # nobody listens
    assert a_file(closed, *(f"{root}/{place}" for place in places)).read() == CONTENT
    assert asked == [f"/{place}/images.gz" for place in places[:-1]]
    assert [path.read_bytes() for path in files_in(folder)] == [PUBLISHED]


def test_a_failed_download_says_why_and_leaves_nothing(folder, server, pooch):
    root, served, _ = server
    corrupt = DAMAGED["a bit flipped"]
    served["/cut/images.gz"] = (PUBLISHED[:100], len(PUBLISHED))
    served["/corrupt/images.gz"] = corrupt
    with pytest.raises(ConnectionError) as caught:
        a_file(f"{root}/gone", f"{root}/cut", f"{root}/corrupt").read()
    message = str(caught.value)
    assert message.startswith("set/images.gz could not be downloaded to ")
    for part in ("/gone/images.gz: 404", "/cut/images.gz: ", "/corrupt/images.gz: ", md5(corrupt), md5(PUBLISHED)):
        assert part in message
    assert files_in(folder) == []


def test_an_interrupted_download_leaves_nothing(folder, server, pooch, monkeypatch):
    root, served, _ = server
    served["/a/images.gz"] = PUBLISHED
    whole = pooch.HTTPDownloader.__call__

    def interrupted(self, url, output_file, *args, **kwargs):
        whole(self, url, output_file, *args, **kwargs)
        assert len(files_in(folder)) == 1 and not (folder / "set" / "images.gz").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        a_file(f"{root}/a").read()
    assert files_in(folder) == []


def test_without_a_data_folder_the_cache_of_the_user_is_used(tmp_path, server, pooch, monkeypatch):
    root, served, asked = server
    served["/a/images.gz"] = PUBLISHED
    monkeypatch.delenv("SDEGEN_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    assert a_file(f"{root}/a").read() == CONTENT and a_file(f"{root}/a").read() == CONTENT
    assert files_in(tmp_path) == [tmp_path / "sdegen" / "set" / "images.gz"] and len(asked) == 1


@pytest.mark.data
def test_mnist_is_downloaded_from_the_second_mirror(tmp_path, server, pooch, monkeypatch, data_folder):
    root, served, asked = server
    published = mnist()
    for path in (data_folder / "mnist").iterdir():
        served[f"/second/{path.name}"] = path.read_bytes()
    served["/first/train-images-idx3-ubyte.gz"] = served["/second/train-images-idx3-ubyte.gz"][:10_000]
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    monkeypatch.setattr(sets, "_MNIST_MIRRORS", (f"{root}/first/", f"{root}/second/"))
    data = mnist()
    assert len(asked) == 8 and all(torch.equal(a.x, b.x) for a, b in zip(data, published, strict=True))
    assert sorted(p.name for p in files_in(tmp_path)) == sorted(p.name for p in (data_folder / "mnist").iterdir())


def without(monkeypatch, package):
    """As if a package were not installed."""

    def missing(name):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        raise AssertionError(f"{name} was not expected")

    monkeypatch.setattr("sdegen.data.files.import_module", missing)


@pytest.mark.parametrize(
    ("package", "pip", "call"),
    [
        ("pooch", "pooch", lambda path: a_file("http://127.0.0.1:1").read()),
        ("sklearn", "scikit-learn", lambda path: digits()),
    ],
    ids=["pooch", "scikit-learn"],
)
def test_a_missing_package_is_named_with_its_command(folder, monkeypatch, package, pip, call):
    without(monkeypatch, package)
    with pytest.raises(ImportError, match=rf"^[^\n]* needs {pip}: pip install {pip}$"):
        call(folder)


# --- bytes and numbers ------------------------------------------------------------------------------------------------

ENDS = [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (0.1, 0.9), (-3.0, 7.0), (1.0, 2.0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("low", "high"), ENDS)
@pytest.mark.parametrize("levels", [256, 17, 2])
def test_scaling_is_even_and_undone_exactly(low, high, levels, dtype):
    u, scaling = BYTES[:levels], Scaling(low, high, levels)
    x = scaling(u, dtype)
    assert x.dtype == dtype
    torch.testing.assert_close(x, torch.linspace(low, high, levels, dtype=dtype), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.diff(), torch.full((levels - 1,), scaling.step, dtype=dtype), rtol=1e-4, atol=0.0)
    assert torch.equal(scaling.inverse(x), u)
    # Half a step beyond an end, or around a number, is still that byte.
    assert torch.equal(scaling.inverse(x + 0.49 * scaling.step), u) and torch.equal(
        scaling.inverse(x - 0.49 * scaling.step), u
    )


def test_scaling_of_bytes_is_what_everybody_does():
    torch.testing.assert_close(Scaling(0, 1)(BYTES), BYTES / 255)
    torch.testing.assert_close(Scaling(-1, 1)(BYTES), BYTES / 127.5 - 1, rtol=0, atol=2e-7)
    assert Scaling(-1, 1)(BYTES)[[0, -1]].tolist() == [-1, 1]


class Every:
    """Stands in for the draw of the noise: every part of every cell, once."""

    def __call__(self, n, shape, **kwargs):
        assert tuple(shape) == (n, 256)
        return torch.arange(n).to(kwargs["dtype"])[:, None].expand(shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("low", "high"), ENDS)
def test_dequantised_bytes_stay_in_their_cells(low, high, dtype, monkeypatch):
    # All 1,024 values that the noise can take, on all bytes: no rounding leads into another cell.
    monkeypatch.setattr(torch, "randint", Every())
    u, scaling = BYTES.expand(1024, 256), Dequantisation(low, high)
    x = scaling(u, dtype)
    assert torch.equal(scaling.inverse(x), u)
    assert (x > low).all() and (x < high).all()
    torch.testing.assert_close(x.mean(0).diff(), torch.full((255,), scaling.step, dtype=dtype), rtol=1e-4, atol=0.0)


def test_dequantised_bytes_fill_their_cells_evenly(generator):
    n = 200_000
    u = torch.full((n,), 3, dtype=torch.uint8)
    noise = 256 * Dequantisation(0, 1)(u, torch.float64, generator) - 3
    assert abs(noise.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    fill = noise.mul(8).long().bincount(minlength=8) / n  # eighths of the cell
    assert len(fill) == 8 and (fill - 1 / 8).abs().max() < 5 * math.sqrt(7 / 64 / n)
    mean, variance = Dequantisation(0, 1).noise
    assert mean == 0.5 and abs(noise.var() - variance) < 5 * math.sqrt(1 / 180 / n)


def test_noise_is_its_seed():
    draw = lambda seed: Dequantisation()(BYTES, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("scaling", [Scaling(-1, 1), Dequantisation(-1, 1)], ids=["scaled", "dequantised"])
def test_nothing_is_clipped_unasked(scaling):
    x = torch.tensor([-1.3, -0.5, 0.99, 1.02])
    with pytest.raises(ValueError, match=r"2 of 4 values lie outside \[-1, 1\], .* \[-1.3, 1.02\]; pass clip=True"):
        scaling.inverse(x)
    clipped = scaling.inverse(x, clip=True)
    assert clipped[[0, 3]].tolist() == [0, 255]
    assert torch.equal(clipped[1:3], scaling.inverse(x[1:3]))
    for clip in (False, True):
        with pytest.raises(ValueError, match="2 of 3 values are NaN or infinite"):
            scaling.inverse(torch.tensor([0.0, math.nan, math.inf]), clip=clip)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_coarse_dtype_is_taken_only_where_it_holds_every_byte(dtype):
    assert torch.equal(Scaling(-1, 1).inverse(Scaling(-1, 1)(BYTES, dtype)), BYTES)
    for scaling in (Dequantisation(-1, 1), Scaling(100, 101)):
        with pytest.raises(ValueError, match=rf"{dtype} cannot hold .*take a finer dtype"):
            scaling(BYTES, dtype)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Scaling(1, 1), ValueError, r"low = 1, high = 1: expected .* low < high"),
        (lambda: Scaling(0, math.inf), ValueError, r"expected finite numbers"),
        (lambda: Scaling(levels=257), ValueError, r"levels = 257; a byte takes 2 to 256 values"),
        (lambda: Scaling()(BYTES.long()), TypeError, r"dtype torch.int64; a scaling takes bytes"),
    ],
    ids=["order", "infinite", "levels", "dtype"],
)
def test_what_is_no_scaling_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("low", "high"), ENDS)
def test_bits_per_dim_of_a_density_flat_on_cells_is_the_entropy(low, high, generator):
    # Four bytes of known probabilities, and the density that spreads each over its cell: the bound is met with equality.
    probability = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    values = torch.tensor([0, 7, 100, 255], dtype=torch.uint8)
    scaling = Dequantisation(low, high)
    x = scaling(values.expand(1000, 4), torch.float64, generator)
    log_prob = probability.log() - math.log((high - low) / 256)  # of one dimension, at x in the cell of each byte
    assert torch.equal(scaling.inverse(x), values.expand(1000, 4))
    bits = (probability * scaling.bits_per_dim(log_prob, 1)).sum()
    torch.testing.assert_close(bits, torch.tensor(1.75, dtype=torch.float64))
    # Independent dimensions share the bits evenly, and the uniform density costs eight.
    torch.testing.assert_close(scaling.bits_per_dim(3 * log_prob, 3), scaling.bits_per_dim(log_prob, 1))
    flat = -784 * torch.tensor(high - low, dtype=torch.float64).log()
    torch.testing.assert_close(scaling.bits_per_dim(flat, 784), torch.tensor(8.0, dtype=torch.float64))
    torch.testing.assert_close(-(log_prob + scaling.log_volume(1)) / math.log(2), scaling.bits_per_dim(log_prob, 1))


def test_bits_per_dim_bound_what_bytes_cost(generator):
    # A Gaussian of two cells' width: its bits per dimension, in the mean, exceed those of the bytes' own probabilities.
    scaling, normal = Dequantisation(0, 256), torch.distributions.Normal(128.0, 2.0)
    cells = torch.arange(257.0, dtype=torch.float64)
    probability = torch.distributions.Normal(128.0, torch.tensor(2.0, dtype=torch.float64)).cdf(cells).diff()
    u = probability.multinomial(100_000, replacement=True, generator=generator).to(torch.uint8)
    bound = scaling.bits_per_dim(normal.log_prob(scaling(u, torch.float64, generator)), 1)
    cost = -probability[u.long()].log2()
    gap = bound - cost
    assert gap.mean() > 5 * gap.std() / math.sqrt(len(gap)) and gap.mean() < 0.1


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


# --- the user's own ---------------------------------------------------------------------------------------------------


def test_arrays_of_all_layouts_are_the_same_images(images, tmp_path):
    last = images.x.permute(0, 2, 3, 1).contiguous()
    np.save(tmp_path / "x.npy", last.numpy())
    frozen = last.numpy().copy()
    frozen.flags.writeable = False
    labels = [
        images.labels,
        images.labels.numpy(),
        images.labels.tolist(),
        images.labels.to(torch.uint8).numpy(),
        np.eye(3)[images.labels],
        nn.functional.one_hot(images.labels),
        np.eye(3, dtype=bool)[images.labels],
    ]
    xs = [last, last.numpy(), frozen, last.numpy()[::-1][::-1], tmp_path / "x.npy", str(tmp_path / "x.npy")]
    for x, y in [(x, labels[0]) for x in xs] + [(last, y) for y in labels]:
        made = from_arrays(x, y, channels_last=True)
        assert torch.equal(made.x, images.x) and torch.equal(made.labels, images.labels)
        assert made.x.is_contiguous() and made.label_names == ("0", "1", "2")
    assert torch.equal(from_arrays(images.x).x, images.x)
    assert from_arrays(images.x[:, 0]).x.shape == (12, 1, 4, 5)
    assert from_arrays(images.x).x.data_ptr() == images.x.data_ptr()  # no copy where none is needed


def test_pickles_are_not_read(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        from_arrays(tmp_path / "x.npy")


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def test_any_dataset_is_the_same_images(images):
    pil = pytest.importorskip("PIL.Image", reason="needs pillow")
    x, y = images.x, images.labels
    last = x.permute(0, 2, 3, 1).numpy()
    many = [
        from_dataset(TensorDataset(x, y)),
        from_dataset(Rows([(image, int(label)) for image, label in zip(x, y, strict=True)])),
        from_dataset(Rows([(image, np.eye(3)[label]) for image, label in zip(last, y, strict=True)])),
        from_dataset(Rows([(pil.fromarray(image), label) for image, label in zip(last, y, strict=True)])),
        from_dataset(TensorDataset(Scaling(0, 1)(x), y), scaling=Scaling(0, 1)),
        from_dataset(TensorDataset(images.dequantised(-1, 1).rows(), y), scaling=Dequantisation(-1, 1)),
    ]
    for made in many:
        assert torch.equal(made.x, x) and torch.equal(made.labels, y)
    for bare in (TensorDataset(x), Rows(list(x)), Rows(list(last))):
        assert torch.equal(from_dataset(bare).x, x) and from_dataset(bare).labels is None
    grey = from_dataset(Rows([pil.fromarray(image[..., 0]) for image in last]))
    assert torch.equal(grey.x, x[:, :1])


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, r"the Dataset is empty"),
        ([torch.rand(1, 2, 2)], TypeError, r"row 0 has dtype torch.float32; give bytes, or what they were scaled by"),
        ([torch.zeros(1, 2, 2).byte(), torch.zeros(1, 2, 3).byte()], ValueError, r"row 1 has shape \(1, 2, 3\), row 0"),
        ([(torch.zeros(1, 2, 2).byte(), 0, 1)], TypeError, r"row 0 has 3 values"),
        ([(torch.zeros(1, 2, 2).byte(), 0.5)], TypeError, r"labels has dtype torch.float32; give whole numbers"),
    ],
    ids=["empty", "float", "shape", "three", "label"],
)
def test_what_is_no_dataset_of_images_is_refused(rows, error, message):
    with pytest.raises(error, match=message):
        from_dataset(Rows(rows))


def test_a_stream_is_no_dataset_of_images():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(1, 2, 2).byte()

    with pytest.raises(TypeError, match=r"Stream has no length or no rows to ask for; give .* list\(dataset\)"):
        from_dataset(Stream())
    assert from_dataset(list(Stream())).x.shape == (1, 1, 2, 2)


def test_palettes_are_not_taken_for_colours():
    pil = pytest.importorskip("PIL.Image", reason="needs pillow")
    with pytest.raises(TypeError, match="an image has mode P; convert it"):
        from_dataset(Rows([pil.new("P", (4, 4))]))


@pytest.fixture
def tree(tmp_path, images):
    """A folder of PNG files, a class a subfolder; with what else lies about in folders."""
    pil = pytest.importorskip("PIL.Image", reason="needs pillow")
    for i, image in enumerate(images.x.permute(0, 2, 3, 1).numpy()):
        folder = tmp_path / images.label_names[i % 3] / "deeper"
        folder.mkdir(parents=True, exist_ok=True)
        pil.fromarray(image).save(folder / f"{i:02d}.PNG")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_text("no image")
    (tmp_path / ".git").mkdir()
    (tmp_path / "README").write_text("no image")
    return tmp_path


def test_a_folder_is_its_images_class_by_class(tree, images):
    made = from_folder(tree)
    order = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert torch.equal(made.x, images.x[order]) and torch.equal(made.labels, images.labels[order])
    assert made.label_names == ("a", "b", "c")
    bare = from_folder(tree / "b" / "deeper")
    assert torch.equal(bare.x, images.x[[1, 4, 7, 10]]) and bare.labels is None
    assert from_folder(tree, mode="L").x.shape == (12, 1, 4, 5) and from_folder(tree, mode="RGBA").x.shape[1] == 4
    turned = from_folder(str(tree), transform=lambda image: image.transpose(0))
    assert torch.equal(turned.x, made.x.flip(3))


def test_photographs_are_turned_as_their_camera_was_held(tmp_path):
    pil = pytest.importorskip("PIL.Image", reason="needs pillow")
    pixels = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    exif = pil.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of the picture
    pil.fromarray(pixels.numpy()).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(from_folder(tmp_path, mode="L").x[0, 0], pixels.rot90(-1))


def test_a_folder_never_loses_anything_unsaid(tree):
    pil = pytest.importorskip("PIL.Image", reason="needs pillow")
    victim = tree / "b" / "x.png"
    white = pil.new("RGBA", (5, 4), (255, 255, 255, 255))
    white.save(victim)
    assert len(from_folder(tree)) == 13  # opaque: nothing is lost
    glass = white.copy()
    glass.putpixel((0, 0), (9, 9, 9, 128))
    glass.save(victim)
    with pytest.raises(ValueError, match=r'x.png is transparent in part; take mode="RGBA"'):
        from_folder(tree)
    laid = from_folder(tree, transform=lambda im: pil.alpha_composite(white, im.convert("RGBA")))
    assert len(laid) == 13 and len(from_folder(tree, mode="RGBA")) == 13
    for image, message in (
        (pil.new("I;16", (5, 4)), r"x.png has more than eight bits a channel"),
        (pil.new("RGB", (7, 4)), r"x.png is 7×4, the first image 5×4; bring them to one size by transform"),
    ):
        image.save(victim)
        with pytest.raises(ValueError, match=message):
            from_folder(tree)
    whole = (tree / "b" / "deeper" / "01.PNG").read_bytes()
    for broken in (whole[: len(whole) // 2], b"no image"):
        victim.write_bytes(broken)
        with pytest.raises(ValueError, match=r"x.png cannot be read"):
            from_folder(tree)


def test_a_folder_that_is_none_is_refused(tree):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        from_folder(tree / "nowhere")
    with pytest.raises(ValueError, match="mode = 'F'"):
        from_folder(tree, mode="F")
    shutil.copy(tree / "a" / "deeper" / "00.PNG", tree / "loose.png")
    with pytest.raises(ValueError, match=r"holds both subfolders and images \(loose.png\)"):
        from_folder(tree)
    (tree / "loose.png").unlink()
    (tree / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no images"):
        from_folder(tree)


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
