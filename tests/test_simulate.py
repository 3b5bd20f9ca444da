"""Paths of any dynamics, and the short kernels of nonlinear processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import constraints

import sdegen
from sdegen import simulate
from sdegen.processes.nonlinear import calibrate_lag


@pytest.mark.thinned(3)
@pytest.mark.parametrize("sde", [sdegen.OU(), sdegen.VE(), sdegen.CLD()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("method", ["euler", "milstein", "srk"])
def test_forward_paths_have_the_kernels_moments(sde: sdegen.LinearSDE, method: str) -> None:
    n = 4000
    x_s = sde.lift(torch.tensor([[1.0, -2.0]], dtype=torch.float64)).repeat_interleave(n, 0)
    s, t = 0.2 * sde.T, 0.4 * sde.T
    end = simulate(sde, x_s, s, t, steps=200, method=method, generator=torch.Generator().manual_seed(0)).reshape(n, -1)
    kernel = sde.kernel(x_s[:1], s, t)
    d = end.shape[1]
    R = kernel.R.matrix().reshape(len(sde.Sigma_0), len(sde.Sigma_0))
    want = torch.kron(R @ R.T, torch.eye(d // len(sde.Sigma_0), dtype=torch.float64))
    spread = want.diagonal().sqrt()
    assert ((end.mean(0) - kernel.mean.reshape(-1)).abs() < 5 * spread / n**0.5 + 0.02).all()
    assert ((end.T.cov() - want).abs() < 0.12 * spread[:, None] * spread[None]).all()


@pytest.mark.slow
def test_reversed_paths_return_to_the_data() -> None:
    sde = sdegen.OU()
    law = sdegen.data.random_mixture(2, modes=3, seed=0)
    model = sdegen.Exact(sde, law)
    for eta in (0.5, 1.0):
        x_T = sde.prior(law.moments()).sample(4000, torch.Generator().manual_seed(0))
        reverse = sde.reverse(model, eta)
        x = simulate(reverse, x_T, sde.T, 0.5, steps=150, generator=torch.Generator().manual_seed(1))
        x = simulate(reverse, x, 0.5, 1e-3, steps=300, generator=torch.Generator().manual_seed(2))
        floor = sdegen.metrics.knn_kl(
            law.sample(4000, torch.Generator().manual_seed(4)), law.sample(4000, torch.Generator().manual_seed(3))
        )
        found = sdegen.metrics.knn_kl(x, law.sample(4000, torch.Generator().manual_seed(3)))
        assert found.value < floor.value + 4 * (found.stderr + floor.stderr) + 0.05


class EitherWay(sdegen.processes.GeometricBrownianMotion):
    """The equation itself, up and down in time."""

    direction = 0


@pytest.mark.parametrize("method", ["euler", "milstein", "srk"])
@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 2.0)])
def test_one_step_of_geometric_brownian_motion_is_exact(mu: float, sigma: float, method: str) -> None:
    """Its steps are made in the logarithm, whose coefficients are constant: there is nothing that a step could miss."""
    sde, h = EitherWay(mu, sigma, T=2.0), torch.tensor([0.3, -0.3] * 2000).double()
    x = torch.tensor([[0.01, 3.0]], dtype=torch.float64).expand(4000, 2)
    end = simulate(sde, x, 0.5 + 0 * h, 0.5 + h, steps=1, method=method, generator=torch.Generator().manual_seed(0))
    z = ((end / x).log() - (mu * h - 0.5 * sigma**2 * h.abs())[:, None]) / (sigma * 0.3**0.5)
    for side in (z[h > 0], z[h < 0]):
        assert (side.mean(0).abs() < 5 / 2000**0.5).all()
        assert ((side.T.cov() - torch.eye(2)).abs() < 5 * (2 / 2000) ** 0.5).all()


def test_every_row_may_run_over_its_own_interval() -> None:
    sde = sdegen.OU()
    t = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64).repeat(3000)
    x = simulate(sde, torch.full((9000, 1), 2.0, dtype=torch.float64), torch.zeros(9000), t, steps=100)
    for time in (0.1, 1.0, 3.0):
        rows = x[t == time][:, 0]
        law = sde.marginal(time)(torch.tensor([[2.0]], dtype=torch.float64))
        spread = law.R.matrix().item()
        assert abs(rows.mean() - law.mean.item()) < 5 * spread / 3000**0.5 + 0.01
        assert abs(rows.std() / spread - 1) < 0.08


class Brownian(sdegen.Dynamics):
    """An equation that says of itself nothing but its coefficients."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 0.5


ONE_WAY: dict[str, tuple[Callable[[], Any], int]] = {
    "VP": (sdegen.VP, 1),
    "CLD": (sdegen.CLD, 1),
    "CIR": (sdegen.processes.CIR, 1),
    "Jacobi": (sdegen.processes.Jacobi, 1),
    "DoubleWell": (sdegen.DoubleWell, 1),
    "reverse-time SDE": (lambda: sdegen.VP().reverse(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())), -1),
    "half the noise": (lambda: sdegen.VP().reverse(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), 0.5), -1),
    "flow": (lambda: sdegen.VP().reverse(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), 0.0), 0),
    "own": (Brownian, 0),
}


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)), min_size=2, max_size=2))
@pytest.mark.parametrize("name", ONE_WAY)
def test_an_equation_is_followed_only_in_the_direction_in_which_it_holds(
    name: str, pairs: list[tuple[float, float]]
) -> None:
    make, direction = ONE_WAY[name]
    dynamics = make()
    x = torch.full((2, 2), 0.5, dtype=torch.float64)
    x = dynamics.lift(x) if isinstance(dynamics, sdegen.SDE) else x
    t_0, t_1 = (torch.tensor(times, dtype=torch.float64) * dynamics.T for times in zip(*pairs, strict=True))
    run = partial(simulate, dynamics, x, t_0, t_1, steps=2, generator=torch.Generator().manual_seed(0))
    if (direction * (t_1 - t_0) >= 0).all():
        assert run().isfinite().all()
    else:
        way = "down" if direction > 0 else "up"
        with pytest.raises(ValueError, match=f"is run {way} in time, where its equation does not hold"):
            run()


@settings(max_examples=20, deadline=None)
@given(st.floats(-2.0, 4.0), st.floats(-2.0, 4.0))
@pytest.mark.parametrize("name", ["VP", "CIR", "DoubleWell", "flow", "own"])
def test_no_path_leaves_the_times_of_its_process(name: str, t_0: float, t_1: float) -> None:
    dynamics = ONE_WAY[name][0]()
    lower, upper = sorted((t_0 * dynamics.T, t_1 * dynamics.T))
    if lower > -1e-9 and upper < dynamics.T + 1e-9:
        return
    with pytest.raises(ValueError, match=r"lies outside \[0, T\]"):
        simulate(dynamics, torch.full((2, 2), 0.5), lower, upper, steps=2)


@pytest.mark.parametrize("n", [0, 2, 4])
def test_times_are_as_many_as_states_or_one(n: int) -> None:
    for name, times in (("t_0", (torch.zeros(n), 0.5)), ("t_1", (0.5, torch.ones(n)))):
        with pytest.raises(ValueError, match=f"{name} has shape .{n},.; give one time, or one for each of 3 states"):
            simulate(Brownian(), torch.zeros(3, 2), *times, steps=2)


class NonlinearOU(sdegen.SDE):
    """A linear process that does not say so: everything goes the nonlinear way."""

    T = 2.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tensor(2.0).sqrt()


def test_local_kernel_is_exact_for_linear_drift() -> None:
    told, untold = sdegen.OU(T=2.0), NonlinearOU()
    for shape in ((4,), (4, 3)):
        x = torch.randn(shape, dtype=torch.float64)
        s, t = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.2, 0.9, 1.5, 2.0])
        got, want = untold.kernel(x, s, t), told.kernel(x, s, t)
        torch.testing.assert_close(got.mean, want.mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(got.log_prob(x), want.log_prob(x), rtol=1e-6, atol=1e-6)


def test_linear_process_by_the_nonlinear_route_learns_the_same_score() -> None:
    # Denoising against the short kernel: its loss is stationary at the true score too.
    told, untold = sdegen.OU(T=2.0), NonlinearOU()
    law = sdegen.testing.gaussian_data()
    exact = sdegen.Exact(told, law)

    class Off(sdegen.ScoreModel):
        sde = untold
        moments = law.moments()

        def __init__(self, size: float) -> None:
            self.size = size

        def score(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
            return exact.score(x, t) + self.size * (x + 0.5)

    untold.lag = 0.1
    loss = sdegen.losses.Denoising(sdegen.weightings.UniformWeighting(), sdegen.weightings.UniformTimes())
    x_0 = law.sample(20_000, torch.Generator().manual_seed(0))
    values = [loss(Off(e), x_0, generator=torch.Generator().manual_seed(1)) for e in (0.2, -0.2)]
    slope = (values[0] - values[1]) / 0.4
    assert slope.mean().abs() < 5 * slope.std() / 20_000**0.5


def test_double_wells_kernel_agrees_with_fine_simulation() -> None:
    sde = sdegen.DoubleWell()
    n = 20_000
    x = torch.full((n, 1), 0.4, dtype=torch.float64)
    lag = calibrate_lag(sde, torch.linspace(-2, 2, 256, dtype=torch.float64)[:, None], sde.lag_tolerance)
    assert 1e-4 < lag < 1.0
    fine = simulate(sde, x, 1.0, 1.0 + lag, steps=64, generator=torch.Generator().manual_seed(0))
    kernel = sde.kernel(x[:1], 1.0, 1.0 + lag)
    spread = kernel.R.matrix().item()
    assert abs(fine.mean() - kernel.mean.item()) < 5 * spread / n**0.5 + 1e-3
    assert abs(fine.std() / spread - 1) < 5 / (2 * n) ** 0.5 + 3e-3


class Still(sdegen.SDE):
    """No drift."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 0 * x

    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        return 1.0


class Flat(sdegen.ScoreModel):
    """A score of zero."""

    def __init__(self, sde: sdegen.SDE) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor | float, **cond: object) -> Tensor:
        return 0 * x


UNFIT: dict[str, Callable[[Tensor], Tensor]] = {
    "beyond a threshold": lambda x: 1 + (x[:, 0] > 30).to(x),
    "detached": lambda x: 1 + x.detach()[:, 0].abs(),
    "one number for the batch": lambda x: 1 + x.abs().mean(),
    "of the row before": lambda x: 1 + x.roll(1, 0)[:, 0].square(),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise_whose_dependence_has_no_divergence_is_refused_when_reversed(name: str, dtype: torch.dtype) -> None:
    class Own(Still):
        def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
            return UNFIT[name](x)

    with pytest.raises(
        ValueError, match=r"Own\.diffusion (depends on x and has no derivative|of one row depends on the states)"
    ):
        Own().reverse(Flat(Own())).drift(torch.zeros(2, 2, dtype=dtype), torch.tensor(0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_noise_of_every_form_that_ignores_the_state_is_reversed(dtype: torch.dtype) -> None:
    forms: list[Callable[[Tensor, Tensor], Any]] = [
        lambda x, t: 2.0,
        lambda x, t: (1 + t).sqrt().expand(len(x)),  # rounded row by row
        lambda x, t: sdegen.Matrix(torch.tensor([[1.0, 0.0], [0.5, 2.0]])),
    ]
    for form in forms:

        class Own(Still):
            def diffusion(self, x: Tensor, t: Tensor, form: Callable[[Tensor, Tensor], Any] = form) -> Any:
                return form(x, t)

        x = torch.ones(3, 2, dtype=dtype)
        assert torch.equal(Own().reverse(Flat(Own())).drift(x, torch.tensor(0.5)), 0 * x)


class Rotating(sdegen.SDE):
    """A pull towards the origin that turns: each coordinate moves by the other, and the normal law stays as it is."""

    T = 4.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        turn = 1 + x.square().sum(1).tanh()
        return torch.stack([-x[:, 0] - turn * x[:, 1], -x[:, 1] + turn * x[:, 0]], 1)

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return math.sqrt(2)


@pytest.mark.parametrize("moments", [None, sdegen.Moments(torch.zeros(2), torch.eye(2))], ids=["unknown", "known"])
def test_a_drift_that_couples_coordinates_is_sampled_by_default(moments: sdegen.Moments | None) -> None:
    class AtRest(Flat):
        def score(self, x: Tensor, t: Tensor | float, **cond: object) -> Tensor:
            return -x

    model, n = AtRest(Rotating()), 4000
    model.moments = moments
    x_T = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sampler in (None, sdegen.samplers.AdaptiveSDE(0.05, 0.05)):
        x = sdegen.sample(model, x_T=x_T[: n if sampler is None else 400], sampler=sampler, seed=1)
        assert (x.square().mean(0) - 1).abs().max() < 0.1 + 5 * math.sqrt(2 / len(x))


class Returning(sdegen.SDE):
    """``dx = k (m − x) dt + s √q(x) dw`` between bounds, whose first two moments follow from one another: `q` is `x` or `x²` on
    the half-line, ``x (1 − x)`` on the interval.
    """

    def __init__(self, k: float, m: float, s: float, kind: str, free: sdegen.coordinates.Coordinates) -> None:
        self.k, self.m, self.s, self.kind, self.free, self.domain = k, m, s, kind, free, free.domain  # type: ignore[misc]

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.k * (self.m - x)

    def gram(self, x: Any, x_x: Any) -> Any:
        """The square of the noise, linear in `x` and its square."""
        return self.s**2 * {"x": x, "x²": x_x, "x (1 − x)": x - x_x}[self.kind]

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self.gram(x, x * x).clamp_min(0.0).sqrt()

    def moments_at(self, x: float, t: float) -> tuple[float, float]:
        """Mean and mean square at `t`, from `x`, by the midpoint rule."""
        n, first, second = 4000, x, x * x
        for _ in range(n):
            half = 0.5 * t / n
            one = first + half * self.k * (self.m - first)
            two = second + half * (2 * self.k * (self.m * first - second) + self.gram(first, second))
            first = first + 2 * half * self.k * (self.m - one)
            second = second + 2 * half * (2 * self.k * (self.m * one - two) + self.gram(one, two))
        return first, second


LOG, SOFTPLUS, ODDS = sdegen.coordinates.Log(), sdegen.coordinates.SoftplusInverse(), sdegen.coordinates.LogOdds()


@settings(max_examples=8)
@given(
    st.sampled_from([("x", LOG), ("x", SOFTPLUS), ("x²", LOG), ("x²", SOFTPLUS), ("x (1 − x)", ODDS)]),
    st.floats(0.5, 2.0),
    st.floats(0.2, 0.8),
    st.floats(0.1, 1.0),
    st.sampled_from([1e-6, 0.02, 0.5]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_paths_near_an_end_that_coordinates_put_far_away_have_their_moments(
    process: tuple[str, Any], k: float, m: float, share: float, x: float, dtype: torch.dtype
) -> None:
    kind, free = process
    s = (share * 2 * k * min(m, 1 - m)) ** 0.5  # so that no path comes to an end: W. Feller's condition, at share = 1
    sde, n, steps = Returning(k, m, s, kind, free), 4000, 250
    generator = torch.Generator().manual_seed(0)
    end = simulate(sde, torch.full((n, 1), x, dtype=dtype), 0.0, 1.0, steps=steps, generator=generator).double()
    assert end.dtype == torch.float64 and sde.domain.check(end).all()
    for power, want in enumerate(sde.moments_at(x, 1.0), 1):
        got = end**power
        assert abs(got.mean() - want) < 4.5 * got.std() / n**0.5 + 4 * want * k / steps, (power, got.mean(), want)


class BelowZero(sdegen.coordinates.Coordinates):
    """The logarithm of a mirror image: ``−log(−x)``, for numbers that have an end above alone."""

    domain, elementwise = constraints.less_than(0.0), True

    def __call__(self, x: Tensor) -> Tensor:
        return -(-x).log()

    def inverse(self, u: Tensor) -> Tensor:
        return -(-u).exp()

    def slope(self, x: Tensor) -> Tensor:
        return -1 / x

    def log_det(self, x: Tensor) -> Tensor:
        return self.slope(x).log().flatten(1).sum(1)


class Noting(BelowZero):
    """The same, which notes how many numbers it brings back each time."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def inverse(self, u: Tensor) -> Tensor:
        self.counts.append(u.numel())
        return super().inverse(u)


class Mirrored(Returning):
    """The mirror image of a process on the half-line."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -super().drift(-x, t)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return -super().diffusion(-x, t)


def test_paths_near_an_end_above_are_the_mirror_image_of_those_near_one_below() -> None:
    x, ends = torch.full((200, 1), 1e-6, dtype=torch.float64), []
    for sign, sde in ((1, Returning(1.0, 0.5, 0.9, "x", LOG)), (-1, Mirrored(1.0, 0.5, 0.9, "x", BelowZero()))):
        ends.append(sign * simulate(sde, sign * x, 0.0, 1.0, steps=50, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(*ends)
    assert ends[0].min() > 0


def test_of_a_path_that_nobody_asks_for_the_end_alone_is_kept() -> None:
    x, ends = torch.full((7, 1), -0.5, dtype=torch.float64), []
    for return_path in (True, False):
        free = Noting()
        sde, generator = Mirrored(1.0, 0.5, 0.9, "x", free), torch.Generator().manual_seed(0)
        ends.append(simulate(sde, x, 0.0, 1.0, steps=20, generator=generator, return_path=return_path))
        assert max(free.counts) == (7 * 21 if return_path else 7)
    assert torch.equal(ends[0][-1], ends[1]) and ends[0].shape == (21, 7, 1)
