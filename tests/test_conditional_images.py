"""The benchmark of images given what was measured of them: masks, conditions, the order of batches, coverage."""

from __future__ import annotations

import torch

from benchmarks import conditional_images
from benchmarks.conditional_training import STD, MeasuredImages, draw_masks, enlarge, reduce


def test_masks_leave_all_but_a_box_or_half_or_a_share_of_the_pixels() -> None:
    masks = draw_masks(300, 28, torch.Generator().manual_seed(0))[:, 0]
    hidden = ~masks
    down, right = hidden.any(2), hidden.any(1)
    full = (down[:, :, None] & right[:, None, :] == hidden).all((1, 2))  # what is hidden is a rectangle
    tall, wide = down.sum(1), right.sum(1)
    half = full & ((tall == 14) & (wide == 28) | (tall == 28) & (wide == 14))
    box = full & ~half
    sides = torch.cat([tall[box], wide[box]])
    assert (sides.min(), sides.max()) == (8, 20)
    assert all(60 < int(kind.sum()) < 140 for kind in (half, box, ~full))
    share = masks[~full].double().mean((1, 2))
    assert 0.05 < share.min() < 0.15 and 0.55 < share.max() < 0.65


def test_what_is_measured_of_test_images_are_conditions_as_in_training() -> None:
    x = torch.rand(3, *conditional_images.SHAPE) * 2 - 1
    for A in conditional_images.tasks().values():
        for name, value in conditional_images.as_conditions(A, A(x)).items():
            seen = ~value.isnan()
            expected = enlarge(reduce(x)) if name == "coarse" else x
            torch.testing.assert_close(value[seen], expected[seen])
            assert int(seen[0].sum()) == (784 if name == "coarse" else A(x).shape[1])


def test_each_image_comes_with_one_measurement_of_known_noise_and_batches_come_again() -> None:
    images = torch.rand(100, *conditional_images.SHAPE) * 2 - 1
    one, other = MeasuredImages(images, 25), MeasuredImages(images, 25)
    first = [batch for _ in range(2) for batch in one]
    for (x, cond), (y, again) in zip(first, [batch for _ in range(2) for batch in other], strict=True):
        assert torch.equal(x, y)
        for name in cond:
            torch.testing.assert_close(cond[name], again[name], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(first[0][0], first[4][0])
    coarse, known = (torch.cat([cond[name] for _, cond in first]) for name in ("coarse", "known"))
    x = torch.cat([x for x, _ in first])
    given = ~coarse.isnan().all((1, 2, 3))
    assert torch.equal(given, known.isnan().all((1, 2, 3))) and 0.3 < given.double().mean() < 0.7
    for noise in ((coarse - enlarge(reduce(x)))[given], (known - x)[~given]):
        noise = noise[~noise.isnan()].double()
        assert abs(noise.std() / STD - 1) < 0.05 and abs(noise.mean()) < 0.1 * STD


def test_samples_of_the_law_itself_cover_it_as_often_as_they_must() -> None:
    drawn = torch.randn(
        2000, conditional_images.DRAWS + 1, *conditional_images.SHAPE, generator=torch.Generator().manual_seed(0)
    )
    found = conditional_images.covers(drawn[:, 1:], drawn[:, 0])
    expected = (conditional_images.DRAWS - 1) / (conditional_images.DRAWS + 1)
    assert abs(found.value - expected) < 4 * found.stderr < 0.05
    narrow = conditional_images.covers(0.5 * drawn[:, 1:], drawn[:, 0])
    assert narrow.value < expected - 10 * narrow.stderr
