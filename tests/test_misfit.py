"""The test of samples against what was measured: how often it warns of right ones, and of wrong ones."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import sdegen
from sdegen.guidance import (
    DPS,
    Clipped,
    KalmanUpdate,
    MomentMatching,
    PiGDM,
    Replacement,
    decoupled_annealing,
    find_misfit,
    split_gibbs,
)
from sdegen.guidance.measurements import (
    BernoulliNoise,
    GaussianNoise,
    LaplaceNoise,
    Linear,
    Mask,
    NoiseLaw,
    Nonlinear,
    PoissonNoise,
    StudentNoise,
    mixture_posterior,
)
from sdegen.models.wrapper import Conditioned
from sdegen.samplers import ExponentialSDE, Multistep

RING = sdegen.data.gaussian_ring()
EXACT = sdegen.Exact(sdegen.VP(), RING)
A = Linear(torch.tensor([[0.6, 0.8]], dtype=torch.float64), 0.1)
WRONG = r"of the samples fit y worse than noise does in 199 of 200 draws, by .* nats a number"


@pytest.mark.parametrize(
    "noise",
    [GaussianNoise(0.3), LaplaceNoise(0.3), StudentNoise(3.0, 0.3), PoissonNoise(), BernoulliNoise()],
    ids=lambda noise: type(noise).__name__,
)
def test_data_themselves_are_found_wrong_as_often_as_is_said(noise: NoiseLaw) -> None:
    """A datum is a draw of its own posterior: of numbers one in 200 is beyond 199 others, of counts and answers fewer."""
    operator = Nonlinear(lambda x: 1 + x.square(), noise)
    x = RING.sample(64 * 40, torch.Generator().manual_seed(0))
    y = operator.sample(x, torch.Generator().manual_seed(1))
    found = [find_misfit(operator, y[i::40], x[i::40]) for i in range(40)]
    count = sum(64 * misfit.share for misfit in found)
    assert count < 12.8 + 4 * 12.8**0.5
    if not isinstance(noise, (PoissonNoise, BernoulliNoise)):
        assert count > 12.8 - 3 * 12.8**0.5
    closer = sum(64 * misfit.closer for misfit in found)
    assert closer < 12.8 + 4 * 12.8**0.5
    if isinstance(noise, StudentNoise):  # of one number the likelihood of a small residual is hardly below its largest
        assert closer > 12.8 - 3 * 12.8**0.5
    assert abs(sum(misfit.nats for misfit in found) / 40) < 0.5  # medians
    assert not any(misfit.wrong or misfit.narrow for misfit in found)


def test_residuals_are_found_wrong_from_a_known_size_on() -> None:
    """Of 40 numbers with residuals of `r` standard deviations, half of ``r² − 1`` nats a number are missing."""
    operator, x = Nonlinear(lambda x: x, 2.0), torch.zeros(30, 40, dtype=torch.float64)
    for r, wrong in ((1.2, False), (1.3, False), (1.6, True), (4.0, True)):
        misfit = find_misfit(operator, torch.full((40,), 2.0 * r), x)
        assert abs(misfit.nats - 0.5 * (r**2 - 1)) < 0.05 and misfit.wrong == wrong
    for r, narrow in ((0.0, True), (0.4, True), (0.8, False), (1.2, False)):
        misfit = find_misfit(operator, torch.full((40,), 2.0 * r), x)
        assert misfit.narrow == narrow and not misfit.wrong


def problems(n: int) -> list[Any]:
    """Measurements of drawn data, precise and not: y, the measurement and its exact posterior."""
    found = []
    for seed in range(n):
        generator = torch.Generator().manual_seed(seed)
        B = Linear(torch.randn(2, 2, dtype=torch.float64, generator=generator), (0.05, 0.5, 2.0)[seed % 3])
        y = B.sample(RING.sample(1, generator), generator)[0]
        found.append((y, B, mixture_posterior(RING, B, y)))
    return found


def test_samples_of_the_posterior_are_right() -> None:
    right = [find_misfit(B, y, law.sample(64)) for y, B, law in problems(30)]
    assert not any(misfit.wrong or misfit.narrow for misfit in right)
    far = [
        find_misfit(B, y, law.sample(64) + 5 * B.std * B.transpose(B.A.new_ones(64, 2), torch.Size([2])))
        for y, B, law in problems(30)
    ]
    assert sum(misfit.wrong for misfit in far) > 25


def test_runs_tell_of_samples_that_do_not_fit() -> None:
    y = torch.tensor([2.5], dtype=torch.float64)
    short: dict[str, Any] = {"sampler": Multistep(6), "seed": 0, "y": y}
    with pytest.warns(UserWarning, match=WRONG) as told:
        sdegen.sample(DPS(EXACT, A), 50, **short)
    assert len(told) == 1 and told[0].filename == __file__
    with pytest.warns(UserWarning, match=WRONG):
        sdegen.sample(Clipped(DPS(EXACT, A), -9, 9), 50, return_path=True, **short)
    with pytest.warns(UserWarning, match=WRONG):
        sdegen.sample(Conditioned(DPS(EXACT, A), y=y), 50, sampler=Multistep(6), seed=0)
    rows = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None]
    with pytest.warns(UserWarning, match=WRONG):
        sdegen.sample(DPS(EXACT, A), 50, **short | {"y": rows}, part=(1, 2), batch=7)
    with pytest.warns(UserWarning, match=WRONG):
        split_gibbs(EXACT, A, 50, y=y, levels=[9.0], steps=3, seed=0)


def test_runs_that_fit_tell_of_nothing() -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.ones(1))
    rows = torch.linspace(-3, 3, 20, dtype=torch.float64)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for wrapper in (PiGDM, MomentMatching):
            sdegen.sample(wrapper(sdegen.Exact(sdegen.VP(), law), A), 20, sampler=ExponentialSDE(5), seed=0, y=rows)
        decoupled_annealing(EXACT, A, 20, y=rows, levels=4, steps=3, seed=0)
        whole = Mask(torch.ones(30, dtype=torch.bool), 0.1)
        Replacement(EXACT, whole).examine(torch.zeros(20, 30), y=torch.zeros(30))  # which it is to meet without noise


@pytest.mark.parametrize("wrapper", [PiGDM, MomentMatching, KalmanUpdate])
def test_runs_whose_steps_pass_over_the_noise_of_a_precise_measurement_tell_of_it(wrapper: Any) -> None:
    """The law is Gaussian, so that all three are exact but for their steps."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 30), torch.ones(1))
    model = wrapper(sdegen.Exact(sdegen.VP(), law), Mask(torch.ones(30, dtype=torch.bool), 3e-4))
    how: dict[str, Any] = {"seed": 0, "y": law.sample(1, torch.Generator().manual_seed(0))[0]}
    with pytest.warns(
        UserWarning, match="of the samples fit y better than noise does in 199 of 200 draws, by .* give the sampler"
    ):
        sdegen.sample(model, 20, sampler=ExponentialSDE(10), **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x = sdegen.sample(model, 20, sampler=ExponentialSDE(30, grid=sdegen.grids.LogSNR(end=1e-9)), **how)
    assert abs((x - how["y"]).std() / 3e-4 - 1) < 0.15


def test_a_sample_that_noise_has_no_law_for_is_let_through() -> None:
    """Its rate is negative where no step of the run has been."""
    rate = Nonlinear(lambda x: torch.where(x < 50, x.exp(), -x), PoissonNoise())
    x = torch.full((3, 1), 60.0)
    with pytest.raises(ValueError, match="has a rate of -60"):
        find_misfit(rate, torch.ones(1), x)
    one = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    PiGDM(sdegen.Exact(sdegen.VP(), one), rate).examine(x, y=torch.ones(1))
