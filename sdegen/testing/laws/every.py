"""The laws of every SDE: shapes, rows and digits of its coefficients, its local kernel, its prior."""

from __future__ import annotations

__all__ = [
    "EVERY",
    "coefficients_are_real",
    "coefficients_keep_their_digits",
    "diffusion_acts_on_every_state",
    "drift_takes_state_then_time",
    "kernel_is_generated_by_the_coefficients",
    "kernel_score_is_its_gradient",
    "lift_and_project_agree",
    "methods_are_functions",
    "noise_has_derivatives",
    "perturbation_is_its_kernel",
    "prior_is_the_law_at_T",
    "rows_are_independent",
    "simulation_follows_the_kernel",
    "training_times_lie_inside",
]

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...data import gaussian_ring
from ...laws.kernels import Kernel, StateLaw
from ...laws.mixtures import GaussianMixture, moments_of
from ...laws.operators import Scale, rows
from ...laws.outside import as_law
from ...metrics import prior_gap
from ...processes.base import SDE
from ...processes.dynamics import diffusion_at
from ...processes.linear import is_linear
from ...processes.nonlinear import calibrate_lag
from ...processes.simulate import simulate
from ...processes.state_noise import dependence_of_noise
from ..report import EXACT, STATISTICAL, Law, Violation, close, same_law
from .probes import SHAPES, data, difference_steps, euler_steps, generator, into_domain, rate, shapes, states, times

PRIOR_TOLERANCE = 1e-3  # nats, at the default T
PRODUCT = 1e-14  # what a product of float64 matrices rounds to


def drift_takes_state_then_time(sde: SDE) -> None:
    """``drift(x, t)`` has the shape and dtype of `x`, for data of any shape: arguments in order, no broadcasting."""
    for shape in shapes():
        for t in (times(sde)[3], times(sde, 5)):
            x = states(sde, 5, *shape)
            kept = x.clone()
            try:
                out = sde.drift(x, t)
            except Exception as error:
                error.add_note(
                    f"state of shape {tuple(x.shape)}; if it takes data of one shape, check_sde(sde, shape=(2,))"
                )
                raise
            if out.shape != x.shape or out.dtype != x.dtype:
                raise Violation(f"drift(x, t) is {out.dtype} {tuple(out.shape)} for x {x.dtype} {tuple(x.shape)}")
            if not torch.equal(x, kept):
                raise Violation("drift(x, t) changes x in place")
            half = sde.drift(x.float(), t)
            if half.dtype != torch.float32:
                raise Violation(f"drift(x, t) turns float32 into {half.dtype}")


def methods_are_functions(sde: SDE) -> None:
    """The same arguments give the same coefficients."""
    x, t = states(sde, 4, 3), times(sde, 4)
    close("drift, asked twice,", sde.drift(x, t), sde.drift(x, t), 0.0)
    G = [diffusion_at(sde, x, t).matrix() for _ in range(2)]
    close("diffusion, asked twice,", G[0], G[1], 0.0)


def rows_are_independent(sde: SDE) -> None:
    """Each row of a batch moves by its own state and time alone."""
    for shape in shapes():
        x, t = states(sde, 5, *shape), times(sde, 5)
        together = sde.drift(x, t)
        alone = torch.cat([sde.drift(x[i : i + 1], t[i]) for i in range(5)])
        close(f"drift of data of shape {shape} in a batch", together, alone, EXACT, 1 + alone.abs())
        G = diffusion_at(sde, x, t)
        z = torch.randn(x.shape, dtype=torch.float64, generator=generator())
        moved = torch.cat([diffusion_at(sde, x[i : i + 1], t[i])(z[i : i + 1]) for i in range(5)])
        close(f"diffusion of data of shape {shape} in a batch", G(z), moved, EXACT, 1 + moved.abs())


def noise_has_derivatives(sde: SDE) -> None:
    """``G`` depends on `x` by torch functions, or not at all: the reversal of the process needs its divergence."""
    for t in times(sde, 4):
        try:
            dependence_of_noise(f"{type(sde).__name__}.diffusion", partial(diffusion_at, sde), states(sde, 1, 3), t)
        except ValueError as refused:
            raise Violation(str(refused)) from refused


def coefficients_are_real(sde: SDE) -> None:
    """Drift and diffusion are finite inside ``(0, T)``; a NaN diffusion is a negative ``g²``."""
    for t in times(sde, 23):
        x = states(sde, 2, 2)
        if not sde.drift(x, t).isfinite().all():
            raise Violation(f"drift is not finite at t = {t.item():.4g}")
        if not diffusion_at(sde, x, t).matrix().isfinite().all():
            raise Violation(f"diffusion is not finite at t = {t.item():.4g} (g² negative?)")


def coefficients_keep_their_digits(sde: SDE) -> None:
    """Drift and diffusion have float64's digits: over steps of a millionth, third differences vanish to 1e-10."""
    t = times(sde, 5)
    h = 1e-4 * difference_steps(sde, t)
    for name, function in (("drift", lambda x, u: sde.drift(x, u)), ("diffusion", lambda x, u: _noise(sde, x, u))):
        x = states(sde, 5, 3)
        values = torch.stack([function(x * (1 + 1e-6 * k), t + k * h) for k in range(4)]).double()
        scale = values.abs().amax().clamp_min(1e-300)
        close(f"third difference of the {name}", values.diff(n=3, dim=0)[0], torch.zeros_like(values[0]), 1e-10, scale)


def _noise(sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """``G(x, t)`` applied to a fixed draw of noise."""
    return diffusion_at(sde, x, t)(torch.randn(x.shape, dtype=torch.float64, generator=generator()).to(x))


def diffusion_acts_on_every_state(sde: SDE) -> None:
    """``G(x, t)`` is a number, one per row, or an operator: noise keeps its shape and dtype, for data of any shape."""
    for shape in shapes():
        for t in (times(sde)[3], times(sde, 5)):
            for x in (states(sde, 5, *shape), states(sde, 5, *shape).float()):
                G = diffusion_at(sde, x, t)
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
    """``project(lift(x)) = x``, but for the rounding of a product."""
    for shape in shapes():
        x = data(4, *shape)
        close(
            "project(lift(x))", sde.project(sde.lift(x)), x, PRODUCT if sde.coordinates is None else EXACT, 1 + x.abs()
        )


def kernel_score_is_its_gradient(sde: SDE) -> None:
    """``kernel.score = ∇ log kernel``, and of a Gaussian kernel ``whiten(sample(z)) = z``."""
    t = times(sde, 4)
    x = states(sde, 4, 3)
    kernel = sde.kernel(x, 0.9 * t, t)
    z = torch.randn(x.shape, dtype=torch.float64, generator=generator())
    y = kernel.sample(z).requires_grad_()
    (slope,) = torch.autograd.grad(kernel.log_prob(y).sum(), y)
    size = 1 + slope.abs().amax() ** 2
    if isinstance(kernel, Kernel):
        size = (1 + kernel.R.inv().matrix().abs().amax()) ** 2
        close("whiten(sample(z))", kernel.whiten(y), z, EXACT, size.sqrt())
    close("score of the kernel", kernel.score(y), slope, EXACT, size)


def kernel_is_generated_by_the_coefficients(sde: SDE) -> None:
    """Over a short step the kernel moves by ``f h`` and spreads by ``G Gᵀ h``."""
    t = times(sde, 5)
    x = states(sde, 5, 2)
    h = torch.minimum(torch.full_like(t, 1e-7 * sde.T), 1e-4 / rate(sde, t))
    kernel = sde.kernel(x, t, t + h)
    f = sde.drift(x, t + h / 2)
    mean, covariance = _mean_and_covariance(kernel, x)
    close("mean increment of the kernel", (mean - x) / rows(h, x), f, 1e-3, 1e-2 + f.abs().amax())
    G = diffusion_at(sde, x, t + h / 2).matrix()
    spread, want = covariance / h[:, None, None], (G @ G.mT).expand(5, *G.shape[-2:])
    if spread.shape != want.shape:  # a number's noise, in a kernel over coordinates
        want = want * torch.eye(spread.shape[-1], dtype=torch.float64)
    close("spread of the kernel per time", spread.expand(want.shape), want, 1e-3, 1e-2 + want.abs().amax())


def _mean_and_covariance(law: StateLaw, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean ``(B, *)`` and covariance ``(·, k, k)`` of the law of a state.

    Of one that is no Gaussian, and whose numbers are independent, by quadrature over the noise of each.

    Parameters
    ----------
    law
        The law.
    like
        States for its shape, ``(B, *)``.
    """
    if isinstance(law, Kernel):
        R = law.R.matrix()
        return law.mean, R @ R.mT
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(40))
    drawn = torch.stack([law.sample(torch.full_like(like, float(z))) for z in nodes])
    weights = (weights / weights.sum()).reshape(-1, *[1] * like.ndim)
    mean = (weights * drawn).sum(0)
    return mean, torch.diag_embed((weights * (drawn - mean).square()).sum(0).flatten(1))


def perturbation_is_its_kernel(sde: SDE) -> None:
    """``perturb`` returns ``x = kernel.sample(z)``, of one draw, and the data it was made from, in the units of the process."""
    x_0 = data(6, 2)
    law = sde.perturb(x_0, times(sde, 6), generator=generator())
    close("x of perturb", law.x, law.kernel.sample(law.z), EXACT, 1 + law.x.abs())
    u_0 = sde.standardise(x_0)
    close("data of perturb", law.data, u_0, EXACT, 1 + u_0.abs())


def simulation_follows_the_kernel(sde: SDE) -> None:
    """Paths simulated from the coefficients have the kernel's mean and spread, within five standard errors."""
    n = 4000
    lag = sde.T if is_linear(sde) or sde.is_known else calibrate_lag(sde, states(sde, 256, 2), sde.lag_tolerance)
    s = 0.3 * sde.T
    relaxed = 0.5 / rate(sde, torch.tensor([s], dtype=torch.float64))
    t = s + min(0.05 * sde.T, lag, relaxed.item())
    x = states(sde, 1, 2).expand(n, *states(sde, 1, 2).shape[1:]).contiguous()
    steps = 64
    if is_linear(sde):  # Euler's method sees no faster rate
        fastest = sde.drift_operator(0.5 * (s + t)).matrix().abs().amax().item()
        steps = min(max(steps, math.ceil(40 * fastest * (t - s))), 4096)
    end = simulate(sde, x, s, t, steps=steps, generator=generator()).reshape(n, -1)
    kernel = sde.kernel(x[:1], s, t)
    draws = sde.kernel(x, s, t).sample(torch.randn(x.shape, dtype=torch.float64, generator=generator()))
    spread = draws.reshape(n, -1).std(0)
    mean, _ = _mean_and_covariance(kernel, x[:1])
    gap = (end.mean(0) - mean.reshape(-1)).abs()
    # Euler's own bias over the interval, of first order in the step, is allowed for.
    bias = (mean - x[:1]).abs().reshape(-1).amax() / 16
    if not (gap <= STATISTICAL * spread / n**0.5 + bias).all():
        raise Violation(
            f"simulated mean is off by {gap.max().item():.3g}, {(spread / n**0.5).max().item():.1g} expected"
        )
    ratio = (end.std(0) / spread).log().abs()
    if not (ratio <= STATISTICAL * (1 / n) ** 0.5 + 0.03).all():
        raise Violation(f"simulated spread is off by a factor {ratio.max().exp().item():.3g}")


def prior_is_the_law_at_T(sde: SDE) -> None:
    """``KL(marginal at T ‖ prior) <= 1e-3`` nats on the ring; statistically, for a process without closed forms."""
    ring = gaussian_ring()
    if is_linear(sde):
        if sde.event_shape not in (None, tuple(ring.event_shape)):
            means = torch.tensor([-1.0, 1.0]).reshape(2, *[1] * len(sde.event_shape)).expand(2, *sde.event_shape)
            ring = GaussianMixture(torch.tensor([0.5, 0.5]), means, torch.tensor([0.1, 0.1]))
        nats = prior_gap(sde, ring).value
        if not nats <= PRIOR_TOLERANCE:
            raise Violation(
                f"the law at T is {nats:.3g} nats from the prior, {PRIOR_TOLERANCE:g} allowed; enlarge T or the noise"
            )
        law = sde.diffused(ring, sde.T)
        prior = sde.prior(ring.moments())
        same_law(
            "a sample of the prior",
            prior.sample(4000, torch.Generator().manual_seed(21)),
            law.sample(4000, generator()),
        )
        return
    n = 4000
    x_0 = into_domain(0.3 * ring.sample(n, generator())) if shapes() is SHAPES else data(n)
    x = simulate(sde, sde.lift(x_0), 0.0, sde.T, steps=euler_steps(sde, sde.T, 400), generator=generator())
    prior = as_law(sde.prior(moments_of(x_0).in_units(sde.units)))
    same_law("the prior", prior.sample(n, torch.Generator().manual_seed(21)), x)


EVERY: list[Law] = [
    drift_takes_state_then_time,
    methods_are_functions,
    rows_are_independent,
    noise_has_derivatives,
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
