"""Processes on states that a matrix of any shape makes of the data: closed forms of a lift of two numbers into three."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import GaussianMixture, samplers
from sdegen.laws.embedding import IntoChannels, Lift, Whole
from sdegen.laws.kernels import Transition
from sdegen.laws.matrices import Matrix
from sdegen.processes.quadrature import van_loan
from sdegen.testing.affine import affine_moments

d64 = torch.float64
A = torch.tensor([[-1.0, 0.4, 0.5], [-0.4, -1.2, 0.3], [-0.5, -0.2, -0.8]], dtype=d64)
B = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.9, 0.0], [0.2, -0.4, 1.1]], dtype=d64)
DATA = GaussianMixture(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[1.0, -0.5], [-0.8, 0.6]]),
    torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.1, -0.05], [-0.05, 0.3]]]),
)
GAUSSIAN = GaussianMixture(torch.ones(1), DATA.means[:1], DATA.covariances[:1])


class Hidden(sdegen.LiftedSDE):
    """Two numbers seen as three, with noise across the lift from the start."""

    T = 3.0
    E = torch.tensor([[1.0, 0.0], [0.5, 1.0], [-0.3, 0.8]], dtype=d64)

    def __init__(self, width: float = 0.5) -> None:
        self.width = width
        across = torch.linalg.svd(self.E).U[:, 2:]
        self.Sigma_0 = width**2 * across @ across.T

    def F(self, t: Tensor) -> Tensor:
        return A

    def G(self, t: Tensor) -> Tensor:
        return B


SDE = Hidden()


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("t", [0.05, 0.9, 3.0])
def test_states_of_a_lift_have_the_law_of_the_matrix_exponential(t: float) -> None:
    Phi, noise = van_loan(A, B @ B.T, torch.tensor(t, dtype=d64))
    P = Phi @ SDE.E
    C = P @ DATA.covariances.double() @ P.T + Phi @ SDE.Sigma_0 @ Phi.T + noise
    want = GaussianMixture(DATA.weights, DATA.means.double() @ P.T, C)
    u = want.sample(5, g()).requires_grad_()
    (score,) = torch.autograd.grad(want.log_prob(u).sum(), u)
    u = u.detach()
    close(SDE.diffused(DATA, t).log_prob(u), want.log_prob(u), 1e-9)
    close(sdegen.Exact(SDE, DATA).score(u, t), score, 1e-8)
    seen = SDE.marginal(t).observe(u)
    close((seen.by.C.gram() + seen.by.S.gram()).matrix(), torch.eye(2, dtype=d64), 1e-12)
    told = torch.eye(2, dtype=d64) + P.T @ torch.linalg.solve(Phi @ SDE.Sigma_0 @ Phi.T + noise, P)
    close(SDE.snr(t).log1p(), 0.5 * torch.linalg.slogdet(told).logabsdet, 1e-9)


@pytest.mark.slow
def test_data_of_a_lift_have_their_density() -> None:
    model, x = sdegen.Exact(SDE, DATA), DATA.sample(2, g())
    close(SDE.project(SDE.lift(x)), x, 1e-14)
    assert (sdegen.log_prob(model, x, prior=SDE.diffused(DATA, SDE.T)) - DATA.log_prob(x)).abs().max() < 1e-4


@pytest.mark.slow
def test_samples_of_a_lift_have_the_law_of_the_data() -> None:
    model = sdegen.Exact(SDE, DATA)
    drawn, one, other = (sdegen.sample(model, 2000, seed=0), DATA.sample(2000, g(1)), DATA.sample(2000, g(2)))
    floor, found = sdegen.metrics.knn_kl(one, other), sdegen.metrics.knn_kl(drawn, other)
    assert abs(found.value - floor.value) < 4 * (found.stderr**2 + floor.stderr**2) ** 0.5


def test_gaussian_data_of_a_lift_are_exact_in_one_step() -> None:
    model = sdegen.Exact(SDE, GAUSSIAN)
    sampler = samplers.ExponentialSDE(1, order=1, eta=0.5, reference=samplers.Matched())
    want = SDE.diffused(GAUSSIAN, sampler.times(SDE, False)[-1]).moments()
    for found, known in zip(affine_moments(sampler, model), want, strict=True):
        close(found, known, 1e-10)


def test_a_lift_is_trained_and_saved(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(3, width=16, depth=1), Hidden())
    sdegen.fit(model, DATA.sample(128).float(), steps=4, batch_size=64, seed=0, progress=False)
    sdegen.save(model, tmp_path / "model.safetensors")
    again = sdegen.load(tmp_path / "model.safetensors", [Hidden])
    assert torch.equal(*(sdegen.sample(m, 4, steps=4, seed=0) for m in (model, again)))  # in the network's float32


def test_a_datum_has_as_many_numbers_as_the_lift_has_columns() -> None:
    assert SDE.event_shape == (2,) and SDE.lift(torch.ones(4, 2, dtype=d64)).shape == (4, 3)


def test_the_whole_and_channels_are_lifts() -> None:
    law = Transition(Matrix(torch.randn(3, 3, dtype=d64, generator=g())), Matrix(B))
    x, y = torch.randn(2, 4, 3, dtype=d64, generator=g(1)), torch.randn(4, 1, dtype=d64, generator=g(2))
    e = torch.tensor([1.0, 0.5, -0.2], dtype=d64)
    for lift, same in ((Lift(e[:, None]), IntoChannels(e)), (Lift(torch.eye(3, dtype=d64)), Whole())):
        by, known = lift.reduce(law), same.reduce(law)
        rest = torch.zeros(3, 3, dtype=d64) if known.rest is None else known.rest.matrix()
        close(by.rest.matrix() if by.rest is not None else rest, rest, 1e-10)
        close(by.C.log_snr(by.S), known.C.log_snr(known.S), 1e-10)
    by, known = Lift(e[:, None]).reduce(law), IntoChannels(e).reduce(law)
    sign = (by.W(x[0])[:, 0] / known.W(x[0][..., None])[:, 0]).sign()
    close(by.W(x[0])[:, 0] * sign, known.W(x[0][..., None])[:, 0], 1e-12)
    close((by.W(x[0]) * y).sum(), (x[0] * by.W.T(y)).sum(), 1e-12)


def test_a_lift_that_loses_a_datum_is_refused() -> None:
    class Lost(Hidden):
        E = torch.tensor([[1.0, 2.0], [0.5, 1.0], [-0.5, -1.0]], dtype=d64)

    with pytest.raises(ValueError, match=r"Lost.E of shape \(3, 2\) is no lift: two data would have one state; give"):
        Lost().lift(torch.ones(1, 2))


@pytest.mark.slow
def test_a_lift_holds_all_laws_of_a_process() -> None:
    assert sdegen.testing.check_sde(Hidden(), data=DATA.sample(200, g())).passed


# --- lifts of other shapes


class Given(sdegen.LiftedSDE):
    """The process of `Hidden` with another lift and other noise at 0."""

    T = 3.0

    def __init__(self, E: Tensor, Sigma_0: Tensor) -> None:
        self.E, self.Sigma_0 = E, Sigma_0

    def F(self, t: Tensor) -> Tensor:
        return A[: len(self.E), : len(self.E)]

    def G(self, t: Tensor) -> Tensor:
        return B[: len(self.E), : len(self.E)]


class Both(sdegen.MatrixSDE):
    """A channel that begins at the datum, and one that begins at twice the datum and some noise."""

    T = 3.0

    def __init__(self, noise: float) -> None:
        self.Sigma_0 = torch.tensor([[0.0, 0.0], [0.0, noise]], dtype=d64)

    def embed(self, x: Tensor) -> Tensor:
        return torch.stack([x, 2 * x], 1)

    def F(self, t: Tensor) -> Tensor:
        return A[:2, :2]

    def G(self, t: Tensor) -> Tensor:
        return B[:2, :2]


SQUARE = torch.tensor([[0.0, 2.0], [-1.5, 0.3]], dtype=d64)
NARROW = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]], dtype=d64)
LIFTS = {
    "square": lambda: Given(SQUARE, torch.zeros(2, 2, dtype=d64)),
    "square, smoothed": lambda: Given(SQUARE, 1e-6 * torch.eye(2, dtype=d64)),
    "whole numbers": lambda: Given(
        torch.tensor([[0, 1], [2, 0], [0, 0]]), torch.diag(torch.tensor([0.0, 0.0, 0.3])).double()
    ),
    "two channels": lambda: Both(0.3),
}


@pytest.mark.parametrize("name", LIFTS)
def test_data_have_the_density_of_their_states_but_for_the_rest_and_the_volume(name: str) -> None:
    sde, x = LIFTS[name](), GAUSSIAN.sample(4, g())
    u, less = sde.complete(x, torch.randn(sde.lift(x).shape, dtype=d64, generator=g(1)))
    close(sde.project(u), x, 1e-14)
    close(sde.diffused(GAUSSIAN, 0.0).log_prob(u) - less, GAUSSIAN.log_prob(x), 1e-4)


@pytest.mark.parametrize("E", [SQUARE, NARROW])
def test_every_place_of_a_datum_has_the_volume_of_the_lift(E: Tensor) -> None:
    sde = Given(E, torch.diag(torch.tensor([0.1, 0.2, 0.3], dtype=d64)[: len(E)]))
    x = torch.randn(4, 2, 3, dtype=d64, generator=g())
    z = torch.randn(sde.lift(x).shape, dtype=d64, generator=g(1))
    _, less = sde.complete(x, z)
    places = [sde.complete(x[..., i], z[..., i])[1] for i in range(3)]
    close(less, torch.stack(places).sum(0), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", LIFTS)
def test_densities_know_the_volume_of_every_lift(name: str) -> None:
    sde = LIFTS[name]()
    model, x, prior = sdegen.Exact(sde, GAUSSIAN), GAUSSIAN.sample(2, g()), sde.diffused(GAUSSIAN, sde.T)
    assert (sdegen.log_prob(model, x, prior=prior) - GAUSSIAN.log_prob(x)).abs().max() < 1e-4
    if name.startswith("square"):
        y, drawn = sdegen.sample_with_log_prob(model, 2, prior=prior, seed=0)
        assert (drawn.value - GAUSSIAN.log_prob(y)).abs().max() < 1e-4


ACROSS = [NARROW, torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=d64)]


@pytest.mark.parametrize("E", ACROSS)
def test_states_without_noise_across_the_lift_tell_all_at_the_start(E: Tensor) -> None:
    sde, x = Given(E, torch.zeros(3, 3, dtype=d64)), DATA.sample(4, g())
    assert sde.snr(0.0).isinf()
    seen = sde.marginal(0.0).observe(sde.lift(x))
    close(torch.linalg.solve(seen.by.C.matrix(), seen.y[..., None])[..., 0], x, 1e-12)


@pytest.mark.slow
def test_lifts_without_noise_across_are_sampled_but_have_no_density() -> None:
    for E in ACROSS:
        model = sdegen.Exact(Given(E, torch.zeros(3, 3, dtype=d64)), GAUSSIAN)
        found, known = sdegen.sample(model, 4000, seed=0), GAUSSIAN.moments()
        assert (found.mean(0) - known.mean).abs().max() < 0.05
        assert (torch.cov(found.T) - known.covariance).abs().max() < 0.05
        with pytest.raises(ValueError, match="no noise in some direction"):
            sdegen.log_prob(model, found[:2])


def test_two_channels_that_begin_without_noise_are_as_one() -> None:
    x = DATA.sample(4, g())
    seen = Both(0.0).marginal(0.0).observe(Both(0.0).lift(x))
    close(seen.y / seen.by.C.matrix().flatten(), x, 1e-12)
    assert seen.by.S.matrix().abs().max() < 1e-12


def test_data_of_another_size_than_the_process_are_refused() -> None:
    for sde in (Hidden(), sdegen.Blurring((1, 4, 4))):
        wide = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.eye(3)[None])
        model = sdegen.Exact(sde, wide)
        with pytest.raises(ValueError, match=r"numbers, and there are 3 here|moves states of shape"):
            sdegen.sample(model, 2, seed=0)
    with pytest.raises(ValueError, match="real numbers"):
        Given(NARROW + 0j, torch.zeros(3, 3, dtype=d64)).lift(torch.zeros(2, 2))


@pytest.mark.parametrize("kind", ["channels", "lift"])
def test_a_channel_at_rest_tells_nothing_and_changes_nothing(kind: str) -> None:
    """Beside a channel that is 0 at all times a state tells of its datum what the others tell."""
    Phi, Sigma = torch.randn(2, 2, dtype=d64, generator=g()), torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=d64)
    e = torch.tensor([1.0, 0.5], dtype=d64)

    def reduced(pad: int) -> Any:
        law = Transition(
            *(Matrix(torch.nn.functional.pad(A, (0, pad, 0, pad))) for A in (Phi, torch.linalg.cholesky(Sigma)))
        )
        start = torch.nn.functional.pad(e, (0, pad))
        return (IntoChannels(start) if kind == "channels" else Lift(start[:, None])).reduce(law)

    alone, beside = reduced(0), reduced(1)
    close(beside.C.log_snr(beside.S), alone.C.log_snr(alone.S), 1e-12)
    rest = beside.rest.matrix()
    close(rest[:2, :2], alone.rest.matrix(), 1e-12)
    close(rest[2], torch.zeros(3, dtype=d64), 1e-12)
