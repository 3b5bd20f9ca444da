"""`sample`, which draws samples from a score model, on request with their path or the log-probabilities of their steps."""

from __future__ import annotations

__all__ = ["NoiseSource", "sample"]

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..data.parts import check_batch
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..models.transformed import in_free_coordinates, states_in
from ..models.wrapper import Conditioned, bind_rows
from ..precision import narrowed
from ..processes.base import SDE
from ..processes.linear import is_linear
from ..recall import recall
from .base import Noise, Sampler
from .defaults import default
from .noise import SampleNoise, as_seed
from .picard import Picard
from .rollout import Rollout, Weigher, check_densities, check_no_ends
from .runner import Callback, Runner
from .start import (
    check_known,
    check_sampler_given,
    check_states,
    chunks,
    noise_at,
    rows_of_part,
    spread_at,
    start,
    warn_of_narrow_data,
    warn_of_small_start,
)
from .steps import take_steps

NoiseSource = Callable[[int, int, Tensor], Noise]


@overload
def sample(
    model: ScoreModel,
    n: int | None = None,
    *,
    x_T: Tensor | None = None,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    final: str | None = None,
    noise: NoiseSource = SampleNoise,
    batch: int | None = None,
    part: tuple[int, int] | None = None,
    parallel: int | Picard | None = None,
    return_path: bool = False,
    return_log_prob: Literal[False] = False,
    grad: bool = False,
    progress: bool | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor: ...
@overload
def sample(model: ScoreModel, n: int | None = None, *, return_log_prob: Literal[True], **rest: Any) -> Rollout: ...
@check_arguments
def sample(
    model: ScoreModel,
    n: int | None = None,
    *,
    x_T: Tensor | None = None,
    steps: int | None = None,
    sampler: Sampler | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    final: str | None = None,
    noise: NoiseSource = SampleNoise,
    batch: int | None = None,
    part: tuple[int, int] | None = None,
    parallel: int | Picard | None = None,
    return_path: bool = False,
    return_log_prob: bool = False,
    grad: bool = False,
    progress: bool | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor | Rollout:
    """Draw samples from a score model, and return them, ``(n, *)``.

    Parameters
    ----------
    model
        Any score model.
    n
        Number of samples; give either `n` or `x_T`.
    x_T
        States to start from, ``(n, *)``; drawn from the prior by default.
    steps
        Steps of the `default` sampler; give either `steps` or a `sampler`, such as ``samplers.default(model, steps, eta=0)``.
    sampler
        Any of `samplers`.
    seed, generator
        Randomness: a seed, or a generator from which one number is drawn. A seed reproduces a run bit for bit on one machine, and
        gives sample `i` the same start and noise whatever `n`, `batch` and device (see `samplers.noise`).
    final
        ``"denoise"``: the posterior mean of the clean data at the grid's last time, the default for linear processes;
        ``"sample"``: the state at that time.
    noise
        Makes the noise of the steps. It is called as ``noise(seed, first, times)`` for the samples from place `first` on of a run
        that stops at `times`, and returns the argument `noise` of `Sampler.step`. `SampleNoise` by default; `BrownianNoise` has
        paths that finer grids refine.
    batch
        The largest number of samples that go through the model at a time; all by default. The samples do not depend on it, but
        for rounding and what an adaptive integrator's tolerance allows.
    part
        ``(rank, number)``: draw only the part of the run that falls to process `rank` of `number`, counted from 0. Parts follow
        one another and are as equal as can be; put together in order they are the whole run, but for rounding as with `batch`.
        `n`, `x_T` and conditions are those of the whole run. Give all processes the same seed.
    parallel
        Take this many steps together (`Picard`, which also counts its rounds). The model's answers in these steps are guessed,
        the model is asked about all their states in one call, and the guesses are corrected, round after round, until they are
        its answers. The noise is the same, and so are the samples, to a few millionths or to what rounding grows to in the run.
        For accelerators: a run of hundreds of steps waits for 10 to 40 calls, but the model is asked about several times as many
        states, up to ``parallel × batch`` a call. For samplers that ask all they need in `plan`.
    return_path
        Return every state, ``(times, n, *)``, the last move included.
    return_log_prob
        Return a `Rollout`: the samples, all states, and ``log p(x_s | x_t)`` of each step, ``(steps, n)``, for samplers whose
        steps are Gaussian given the states before: `EulerMaruyama`, `Ancestral`, `ReverseDiffusion`, `ExponentialSDE`,
        `Langevin`, and `DDIM` with ``eta > 0``. `log_prob_of_steps` finds them again under other weights.
    grad
        Record the run for derivatives of the samples by `x_T`, conditions and parameters. All evaluations of the network are then
        held in memory; a network that calls itself by ``torch.utils.checkpoint.checkpoint`` holds only its inputs. Choices count
        as constants: the lengths of adaptive steps, the default sampler, and the times of a grid, which follow from the process.
    progress
        Show a bar; by default where standard error is a terminal.
    callback
        Called as ``callback(i, t, x)`` after step `i`, counted from 0, with the time arrived at and a copy of the states there,
        ``(B, *)`` in float32 at least. After the last move of ``"denoise"`` these are the clean data, at time 0. States are in
        the coordinates and units of the process; ``model.sde.project(x)`` turns them into data. With `batch` it is called for
        every chunk in turn. What it returns is ignored; an exception ends the run.
    cond
        Conditions for the network: tensors with `n` rows, which `batch` cuts with the samples, or one value for all. A network
        that declares its conditions (`nets.Vector` and the like) says what a row is; otherwise tensors whose first side is `n`
        have rows.

    Returns
    -------
    Tensor or Rollout
        ``(n, *)`` samples of the data, on the model's device and in the dtype of `x_T`, or without `x_T` in that of the model;
        with `part` only its rows. Samples of half precision are computed in float32 and rounded at the end. They stay in a finer
        dtype (`Units.telling`) if they are so far from zero that rounding would cost more than a hundredth of the data's spread.

    Raises
    ------
    ValueError
        If arguments contradict each other, nothing is known of the prior, the grid begins far from the prior and no `x_T` is
        given, or a state turns non-finite.
    TypeError
        If `sampler` is not a sampler, it does not suit the process or `parallel`, its steps have no density that
        `return_log_prob` could return, or the model takes no condition of a given name.

    Examples
    --------
    >>> import sdegen
    >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    >>> first, last = (sample(model, 5, seed=0, part=(rank, 2)) for rank in range(2))
    >>> torch.allclose(torch.cat([first, last]), sample(model, 5, seed=0))
    True
    """
    cond, model = read_conditions(model, cond, sample), in_free_coordinates(model)
    check_sampler_given(steps, sampler)
    if (n is None) == (x_T is None):
        raise ValueError("give either n, a number of samples, or x_T, states to start from.")
    check_batch(batch)
    if parallel is not None and grad:
        raise ValueError("grad=True and parallel were both given; guesses have no derivatives: leave one of them out.")
    _check_seeded(part, seed, generator)
    weigher = _weigher(model.sde, return_path, parallel) if return_log_prob else None
    seed, sde = as_seed(seed, generator), model.sde
    denoise = _ends_denoised(sde, final)
    sampler, times, spread, noise_then = _choose(model, sampler, steps, cond, denoise)
    states = None if x_T is None else check_states("x_T", x_T, model)
    n = check_count("n", n) if states is None else len(states)
    rows = rows_of_part(part, n)
    if states is None or x_T is None:
        if denoise:
            check_known(model)
        x = start(model, rows.stop - rows.start, seed, rows.start, times)
        dtype = x.dtype if model.like is None else model.like.dtype
    else:
        x, dtype = states_in(model, states[rows], "x_T"), x_T.dtype
        warn_of_small_start(x, noise_then, times[0])
    warn_of_narrow_data(sde, spread, times[-1])
    take = take_steps if weigher is None else weigher.take_steps
    whole = return_path or return_log_prob
    if sampler.reaches_data:
        _check_end(sampler, times, denoise, parallel)
    last = denoise and not sampler.reaches_data
    run = Runner(sampler, times, last, partial(noise, seed), callback, whole, grad, parallel, take)
    found = run(model, sampler.plan, list(chunks(model, x, batch, cond, rows.start, n)), progress)
    samples = _as_data(sde, found if return_path or not whole else found[-1], dtype, return_path)
    if denoise:
        bind_rows(model, cond, rows, x[:1], n).examine((samples[-1] if return_path else samples).detach())
    if weigher is None:
        return samples
    log_prob = check_densities(torch.cat(weigher.chunks, 1), times)
    return Rollout(samples, found[: len(log_prob) + 1], times[: len(log_prob) + 1], log_prob)


def _check_seeded(part: tuple[int, int] | None, seed: int | None, generator: torch.Generator | None) -> None:
    """Refuse a part without a seed: no other process could draw the rest of the same run."""
    if part is not None and seed is None and generator is None:
        raise ValueError(
            f"part = {part} without a seed; give all processes the same seed, or they draw parts of different runs."
        )


def _as_data(sde: SDE, states: Tensor, dtype: torch.dtype, path: bool) -> Tensor:
    """Return states, ``(B, *)`` or a path ``(times, B, *)``, as data, rounded to `dtype` or to a finer one."""
    samples = torch.stack([sde.project(x) for x in states]) if path else sde.project(states)
    if sde.coordinates is not None and not samples.isfinite().all():  # the states themselves were finite
        raise ValueError(
            f"samples are too large for {samples.dtype} in the data's own coordinates, {sde.coordinates!r} undone; look at the "
            "model, or take a finer dtype."
        )
    return narrowed("samples", samples, sde.telling(dtype, samples.device))


def _weigher(sde: SDE, return_path: bool, parallel: int | Picard | None) -> Weigher:
    """Return the `Weigher` that keeps the log-probabilities of a run; refuse arguments that exclude one."""
    if return_path or parallel is not None:
        name = "return_path" if return_path else "parallel"
        raise ValueError(
            f"return_log_prob and {name} were both given; a Rollout has the path already, and takes one step after the other: "
            f"leave {name} out."
        )
    check_no_ends(sde)
    return Weigher()


def _check_end(sampler: Sampler, times: Tensor, denoise: bool, parallel: int | Picard | None) -> None:
    """Refuse a sampler whose last step leads to the data, if its grid ends before them or its steps are to be guessed."""
    name = type(sampler).__name__
    if parallel is not None:
        raise TypeError(f"{name} takes few steps in turn, which parallel cannot guess; leave it out.")
    if denoise and times[-1] > 0:
        raise ValueError(
            f"the grid of {name} ends at t = {times[-1].item():.6g}, and its last step is to be one to the data; give a grid "
            'that ends at 0, such as grids.Angle(end=0.0), or ask for the states there, final="sample".'
        )


def _ends_denoised(sde: SDE, final: str | None) -> bool:
    """Tell whether a run ends in the posterior mean of the clean data, as it does by default on linear processes."""
    final = ("denoise" if is_linear(sde) else "sample") if final is None else final
    if final not in ("denoise", "sample"):
        raise ValueError(f'final = {final!r}; expected "denoise" or "sample".')
    if final == "denoise" and not is_linear(sde):
        raise TypeError(f'{type(sde).__name__} is not linear and has no denoiser; use final="sample".')
    return final == "denoise"


def _choose(
    model: ScoreModel, sampler: Sampler | None, steps: int | None, cond: dict[str, Any], denoise: bool
) -> tuple[Sampler, Tensor, float | None, float | None]:
    """Return the sampler, its times, and what warnings need to know of both ends of the run.

    The sampler is the one given, or the default under the conditions. The spread of the data over the noise at the last time is
    None if the grid ends elsewhere than the process; the noise at the first time is None if the run stays there.
    """
    whole = Conditioned(model, **cond) if cond and sampler is None else model

    def choose() -> tuple[Sampler, Tensor, float | None, float | None]:
        chosen = default(whole, steps) if sampler is None else sampler
        times = chosen.times(model.sde, denoise).detach()  # constants, whatever of the process is differentiated by
        judged = times[-1].item() == model.sde.t_min and (denoise or not is_linear(model.sde))
        spread = spread_at(model, times[-1]) if judged else None
        leaves = bool(times[0] > times[:2][-1])  # a run that stays at its first time forgets where it began
        return chosen, times, spread, noise_at(model.sde, times[0]) if leaves else None

    return recall(choose, "choose", whole.planned_by(), sampler, steps, denoise)
