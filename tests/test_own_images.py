"""Images of the user's own: arrays, data sets and folders."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from sdegen.data import (
    Dequantisation,
    Scaling,
    from_arrays,
    from_dataset,
    from_folder,
    save_pngs,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SDEGEN_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    return tmp_path


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


def test_images_whose_channels_come_last_are_told_of():
    x = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    with pytest.warns(UserWarning, match="8 channels and 8×3 pixels; .* channels_last=True"):
        from_arrays(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_arrays(x, channels_last=True), from_arrays(x.permute(0, 3, 1, 2)), from_arrays(x[..., 0])


def test_an_archive_of_arrays_is_refused_by_their_names(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.zeros(2))
    with np.load(tmp_path / "x.npz") as held, pytest.raises(TypeError, match=r"images, labels; .*numpy.load\(path\)"):
        from_arrays(held)


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
        ([(torch.zeros(1, 2, 2).byte(), 0.5)], TypeError, r"labels has dtype torch.float64; give whole numbers"),
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_no_images_at_all_are_not_saved(dtype, tmp_path):
    with pytest.raises(ValueError, match=r"^images have shape \(0, 3, 4, 5\)"):
        save_pngs(torch.zeros(0, 3, 4, 5, dtype=dtype), tmp_path)
