"""Log-densities of a score model in nats, by integrating its probability flow.

``log p_0(x) = log p_T(x_T) + ∫ div`` along the flow from 0 to T. The density is that of the state at ``t = 0``: of data
smoothed by ``sigma(0)``. It is a density of the *model*, prior included; the prior's own gap is `metrics.prior_gap`.
Bounds from below by the process itself are in `elbo`.
"""

from __future__ import annotations

__all__ = ["LogProb", "carry", "estimate_log_prob", "log_prob", "sample_with_log_prob"]

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..answers import ask_draws
from ..arguments import check_arguments, check_law
from ..checks import check_count, check_tensor
from ..data.parts import check_batch
from ..laws.derivatives import Divergence, ExactDivergence
from ..laws.domains import check_domain
from ..laws.draws import noise_like
from ..laws.outside import as_law
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..models.score import ScoreModel, check_dtype
from ..models.transformed import in_free_coordinates, law_in
from ..models.wrapper import bind_rows
from ..precision import widened
from ..processes.base import SDE
from ..samplers.noise import as_seed
from ..samplers.priors import prior_of
from ..samplers.start import check_known, chunks, start
from ..show import show_call
from .draws import log_density, log_mean, repeated
from .path import Integration, Path, check_flow, follow, warn_of_passes


class LogProb(NamedTuple):
    """Log-densities in nats with the standard errors of their estimates, and the network evaluations spent.

    Attributes
    ----------
    value, stderr
        ``(B,)``, in float32 at least. A standard error of 0 means that the value is exact but for the integrator's tolerance; it
        is NaN where there was a single probe, which has no spread. With a method of fixed steps it includes the difference to a
        run of half as many steps.
    evaluations
        How often the flow was evaluated; where rows went in batches, by the batch that took most.
    """

    value: Tensor
    stderr: Tensor
    evaluations: int

    def __repr__(self) -> str:
        return show_call(self)


@check_arguments
def log_prob(model: ScoreModel, x: Tensor, **how: Any) -> Tensor:
    """Compute ``log p(x)`` in nats by the probability flow, and return it, ``(B,)``; `estimate_log_prob` also returns its
    standard error.

    Parameters
    ----------
    model
        Any score model.
    x
        Data, ``(B, *)``.
    how
        Divergence, prior, tolerance and conditions, as for `estimate_log_prob`.

    Raises
    ------
    TypeError, ValueError
        As for `estimate_log_prob`.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> x = ring.sample(5)
    >>> (log_prob(sdegen.Exact(sdegen.VP(), ring), x) - ring.log_prob(x)).abs().max().item() < 1e-3
    True
    """
    return estimate_log_prob(model, x, **how).value


@check_arguments
def estimate_log_prob(
    model: ScoreModel,
    x: Tensor,
    *,
    divergence: Divergence | None = None,
    prior: Any = None,
    joint: bool = False,
    draws: int = 32,
    tolerance: float | None = None,
    method: str | None = None,
    steps: int | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    grad: bool = False,
    **cond: Any,
) -> LogProb:
    """Compute ``log p(x)`` by the probability flow, and return it with its standard error and the number of network evaluations.

    For a process whose state is larger than the data the density is the data's marginal,
    ``log mean_v p(x, v) / N(v)`` over draws of the rest `v` of the state. R. Chen et al., *Neural ordinary differential
    equations*, 2018, arXiv:1806.07366; W. Grathwohl et al., *FFJORD*, 2018, arXiv:1810.01367; Y. Song et al., 2021,
    arXiv:2011.13456.

    Parameters
    ----------
    model
        Any score model.
    x
        Data, ``(B, *)``.
    divergence
        How the divergence of the flow is found: ``derivatives.ExactDivergence()``, by a pass through the network for each number
        of a state (the default, with a warning from a thousand numbers on), ``Hutchinson(probes)`` or ``HutchPlusPlus(probes)``,
        whose probes are held along the whole path.
    prior
        The law at T, with ``log_prob``; the model's prior by default.
    joint
        Take `x` for lifted states ``(B, k, *)`` and return their joint density.
    draws
        How often the rest of a lifted state is drawn for each datum.
    tolerance
        Relative and absolute tolerance of a step, held for the worst row: by default 3e-7 in float64, 1e-5 in float32, and 1e-3
        for a network of half precision. Over a path the errors were seen to add up to 1e-5 nats at most, in float32 to some 1e-4.
    method
        A method of torchdiffeq instead of Adams' predictor and corrector: one of ``dopri8``, ``dopri5``, ``bosh3``,
        ``fehlberg2``, ``adaptive_heun``, or with `steps` one of ``euler``, ``midpoint``, ``heun2``, ``heun3``, ``rk4``.
    steps
        Number of steps of a method of fixed steps, at least two. The flow is followed in half as many besides, and the difference
        of the two results is part of the standard error.
    generator
        Randomness of probes and draws.
    batch
        Most states that go through the model at a time; all by default. Probes and draws of a datum do not depend on it, and
        the result only by rounding and what the integrator's tolerance allows.
    grad
        Record the integration for derivatives by `x`, conditions and parameters; the score at 0 is the derivative by `x`. All
        evaluations are held in memory then, so that only few rows fit at a time. Steps and probes count as constants.
    cond
        Conditions for the network: tensors with a row for each datum, or one value for all.

    Raises
    ------
    TypeError, ValueError
        If `x` is not finite floating point, `divergence` is no `Divergence`, the model takes no condition of a given name, or the
        flow cannot be integrated; the message then names the time and the noise level.
    """
    cond, model = read_conditions(model, cond, estimate_log_prob), in_free_coordinates(model)
    check_tensor("x", x), check_count("draws", draws)
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; give data (B, *), one row at least.")
    if prior is not None:
        check_law("prior", prior, "log_prob")
    how = Integration(tolerance, method, steps).check()
    check_batch(batch)
    sde = model.sde
    if prior is None:
        prior = as_law(prior_of(model.sde, model.state_moments(", or pass prior"), "pass prior"))
    else:
        prior = law_in(model, as_law(prior))
    whole = joint or sde.lift(x[:1]).shape == sde.standardise(x[:1]).shape
    own = repeated(len(x), 1 if whole else draws)
    bound = bind_rows(model, cond, own, x[:1] if joint else sde.lift(x[:1]), len(x))
    check_dtype(model, x)
    x = widened(x)
    if sde.coordinates is None:  # coordinates look at their domain themselves
        check_domain(sde.domain, x)

    def at_start(u: Tensor, path: Path) -> Tensor:
        return log_density(prior, path.end) + path.log_volume

    def of_states(u: Tensor) -> LogProb:
        return carry(bound, u, (0.0, sde.T), at_start, divergence, how, generator, batch, {})[1]

    with torch.set_grad_enabled(grad), evaluating(model):
        if joint:
            return of_states(x)
        if not whole:
            return _marginalise(sde, x, draws, of_states, generator)
        u, less = sde.complete(x, sde.lift(x))  # nothing is drawn: such a state is the data
        found = of_states(u)
        return found._replace(value=found.value - less)


@check_arguments
def sample_with_log_prob(
    model: ScoreModel,
    n: int,
    *,
    divergence: Divergence | None = None,
    prior: Any = None,
    tolerance: float | None = None,
    method: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    batch: int | None = None,
    grad: bool = False,
    **cond: Any,
) -> tuple[Tensor, LogProb]:
    """Draw samples by the probability flow, and return them with their log-densities, from one integration.

    Where the state of the process is larger than the data, states are returned, with their joint densities.

    Parameters
    ----------
    model
        Any score model.
    n
        Number of samples.
    seed
        Seed of starting states and probes; a fresh one by default.
    divergence, prior, tolerance, method, steps, batch, grad
        As for `estimate_log_prob`; a `prior` has ``sample(n, generator)`` too.
    cond
        Conditions for the network: tensors with `n` rows, or one value for all.

    Returns
    -------
    tuple[Tensor, LogProb]
        Data ``(n, *)``, or states at ``t = 0``, and their log-densities in nats.

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
    cond, model = read_conditions(model, cond, sample_with_log_prob), in_free_coordinates(model)
    how = Integration(tolerance, method, steps).check()
    check_batch(batch)
    if prior is not None:
        check_law("prior", prior, "sample", "log_prob")
    seed = as_seed(seed, None)
    generator = torch.Generator().manual_seed(seed)
    if prior is None:
        prior = as_law(model.sde.prior(model.state_moments(", or pass prior")))
        check_known(model)
        x_T = start(model, n, seed)
    else:
        prior = law_in(model, as_law(prior))
        x_T = model.cast_states(ask_draws(prior, n, generator))

    def at_end(x_T: Tensor, path: Path) -> Tensor:
        return log_density(prior, x_T) - path.log_volume

    with torch.set_grad_enabled(grad), evaluating(model):
        end, found = carry(model, x_T, (model.sde.T, 0.0), at_end, divergence, how, generator, batch, cond)
        data = model.sde.project(end)
    if data.shape != end.shape:
        return end, found
    return data, found._replace(value=found.value - model.sde.complete(data, end)[1])


def carry(
    model: ScoreModel,
    u: Tensor,
    times: tuple[float, float],
    log_prob: Callable[[Tensor, Path], Tensor],
    divergence: Divergence | None,
    how: Integration,
    generator: torch.Generator | None,
    batch: int | None,
    cond: dict[str, Any],
) -> tuple[Tensor, LogProb]:
    """Carry states along the flow, `batch` at a time, and return them with log-densities.

    An integration in steps of one size is compared with one in half as many, and their difference is part of the standard error.

    Parameters
    ----------
    model, u
        A score model, and states at the first time, ``(B, *)``.
    times
        From where, and to where.
    log_prob
        From states at the first time, and the path that they took, to log-densities ``(B,)``.
    divergence, generator, batch
        As for `estimate_log_prob`.
    how
        How the flow is integrated.
    cond
        Conditions of the model.
    """
    if divergence is None:
        warn_of_passes(u)
        divergence = ExactDivergence()
    drawn = divergence.draw(u, generator)  # for all rows, so that those of a row do not depend on its part
    ends: list[Tensor] = []
    found = []
    for first, part, bound in chunks(model, u, batch, cond, 0, len(u)):
        v = None if drawn is None else drawn[:, first : first + len(part)]
        if not ends:
            check_flow(bound, part, times)
        path = follow(bound, part, times, divergence, v, how)
        value, stderr, evaluations = log_prob(part, path), path.stderr, path.evaluations
        if how.coarser is not None:
            rough = follow(bound, part, times, divergence, v, how.coarser)
            stderr, evaluations = stderr.hypot(log_prob(part, rough) - value), evaluations + rough.evaluations
        ends.append(path.end)
        found.append((value, stderr, evaluations))
    values, errors, counts = zip(*found, strict=True)
    return torch.cat(ends), LogProb(torch.cat(values), torch.cat(errors), max(counts))


def _marginalise(
    sde: SDE, x: Tensor, draws: int, of_states: Callable[[Tensor], LogProb], generator: torch.Generator | None
) -> LogProb:
    """Estimate ``log mean_v p(x, v) / N(v)``, the rest `v` of the state drawn from its law at 0 given the data, in the data's own
    units.
    """
    rows = x.repeat_interleave(draws, 0)
    u, log_N = sde.complete(rows, noise_like(sde.lift(rows), generator))
    joint = of_states(u)
    value, stderr = log_mean((joint.value - log_N).reshape(len(x), draws))
    return LogProb(value, stderr, joint.evaluations)
