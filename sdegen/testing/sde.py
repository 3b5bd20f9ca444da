"""The laws of a forward SDE, for the zoo and for a user's own class.

A law is a function that raises `Violation`. Those of every SDE come first, then those of linear ones, of scalar ones, of
matrix ones, and of nonlinear ones. Each says in its name what is wrong when it breaks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..data import gaussian_ring
from ..distributions import GaussianMixture
from ..divergence import value_and_slope
from ..linear import LinearSDE, MatrixSDE, ScalarSDE
from ..metrics import prior_gap
from ..models import Exact
from ..moments import scalar_moments
from ..operators import Scale, as_operator
from ..sde import SDE
from ..simulate import simulate
from .report import EXACT, QUADRATURE, STATISTICAL, Law, Report, Violation, cases, check, close, derivative

PRIOR_TOLERANCE = 1e-3  # nats, at the default T


def _inner(sde: Any, n: int = 7) -> Tensor:
    """Times inside ``(0, T)``, none at a round fraction; in the middle of their pieces where a process has pieces."""
    t = sde.T * torch.linspace(0.031, 0.953, n, dtype=torch.float64)
    piece = getattr(sde, "piece", None)
    return t if piece is None else ((t / piece).floor() + 0.5) * piece


def _steps(sde: Any, t: Tensor) -> Tensor:
    """Steps of the differences at `t`: three of them stay inside ``(0, T)``, and inside a piece."""
    piece = getattr(sde, "piece", None)
    return 0.01 * torch.minimum(t, sde.T - t) if piece is None else torch.full_like(t, 0.1 * piece)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


def _states(sde: Any, n: int, *shape: int) -> Tensor:
    """States of the process over data of a shape."""
    x = torch.randn(n, *shape, dtype=torch.float64, generator=_generator())
    u = sde.lift(x)
    return u + 0.3 * torch.randn(u.shape, dtype=torch.float64, generator=_generator())


SHAPES = ((), (3,), (2, 3, 3))


# --- every SDE -------------------------------------------------------------------------------------------------------


def drift_takes_state_then_time(sde: SDE) -> None:
    """``drift(x, t)`` has the shape and dtype of `x`, for data of any shape: arguments in order, no broadcasting."""
    for shape in SHAPES:
        for t in (_inner(sde)[3], _inner(sde, 5)):
            x = _states(sde, 5, *shape)
            kept = x.clone()
            out = sde.drift(x, t)
            if out.shape != x.shape or out.dtype != x.dtype:
                raise Violation(f"drift(x, t) is {out.dtype} {tuple(out.shape)} for x {x.dtype} {tuple(x.shape)}")
            if not torch.equal(x, kept):
                raise Violation("drift(x, t) changes x in place")
            half = sde.drift(x.float(), t)
            if half.dtype != torch.float32:
                raise Violation(f"drift(x, t) turns float32 into {half.dtype}")


def methods_are_functions(sde: SDE) -> None:
    """The same arguments give the same coefficients."""
    x, t = _states(sde, 4, 3), _inner(sde, 4)
    close("drift, asked twice,", sde.drift(x, t), sde.drift(x, t), 0.0)
    G = [as_operator(sde.diffusion(x, t)).matrix() for _ in range(2)]
    close("diffusion, asked twice,", G[0], G[1], 0.0)


def rows_are_independent(sde: SDE) -> None:
    """Each row of a batch moves by its own state and time alone."""
    for shape in SHAPES:
        x, t = _states(sde, 5, *shape), _inner(sde, 5)
        together = sde.drift(x, t)
        alone = torch.cat([sde.drift(x[i : i + 1], t[i]) for i in range(5)])
        close(f"drift of data of shape {shape} in a batch", together, alone, EXACT, 1 + alone.abs())
        G = as_operator(sde.diffusion(x, t))
        z = torch.randn(x.shape, dtype=torch.float64, generator=_generator())
        moved = torch.cat([as_operator(sde.diffusion(x[i : i + 1], t[i]))(z[i : i + 1]) for i in range(5)])
        close(f"diffusion of data of shape {shape} in a batch", G(z), moved, EXACT, 1 + moved.abs())


def noise_ignores_the_state(sde: SDE) -> None:
    """``G`` does not depend on `x`: the reversal would need its divergence."""
    t = _inner(sde, 4)
    first, second = (as_operator(sde.diffusion(x, t)).matrix() for x in (_states(sde, 4, 3), _states(sde, 4, 3) + 1))
    close("diffusion at another state", first, second, EXACT)


def coefficients_are_real(sde: SDE) -> None:
    """Drift and diffusion are finite inside ``(0, T)``; a NaN diffusion is a negative ``g²``."""
    for t in _inner(sde, 23):
        x = _states(sde, 2, 2)
        if not sde.drift(x, t).isfinite().all():
            raise Violation(f"drift is not finite at t = {t.item():.4g}")
        if not as_operator(sde.diffusion(x, t)).matrix().isfinite().all():
            raise Violation(f"diffusion is not finite at t = {t.item():.4g} (g² negative?)")


def coefficients_keep_their_digits(sde: SDE) -> None:
    """Drift and diffusion have float64's digits: over steps of a millionth, third differences vanish to 1e-10."""
    t = _inner(sde, 5)
    h = 1e-4 * _steps(sde, t)
    for name, function in (("drift", lambda x, u: sde.drift(x, u)), ("diffusion", lambda x, u: _noise(sde, x, u))):
        x = _states(sde, 5, 3)
        values = torch.stack([function(x * (1 + 1e-6 * k), t + k * h) for k in range(4)]).double()
        scale = values.abs().amax().clamp_min(1e-300)
        close(f"third difference of the {name}", values.diff(n=3, dim=0)[0], torch.zeros_like(values[0]), 1e-10, scale)


def _noise(sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """``G(x, t)`` applied to a fixed draw of noise."""
    return as_operator(sde.diffusion(x, t))(torch.randn(x.shape, dtype=torch.float64, generator=_generator()).to(x))


def diffusion_acts_on_every_state(sde: SDE) -> None:
    """``G(x, t)`` is a number, one per row, or an operator: noise keeps its shape and dtype, for data of any shape."""
    for shape in SHAPES:
        for t in (_inner(sde)[3], _inner(sde, 5)):
            for x in (_states(sde, 5, *shape), _states(sde, 5, *shape).float()):
                G = as_operator(sde.diffusion(x, t))
                if isinstance(G, Scale) and G.c.ndim > 1:
                    raise Violation(
                        f"diffusion(x, t) is {tuple(G.c.shape)} for x {tuple(x.shape)}, expected () or (5,)"
                    )
                out = _noise(sde, x, t)
                if out.shape != x.shape or out.dtype != x.dtype:
                    raise Violation(
                        f"diffusion turns noise {x.dtype} {tuple(x.shape)} into {out.dtype} {tuple(out.shape)}"
                    )


def training_times_lie_inside(sde: SDE) -> None:
    """``0 <= t_min < T``."""
    if not 0 <= sde.t_min < sde.T:
        raise Violation(f"t_min = {sde.t_min:g} is not in [0, T) = [0, {sde.T:g})")


def lift_and_project_agree(sde: SDE) -> None:
    """``project(lift(x)) = x``."""
    for shape in SHAPES:
        x = torch.randn(4, *shape, dtype=torch.float64, generator=_generator())
        close("project(lift(x))", sde.project(sde.lift(x)), x, 0.0)


def kernel_score_is_its_gradient(sde: SDE) -> None:
    """``kernel.score = ∇ log kernel`` and ``whiten(sample(z)) = z``."""
    t = _inner(sde, 4)
    x = _states(sde, 4, 3)
    kernel = sde.kernel(x, 0.9 * t, t)
    z = torch.randn(x.shape, dtype=torch.float64, generator=_generator())
    y = kernel.sample(z).requires_grad_()
    size = 1 + kernel.R.inv().matrix().abs().amax()
    close("whiten(sample(z))", kernel.whiten(y), z, EXACT, size)
    (slope,) = torch.autograd.grad(kernel.log_prob(y).sum(), y)
    close("score of the kernel", kernel.score(y), slope, EXACT, size**2)


def kernel_is_generated_by_the_coefficients(sde: SDE) -> None:
    """Over a short step the kernel moves by ``f h`` and spreads by ``G Gᵀ h``."""
    t = _inner(sde, 5)
    x = _states(sde, 5, 2)
    h = 1e-7 * sde.T
    kernel = sde.kernel(x, t, t + h)
    f = sde.drift(x, t + h / 2)
    close("mean increment of the kernel", (kernel.mean - x) / h, f, 1e-3, 1e-2 + f.abs().amax())
    G = as_operator(sde.diffusion(x, t + h / 2)).matrix()
    R = kernel.R.matrix()
    spread, want = R @ R.mT / h, (G @ G.mT).expand(5, *G.shape[-2:])
    if spread.shape != want.shape:  # a number's noise, in a kernel over coordinates
        want = want * torch.eye(spread.shape[-1], dtype=torch.float64)
    close("spread of the kernel per time", spread.expand(want.shape), want, 1e-3, 1e-2 + want.abs().amax())


def perturbation_is_its_kernel(sde: SDE) -> None:
    """``perturb`` returns ``x = kernel.sample(z)``: state, kernel and noise of one draw."""
    x_0 = torch.randn(6, 2, dtype=torch.float64, generator=_generator())
    law = sde.perturb(x_0, _inner(sde, 6), generator=_generator())
    close("x of perturb", law.x, law.kernel.sample(law.z), EXACT, 1 + law.x.abs())


def simulation_follows_the_kernel(sde: SDE) -> None:
    """Paths simulated from the coefficients have the kernel's mean and spread, within five standard errors."""
    n = 4000
    lag = sde.T if sde.is_linear else sde._calibrate_lag(_states(sde, 256, 2))
    s, t = 0.3 * sde.T, 0.3 * sde.T + min(0.05 * sde.T, lag)
    x = _states(sde, 1, 2).expand(n, *_states(sde, 1, 2).shape[1:]).contiguous()
    end = simulate(sde, x, s, t, steps=64, generator=_generator()).reshape(n, -1)
    kernel = sde.kernel(x[:1], s, t)
    draws = sde.kernel(x, s, t).sample(torch.randn(x.shape, dtype=torch.float64, generator=_generator()))
    spread = draws.reshape(n, -1).std(0)
    gap = (end.mean(0) - kernel.mean.reshape(-1)).abs()
    # Euler's own bias over the interval, of first order in the step, is allowed for.
    bias = (kernel.mean - x[:1]).abs().reshape(-1).amax() / 16
    if (gap > STATISTICAL * spread / n**0.5 + bias).any():
        raise Violation(
            f"simulated mean is off by {gap.max().item():.3g}, {(spread / n**0.5).max().item():.1g} expected"
        )
    ratio = (end.std(0) / spread).log().abs()
    if (ratio > STATISTICAL * (1 / n) ** 0.5 + 0.03).any():
        raise Violation(f"simulated spread is off by a factor {ratio.max().exp().item():.3g}")


def prior_is_the_law_at_T(sde: SDE) -> None:
    """``KL(marginal at T ‖ prior) <= 1e-3`` nats on the ring; statistically, for a process without closed forms."""
    ring = gaussian_ring()
    if sde.is_linear:
        nats = prior_gap(sde, ring).value  # type: ignore[arg-type]
        if not nats <= PRIOR_TOLERANCE:
            raise Violation(
                f"the law at T is {nats:.3g} nats from the prior, {PRIOR_TOLERANCE:g} allowed; enlarge T or the noise"
            )
        at_T = sde.marginal(sde.T)  # type: ignore[attr-defined]
        law = ring.diffuse(at_T) if len(sde.e) == 1 else ring.diffuse(at_T, sde.e)  # type: ignore[attr-defined]
        prior = sde.prior(ring.moments())
        _same_law(
            "a sample of the prior",
            prior.sample(4000, torch.Generator().manual_seed(21)),
            law.sample(4000, _generator()),
        )
        return
    n = 4000
    x = simulate(sde, 0.3 * ring.sample(n, _generator()), 0.0, sde.T, steps=400, generator=_generator())
    _same_law("the prior", sde.prior(ring.moments()).sample(n, torch.Generator().manual_seed(21)), x)


def _same_law(name: str, y: Tensor, x: Tensor) -> None:
    """Two samples of one size, each coordinate: Kolmogorov–Smirnov, and four moments to five standard errors."""
    n = len(x)
    for a, b in zip(x.reshape(n, -1).double().T, y.reshape(n, -1).double().T, strict=True):
        both = torch.cat([a, b]).sort().values
        gap = (torch.searchsorted(a.sort().values, both) - torch.searchsorted(b.sort().values, both)).abs().max() / n
        if not gap <= 2.2 * (2 / n) ** 0.5:
            raise Violation(f"{name} differs by {gap.item():.3g} in distribution function")
        for p in (1, 2, 3, 4):
            u, v = a**p, b**p
            error = ((u.var() + v.var()) / n).sqrt()
            if not (u.mean() - v.mean()).abs() <= STATISTICAL * error + 0.01 * u.abs().mean():  # 1 %: Euler's own bias
                raise Violation(
                    f"{name} has E x^{p} = {v.mean().item():.4g}, expected {u.mean().item():.4g} ± {error.item():.2g}"
                )


# --- linear SDEs ---------------------------------------------------------------------------------------------------


def marginals_compose(sde: LinearSDE) -> None:
    """Chapman–Kolmogorov: ``transition(u, t) ∘ transition(s, u) = transition(s, t)``, and on marginals likewise."""
    times = _inner(sde, 6)
    for s, u, t in zip(times[:4], times[1:5], times[2:], strict=True):
        one, two, both = sde.transition(s, u), sde.transition(u, t), sde.transition(s, t)
        _compose("transition", one, two, both)
        _compose("marginal", sde.marginal(s), sde.transition(s, t), sde.marginal(t))


def _compose(name: str, first: Any, then: Any, both: Any) -> None:
    Phi = (then.Phi @ first.Phi).matrix()
    Sigma = (then.Phi @ first.covariance @ then.Phi.T + then.covariance).matrix()
    close(f"Phi of a composed {name}", Phi, both.Phi.matrix(), 1e-8, both.Phi.matrix().abs().amax().clamp_min(1e-12))
    close(
        f"covariance of a composed {name}", Sigma, both.covariance.matrix(), 1e-8, both.covariance.matrix().abs().amax()
    )


def moments_follow_their_odes(sde: LinearSDE) -> None:
    """``Phi' = F Phi`` and ``Sigma' = F Sigma + Sigma Fᵀ + G Gᵀ``."""
    t = _inner(sde)
    h = _steps(sde, t)
    law = sde.marginal(t)
    F, G = sde.drift_operator(t).matrix(), sde.diffusion_operator(t).matrix()
    Phi, Sigma = law.Phi.matrix(), law.covariance.matrix()
    F, G = F.expand(Phi.shape), G.expand(Phi.shape)
    slope = derivative(lambda u: sde.marginal(u).Phi.matrix(), t, h)
    want = F @ Phi
    size = (F.abs() @ Phi.abs() + Phi.abs() / sde.T).amax((1, 2), keepdim=True)
    close("Phi'", slope, want, QUADRATURE, size)
    slope = derivative(lambda u: sde.marginal(u).covariance.matrix(), t, h)
    moved = F @ Sigma
    noise = G @ G.mT
    size = (moved.abs() + noise.abs() + Sigma.abs() / sde.T).amax((1, 2), keepdim=True)
    close("Sigma'", slope, moved + moved.mT + noise, QUADRATURE, size)


def marginal_starts_at_the_data(sde: LinearSDE) -> None:
    """At 0 the mean is the datum and the covariance the declared one: ``sigma_0²``, or ``Sigma_0``."""
    law = sde.marginal(0.0)
    e = sde.e
    close("Phi(0)", law.Phi.matrix() @ e, e, EXACT, 1.0)
    declared = sde.Sigma_0 if isinstance(sde, MatrixSDE) else torch.tensor([[sde.sigma_0**2]], dtype=torch.float64)  # type: ignore[attr-defined]
    close("covariance at 0", law.covariance.matrix(), declared, EXACT, declared.abs().max() + 1e-12)


def signal_to_noise_decreases(sde: LinearSDE) -> None:
    """``snr`` falls strictly, and `time` inverts it."""
    t = sde.T * torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    snr = sde.snr(t)
    if not (snr[1:] < snr[:-1]).all():
        i = int((~(snr[1:] < snr[:-1])).nonzero()[0, 0])
        raise Violation(
            f"snr goes from {snr[i].item():.4g} to {snr[i + 1].item():.4g} between t = {t[i]:.3g} and {t[i + 1]:.3g}"
        )


def clock_inverts_the_snr(sde: LinearSDE) -> None:
    """``time(snr(t)) = t``, and the flow's clock and chart invert too."""
    t = _inner(sde)
    close("time(snr(t))", sde.time(sde.snr(t)), t, 1e-8, sde.T)
    flow = sde.flow(Exact(sde, gaussian_ring()))
    close("the flow's time(clock(t))", flow.time(flow.clock(t)), t, 1e-8, sde.T)
    x = _states(sde, len(t), 2)
    close("the flow's unchart(chart(x))", flow.unchart(flow.chart(x, t), t), x, EXACT, 1 + x.abs())
    y = flow.chart(x, t)
    J = [
        torch.func.jacrev(lambda v, i=i: flow.unchart(v[None], t[i])[0].flatten())(y[i]).reshape(y[i].numel(), -1)
        for i in range(len(t))
    ]
    scale = torch.linalg.slogdet(torch.stack(J)).logabsdet / y[0].numel()
    close("the flow's log_scale", flow.log_scale(t), scale, 1e-8, 1 + scale.abs())


def perturb_draws_from_the_marginal(sde: LinearSDE) -> None:
    """The kernel of `perturb` is the marginal at `t`, row by row, in any shape and dtype."""
    t = _inner(sde, 4)
    for shape in SHAPES:
        x_0 = torch.randn(4, *shape, dtype=torch.float64, generator=_generator())
        drawn, law = sde.perturb(x_0, t, generator=_generator()), sde.marginal(t)(sde.lift(x_0))
        close("mean of perturb", drawn.kernel.mean, law.mean, EXACT, 1 + law.mean.abs())
        R, want = drawn.kernel.R.matrix(), law.R.matrix()
        close("covariance of perturb", R @ R.mT, want @ want.mT, EXACT, 1e-12 + want.abs().amax() ** 2)
        half = sde.perturb(x_0.float(), t, z=drawn.z.float())
        if half.x.dtype != torch.float32:
            raise Violation(f"perturb turns float32 into {half.x.dtype}")
        close("perturb in float32", half.x, drawn.x, 1e-5, 1 + drawn.x.abs().amax())


def root_squares_to_the_covariance(sde: LinearSDE) -> None:
    """``root(t)`` is a root of the marginal's covariance: the scale of Langevin steps and of loss weights."""
    t = _inner(sde)
    R, want = sde.root(t).matrix(), sde.marginal(t).covariance.matrix()
    close("root(t) root(t)ᵀ", R @ R.mT, want, 1e-8, want.abs().amax((1, 2), keepdim=True))


def reversal_keeps_the_marginals(sde: LinearSDE) -> None:
    """The reversed SDE has the forward marginals for every eta, by its moment ODE on Gaussian data.

    ``x' = A x + c`` backwards with noise ``eta G`` moves a covariance by ``A S + S Aᵀ − eta² G Gᵀ``, which must be
    ``F S + S Fᵀ + G Gᵀ``.
    """
    data = GaussianMixture(torch.ones(1), torch.tensor([[0.7]]), torch.tensor([0.5]))
    model = Exact(sde, data)
    k = len(sde.e)
    shape = (k, 1) if k > 1 else (1,)
    probe = torch.cat([torch.zeros(1, k, dtype=torch.float64), torch.eye(k, dtype=torch.float64)]).reshape(
        k + 1, *shape
    )
    for t in _inner(sde, 5):
        law = sde.marginal(t)
        p = law.Phi.matrix() @ sde.e
        S = 0.5 * p[:, None] * p[None] + law.covariance.matrix()
        m = 0.7 * p
        F, G = (c(t).matrix().expand(k, k) for c in (sde.drift_operator, sde.diffusion_operator))
        forward = F @ S + S @ F.T + G @ G.T
        size = (F.abs() @ S.abs() + (G @ G.T).abs()).amax()
        for eta in (0.0, 0.6, 1.0):
            reverse = sde.reverse(model, eta)
            out = reverse.drift(probe, t).reshape(k + 1, k)
            c, A = out[0], (out[1:] - out[0]).T
            noise = as_operator(reverse.diffusion(probe, t)).matrix().expand(k, k)
            close(f"mean drift of the reversal, eta = {eta}", A @ m + c, F @ m, 1e-7, size)
            close(
                f"covariance drift of the reversal, eta = {eta}", A @ S + S @ A.T - noise @ noise.T, forward, 1e-7, size
            )


def flow_carries_the_marginals(sde: LinearSDE) -> None:
    """One point's flow: ``x_t = Phi x_0 + R z`` with `z` fixed solves the probability flow of a point mass.

    In the flow's own clock and chart: what fails here is its velocity, or the root `R` of the marginals.
    """
    x_0 = torch.tensor([[0.8]], dtype=torch.float64)
    model = Exact(sde, GaussianMixture(torch.ones(1), x_0, torch.tensor([1e-12])))
    flow = sde.flow(model)
    u_0 = sde.lift(x_0)
    z = torch.randn(u_0.shape, dtype=torch.float64, generator=_generator())

    def along(tau: Tensor) -> Tensor:
        return torch.cat([flow.chart(sde.marginal(t)(u_0).sample(z), t) for t in flow.time(tau)])

    ends = flow.clock(torch.tensor([0.15, 0.85], dtype=torch.float64) * sde.T)
    tau = torch.linspace(ends[0].item(), ends[1].item(), 5, dtype=torch.float64)
    h = 1e-3 * (ends[1] - ends[0]).expand(5)
    slope = derivative(along, tau, h)
    want = torch.cat([flow.velocity(along(tau[i : i + 1]), tau[i]) for i in range(5)])
    close("velocity along the path of one point", slope, want, 1e-5, 1 + want.abs().amax())


# --- scalar SDEs -----------------------------------------------------------------------------------------------------


def derivatives_reach_the_schedule(sde: ScalarSDE) -> None:
    """Forward-mode derivatives of `alpha` and `sigma` equal finite differences: no ``float(t)``, no branch on `t`."""
    t = _inner(sde)
    h = _steps(sde, t)
    for name in ("alpha", "sigma"):
        schedule = getattr(sde, name)

        def lifted(u: Tensor, schedule: Any = schedule) -> Tensor:
            return torch.as_tensor(schedule(u), dtype=torch.float64).expand(u.shape)

        value, slope = value_and_slope(lifted, t, torch.ones_like(t))
        close(f"derivative of {name}", slope, derivative(lifted, t, h), QUADRATURE, value.abs() / sde.T + slope.abs())


def schedule_keeps_its_digits(sde: ScalarSDE) -> None:
    """At small times `sigma` has the digits of float64: it follows its coefficients down to ``t = 1e-9 T``.

    Held against quadrature of `f` and `g`; a schedule that gives only `alpha` and `sigma` must be smooth there instead.
    """
    t = (sde.piece or sde.T) * torch.logspace(-9, -2, 36, dtype=torch.float64)  # among so many, some round badly
    start = torch.zeros_like(t)
    try:
        log_alpha, log_variance = scalar_moments(sde.f, sde.g, start, t)
    except ValueError:
        log_alpha, log_variance = scalar_moments(sde.f, sde.g, start + 1e-3 * t, t)
        start = 1e-3 * t
    before = sde.sigma(start).square() if (start > 0).any() else torch.full_like(t, sde.sigma_0**2)
    want = ((2 * log_alpha).exp() * before + log_variance.exp()).sqrt()
    close("sigma at small times", sde.sigma(t), want, 1e-9)


def closed_form_matches_coefficients(sde: ScalarSDE) -> None:
    """`alpha` and `sigma` equal the quadrature of `f` and `g` over ``[s, t]``, wherever those are finite."""
    t = _inner(sde)
    s = 0.2 * t if sde.piece is None else t - 0.4 * sde.piece
    log_alpha, log_variance = scalar_moments(sde.f, sde.g, s, t)
    close("alpha(t) / alpha(s)", sde.alpha(t) / sde.alpha(s), log_alpha.exp(), QUADRATURE)
    want = ((2 * log_alpha).exp() * sde.sigma(s).square() + log_variance.exp()).sqrt()
    close("sigma(t)", sde.sigma(t), want, QUADRATURE)


# --- matrix SDEs -----------------------------------------------------------------------------------------------------


def root_solves_its_equation(sde: MatrixSDE) -> None:
    """``R Rᵀ = Sigma`` and ``R' = (F + ½ G Gᵀ Sigma⁻¹) R``: a Cholesky factor satisfies only the first."""
    t = _inner(sde)
    h = _steps(sde, t)
    law = sde.marginal(t)
    R, Sigma = law.R.matrix(), law.covariance.matrix()
    close("R Rᵀ", R @ R.mT, sde._covariance(t), 1e-8, Sigma.abs().amax((1, 2), keepdim=True))
    F, G = (c(t).matrix().expand(R.shape) for c in (sde.drift_operator, sde.diffusion_operator))
    want = (F + 0.5 * G @ G.mT @ torch.linalg.inv(Sigma)) @ R
    slope = derivative(lambda u: sde.marginal(u).R.matrix(), t, h)
    close("R'", slope, want, QUADRATURE, want.abs().amax((1, 2), keepdim=True))


def completion_follows_Sigma_0(sde: MatrixSDE) -> None:
    """`complete` keeps the data, draws the other channels from ``Sigma_0``, and returns their log-density."""
    k = len(sde.Sigma_0)
    x = torch.randn(k, 1, dtype=torch.float64, generator=_generator())
    u, log_density = sde.complete(x, torch.eye(k, dtype=torch.float64)[..., None])
    close("project(complete(x, z))", sde.project(u), x, 0.0)
    rest, want = (u - sde.lift(x))[1:, 1:, 0].T, sde.Sigma_0[1:, 1:]
    close("covariance of the completion", rest @ rest.T, want, 1e-8, want.abs().amax())
    normal = -0.5 * torch.linalg.slogdet(want).logabsdet - 0.5 * (k - 1) * math.log(2 * math.pi)
    close("log-density of the completion", log_density, normal - 0.5 * (torch.arange(k) > 0).double(), 1e-8, 1.0)


# --- nonlinear SDEs --------------------------------------------------------------------------------------------------


def short_kernel_agrees_with_half_steps(sde: SDE) -> None:
    """The lag of denoising targets is short enough: a kernel equals two half-kernels within the declared tolerance."""
    x_0 = 0.5 * torch.randn(256, 2, dtype=torch.float64, generator=_generator())
    if sde.lag is not None:
        found = sde._calibrate_lag(x_0)
        if sde.lag > 2 * found:
            raise Violation(f"lag = {sde.lag:g}, but half-steps agree only from {found:.3g}")
    else:
        sde._calibrate_lag(x_0)


def derivatives_reach_the_drift(sde: SDE) -> None:
    """Reverse-mode derivatives of the drift in `x` equal finite differences: no ``detach``, no NumPy."""
    t = _inner(sde, 5)
    x = _states(sde, 5, 3).requires_grad_()
    with torch.enable_grad():
        out = sde.drift(x, t)
        if not out.requires_grad:
            raise Violation("drift(x, t) carries no derivative in x")
        (slope,) = torch.autograd.grad(out.sum(), x, allow_unused=True, materialize_grads=True)
    x, unit = x.detach(), torch.eye(3, dtype=torch.float64)
    h = torch.full((5,), 1e-3, dtype=torch.float64)
    for i in range(3):

        def along(u: Tensor, direction: Tensor = unit[i]) -> Tensor:
            return sde.drift(x + u[:, None] * direction, t).sum(1)

        want = derivative(along, torch.zeros_like(h), h)
        close("derivative of the drift", slope[:, i], want, QUADRATURE, 1 + want.abs())


def reversal_pulls_along_the_score(sde: SDE) -> None:
    """``drift = f − ½ (1 + eta²) G Gᵀ score`` and ``diffusion = eta G``, for any score."""

    class Known:
        def score(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.sin(3 * x) - x

    x, t = _states(sde, 5, 3), _inner(sde, 5)
    z = torch.randn(x.shape, dtype=torch.float64, generator=_generator())
    G = as_operator(sde.diffusion(x, t))
    for eta in (0.0, 0.6, 1.0):
        reverse = sde.reverse(Known(), eta)
        want = sde.drift(x, t) - 0.5 * (1 + eta**2) * G(G.T(Known().score(x, t)))
        close(f"drift of the reversal, eta = {eta}", reverse.drift(x, t), want, EXACT, 1 + want.abs())
        close(f"noise of the reversal, eta = {eta}", as_operator(reverse.diffusion(x, t))(z), eta * G(z), EXACT, 1.0)


def perturb_follows_the_simulation(sde: SDE) -> None:
    """`perturb` has the law at `t` of paths from the datum, statistically."""
    n, t = 4000, 0.3 * sde.T
    x_0 = torch.tensor([[0.7, -0.4]], dtype=torch.float64).expand(n, 2).contiguous()
    want = simulate(sde, x_0, 0.0, t, steps=200, generator=_generator())
    _same_law("perturb", sde.perturb(x_0, t, generator=torch.Generator().manual_seed(21)).x, want)


EVERY: list[Law] = [
    drift_takes_state_then_time,
    methods_are_functions,
    rows_are_independent,
    noise_ignores_the_state,
    coefficients_are_real,
    coefficients_keep_their_digits,
    diffusion_acts_on_every_state,
    training_times_lie_inside,
    lift_and_project_agree,
    kernel_score_is_its_gradient,
    kernel_is_generated_by_the_coefficients,
    perturbation_is_its_kernel,
    simulation_follows_the_kernel,
    prior_is_the_law_at_T,
]
LINEAR: list[Law] = [
    marginals_compose,
    moments_follow_their_odes,
    marginal_starts_at_the_data,
    signal_to_noise_decreases,
    clock_inverts_the_snr,
    perturb_draws_from_the_marginal,
    root_squares_to_the_covariance,
    reversal_keeps_the_marginals,
    flow_carries_the_marginals,
]
SCALAR: list[Law] = [derivatives_reach_the_schedule, schedule_keeps_its_digits, closed_form_matches_coefficients]
MATRIX: list[Law] = [root_solves_its_equation, completion_follows_Sigma_0]
NONLINEAR: list[Law] = [
    short_kernel_agrees_with_half_steps,
    derivatives_reach_the_drift,
    reversal_pulls_along_the_score,
    perturb_follows_the_simulation,
]


def laws_of(sde: SDE) -> list[Law]:
    """The laws that apply to a process."""
    laws = list(EVERY)
    laws += LINEAR if isinstance(sde, LinearSDE) else NONLINEAR
    laws += SCALAR if isinstance(sde, ScalarSDE) else []
    laws += MATRIX if isinstance(sde, MatrixSDE) else []
    return laws


def check_sde(sde: SDE, expected: dict[str, str] | None = None) -> Report:
    """Hold a process against its laws.

    Parameters
    ----------
    sde
        Any SDE, of the library or your own.
    expected
        Laws that are expected to fail, by name, each with its reason.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Examples
    --------
    >>> import sdegen
    >>> class Mine(sdegen.ScalarSDE):
    ...     def f(self, t): return -10 * t
    ...     def g(self, t): return (1 + 20 * t).sqrt()
    >>> check_sde(Mine()).passed
    True
    """
    return check(sde, laws_of(sde), expected)


def sde_cases(sde: SDE) -> list[Any]:
    """The laws of a process as pytest parameters; see `report.cases`."""
    return cases(sde, laws_of(sde))
