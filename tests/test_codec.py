"""Files of images: they are read as they were written, are as long as the discrete bound, and are refused elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

import sdegen
from sdegen import Codec, discrete_bits_per_dim
from sdegen.data import Dequantisation, Scaling
from sdegen.likelihood.chain import cell_edges
from sdegen.likelihood.container import MAGIC, Header, unpack
from sdegen.likelihood.reproducible import reproducible
from sdegen.likelihood.stack import BitStack

pytest.importorskip("constriction", reason="needs constriction")

LEVELS = Scaling(-1, 1, 17)
LAW = sdegen.GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.stack([torch.full((1, 4, 4), v) for v in (-0.5, 0.4)]), torch.tensor([0.02, 0.05])
)
EXACT = sdegen.Exact(sdegen.VP(), LAW)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(n: int, scaling: Scaling = LEVELS, seed: int = 0) -> Tensor:
    """Images of the law."""
    return scaling.inverse(LAW.sample(n, seeded(seed)), clip=True)


def network(scale: float = 0.3) -> Any:
    """A network that no training has made good, and its data's moments."""
    torch.manual_seed(0)
    net = sdegen.nets.UNet(1, (8,))
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=scale / max(1, weight[0].numel()) ** 0.5)
    model = sdegen.Model(net, sdegen.VP())
    model.moments = LAW.moments()
    return model


# --- the stack of bits ------------------------------------------------------------------------------------------------


def test_numbers_come_off_the_stack_as_they_went_on_it_however_improbable() -> None:
    random = np.random.default_rng(0)
    pool = random.integers(0, 2**32, 500, dtype=np.uint32)
    stack, history = BitStack(pool, raw=True), []
    for k in range(6):
        at, std = random.normal(size=40) * 300, random.uniform(1, 9, 40)
        stack.scramble((k,), 30)
        history.append((at, std, stack.pop(at, std, 400)))
        symbols = random.integers(-400, 401, 40)  # far from the means, most of them
        stack.push(symbols, at[::-1], std, 400)
        stack.push_bytes(symbols % 17, at[::-1] / 20, std, 17)
        history.append((at, std, symbols))
    stack = BitStack(stack.words())
    for k in reversed(range(6)):
        at, std, symbols = history[2 * k + 1]
        assert (stack.pop_bytes(at[::-1] / 20, std, 17) == symbols % 17).all()
        assert (stack.pop(at[::-1], std, 400) == symbols).all()
        stack.push(history[2 * k][2], at, std, 400)
        stack.scramble((k,), 30)
    assert np.array_equal(stack.words(), BitStack(pool, raw=True).words())


def test_a_number_takes_the_logarithm_of_its_probability() -> None:
    random = np.random.default_rng(0)
    at, std = random.normal(size=4000) * 5, random.uniform(0.5, 9, 4000)
    symbols = np.rint(at + std * random.normal(size=4000)).astype(np.int64)
    stack = BitStack(np.zeros(0, np.uint32))
    stack.push(symbols, at, std, 1000)
    bits = -np.log2(ndtr((symbols + 0.5 - at) / std) - ndtr((symbols - 0.5 - at) / std)).sum()
    assert 32 * stack.height == pytest.approx(bits, abs=64 + 1e-4 * bits)


def test_what_comes_off_a_scrambled_stack_has_the_law_it_is_drawn_by() -> None:
    stack, std = BitStack(np.zeros(3000, np.uint32), raw=True), np.full(4000, 5.0)
    stack.scramble((0,), 2000)
    gaps = stack.pop(np.full(4000, 0.3), std, 1000)[20:] - 0.3  # the first hold the two words in work
    assert abs(gaps.mean()) < 4 * 5 / 4000**0.5
    assert gaps.var() == pytest.approx(25 + 1 / 12, abs=4 * 25 * (2 / 4000) ** 0.5)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sde", "scaling"), [(sdegen.VP(), LEVELS), (sdegen.EDM(), Dequantisation(-1, 1, 17))], ids=["VP", "EDM"]
)
def test_images_are_read_as_they_were_written(sde: Any, scaling: Scaling) -> None:
    model = network()
    model.sde = sde
    images = drawn(4, scaling)
    images[0] = 0  # and what no model expects
    images[1] = scaling.levels - 1
    file = Codec(model, scaling, steps=3, batch=2).encode(images)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = Codec(copy.deepcopy(model), scaling, steps=3, batch=2)
        assert torch.equal(again.decode(file), images) and torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
    assert Codec(model, scaling, steps=3, batch=2).encode(images) == file


def test_learned_variances_are_coded_with() -> None:
    torch.manual_seed(0)
    model = sdegen.LearnedVariance(sdegen.nets.UNet(1, (8,), out_channels=2), sdegen.VP())
    model.moments = LAW.moments()
    codec = Codec(model, LEVELS, steps=4)
    assert torch.equal(codec.decode(codec.encode(drawn(3))), drawn(3))


@pytest.mark.slow
def test_a_file_is_as_long_as_the_bound() -> None:
    means = torch.stack([torch.full((1, 8, 8), v) for v in (-0.5, 0.4)])
    law = sdegen.GaussianMixture(torch.tensor([0.4, 0.6]), means, torch.tensor([0.02, 0.05]))
    model = sdegen.Exact(sdegen.VP(), law)
    images = LEVELS.inverse(law.sample(1000, seeded(0)), clip=True)
    codec = Codec(model, LEVELS, steps=15, batch=64)
    file = codec.encode(images)
    found = discrete_bits_per_dim(model, images, LEVELS, codec.times, draws=4, generator=seeded(1))
    bound, error = (images.numel() * v for v in (found.value.mean(), found.stderr.square().mean().sqrt() / 1000**0.5))
    assert error < 0.003 * bound
    assert -8 * error < 8 * len(file) - bound < 0.02 * bound
    assert torch.equal(codec.decode(file), images)


def test_the_first_image_alone_pays_for_bits_to_draw_from() -> None:
    codec = Codec(EXACT, LEVELS, steps=4, batch=8)
    sizes = [8 * len(codec.encode(drawn(n))) for n in (1, 41)]
    each = discrete_bits_per_dim(EXACT, drawn(41), LEVELS, codec.times, generator=seeded(0)).value.mean() * 16
    assert sizes[0] > each + 16 * 3
    assert sizes[1] - sizes[0] < 40 * each * 1.25


def test_coarse_latents_draw_on_fewer_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 1, 8, 8), 0.4), torch.tensor([0.05]))
    image, model = LEVELS.inverse(law.sample(1, seeded(0)), clip=True), sdegen.Exact(sdegen.VP(), law)
    bits = []
    for cells in (4, 1):
        monkeypatch.setattr("sdegen.likelihood.codec.COARSE", cells)
        codec = Codec(model, LEVELS, steps=30)
        bits.append(8 * len(codec.encode(image)))
        assert torch.equal(codec.decode(codec.encode(image)), image)
    assert bits[0] - bits[1] == pytest.approx(2 * 2 * 64, abs=64)  # two latents, each two bits finer for each number


def test_no_image_draws_on_more_bits_than_those_before_it_have_left() -> None:
    """But for the first, for which a file begins with some: so many go together, and so finely are their latents cut."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 1, 8, 8), 0.4), torch.tensor([0.05]))
    images, codec = (
        LEVELS.inverse(law.sample(30, seeded(0)), clip=True),
        Codec(sdegen.Exact(sdegen.VP(), law), LEVELS, steps=30),
    )
    alone, together = (unpack(codec.encode(images[:n]))[0] for n in (1, 30))
    assert abs(alone.kept - together.kept) < 3  # words
    assert max(size for _, size, _ in together.runs) > 4


def test_a_header_is_short() -> None:
    file = Codec(EXACT, LEVELS, steps=4).encode(drawn(100))
    assert len(file) - 4 * len(unpack(file)[1]) < 120


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(EXACT, LEVELS, steps=3)
    file = codec.encode(drawn(4))
    for wrong in (b"", b"PNG" + file, file[:9]):
        with pytest.raises(ValueError, match=r"do not begin as|damaged or cut off"):
            codec.decode(wrong)
    for place in (10, 20, len(file) // 2, len(file) - 1):
        hurt = bytearray(file)
        hurt[place] ^= 4
        with pytest.raises(ValueError, match="damaged or cut off"):
            codec.decode(bytes(hurt))
    with pytest.raises(ValueError, match="damaged or cut off"):
        codec.decode(file[:-4])
    other = sdegen.Exact(sdegen.VP(), sdegen.GaussianMixture(LAW.weights, LAW.means + 0.01, torch.tensor([0.02, 0.05])))
    with pytest.raises(ValueError, match="another model"):
        Codec(other, LEVELS, steps=3).decode(file)
    for settings in ({"steps": 4}, {"cells": 5}, {"batch": 4}):
        with pytest.raises(ValueError, match="other settings"):
            Codec(EXACT, LEVELS, **{"steps": 3, **settings}).decode(file)
    monkeypatch.setattr(torch, "__version__", "9.9")
    with pytest.raises(ValueError, match=r"written by torch 2.*here is torch 9\.9"):
        codec.decode(file)


def test_weights_tell_models_apart() -> None:
    model = network()
    file = Codec(model, LEVELS, steps=3).encode(drawn(1))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(ValueError, match="another model"):
        Codec(model, LEVELS, steps=3).decode(file)


class Drifting(sdegen.ScoreModel):
    """A score that is not the same when it is asked again."""

    calls = 0

    def __init__(self, model: sdegen.ScoreModel) -> None:
        self.model, self.sde, self.moments = model, model.sde, model.moments

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        type(self).calls += 1
        return self.model.score(x, t) * (1 + 1e-3 * self.calls)


def test_a_network_that_answers_otherwise_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(Drifting(EXACT), LEVELS, steps=3)
    file = codec.encode(drawn(4))
    with pytest.raises(ValueError, match="does not answer here as it did"):
        codec.decode(file)
    monkeypatch.setattr(
        Codec, "_probe", lambda self: unpack(file)[0].probe
    )  # so that only the end of the reading shows it
    with pytest.raises(ValueError, match="does not answer here as it did"):
        codec.decode(file)


def test_what_is_no_image_of_the_model_is_refused() -> None:
    codec = Codec(EXACT, LEVELS, steps=3)
    for wrong in (drawn(2)[0], drawn(2)[:0], drawn(2)[..., :3]):
        with pytest.raises(ValueError, match="give bytes"):
            codec.encode(wrong)
    with pytest.raises(TypeError, match="uint8"):
        codec.encode(drawn(2).float())
    with pytest.raises(ValueError, match="hold 40"):
        codec.encode(drawn(2) * 0 + 40)
    with pytest.raises(TypeError, match="not scalar"):
        Codec(sdegen.Exact(sdegen.CLD(), LAW), LEVELS)


def test_bounds_end_where_a_process_has_more_noise_than_two_steps_between_bytes() -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 3), 0.5), torch.tensor([0.05]))
    images = torch.tensor([[100, 130, 90]], dtype=torch.uint8)
    sde = sdegen.VE()
    assert not sde.snr(0.0) > (2 / 255) ** -2
    found = discrete_bits_per_dim(sdegen.Exact(sde, law), images, Scaling(0, 1), 5, generator=seeded(0))
    assert found.value.isfinite().all()


def test_a_cell_is_that_of_the_byte_wherever_in_it_a_number_lies() -> None:
    scaling = Dequantisation(-1, 1, 17)
    images = torch.arange(17, dtype=torch.uint8)[None]
    noisy = scaling(images, torch.float64, seeded(0))
    for found, expected in zip(cell_edges(noisy, scaling), cell_edges(scaling.middles(images), scaling), strict=True):
        torch.testing.assert_close(found, expected)


def test_too_many_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="256 at most"):
        Codec(EXACT, LEVELS, cells=2**18)


def test_a_file_of_a_head_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="damaged or cut off"):
        unpack(MAGIC + bytes(4))


def test_images_are_written_in_full_precision_under_an_autocast() -> None:
    model, images = network(), drawn(2)
    file = Codec(model, LEVELS, steps=2).encode(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert Codec(model, LEVELS, steps=2).decode(file).equal(images)
    short = torch.backends.cudnn.allow_tf32
    with reproducible():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == short


def test_other_versions_are_named_before_another_model_is() -> None:
    header = Header(["torch 1"], ("a", "b"), "", [], 0)
    with pytest.raises(ValueError, match="written by torch 1, and here is torch 2"):
        header.compare(["torch 2"], ("c", "b"))
