"""The bound of a discrete chain that generates bytes, against what bytes cost."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr, ndtr
from torch import Tensor

import sdegen
from sdegen import Codec, discrete_bits_per_dim
from sdegen.data import Scaling
from sdegen.laws import Units
from sdegen.likelihood.bits import byte_times

LEVELS = Scaling(-1, 1, 17)
LAW = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 4, 4), torch.full((1,), 0.1))
EXACT = sdegen.Exact(sdegen.VP(), LAW)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(n: int) -> Tensor:
    """Images of the law."""
    return LEVELS.inverse(LAW.sample(n, seeded(0)), clip=True)


def test_the_bound_closes_in_on_what_bytes_cost() -> None:
    # A Gaussian cut into cells, the outermost reaching to infinity: its mass is known.
    scaling, std, sde = Scaling(-1, 1, 33), 0.3, sdegen.VP()
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1,), std**2))
    images = scaling.inverse(law.sample(300, seeded(0)), clip=True)
    x = images.double().numpy() / 16 - 1
    truth = torch.from_numpy(-np.log2(ndtr((x + 1 / 32) / std) - ndtr((x - 1 / 32) / std)))[:, 0]
    model = sdegen.Exact(sde, law)
    gaps = []
    for steps in (10, 40):
        found = discrete_bits_per_dim(
            model, images, scaling, steps, draws=4, prior=sde.diffused(law, sde.T), generator=seeded(1)
        )
        gap = found.value - truth
        gaps.append(gap.mean().item())
        assert gap.mean() > -4 * found.stderr.square().mean().sqrt() / 300**0.5
    # What is left with many steps: the last step spreads a byte by the noise of x_1, though less is known to be there.
    assert gaps[1] < gaps[0] and gaps[1] < 0.6


def test_the_bound_of_fine_cells_is_that_of_the_density() -> None:
    scaling = Scaling(-3, 3)
    model = sdegen.Exact(sdegen.VP(), sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.5)))
    u = torch.randint(60, 190, (500, 2), generator=seeded(0), dtype=torch.uint8)
    x, t = scaling(u, torch.float64), torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64)
    mass = discrete_bits_per_dim(model, u, scaling, t, generator=seeded(1)).value
    density = sdegen.discrete_elbo(model, x, t, generator=seeded(1)).value
    assert torch.allclose(mass, scaling.bits_per_dim(density, 2), atol=2e-3)


def test_the_bound_is_finite_far_from_what_the_model_expects() -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 1), 1.0), torch.full((1,), 1e-6))
    images = torch.tensor([[0], [3], [255]], dtype=torch.uint8)
    found = discrete_bits_per_dim(sdegen.Exact(sdegen.VP(), law), images, steps=3, generator=seeded(0))
    assert found.value.isfinite().all() and found.stderr.isnan().all() and found.evaluations == 3
    # A step from white to the second darkest is as far as it is: its last term alone is that of a tail.
    x, sigma = 1 - 3 / 127.5, 2 * 2 / 255
    assert found.value[1] * math.log(2) > 0.4 * -log_ndtr(-x / sigma)


@pytest.mark.parametrize("units", [Units(), Units(0.4, 0.5), Units(-1.0, 3.0)])
def test_chains_of_bytes_end_with_the_noise_of_two_steps_between_them(units: Units) -> None:
    sde = sdegen.VP().in_units(units)
    for levels in (17, 256):
        scaling = Scaling(-1, 1, levels)
        end = byte_times(sdegen.Exact(sde, LAW), scaling, 10)[-1]
        noise = units.scale * (-0.5 * sde.log_snr(end)).exp()  # of a byte, in its own units
        assert noise.item() == pytest.approx(2 * scaling.step, rel=1e-6)
    given = torch.tensor([0.5, 0.1], requires_grad=True)
    found = byte_times(sdegen.Exact(sde, LAW), Scaling(-1, 1), given)
    assert found.tolist() == given.tolist() and found.dtype == torch.float64 and not found.requires_grad


def test_a_label_saves_what_it_tells() -> None:
    # Two laws far apart: of an image the label is known, and the marginal pays for it once.
    laws = [sdegen.GaussianMixture(torch.ones(1), torch.full((1, 4), m), torch.full((1,), 0.01)) for m in (-0.6, 0.6)]
    both = sdegen.GaussianMixture(
        torch.tensor([0.25, 0.75]), torch.tensor([[-0.6] * 4, [0.6] * 4]), torch.full((2,), 0.01)
    )
    model = sdegen.ExactConditional(sdegen.VP(), laws, both)
    label = (torch.rand(200, generator=seeded(0)) < 0.75).long()
    x = torch.where(label[:, None] == 0, laws[0].sample(200, seeded(1)), laws[1].sample(200, seeded(2)))
    images = LEVELS.inverse(x, clip=True)
    given, plain = (
        4 * discrete_bits_per_dim(model, images, LEVELS, 30, draws=4, generator=seeded(3), **cond).value.mean().item()
        for cond in ({"label": label}, {})
    )
    told = -torch.tensor([0.25, 0.75])[label].log2().mean()
    assert 0.95 * told < plain - given < 1.5 * told  # a chain of few steps pays more for it


class NonLinear(sdegen.ScoreModel):
    """A score of a process that is not linear."""

    sde = sdegen.DoubleWell()

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        return -x


def test_the_bound_refuses_what_are_no_bytes_of_its_scaling() -> None:
    with pytest.raises(TypeError, match="uint8"):
        discrete_bits_per_dim(EXACT, drawn(2).float(), LEVELS)
    with pytest.raises(ValueError, match="hold 20"):
        discrete_bits_per_dim(EXACT, drawn(2) * 0 + 20, LEVELS)
    with pytest.raises(TypeError, match=r"sdegen\.bits_per_dim"):
        discrete_bits_per_dim(NonLinear(), drawn(2), LEVELS)


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match=r"pip install sdegen\[codec\]"):
        Codec(EXACT, LEVELS, steps=3).encode(drawn(1))
