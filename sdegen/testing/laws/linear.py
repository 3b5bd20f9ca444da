"""The laws of a linear SDE: its marginals and transitions, their clock, and what reverses them."""

from __future__ import annotations

__all__ = [
    "LINEAR",
    "clock_inverts_the_snr",
    "flow_carries_the_marginals",
    "marginal_starts_at_the_data",
    "marginals_compose",
    "moments_follow_their_odes",
    "perturb_draws_from_the_marginal",
    "reversal_keeps_the_marginals",
    "root_squares_to_the_covariance",
    "signal_to_noise_decreases",
]

from typing import Any

import torch
from torch import Tensor

from ...data import gaussian_ring
from ...laws.kernels import as_gaussian
from ...laws.mixtures import GaussianMixture
from ...laws.operators import Operator
from ...models.exact import Exact
from ...processes.dynamics import diffusion_at
from ...processes.linear import LinearSDE
from ..report import EXACT, QUADRATURE, Law, Violation, close, derivative
from .probes import data, difference_steps, generator, shapes, states, times


def marginals_compose(sde: LinearSDE) -> None:
    """Chapman–Kolmogorov: ``transition(u, t) ∘ transition(s, u) = transition(s, t)``, and on marginals likewise."""
    inner = times(sde, 6)
    for s, u, t in zip(inner[:4], inner[1:5], inner[2:], strict=True):
        one, two, both = sde.transition(s, u), sde.transition(u, t), sde.transition(s, t)
        _compose("transition", one, two, both)
        _compose("marginal", sde.marginal(s), sde.transition(s, t), sde.marginal(t))


def _compose(name: str, first: Any, then: Any, both: Any) -> None:
    """Raise a `Violation` unless the transitions `first` and `then`, one after the other, are the transition `both`."""
    Phi = (then.Phi @ first.Phi).matrix()
    Sigma = (then.Phi @ first.covariance @ then.Phi.T + then.covariance).matrix()
    close(f"Phi of a composed {name}", Phi, both.Phi.matrix(), 1e-8, both.Phi.matrix().abs().amax().clamp_min(1e-12))
    close(
        f"covariance of a composed {name}", Sigma, both.covariance.matrix(), 1e-8, both.covariance.matrix().abs().amax()
    )


def moments_follow_their_odes(sde: LinearSDE) -> None:
    """``Phi' = F Phi`` and ``Sigma' = F Sigma + Sigma Fᵀ + G Gᵀ``."""
    t = times(sde)
    h = difference_steps(sde, t)
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


def _embedded(sde: LinearSDE) -> Tensor:
    """Return the matrix `E` that makes states of the numbers of a datum that are moved together, ``(k, m)``."""
    return sde.embedding.matrix(torch.Size(sde.event_shape or ()).numel())


def marginal_starts_at_the_data(sde: LinearSDE) -> None:
    """At 0 the mean is the datum and the covariance the declared one, ``Sigma_0``."""
    law = sde.marginal(0.0)
    E = _embedded(sde)
    k = len(E)
    close("Phi(0)", law.Phi.matrix().reshape(k, k) @ E, E, EXACT, 1.0)
    close("covariance at 0", law.covariance.matrix().reshape(k, k), sde.Sigma_0, EXACT, sde.Sigma_0.abs().max() + 1e-12)


def signal_to_noise_decreases(sde: LinearSDE) -> None:
    """``log snr`` falls strictly, but for where it has fallen out of the range of numbers."""
    t = sde.T * torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    level = sde.log_snr(t)
    falls = (level[1:] < level[:-1]) | (level[1:].isneginf() & level[:-1].isneginf())
    if not falls.all():
        i = int((~falls).nonzero()[0, 0])
        raise Violation(
            f"log snr goes from {level[i].item():.6g} to {level[i + 1].item():.6g} between t = {t[i]:.3g} and {t[i + 1]:.3g}"
        )


def clock_inverts_the_snr(sde: LinearSDE) -> None:
    """``time(snr(t)) = t``, and the flow's clock and chart invert too, as long as there is a signal to tell the time by."""
    # Where levels may fall to −inf.
    t = torch.cat([times(sde), sde.T * (1 - torch.logspace(-2, -6, 5, dtype=torch.float64))])
    level = sde.log_snr(t)
    close("the time of log snr(t)", sde.time_of_log_snr(level[level.isfinite()]), t[level.isfinite()], 1e-8, sde.T)
    t = times(sde, until=sde.t_max)
    close("time(snr(t))", sde.time(sde.snr(t)), t, 1e-8, sde.T)
    flow = sde.flow(Exact(sde, gaussian_ring()))
    close("the flow's time(clock(t))", flow.time(flow.clock(t)), t, 1e-8, sde.T)
    x = states(sde, len(t), 2)
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
    t = times(sde, 4)
    for shape in shapes():
        x_0 = data(4, *shape)
        drawn, law = sde.perturb(x_0, t, generator=generator()), sde.marginal(t)(sde.lift(x_0))
        kernel = as_gaussian(drawn.kernel, ", as it is for linear processes")
        close("mean of perturb", kernel.mean, law.mean, EXACT, 1 + law.mean.abs())
        R, want = kernel.R.matrix(), law.R.matrix()
        close("covariance of perturb", R @ R.mT, want @ want.mT, EXACT, 1e-12 + want.abs().amax() ** 2)
        half = sde.perturb(x_0.float(), t, z=drawn.z.float())
        if half.x.dtype != torch.float32:
            raise Violation(f"perturb turns float32 into {half.x.dtype}")
        close("perturb in float32", half.x, drawn.x, 1e-5, 1 + drawn.x.abs().amax())


def root_squares_to_the_covariance(sde: LinearSDE) -> None:
    """``root(t)`` is a root of the marginal's covariance: the scale of Langevin steps and of loss weights."""
    t = times(sde)
    R, want = sde.root(t).matrix(), sde.marginal(t).covariance.matrix()
    close("root(t) root(t)ᵀ", R @ R.mT, want, 1e-8, want.abs().amax((1, 2), keepdim=True))


def _over(A: Operator, k: int) -> Tensor:
    """Return the matrix over all `k` numbers of a state of an operator at one time, which may act alike on each number, or on the
    channels of each.
    """
    M = A.matrix().reshape(-1, A.matrix().shape[-2], A.matrix().shape[-1])[0]
    return torch.kron(M.contiguous(), torch.eye(k // len(M), dtype=torch.float64))


def reversal_keeps_the_marginals(sde: LinearSDE) -> None:
    """The reversed SDE has the forward marginals for every eta, by its moment ODE on Gaussian data.

    ``x' = A x + c`` backwards with noise ``eta G`` moves a covariance by ``A S + S Aᵀ − eta² G Gᵀ``, which must be
    ``F S + S Fᵀ + G Gᵀ``.
    """
    shape = data(1, 1).shape
    model = Exact(sde, GaussianMixture(torch.ones(1), torch.full(shape, 0.7), torch.tensor([0.5])))
    E, like, moments = _embedded(sde), sde.lift(data(1, 1)), model.state_moments()
    k = like.numel()
    E = torch.kron(E, torch.eye(k // len(E), dtype=torch.float64))
    probe = torch.cat([torch.zeros(1, k, dtype=torch.float64), torch.eye(k, dtype=torch.float64)])
    probe = probe.reshape(k + 1, *like.shape[1:])
    for t in times(sde, 5):
        law = sde.marginal(t)
        P = _over(law.Phi, k) @ E
        S = (P * moments.variances()) @ P.T + _over(law.covariance, k)
        m = P @ moments.mean.flatten()
        F, G = (_over(c(t), k) for c in (sde.drift_operator, sde.diffusion_operator))
        forward = F @ S + S @ F.T + G @ G.T
        size = (F.abs() @ S.abs() + (G @ G.T).abs()).amax()
        for eta in (0.0, 0.6, 1.0):
            reverse = sde.reverse(model, eta)
            out = reverse.drift(probe, t).reshape(k + 1, k)
            c, A = out[0], (out[1:] - out[0]).T
            noise = _over(diffusion_at(reverse, probe, t), k)
            close(f"mean drift of the reversal, eta = {eta}", A @ m + c, F @ m, 1e-7, size)
            close(
                f"covariance drift of the reversal, eta = {eta}", A @ S + S @ A.T - noise @ noise.T, forward, 1e-7, size
            )


def flow_carries_the_marginals(sde: LinearSDE) -> None:
    """One point's flow: ``x_t = Phi x_0 + R z`` with `z` fixed solves the probability flow of a point mass.

    In the flow's own clock and chart: what fails here is its velocity, or the root `R` of the marginals.
    """
    x_0 = torch.full_like(data(1, 1), 0.8)
    point = 1e-12 / sde.snr(0.15 * sde.t_max).clamp_min(1.0)  # a variance that no noise below is small beside
    model = Exact(sde, GaussianMixture(torch.ones(1), x_0, point.reshape(1)))
    flow = sde.flow(model)
    u_0 = sde.lift(x_0)
    z = torch.randn(u_0.shape, dtype=torch.float64, generator=generator())

    def along(tau: Tensor) -> Tensor:
        return torch.cat([flow.chart(sde.marginal(t)(u_0).sample(z), t) for t in flow.time(tau)])

    least, *ends, most = flow.clock(torch.tensor([0.0, 0.15, 0.85, 1.0], dtype=torch.float64) * sde.t_max)
    tau = torch.linspace(ends[0].item(), ends[1].item(), 5, dtype=torch.float64)
    # The stencil stays inside the clock, which a process that slows towards its ends leaves little of.
    room = torch.minimum(most - ends[1], ends[0] - least) / 8
    h = torch.minimum(1e-3 * (ends[1] - ends[0]), room).expand(5)
    slope = derivative(along, tau, h)
    want = torch.cat([flow.velocity(along(tau[i : i + 1]), tau[i]) for i in range(5)])
    close("velocity along the path of one point", slope, want, 1e-5, 1 + want.abs().amax())


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
