"""Log-densities of a score model by its probability flow, in nats.

``log p_0(x) = log p_T(x_T) + ∫ div`` along the flow from 0 to T. The density is that of the state at ``t = 0``: of data
smoothed by ``sigma(0)``. It is a density of the *model*, prior included; the prior's own gap is `metrics.prior_gap`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchdiffeq import odeint

from .divergence import exact_divergence, hutchinson_divergence, rademacher_like
from .kernels import noise_like
from .models import Conditioned, ScoreModel, check_dtype
from .samplers.ode import adaptive
from .samplers.run import evaluating, sample


class LogProb(NamedTuple):
    """Log-densities in nats with the standard errors of their estimates, and the network evaluations spent.

    Attributes
    ----------
    value, stderr
        ``(B,)``; a standard error of 0 means exact but for the integrator's tolerance, NaN that one probe cannot tell.
    evaluations
        Number of times the flow was evaluated.
    """

    value: Tensor
    stderr: Tensor
    evaluations: int


def log_prob(
    model: ScoreModel,
    x: Tensor,
    *,
    divergence: str = "exact",
    probes: int = 1,
    prior: Any = None,
    joint: bool = False,
    draws: int = 32,
    tolerance: float | None = None,
    method: str = "dopri5",
    generator: torch.Generator | None = None,
    return_error: bool = False,
    **cond: Any,
) -> Tensor | LogProb:
    """``log p(x)`` by the probability flow, with an exact or an estimated divergence.

    For a process whose state is larger than the data it is the data's marginal,
    ``log mean_v p(x, v) / N(v)`` over draws of the rest of the state. R. Chen et al., *Neural ordinary differential
    equations*, 2018, arXiv:1806.07366; W. Grathwohl et al., *FFJORD*, 2018, arXiv:1810.01367; Y. Song et al., 2021,
    arXiv:2011.13456.

    Parameters
    ----------
    model
        Any score model.
    x
        ``(B, *)``.
    divergence
        ``"exact"``: one derivative per coordinate; ``"hutchinson"``: `probes` random ones, unbiased.
    probes
        Rademacher probes, each held along the whole path.
    prior
        The law at T, with ``log_prob``; the model's prior by default.
    joint
        Take `x` for lifted states ``(B, k, *)`` and return their joint density.
    draws
        Draws of the rest of a lifted state.
    tolerance, method
        Relative and absolute tolerance, held for the worst row, and method of torchdiffeq. By default 1e-7 in float64 and
        1e-5 in coarser dtypes.
    generator
        Randomness of probes and draws.
    return_error
        Return a `LogProb` with standard errors instead of the values alone.

    Raises
    ------
    TypeError, ValueError
        If `x` is not finite floating point, or `divergence` is unknown.
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; log-densities need floating-point data.")
    if not x.isfinite().all():
        raise ValueError("x holds NaN or infinite values; remove them first.")
    if divergence not in ("exact", "hutchinson"):
        raise ValueError(f'divergence = {divergence!r}; expected "exact" or "hutchinson".')
    if probes < 1 or draws < 1:
        raise ValueError(f"probes = {probes}, draws = {draws}; both must be at least 1.")
    if tolerance is None:
        tolerance = 1e-7 if x.dtype == torch.float64 else 1e-5
    if not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance}; it must be positive.")
    sde = model.sde
    if prior is None:
        if model.moments is None:
            raise ValueError("the model does not know its data's moments; fit it, set model.moments, or pass prior.")
        prior = sde.prior(model.moments)
    bound: Any = Conditioned(model, **cond) if cond else model
    if isinstance(model, torch.nn.Module):
        check_dtype(model, x)

    def of_states(u: Tensor) -> tuple[Tensor, Tensor, int]:
        probe = None
        if divergence == "hutchinson":
            probe = torch.stack([rademacher_like(u, generator) for _ in range(probes)])
        return _integrate(bound, u, prior, probe, tolerance, method)

    with torch.no_grad(), evaluating(model):
        if joint or sde.lift(x[:1]).shape == x[:1].shape:
            value, stderr, evaluations = of_states(x)
        else:
            value, stderr, evaluations = _marginalise(sde, x, draws, of_states, generator)
    return LogProb(value, stderr, evaluations) if return_error else value


def _integrate(
    model: Any, u: Tensor, prior: Any, probe: Tensor | None, tolerance: float, method: str
) -> tuple[Tensor, Tensor, int]:
    """Joint log-density of states, its standard error over probes, and evaluations."""
    sde = model.sde
    ends = torch.tensor([0.0, sde.T], dtype=torch.float64)
    flow = sde.flow(model)
    tau = flow.clock(ends)
    span = tau[1] - tau[0]
    d = u[0].numel()
    evaluations = 0
    samples = 1 if probe is None else len(probe)

    def rhs(clock: Tensor, state: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        y = state[:, :d].reshape(u.shape)
        now = tau[0] + clock.double().cpu().clamp(0, 1) * span  # torchdiffeq's first trial step may overshoot

        def field(y: Tensor) -> Tensor:
            return flow.velocity(y, now)

        if probe is None:
            value, div = exact_divergence(field, y)
            divs = div[:, None]
        else:
            pairs = [hutchinson_divergence(field, y, probe=v) for v in probe]
            value, divs = pairs[0][0], torch.stack([p[1] for p in pairs], 1)
        return torch.cat([value.reshape(len(u), d), divs], 1) * span.to(u)

    y = flow.chart(u, ends[0]).reshape(len(u), d)
    clock = torch.tensor([0.0, 1.0], dtype=torch.float64, device=u.device)
    state = torch.cat([y, y.new_zeros(len(u), samples)], 1)
    state = odeint(rhs, state, clock, rtol=tolerance, atol=tolerance, method=method, options=adaptive(clock))[-1]
    x_T = flow.unchart(state[:, :d].reshape(u.shape), ends[1])
    scales = flow.log_scale(ends)
    totals = state[:, d:]
    value = prior.log_prob(x_T) + totals.mean(1) + d * (scales[1] - scales[0]).to(u)
    if probe is None:
        return value, torch.zeros_like(value), evaluations
    stderr = totals.std(1) / samples**0.5 if samples > 1 else torch.full_like(value, torch.nan)
    return value, stderr, evaluations


def _marginalise(
    sde: Any, x: Tensor, draws: int, of_states: Any, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, int]:
    """``log mean_v p(x, v) / N(v)``, the rest `v` of the state drawn from its law at 0 given the data."""
    rows = x.repeat_interleave(draws, 0)
    u, log_N = sde.complete(rows, noise_like(sde.lift(rows), generator))
    joint, _, evaluations = of_states(u)
    ratio = (joint - log_N).reshape(len(x), draws)
    value = ratio.logsumexp(1) - torch.log(torch.tensor(float(draws))).to(u)
    weights = (ratio - value[:, None]).exp()
    stderr = weights.std(1) / draws**0.5 if draws > 1 else torch.full_like(value, torch.nan)
    return value, stderr, evaluations


class Density:
    """A score model as a law, with ``sample`` and ``log_prob``, for metrics that compare densities: ``sdegen.density``.

    Parameters
    ----------
    model
        Any score model.
    sampler
        How to sample it; the default sampler otherwise.
    """

    def __init__(self, model: ScoreModel, sampler: Any = None, **cond: Any) -> None:
        self.model, self.sampler, self.cond = model, sampler, cond

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` samples of the data."""
        return sample(self.model, n, sampler=self.sampler, generator=generator, **self.cond)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density by the probability flow, in the model's dtype."""
        weight = next(self.model.parameters(), None) if isinstance(self.model, torch.nn.Module) else None
        value = log_prob(self.model, x if weight is None else x.to(weight), **self.cond)
        assert isinstance(value, Tensor)
        return value
