"""Images as files hold the bytes that were given; mirrored ones are a law of their own; ranges that differ are told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import sdegen
from sdegen import metrics
from sdegen.data import Images, Scaling, Source, save_pngs
from sdegen.laws import moments_of


def read(path):
    return torch.from_numpy(np.asarray(Image.open(path)).copy())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("given", ["bytes", "numbers", "images"])
def test_a_picture_holds_the_bytes_that_were_given(channels, given, tmp_path, generator):
    u = torch.randint(256, (12, channels, 5, 7), generator=generator).to(torch.uint8)
    x = {"bytes": u, "numbers": Scaling(-1, 1)(u), "images": Images(u)}[given]
    low = -1.0 if given == "numbers" else 0.0
    paths = save_pngs(x, tmp_path / "new", low, 1.0)
    assert [path.name for path in paths] == [f"{i:04d}.png" for i in range(12)]
    assert sorted((tmp_path / "new").iterdir()) == paths  # and nothing that was half written
    for path, image in zip(paths, u, strict=True):
        found = read(path)
        assert torch.equal(found[None] if channels == 1 else found.permute(2, 0, 1), image)


def test_levels_are_spread_over_those_of_a_byte(tmp_path):
    images = Images(torch.arange(17, dtype=torch.uint8).reshape(1, 1, 1, 17), levels=17)
    (path,) = save_pngs(images, tmp_path)
    assert read(path)[0].tolist() == [round(k * 255 / 16) for k in range(17)]


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (torch.full((1, 1, 2, 2), 1.01), ValueError, r"values from 1\.01 to 1\.01, beyond \[0, 1\]; say the range"),
        (torch.full((1, 1, 2, 2), torch.nan), ValueError, r"beyond \[0, 1\]"),
        (torch.zeros(1, 2, 2, 2), ValueError, r"shape \(1, 2, 2, 2\); expected \(N, 1, H, W\)"),
        (torch.zeros(0, 1, 2, 2), ValueError, r"shape \(0, 1, 2, 2\)"),
        (torch.zeros(1, 1, 2, 2).long(), TypeError, r"dtype torch\.int64; give numbers from low to high, or bytes"),
    ],
    ids=["outside", "nan", "channels", "none", "whole numbers"],
)
def test_what_is_no_image_is_refused_and_nothing_written(x, error, says, tmp_path):
    with pytest.raises(error, match=says):
        save_pngs(x, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "new").write_text("")
    with pytest.raises(ValueError, match=r"new is a file; give a folder"):
        save_pngs(torch.zeros(1, 1, 2, 2), tmp_path / "new")


# --- flips ------------------------------------------------------------------------------------------------------------


def arrows(shape=(1, 4, 4), n=30):
    generator = torch.Generator().manual_seed(0)
    u = torch.randint(200, (n, *shape), generator=generator)
    u[..., 0] = 255  # the left edge is known from the right
    return Images(u.to(torch.uint8), torch.arange(n) % 2, ("a", "b"))


def test_every_pass_mirrors_other_images_and_keeps_labels(device, dtype):
    images = arrows()
    source = Source(images.scaled(0, 1).flipped(), dtype, device)
    plain = images.scaled(0, 1).rows(dtype=dtype).to(device)
    batches = source.batches(30, torch.Generator().manual_seed(1))
    seen = []
    for _ in range(40):
        x, cond = next(batches)
        mirrored = torch.empty(30, dtype=torch.bool)
        for row, label in zip(x, cond["label"], strict=True):
            same, other = ((v == row).flatten(1).all(1) for v in (plain, plain.flip(-1)))
            which = int((same | other).nonzero())
            assert images.labels[which] == label and bool(same[which]) != bool(other[which])
            mirrored[which] = bool(other[which])
        seen.append(mirrored)
    seen = torch.stack(seen).double()
    assert abs(seen.mean().item() - 0.5) < 4 * 0.5 / 1200**0.5
    # Whether an image is mirrored says nothing of the next pass.
    assert abs(((seen[1:] - 0.5) * (seen[:-1] - 0.5)).mean().item()) < 4 * 0.25 / 1170**0.5


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 6, 8)])
@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_moments_are_those_of_images_and_mirror_images(shape, p):
    images = arrows(shape)
    x = images.scaled(-1, 1).rows(dtype=torch.float64)
    found = images.scaled(-1, 1).flipped(p).moments()
    many = torch.cat([x] * round(4 * (1 - p)) + [x.flip(-1)] * round(4 * p))
    torch.testing.assert_close(found.mean, moments_of(many).mean)
    torch.testing.assert_close(found.covariance, moments_of(many).covariance)


def test_no_flips_draw_no_number():
    images = arrows()
    generator = torch.Generator().manual_seed(1)
    images.scaled(0, 1).rows(generator=generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())
    with pytest.raises(ValueError, match=r"flips = 1\.5; it must be a probability"):
        images.scaled(0, 1).flipped(1.5)


# --- metrics of images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [metrics.fid, metrics.kid, metrics.precision_recall])
def test_metrics_take_images_with_their_scaling(metric):
    real, made = sdegen.data.digits().split(0.5, seed=0)
    net = metrics.features("digits-cnn-v1")
    one = metric(made.scaled(0, 1), real.scaled(0, 1), net, batch_size=300)
    other = metric(made.scaled(0, 1).rows(), real.scaled(0, 1).rows(), net)
    for a, b in zip(one, other, strict=True):
        assert torch.as_tensor(a).tolist() == pytest.approx(torch.as_tensor(b).tolist(), rel=1e-4)


plain_net = lambda x: x.flatten(1)[:, :3]


@pytest.mark.parametrize("metric", [metrics.fid, metrics.kid, metrics.density_coverage])
def test_ranges_that_differ_are_told(metric, generator):
    x, y = torch.rand(2, 40, 1, 4, 4, generator=generator)
    with pytest.warns(
        UserWarning, match=r"generated images lie in \[-0\.9\S*, 0\.9\S*\], real ones in \[\S+, 0\.9\S*\]: if they"
    ):
        metric(2 * x - 1, y, plain_net)
    with pytest.warns(UserWarning, match="scaled differently"):
        metric(x, 255 * y, plain_net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(1.2 * (2 * x - 1), 2 * y - 1, plain_net)  # a sampler overshoots
        metric(2 * x.flatten(1)[:, :3] - 1, y.flatten(1)[:, :3])  # these are no images
