"""Exponential integrators: exact where they must be, of the order they claim, on scalar and matrix processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids
from sdegen.laws.interpolation import lagrange
from sdegen.samplers import (
    DDIM,
    Matched,
    Multistep,
    Normal,
    PointMass,
    ProbabilityFlow,
    Reference,
    Singlestep,
    Unbounded,
    angle,
    log_ratio,
    share,
)
from sdegen.samplers.moves import Asked
from sdegen.samplers.polynomials import Polynomials
from sdegen.samplers.references import ReferenceLaw
from sdegen.testing import gaussian_data

RING = sdegen.data.gaussian_ring(radius=4.0, std=0.8)


class Own(sdegen.ScalarSDE):
    """The README's process."""

    def f(self, t: Tensor) -> Tensor:
        return -10 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t).sqrt()


PROCESSES: dict[str, tuple[Callable[[], sdegen.LinearSDE], grids.Grid]] = {
    "VP": (sdegen.VP, grids.Angle()),
    "VE": (sdegen.VE, grids.Angle()),
    "OU": (sdegen.OU, grids.Angle()),
    "EDM": (sdegen.EDM, grids.Angle()),
    "own": (Own, grids.Angle()),
    "Rectified": (sdegen.Rectified, grids.Angle(end=0.0)),  # alpha(T) = 0 and sigma(0) = 0
    "CLD": (lambda: sdegen.CLD(sigma_0=0.1), grids.Uniform(end=0.05)),
}


@cache
def problem(process: str) -> tuple[Any, Tensor, Tensor]:
    """The exact model of the ring, states at T, and where the probability flow takes them."""
    make, grid = PROCESSES[process]
    sde = make()
    model = sdegen.Exact(sde, RING)
    x_T = sde.prior(RING.moments()).sample(64, torch.Generator().manual_seed(0))
    flow = ProbabilityFlow(1, grids.Given(grid(sde, 2)), rtol=1e-11, atol=1e-11)
    return model, x_T, sdegen.sample(model, x_T=x_T, sampler=flow, final="sample")


def order_of_paths(make: Callable[[int, grids.Grid], Any], process: str, steps: tuple[int, int]) -> tuple[float, float]:
    """Order between two step counts, of the median distance of where paths end, and the last distance."""
    model, x_T, want = problem(process)
    errors = []
    for n in steps:
        x = sdegen.sample(model, x_T=x_T, sampler=make(n, PROCESSES[process][1]), final="sample")
        errors.append((x - want).norm(dim=1).median().item())
    return math.log(errors[0] / errors[1]) / math.log(steps[1] / steps[0]), errors[1]


METHODS: dict[str, tuple[Callable[..., Any], int, tuple[int, int]]] = {
    "multistep 1": (lambda n, g, r: Multistep(n, g, 1, r), 1, (80, 160)),
    "multistep 2": (lambda n, g, r: Multistep(n, g, 2, r), 2, (40, 80)),
    "multistep 3": (lambda n, g, r: Multistep(n, g, 3, r), 3, (40, 80)),
    "multistep 4": (lambda n, g, r: Multistep(n, g, 4, r), 4, (160, 320)),
    "multistep 2, clock share": (lambda n, g, r: Multistep(n, g, 2, r, share), 2, (40, 80)),
    "corrected 1": (lambda n, g, r: Multistep(n, g, 1, r, corrector=True), 2, (40, 80)),
    "corrected 2": (lambda n, g, r: Multistep(n, g, 2, r, corrector=True), 3, (80, 160)),
    "single step 2": (lambda n, g, r: Singlestep(n, g, 2, r), 2, (80, 160)),
    "single step 3": (lambda n, g, r: Singlestep(n, g, 3, r), 3, (40, 80)),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("process", ["VP", "Rectified", "CLD"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.turns("*-CLD")
def test_paths_of_a_law_that_is_not_gaussian_are_followed_at_the_order(method: str, process: str) -> None:
    make, order, steps = METHODS[method]
    references: list[Reference] = [PointMass()] if process == "CLD" else [Normal(), Matched()]
    for reference in references:
        found, error = order_of_paths(lambda n, g, r=reference: make(n, g, r), process, steps)
        assert found > order - 0.15 and error < 0.15, (type(reference).__name__, found, error)


@pytest.mark.parametrize("seen", [[1], [1, 0], [2, 1, 0]])
@pytest.mark.parametrize("reference", [PointMass(), Unbounded()], ids=lambda r: type(r).__name__)
def test_weights_on_matrices_are_integrals_of_polynomials(reference: Reference, seen: list[int]) -> None:
    """``Psi_s ∫ l_j dK``, against a sum over four thousand pieces."""
    sde = sdegen.CLD(sigma_0=0.1)
    sampler = Multistep(3, grids.Uniform(end=0.05), 2, reference)
    model, times = sdegen.Exact(sde, RING), sampler.times(sde, False)
    pieces, asked = sampler.pieces(model), [Asked(1, 2, seen)]
    (move,) = pieces.split_moves(pieces.moves(times, asked))
    phi = pieces.phi(times)
    edges = torch.linspace(phi[1].log().item(), phi[2].log().item(), 4001, dtype=torch.float64).exp()
    Psi, M = pieces.Psi_and_M(sde.marginal(pieces.time(edges)))
    K = (Psi.inv() @ M).matrix()
    l = Polynomials(phi, asked)(0.5 * (edges[1:] + edges[:-1])[None])[:, 0]
    want = Psi.matrix()[-1] @ torch.einsum("jn,nab->jab", l, K.diff(dim=0))
    for weight, exact in zip(move.weights, want, strict=True):
        torch.testing.assert_close(weight.matrix().squeeze().double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("reference", [PointMass(), Unbounded()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("order", [2, 3, 4])
def test_limits_have_their_order_in_the_log_snr(reference: Reference, order: int) -> None:
    # Their integrands are steep at the data, or at the noise: the log-SNR is the clock in which they are smooth.
    sde = sdegen.VP()
    model = sdegen.Exact(sde, RING)
    grid = grids.LogSNR(start=0.6, end=sde.time(25.0).item())
    x_T = sde.diffused(RING, 0.6).sample(64, torch.Generator().manual_seed(0))
    want = sdegen.sample(
        model, x_T=x_T, sampler=ProbabilityFlow(1, grids.Given(grid(sde, 2)), rtol=1e-11, atol=1e-11), final="sample"
    )
    errors = []
    for n in (160, 320):
        x = sdegen.sample(model, x_T=x_T, sampler=Multistep(n, grid, order, reference, log_ratio), final="sample")
        errors.append((x - want).norm(dim=1).median().item())
    assert math.log2(errors[0] / errors[1]) > order - 0.15


@pytest.mark.thinned(2)
@pytest.mark.parametrize("process", ["VP", "EDM", "Rectified", "CLD"])
@pytest.mark.parametrize("reference", [PointMass(), Unbounded()], ids=lambda r: type(r).__name__)
@pytest.mark.turns("*-CLD")
def test_order_one_around_a_limit_is_ddim(process: str, reference: Reference) -> None:
    make, grid = PROCESSES[process]
    sde = make()
    model, x_T, _ = problem(process)
    if process == "Rectified" and isinstance(reference, Unbounded):  # no signal is left at T to be unbounded
        with pytest.raises(ValueError, match="alpha is zero at t = 1"):
            sdegen.sample(model, x_T=x_T, sampler=Multistep(7, grid, 1, reference), final="sample")
        return
    got = sdegen.sample(model, x_T=x_T, sampler=Multistep(7, grid, 1, reference), final="sample")
    want = sdegen.sample(model, x_T=x_T, sampler=DDIM(7, grid), final="sample")
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    assert sde.is_linear


@pytest.mark.turns("Rectified", "own")
@pytest.mark.parametrize("process", ["VP", "EDM", "Rectified", "own"])
def test_matched_reference_is_exact_on_gaussian_data(process: str) -> None:
    make, grid = PROCESSES[process]
    sde, law = make(), gaussian_data()  # rotated, unequal axes, a mean off zero
    model = sdegen.Exact(sde, law)
    x_T = sde.prior(law.moments()).sample(20, torch.Generator().manual_seed(0))
    flow = ProbabilityFlow(1, grids.Given(grid(sde, 2)), rtol=1e-11, atol=1e-11)
    want = sdegen.sample(model, x_T=x_T, sampler=flow, final="sample")
    for order in (1, 2, 3, 4):
        got = sdegen.sample(model, x_T=x_T, sampler=Multistep(order, grid, order, Matched()), final="sample")
        torch.testing.assert_close(got, want, rtol=0, atol=1e-7)


def test_matched_reference_takes_diagonal_moments_and_any_shape() -> None:
    # Beyond 64 dimensions moments hold the diagonal alone: exact for a Gaussian with independent coordinates.
    d = torch.linspace(0.2, 2.0, 96, dtype=torch.float64).reshape(2, 8, 6)
    law = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2, 8, 6, dtype=torch.float64), d[None])
    model = sdegen.Exact(sdegen.VP(), law)
    model.moments = sdegen.Moments(law.moments().mean, law.moments().covariance.diagonal())
    x_T = torch.randn(5, 2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = sdegen.sample(model, x_T=x_T, sampler=ProbabilityFlow(rtol=1e-10, atol=1e-10), final="sample")
    got = sdegen.sample(model, x_T=x_T, sampler=Multistep(2, grids.Angle(), 2), final="sample")
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


class OneLaw(Reference):
    """A law that is the same for every model."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.given = ReferenceLaw(mean, covariance, 1.0)

    def law(self, model: sdegen.ScoreModel) -> ReferenceLaw:
        return self.given


@pytest.mark.parametrize(
    "sde", [sdegen.VP(), sdegen.Blurring((1, 2, 2)), sdegen.CLD()], ids=lambda sde: type(sde).__name__
)
def test_one_variance_a_row_of_them_and_their_matrix_are_one_reference(sde: sdegen.LinearSDE) -> None:
    mean, variance = torch.linspace(-1.0, 2.0, 4, dtype=torch.float64).reshape(1, 2, 2), torch.tensor(0.7).double()
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.tensor([0.3]))
    model = sdegen.Exact(sde, law)
    variances = [variance, variance.expand(4), variance.expand(4).diag()]
    found = [
        sdegen.sample(model, 3, sampler=Multistep(2, reference=OneLaw(mean, c)), seed=0, final="sample")
        for c in variances
    ]
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=0, atol=1e-9)


def test_two_step_data_prediction_is_dpm_solver_plus_plus() -> None:
    # C. Lu et al., 2022, in its exact ("Heun") form: the slope of x_0 in lambda, integrated against e^lambda.
    sde = sdegen.VP()
    model = sdegen.Exact(sde, RING)
    times = grids.LogSNR(end=0.1)(sde, 4)
    x_T = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, s = sde.alpha(times), sde.sigma(times)
    l = (a / s).log()
    x_0 = [model.denoise(x_T, times[0])]
    h = l[1] - l[0]
    x = s[1] / s[0] * x_T - a[1] * torch.expm1(-h) * x_0[0]
    x_0.append(model.denoise(x, times[1]))
    for k in (1, 2):
        h = l[k + 1] - l[k]
        slope = (x_0[k] - x_0[k - 1]) / (l[k] - l[k - 1])
        x = s[k + 1] / s[k] * x - a[k + 1] * torch.expm1(-h) * x_0[k] + a[k + 1] * (torch.expm1(-h) + h) * slope
        x_0.append(model.denoise(x, times[k + 1]))
    sampler = Multistep(3, grids.Given(times), 2, PointMass(), log_ratio)
    got = sdegen.sample(model, x_T=x_T, sampler=sampler, final="sample")
    torch.testing.assert_close(got, x, rtol=1e-8, atol=1e-8)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("up", [False, True], ids=["to the data", "to the noise"])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("clock", [angle, log_ratio, share])
@pytest.mark.parametrize("process", PROCESSES)
def test_stages_lie_at_the_halves_or_thirds_of_the_clock(process: str, clock: Any, order: int, up: bool) -> None:
    class Asked(sdegen.Exact):
        """Keeps the times that it is asked at."""

        def ask(self, t: Any, **weights: Any) -> Any:
            seen.append(t)
            return super().ask(t, **weights)

    seen: list[Tensor] = []
    sde, n = PROCESSES[process][0](), 5
    times = grids.Uniform(0.8 * sde.T, 0.05 * sde.T)(sde, n + 1)
    times = times.flip(0) if up else times
    Singlestep(n, order=order, clock=clock).plan(Asked(sde, RING), times)
    hand = lambda t: clock((-0.5 * sde.log_snr(t)).exp().atan())
    t, s, between = hand(times[:-1]), hand(times[1:]), hand(torch.cat(seen)[n:])
    for j, stage in enumerate(between.split(n), 1):
        torch.testing.assert_close((stage - t) / (s - t), torch.full_like(t, j / order), rtol=0, atol=1e-12)


def test_multistep_evaluates_once_a_step() -> None:
    calls = 0

    class Counting(sdegen.Exact):
        def _observed(self, x: Tensor, at: Any) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            return super()._observed(x, at)

    model = Counting(sdegen.VP(), RING)
    for sampler, want in (
        (Multistep(6, order=3), 6),
        (Multistep(6, order=2, corrector=True), 6),
        (Multistep(6, order=4), 7),  # the repair of the start
        (Singlestep(3, order=3), 9),
    ):
        calls = 0
        sdegen.sample(model, 4, sampler=sampler, seed=0, final="sample")
        assert calls == want


@pytest.mark.turns("EDM")
@pytest.mark.parametrize("process", ["VP", "EDM"])
def test_default_needs_few_evaluations(process: str) -> None:
    # Against DDIM, the default of most libraries, at the same evaluations: a tenth of the error from ten on.
    model, x_T, _ = problem(process)
    want = sdegen.sample(model, x_T=x_T, sampler=ProbabilityFlow(rtol=1e-9, atol=1e-9))
    for steps, ratio in ((5, 0.6), (10, 0.15), (20, 0.05), (50, 0.01)):
        ours, theirs = (
            (sdegen.sample(model, x_T=x_T, sampler=s) - want).norm(dim=1).square().mean().sqrt()
            for s in (sdegen.samplers.default(model, steps), DDIM(steps))
        )
        assert ours < ratio * theirs, (steps, ours, theirs)


def test_lagrange_polynomials_reproduce_polynomials() -> None:
    nodes = torch.tensor([0.9, 0.4, 0.1, -0.3], dtype=torch.float64)
    z = torch.linspace(-1, 1, 7, dtype=torch.float64)
    cubic = lambda v: 1 - 2 * v + 3 * v**2 - v**3
    torch.testing.assert_close(cubic(nodes) @ lagrange(nodes, z), cubic(z))


def test_runs_in_the_models_dtype_and_device(device: torch.device, dtype: torch.dtype) -> None:
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).to(device, dtype)
    model.moments = gaussian_data().moments()
    for sampler in (Multistep(5), Multistep(5, reference=Normal(), corrector=True), Singlestep(3)):
        x = sdegen.sample(model, 8, sampler=sampler, seed=0)
        assert x.dtype == dtype and x.device.type == device.type and x.isfinite().all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="order = 5"):
        Multistep(5, order=5)
    with pytest.raises(ValueError, match="order = 1"):
        Singlestep(5, order=1)
    with pytest.raises(ValueError, match="variance = 0"):
        Normal(0.0)
    with pytest.raises(ValueError, match="scale = 0"):
        grids.Angle(scale=0.0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())
    with pytest.raises(ValueError, match="moments"):
        sdegen.sample(model, x_T=torch.randn(3, 2), sampler=Multistep(4))
    assert sdegen.sample(model, x_T=torch.randn(3, 2), steps=4).shape == (3, 2)  # the default makes do without
    with pytest.raises(ValueError, match="alpha"):
        sdegen.sample(sdegen.Exact(sdegen.Rectified(), RING), 3, sampler=Multistep(4, reference=Unbounded()))
    assert angle(torch.tensor(0.3)) == torch.tensor(0.3)
