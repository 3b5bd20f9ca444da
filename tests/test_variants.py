"""Published variants of guidance: what they are made of, and where they are the guidance that they vary."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from labelled import SDES, Two, states
from torch import Tensor

import sdegen
from sdegen.guidance import APG, CFGPlusPlus, CFGZeroStar, ClassifierFree
from sdegen.models import Conditioned
from sdegen.samplers import DDIM, sample
from sdegen.testing import check_model

RING = sdegen.data.gaussian_ring()
MODES = [sdegen.GaussianMixture(torch.ones(1), m[None], torch.tensor([0.25])) for m in RING.means]
LABELLED = sdegen.ExactConditional(sdegen.VP(), MODES, RING)
TIMES = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
NAMED = pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)


@pytest.mark.turns("DDPM")
@NAMED
def test_readings_of_every_variant_agree(sde: Any) -> None:
    inner = Two(sde)
    models: list[sdegen.ScoreModel] = [APG(inner, 3.0, radius=0.5)]
    if sdegen.processes.scalar.is_scalar(sde):
        models += [CFGPlusPlus(inner, 0.6, TIMES * sde.T), CFGZeroStar(inner, 3.0, rest=0.7 * sde.T)]
    for model in models:
        assert check_model(Conditioned(model, label=0)).passed


def test_a_scale_of_one_is_the_conditional_law() -> None:
    sampler = DDIM(12)
    want = sample(LABELLED, 5, sampler=sampler, seed=0, label=2)
    for model in (APG(LABELLED, 1.0), CFGZeroStar(LABELLED, 1.0)):
        torch.testing.assert_close(sample(model, 5, sampler=sampler, seed=0, label=2), want, rtol=1e-9, atol=1e-9)


def test_without_a_projection_and_a_bound_it_is_classifier_free_guidance() -> None:
    x, t = states(LABELLED.sde)
    got = APG(LABELLED, 3.0, parallel=1.0).estimate(x[:, :2], t, label=1)
    torch.testing.assert_close(got, ClassifierFree(LABELLED, 3.0).estimate(x[:, :2], t, label=1))


@pytest.mark.parametrize("radius", [0.05, 1.0, torch.inf])
@pytest.mark.parametrize("parallel", [0.0, 1.0])
def test_projected_guidance_has_the_derivatives_of_its_values(radius: float, parallel: float) -> None:
    x = RING.sample(20, torch.Generator().manual_seed(0))
    v = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for label in (1, -1):  # of which the second is no class, so that nothing is added
        model = APG(LABELLED, 3.0, radius=radius, parallel=parallel, null={"label": -1})
        where = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad((model.denoise(where, 0.4, label=label) * v).sum(), where)
        up, down = (model.denoise(x + e * v, 0.4, label=label) for e in (1e-6, -1e-6))
        want = ((up - down) * v).sum(1) / 2e-6
        torch.testing.assert_close((slope * v).sum(1), want, rtol=1e-4, atol=1e-5)


def test_projected_guidance_is_square_to_the_prediction_and_no_longer_than_its_bound() -> None:
    x = RING.sample(20, torch.Generator().manual_seed(0))
    given = LABELLED.denoise(x, 0.4, label=1)
    change = APG(LABELLED, 3.0).denoise(x, 0.4, label=1) - given
    torch.testing.assert_close((change * given).sum(1), torch.zeros(20, dtype=torch.float64), rtol=0, atol=1e-9)
    assert change.norm(dim=1).max() > 0.1
    bounded = APG(LABELLED, 3.0, radius=0.05, parallel=1.0).denoise(x, 0.4, label=1) - given
    whole = ClassifierFree(LABELLED, 3.0).denoise(x, 0.4, label=1) - given
    torch.testing.assert_close(bounded.norm(dim=1), whole.norm(dim=1).clamp_max(0.1))


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM()])
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_of_cfg_plus_plus_keep_the_noise_without_condition(
    sde: sdegen.LinearSDE, steps: int, dtype: torch.dtype
) -> None:
    labelled, sampler, scale = sdegen.ExactConditional(sde, MODES, RING), DDIM(steps), 0.6
    times = sampler.times(sde, denoise=True)
    model = CFGPlusPlus(labelled, scale, times.to(dtype))
    x = sde.prior(RING.moments()).sample(4, torch.Generator().manual_seed(0))
    got = sample(model, sampler=sampler, x_T=x, seed=0, label=2)
    for t, s in zip(times, [*times[1:], None]):
        (given, _), (null, eps) = labelled.estimate(x, t, label=2), labelled.estimate(x, t)
        data = null + scale * (given - null)
        at = None if s is None else sde.marginal(s)
        x = data if at is None else at.Phi(data) + at.R(eps)
    tolerance = 1e-7 if dtype == torch.float64 else 1e-5  # of the times
    torch.testing.assert_close(got, x, rtol=tolerance, atol=tolerance)


def straight_law(x: Tensor, t: float, label: int | None) -> Tensor:
    """The velocity ``E[z − x_0 | x]`` of the paths ``(1 − t) x_0 + t z``, by the Gaussian or the mixture itself."""
    law = RING if label is None else MODES[label]
    apart = x[:, None] - (1 - t) * law.means
    share = (RING.weights.log() - apart.square().sum(2) / (2 * (0.25 * (1 - t) ** 2 + t**2))).softmax(1)
    if label is not None:
        share = torch.ones(len(x), 1, dtype=torch.float64)
    of_each = (t - 0.25 * (1 - t)) / (0.25 * (1 - t) ** 2 + t**2) * apart - law.means
    return (share[..., None] * of_each).sum(1)


def test_the_velocity_of_straight_paths_without_condition_is_scaled_to_be_nearest() -> None:
    labelled = sdegen.ExactConditional(sdegen.Rectified(), MODES, RING)
    x, t = RING.sample(20, torch.Generator().manual_seed(0)), 0.4
    given, null = straight_law(x, t, 1), straight_law(x, t, None)
    fitted = torch.stack(
        [null[i] * torch.linalg.lstsq(null[i, :, None], given[i, :, None]).solution for i in range(20)]
    ).reshape(20, 2)
    data, noise = CFGZeroStar(labelled, 3.0).estimate(x, t, label=1)
    torch.testing.assert_close(noise - data, fitted + 3.0 * (given - fitted))
    torch.testing.assert_close((1 - t) * data + t * noise, x)


def test_nothing_moves_early_in_a_run() -> None:
    model = CFGZeroStar(sdegen.ExactConditional(sdegen.Rectified(), MODES, RING), 3.0, rest=0.5)
    x = RING.sample(3, torch.Generator().manual_seed(0))
    path = sample(model, x_T=x, sampler=DDIM(8), return_path=True, seed=0, label=1)
    times = DDIM(8).times(model.sde, denoise=True)
    for t, before, after in zip(times, path, path[1:]):
        assert torch.allclose(before, after, rtol=1e-9) == (t.item() > 0.5)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="radius = 0"):
        APG(LABELLED, 2.0, radius=0.0)
    for times in (TIMES.flip(0), TIMES[:0], TIMES + 0.5, TIMES - 0.5):
        with pytest.raises(ValueError, match="which fall within"):
            CFGPlusPlus(LABELLED, 0.5, times)
    with pytest.raises(TypeError, match="is not scalar"):
        CFGPlusPlus(Two(sdegen.CLD()), 0.5, TIMES)
    with pytest.raises(TypeError, match="are not straight"):
        CFGZeroStar(Two(sdegen.CLD()), 2.0)
    for rest in (0.0, 3.0):  # of a run that never moves, and of no process
        with pytest.raises(ValueError, match=f"rest = {rest:g}"):
            CFGZeroStar(LABELLED, 2.0, rest=rest)
    with pytest.raises(ValueError, match="scale"):
        APG(LABELLED, math.nan)
