"""Log-densities of a score model by its probability flow, in nats.

``log p_0(x) = log p_T(x_T) + ∫ div`` along the flow from 0 to T. The density is that of the state at ``t = 0``: of data
smoothed by ``sigma(0)``. It is a density of the *model*, prior included; the prior's own gap is `metrics.prior_gap`.
Bounds from below by the process itself are in `elbo`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..laws.derivatives import (
    Field,
    exact_divergence,
    hutchinson_divergences,
    hutchpp_divergences,
    subspace,
    value_and_slope,
)
from ..laws.draws import noise_like, rademacher_like
from ..models.score import Conditioned, ScoreModel, check_dtype, evaluating
from ..processes.base import SDE
from ..samplers.noise import as_seed
from ..samplers.ode import adaptive
from ..samplers.run import sample, start
from .adams import adams

MOST = 20_000  # evaluations of a flow, after which it is given up


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
    method: str | None = None,
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
        ``"exact"``: one derivative per coordinate; ``"hutchinson"``: `probes` random ones, unbiased; ``"hutch++"``: exact in
        a subspace of as many directions as `probes`, which estimate the rest: less variance where few carry the trace.
    probes
        Rademacher probes, each held along the whole path.
    prior
        The law at T, with ``log_prob``; the model's prior by default.
    joint
        Take `x` for lifted states ``(B, k, *)`` and return their joint density.
    draws
        Draws of the rest of a lifted state.
    tolerance, method
        Relative and absolute tolerance of a step, held for the worst row: 3e-7 in float64, 1e-5 in coarser dtypes by default,
        from which errors of at most 1e-5 nats, and in float32 some 1e-4, were seen to add up over a path;
        and an adaptive method of torchdiffeq, instead of Adams' predictor and corrector.
    generator
        Randomness of probes and draws.
    return_error
        Return a `LogProb` with standard errors instead of the values alone.
    cond
        Conditions for the network: tensors with a row for each datum, or one value for all.

    Raises
    ------
    TypeError, ValueError
        If `x` is not finite floating point, `divergence` is unknown, or the flow cannot be integrated: the message names
        the time and the noise level.
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; log-densities need floating-point data.")
    if not x.isfinite().all():
        raise ValueError("x holds NaN or infinite values; remove them first.")
    if draws < 1:
        raise ValueError(f"draws = {draws}; at least one is needed.")
    _check(divergence, probes, tolerance)
    sde = model.sde
    prior = _prior(model) if prior is None else prior
    whole = joint or sde.lift(x[:1]).shape == x[:1].shape
    cond = cond if whole else repeated(cond, len(x), draws)
    bound: Any = Conditioned(model, **cond) if cond else model
    if isinstance(model, torch.nn.Module):
        check_dtype(model, x)

    def of_states(u: Tensor) -> tuple[Tensor, Tensor, int]:
        path = _follow(bound, u, (0.0, sde.T), traces, tolerance, method)
        return prior.log_prob(path.end) + path.log_volume, path.stderr, path.evaluations

    traces = partial(TRACES[divergence], probes=probes, generator=generator)
    with torch.no_grad(), evaluating(model):
        if whole:
            value, stderr, evaluations = of_states(x)
        else:
            value, stderr, evaluations = _marginalise(sde, x, draws, of_states, generator)
    return LogProb(value, stderr, evaluations) if return_error else value


def sample_with_log_prob(
    model: ScoreModel,
    n: int,
    *,
    divergence: str = "exact",
    probes: int = 1,
    prior: Any = None,
    tolerance: float | None = None,
    method: str | None = None,
    seed: int | None = None,
    **cond: Any,
) -> tuple[Tensor, LogProb]:
    """Samples by the probability flow and their log-densities, from one integration.

    Of a process whose state is larger than the data, states and their joint densities.

    Parameters
    ----------
    model
        Any score model.
    n
        Number of samples.
    seed
        Of starting states and probes; a fresh one by default.
    divergence, probes, prior, tolerance, method
        As for `log_prob`; a `prior` has ``sample(n, generator)`` too.
    cond
        Conditions for the network: tensors with `n` rows, or one value for all.

    Returns
    -------
    tuple[Tensor, LogProb]
        States ``(n, *)`` at ``t = 0``, and their log-densities in nats.

    Raises
    ------
    ValueError
        As for `log_prob`.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> x, found = sdegen.sample_with_log_prob(sdegen.Exact(sdegen.VP(), ring), 5, seed=0)
    >>> (found.value - ring.log_prob(x)).abs().max().item() < 1e-3  # what is left is the gap of the prior
    True
    """
    _check(divergence, probes, tolerance)
    seed = as_seed(seed, None)
    generator = torch.Generator().manual_seed(seed)
    if prior is None:
        prior = _prior(model)
        x_T = start(model, n, seed)
    else:
        x_T = model.taken(prior.sample(n, generator))
    bound: Any = Conditioned(model, **cond) if cond else model
    with torch.no_grad(), evaluating(model):
        traces = partial(TRACES[divergence], probes=probes, generator=generator)
        path = _follow(bound, x_T, (model.sde.T, 0.0), traces, tolerance, method)
    return path.end, LogProb(prior.log_prob(x_T) - path.log_volume, path.stderr, path.evaluations)


def _check(divergence: str, probes: int, tolerance: float | None) -> None:
    if divergence not in TRACES:
        raise ValueError(f"divergence = {divergence!r}; expected one of {', '.join(map(repr, TRACES))}.")
    if probes < 1:
        raise ValueError(f"probes = {probes}; at least one is needed.")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance}; it must be positive.")


def _prior(model: ScoreModel) -> Any:
    return model.sde.prior(model.require_moments(", or pass prior"))


class Traces(NamedTuple):
    """How the divergence of a field is found along one path.

    Attributes
    ----------
    of
        From a field and states to its values and ``(m, B)`` divergences, of the same probes at every call.
    m
        Their number.
    exact
        Whether each is the divergence itself.
    """

    of: Callable[[Field, Tensor], tuple[Tensor, Tensor]]
    m: int
    exact: bool = False


Slopes = Callable[[Tensor], Field]  # a time of the clock -> the field then


def _exact(slopes: Slopes, y: Tensor, tau: Tensor, probes: int, generator: torch.Generator | None) -> Traces:
    def of(field: Field, y: Tensor) -> tuple[Tensor, Tensor]:
        value, divergence = exact_divergence(field, y)
        return value, divergence[None]

    return Traces(of, 1, exact=True)


def _hutchinson(slopes: Slopes, y: Tensor, tau: Tensor, probes: int, generator: torch.Generator | None) -> Traces:
    v = torch.stack([rademacher_like(y, generator) for _ in range(probes)])
    return Traces(lambda field, y: hutchinson_divergences(field, y, v), probes)


def _hutchpp(slopes: Slopes, y: Tensor, tau: Tensor, probes: int, generator: torch.Generator | None) -> Traces:
    """One subspace for a whole path, so that the integrand stays smooth, from Jacobians at times all over the clock."""
    sketch, v = torch.stack([rademacher_like(y, generator) for _ in range(2 * probes)]).split(probes)
    places = tau[0] + (torch.arange(probes) + 0.5) / probes * (tau[1] - tau[0])
    Q = subspace(torch.stack([value_and_slope(slopes(p), y, s)[1] for p, s in zip(places, sketch, strict=True)]))
    return Traces(lambda field, y: hutchpp_divergences(field, y, Q, v), probes)


TRACES = {"exact": _exact, "hutchinson": _hutchinson, "hutch++": _hutchpp}


class Path(NamedTuple):
    """States carried along the flow from one time to another.

    Attributes
    ----------
    end
        States at the other time, ``(B, *)``.
    log_volume, stderr
        ``log |∂end/∂start|``, ``(B,)``, and its standard error over probes: 0 if exact, NaN of a single one.
    evaluations
        How often the flow was evaluated.
    """

    end: Tensor
    log_volume: Tensor
    stderr: Tensor
    evaluations: int


def _follow(
    model: ScoreModel,
    u: Tensor,
    times: tuple[float, float],
    make: Callable[..., Traces],
    tolerance: float | None,
    method: str | None,
) -> Path:
    """The flow between two times, in the clock and the chart of the process, with the logarithm of its volume."""
    flow = model.sde.flow(model)
    ends = torch.tensor(times, dtype=torch.float64)
    tau = flow.clock(ends)
    span = tau[1] - tau[0]
    d, shape = u[0].numel(), u.shape
    evaluations, now = 0, tau[0]
    if tolerance is None:
        tolerance = 3e-7 if u.dtype == torch.float64 else 1e-5

    def at(place: Tensor) -> Field:
        return lambda y: flow.velocity(y, place)

    def slope(place: float, state: Tensor) -> Tensor:
        nonlocal evaluations, now
        evaluations += 1
        if evaluations > MOST:
            raise ArithmeticError(f"took more than {MOST:,} evaluations")
        now = tau[0] + place * span
        value, divergences = traces.of(at(now), state[:, :d].reshape(shape))
        return torch.cat([value.reshape(len(u), d), divergences.mT], 1) * span.to(u)

    y = flow.chart(u, ends[0])
    traces: Traces = make(at, y, tau)
    state = torch.cat([y.reshape(len(u), d), y.new_zeros(len(u), traces.m)], 1)
    try:
        if method is None:
            state = adams(slope, state, tolerance, parts=(d, traces.m))
        else:
            from torchdiffeq import odeint  # loads on use

            clock = torch.tensor([0.0, 1.0], dtype=torch.float64, device=u.device)
            state = odeint(
                # torchdiffeq's first trial step may overshoot
                lambda clock, state: slope(min(clock.item(), 1.0), state), state, clock, rtol=tolerance, atol=tolerance,
                method=method, options=adaptive(clock),
            )[-1]  # fmt: skip
    except (AssertionError, ArithmeticError) as failure:  # torchdiffeq asserts that steps and states stay finite
        t = flow.time(now)
        size = model.sde.root(t).matrix().norm().item()
        raise ValueError(
            f"the flow could not be followed beyond t = {t.item():.6g}, where sigma = {size:.3g}: it {failure}. Raise the "
            "tolerance, or look at the model there."
        ) from failure
    scales = flow.log_scale(ends)
    totals = state[:, d:] + d * (scales[1] - scales[0]).to(u)
    stderr = torch.zeros_like(totals[:, 0]) if traces.exact else stderr_of_mean(totals)
    return Path(flow.unchart(state[:, :d].reshape(shape), ends[1]), totals.mean(1), stderr, evaluations)


def _marginalise(
    sde: SDE, x: Tensor, draws: int, of_states: Any, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, int]:
    """``log mean_v p(x, v) / N(v)``, the rest `v` of the state drawn from its law at 0 given the data."""
    rows = x.repeat_interleave(draws, 0)
    u, log_N = sde.complete(rows, noise_like(sde.lift(rows), generator))
    joint, _, evaluations = of_states(u)
    value, stderr = log_mean((joint - log_N).reshape(len(x), draws))
    return value, stderr, evaluations


def repeated(cond: dict[str, Any], n: int, draws: int) -> dict[str, Any]:
    """Conditions of `n` rows for as many draws of each, in order; what all rows share stays."""
    return {
        k: v.repeat_interleave(draws, 0) if isinstance(v, Tensor) and v.shape[:1] == (n,) else v
        for k, v in cond.items()
    }


def log_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """``log mean exp`` of each row of ``(B, draws)``, and its standard error by the delta method."""
    mean = values.logsumexp(1) - math.log(values.shape[1])
    return mean, stderr_of_mean((values - mean[:, None]).exp())


def stderr_of_mean(values: Tensor) -> Tensor:
    """Standard error of the mean of each row of ``(B, draws)``, ``(B,)``; NaN of a single draw."""
    draws = values.shape[1]
    return values.std(1) / draws**0.5 if draws > 1 else torch.full_like(values[:, 0], torch.nan)


class Density:
    """A score model as a law, with ``sample`` and ``log_prob``, for metrics that compare densities: ``sdegen.Density``.

    Parameters
    ----------
    model
        Any score model.
    sampler
        How to sample it; the default sampler otherwise.
    cond
        Conditions for the network, in samples and densities: one value for all, or tensors with as many rows as these.
    """

    def __init__(self, model: ScoreModel, sampler: Any = None, **cond: Any) -> None:
        self.model, self.sampler, self.cond = model, sampler, cond

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` samples of the data."""
        return sample(self.model, n, sampler=self.sampler, generator=generator, **self.cond)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density by the probability flow, in the model's dtype."""
        value = log_prob(self.model, self.model.taken(x), **self.cond)
        assert isinstance(value, Tensor)
        return value
