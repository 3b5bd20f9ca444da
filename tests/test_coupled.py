"""Processes whose drift couples coordinates of one shape: sampled, trained, judged and checked without a made-up state; and
attributes that could not be those of a process.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import GaussianMixture, losses, nets, samplers, weightings
from sdegen.testing import check_sde, sde_cases


class Turning(sdegen.SDE):
    """``dx = (S − ½) x dt + g dw`` with a small random antisymmetric `S`: it relaxes to N(0, g²), and knows one shape alone."""

    T = 8.0

    def __init__(self, d: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        S = torch.randn(d, d, dtype=torch.float64, generator=generator)
        self.A = 0.2 * (S - S.T) - 0.5 * torch.eye(d, dtype=torch.float64)
        self.g = 0.5 + torch.rand((), dtype=torch.float64, generator=generator).item()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ self.A.T.to(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        x @ self.A.T.to(x)  # no other shape will do
        return torch.tensor(self.g).double()

    def prior(self, moments: sdegen.Moments) -> GaussianMixture:
        return GaussianMixture(torch.ones(1), torch.zeros(1, len(self.A)), torch.tensor([self.g**2]))


class Known(sdegen.ScoreModel):
    """The score of data N(0, v) under `Turning`, whose law stays isotropic."""

    def __init__(self, sde: Turning, v: float) -> None:
        self.sde, self.v, self.g = sde, v, sde.g
        d = len(sde.A)
        self.moments = sdegen.Moments(torch.zeros(d).double(), v * torch.eye(d).double())

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        left = torch.exp(-torch.as_tensor(t, dtype=torch.float64))
        variance = self.v * left + self.g**2 * (1 - left)
        return -x / (variance[:, None] if variance.ndim else variance)


DRAWS = [(d, seed) for d in (2, 3, 5) for seed in range(2)]


@pytest.mark.thinned(2)
@pytest.mark.turns("5-1", "3-1")
@pytest.mark.parametrize(("d", "seed"), DRAWS)
def test_every_sampler_of_nonlinear_processes_runs_on_states_of_their_shape(d: int, seed: int) -> None:
    sde = Turning(d, seed)
    model = Known(sde, 0.3)
    n = 2000
    for sampler, error in (
        (None, 0.05),  # the default
        (samplers.Heun(60), 0.05),
        (samplers.PredictorCorrector(samplers.EulerMaruyama(200)), 0.1),
    ):
        x = sdegen.sample(model, n, sampler=sampler, seed=0)
        assert x.mean(0).abs().max() < 5 * (0.3 / n) ** 0.5
        assert abs(x.var(0).mean().item() / 0.3 - 1) < error + 5 * (2 / (n * d)) ** 0.5
    x = sdegen.sample(model, sampler=samplers.Langevin(3, t=1.0), x_T=torch.randn(50, d).double())
    assert x.shape == (50, d)
    x = torch.randn(5, d, dtype=torch.float64)
    law = GaussianMixture(torch.ones(1), torch.zeros(1, d), torch.tensor([0.3]))
    torch.testing.assert_close(sdegen.log_prob(model, x), law.log_prob(x), rtol=0, atol=0.02)


@pytest.mark.parametrize(("d", "seed"), DRAWS[::2])
@pytest.mark.parametrize("weighting", [weightings.LikelihoodWeighting(), weightings.InverseVarianceWeighting()])
def test_losses_weigh_states_of_their_shape(d: int, seed: int, weighting: weightings.Weighting) -> None:
    """The operator is ``G``, or ``G √t``, whatever the shape that the process knows."""
    sde = Turning(d, seed)
    perturbed = sde.perturb(torch.randn(6, d, dtype=torch.float64), torch.linspace(0.5, 4.0, 6))
    W = weighting.operator(sde, perturbed.at).matrix().reshape(-1)
    root = perturbed.at.t.sqrt() if isinstance(weighting, weightings.InverseVarianceWeighting) else torch.ones(1)
    torch.testing.assert_close(W.expand(6), (sde.g * root).double().expand(6))
    model = sdegen.DirectModel(nets.MLP(d, width=8, depth=1), sde)
    assert losses.Denoising(weighting)(model, torch.randn(6, d)).isfinite().all()


@pytest.mark.slow
def test_laws_are_checked_on_data_of_the_shape_that_a_process_knows() -> None:
    sde, x = Turning(3, 0), 0.5 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    assert not check_sde(sde).passed
    report = check_sde(sde, data=x)
    assert report.passed, report
    for case in sde_cases(sde, data=x)[:4]:
        case.values[0]()

    class Wrong(Turning):
        def prior(self, moments: sdegen.Moments) -> GaussianMixture:
            return GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.tensor([1.3 * self.g**2]))

    assert check_sde(Wrong(3, 0), data=x).failures == ["prior_is_the_law_at_T"]


class Mine(sdegen.ScalarSDE):
    def f(self, t: Tensor) -> Tensor:
        return -t

    def g(self, t: Tensor) -> Tensor:
        return 1 + 0 * t


class Turned(sdegen.MatrixSDE):
    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0], [-1.0, -2.0]]).double()

    def G(self, t: Tensor) -> Tensor:
        return torch.eye(2).double()


NONE = {
    "T = -1": (Mine, "T", -1.0, r"Mine\.T = -1"),
    "T = 0": (Mine, "T", 0, r"Mine\.T = 0"),
    "T = nan": (Mine, "T", float("nan"), r"Mine\.T"),
    "T = inf": (Mine, "T", float("inf"), r"Mine\.T"),
    "T = word": (Mine, "T", "1", r"Mine\.T"),
    "T = None": (Mine, "T", None, r"Mine\.T"),
    "sigma_0 = -1": (Mine, "sigma_0", -1.0, r"Mine\.sigma_0 = -1"),
    "sigma_0 = nan": (Mine, "sigma_0", float("nan"), r"Mine\.sigma_0"),
    "sigma_0 = word": (Mine, "sigma_0", "a", r"Mine\.sigma_0"),
    "Sigma_0 of float32": (Turned, "Sigma_0", torch.eye(2), r"Turned\.Sigma_0 is torch\.float32"),
    "Sigma_0 of another shape": (Turned, "Sigma_0", torch.ones(2).double(), r"of shape \(2,\)"),
    "Sigma_0 a list": (Turned, "Sigma_0", [[1, 0], [0, 1]], r"Turned\.Sigma_0 is a list"),
    "Sigma_0 not symmetric": (Turned, "Sigma_0", torch.tensor([[1.0, 2.0], [0.0, 1.0]]).double(), "no covariance"),
    "Sigma_0 not finite": (Turned, "Sigma_0", torch.eye(2).double() * float("nan"), "no covariance"),
    "Sigma_0 negative": (Turned, "Sigma_0", -torch.eye(2).double(), "the eigenvalue -1"),
}


@pytest.mark.parametrize("name", NONE)
def test_attributes_that_are_none_of_a_process_are_refused_once(name: str) -> None:
    kind, attribute, value, words = NONE[name]
    sde = type(kind.__name__, (kind,), {attribute: value})()
    net = nets.MLP(2, width=4, depth=1)
    for enter in (lambda: sdegen.Exact(sde, sdegen.data.gaussian_ring()), lambda: sdegen.Model(net, sde)):
        with pytest.raises((TypeError, ValueError), match=words):
            enter()
    (result,) = check_sde(sde).results
    assert not result.passed
    assert re.search(words, result.detail)


def test_a_process_without_its_start_is_refused_once() -> None:
    with pytest.raises(NotImplementedError, match="Turned gives no Sigma_0"):
        sdegen.Exact(Turned(), sdegen.data.gaussian_ring())
    assert check_sde(Turned()).failures == ["attributes_are_those_of_a_process"]


@pytest.mark.parametrize(("kind", "said"), [(sdegen.SDE, True), (sdegen.VP, False), (Turned, True)])
def test_a_class_cannot_say_that_it_is_linear(kind: type, said: bool) -> None:
    with pytest.raises(TypeError, match="Liar sets is_linear; derive a linear process from"):
        type("Liar", (kind,), {"is_linear": said})
