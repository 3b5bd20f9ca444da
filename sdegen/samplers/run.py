"""`sample`, the loop over a sampler's steps, with chunks, noise, progress, the path, and the last step to the posterior mean."""

from __future__ import annotations

__all__ = ["Callback", "Course", "NoiseSource", "Runner", "sample"]

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..answers import check_answer
from ..arguments import check_arguments
from ..checks import check_count
from ..data.parts import check_batch
from ..models.named import read_conditions
from ..models.score import ScoreModel, evaluating
from ..models.transformed import in_free_coordinates, states_in
from ..models.wrapper import Conditioned
from ..precision import narrowed
from ..processes.base import SDE
from ..processes.linear import as_linear, is_linear
from ..progress import show_bar
from ..recall import recall
from .base import Noise, Sampler
from .defaults import default
from .noise import SampleNoise, as_seed
from .picard import Ahead, Picard, as_picard
from .reach import Reach, reach_of, warn_of_escape
from .start import (
    check_conditions,
    check_known,
    check_sampler_given,
    check_states,
    chunks,
    rows_of_part,
    spread_at,
    start,
    warn_of_narrow_data,
)
from .steps import take_steps

Callback = Callable[[int, Tensor, Tensor], object]


NoiseSource = Callable[[int, int, Tensor], Noise]


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
    grad: bool = False,
    progress: bool | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Draw samples from a score model, and return them, ``(n, *)``.

    Parameters
    ----------
    model
        Any score model.
    n
        How many; or give `x_T`.
    x_T
        States to start from, ``(n, *)``; drawn from the prior by default.
    steps
        Steps of the `default` sampler; give it, or a `sampler`, such as ``samplers.default(model, steps, eta=0)``.
    sampler
        Any of `samplers`.
    seed, generator
        Randomness, of which one number is taken: a seed reproduces a run bit for bit on one machine, and gives sample `i`
        the same start and noise whatever `n`, `batch` and device (see `samplers.noise`).
    final
        ``"denoise"``: the posterior mean of the clean data at the grid's last time, the default for linear processes;
        ``"sample"``: the state at that time.
    noise
        Makes the noise of the steps: called as ``noise(seed, first, times)`` for the samples from place `first` on of a run that
        stops at these times, it returns what gives `Sampler.step` its noise. `SampleNoise` by default; `BrownianNoise` has
        paths that finer grids refine.
    batch
        Most samples that go through the model at a time; all by default. The samples do not depend on it, but for
        rounding and what an adaptive integrator's tolerance allows.
    part
        ``(rank, number)``: draw only the part of the run that falls to process `rank` of `number`, counted from 0. Parts are
        neighbours, as equal as can be, and put together in order they are the whole run, but for rounding as with `batch`.
        `n`, `x_T` and conditions are those of the whole. Give all processes the same seed.
    parallel
        Take so many steps together: what the model says at them is guessed, it is asked about all of them in one call, and the
        guesses are put right, round after round, until they are what it says (`Picard`, which also tells the rounds). The samples
        are the same, to a few millionths or to what rounding becomes in the run; so is the noise. For accelerators: a run of
        hundreds of steps waits for 10 to 40 calls, but the model is asked about several times as many states, up to
        ``parallel × batch`` a call. For samplers that ask all they need in `plan`.
    return_path
        Return every state, ``(times, n, *)``, the last move included.
    grad
        Record the run for derivatives of the samples by `x_T`, conditions and parameters. All evaluations of the network are held
        in memory then; one that calls itself by ``torch.utils.checkpoint.checkpoint`` holds its inputs alone. What is chosen by
        the state, such as adaptive steps, counts as constant.
    progress
        Show a bar; by default where standard error is a terminal.
    callback
        Called as ``callback(i, t, x)`` after step `i`, counted from 0, with the time arrived at and the states there,
        ``(B, *)`` in float32 at least, the clean data at time 0 after the last move of ``"denoise"``. With `batch`, once for
        every chunk in turn. What it returns is ignored; an exception ends the run.
    cond
        Conditions for the network: tensors with `n` rows, which `batch` cuts with the samples, or one value for all. What a row
        is, a network says that declares them (`nets.Vector` and the like); of others tensors whose first side is `n` have rows.

    Returns
    -------
    Tensor
        ``(n, *)`` samples of the data, on the model's device and in the dtype of `x_T`, or without it in the model's; with `part`
        its rows of them. Of half precision, they are carried in float32 all the way, and rounded in the end; where rounding would
        cost more than a hundredth of the data's spread, so far are they from zero, they stay in a finer dtype (`Units.telling`).

    Raises
    ------
    ValueError
        If arguments contradict each other, nothing is known of the prior, the grid begins far from it without `x_T`, or a state
        turns non-finite.
    TypeError
        If the sampler is none, or does not suit the process or `parallel`; or the model takes no condition of a name.

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
    check_conditions(model, cond)
    if part is not None and seed is None and generator is None:
        raise ValueError(
            f"part = {part} without a seed; give all processes the same seed, or they draw parts of different runs."
        )
    if parallel is not None and grad:
        raise ValueError("grad=True and parallel were both given; guesses have no derivatives: leave one of them out.")
    seed, sde = as_seed(seed, generator), model.sde
    denoise = _ends_denoised(sde, final)
    sampler, times, spread = _choose(model, sampler, steps, cond, denoise)
    n = check_count("n", n) if x_T is None else len(check_states("x_T", x_T, model))
    rows = rows_of_part(part, n)
    if x_T is None:
        if denoise:
            check_known(model)
        x = start(model, rows.stop - rows.start, seed, rows.start, times)
        dtype = x.dtype if model.like is None else model.like.dtype
    else:
        x, dtype = states_in(model, check_states("x_T", x_T, model)[rows], "x_T"), x_T.dtype
    if denoise:
        warn_of_narrow_data(spread, times[-1])
    parts = list(chunks(model, x, batch, cond, rows.start, n))
    run = Runner(sampler, times, denoise, partial(noise, seed), callback, return_path, grad, parallel)
    found = run(model, sampler.plan, parts, progress)
    found = torch.stack([sde.project(x) for x in found]) if return_path else sde.project(found)
    if sde.coordinates is not None and not found.isfinite().all():  # of states that were
        raise ValueError(
            f"samples are too large for {found.dtype} in the data's own coordinates, {sde.coordinates!r} undone; look at the "
            "model, or take a finer dtype."
        )
    return narrowed("samples", found, sde.telling(dtype, found.device))


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
) -> tuple[Sampler, Tensor, float | None]:
    """Return the sampler given, or the default under the conditions, the times at which it stops, and the spread of the data
    beside the noise at the last, if the grid has not chosen that otherwise.
    """
    whole = Conditioned(model, **cond) if cond and sampler is None else model

    def choose() -> tuple[Sampler, Tensor, float | None]:
        chosen = default(whole, steps) if sampler is None else sampler
        times = chosen.times(model.sde, denoise)
        return chosen, times, spread_at(model, times[-1]) if times[-1].item() == model.sde.t_min else None

    return recall(choose, "choose", whole.planned_by(), sampler, steps, denoise)


class Course(NamedTuple):
    """What is known of a run before its states: the steps, the question for clean data after the last, and how far states go."""

    steps: list[Any]
    question: Any
    reach: Reach | None


class Runner(NamedTuple):
    """The loop over the chunks of a run and the steps of each, from noise to data or back.

    Attributes
    ----------
    sampler
        It makes the steps.
    times
        Where they stop, in the order of the run.
    denoise
        Whether a move to clean data follows the last step.
    noise
        Called as ``noise(first, times)`` for the samples from place `first` on, it returns the noise of their steps.
    callback, return_path, grad, parallel
        As for `sample`.
    """

    sampler: Sampler
    times: Tensor
    denoise: bool
    noise: Callable[[int, Tensor], Noise]
    callback: Callback | None = None
    return_path: bool = False
    grad: bool = False
    parallel: int | Picard | None = None

    def __call__(
        self,
        model: ScoreModel,
        plan: Callable[[ScoreModel, Tensor], list[Any]],
        parts: list[tuple[int, Tensor, ScoreModel]],
        progress: bool | None,
    ) -> Tensor:
        """Run all chunks under one bar, and return the states that they end in.

        Parameters
        ----------
        model
            A score model.
        plan
            Plans the steps of a model whose conditions are fixed, again for each chunk that has a model of its own.
        parts
            The chunks (`start.chunks`).
        progress
            As for `sample`.

        Returns
        -------
        Tensor
            ``(n, *)``, or ``(times, n, *)`` with the path.
        """
        ends, planned, course = [], None, Course([], None, None)
        ahead, way = None, as_picard(self.parallel)
        with (
            torch.set_grad_enabled(self.grad),
            evaluating(model),
            show_bar(progress, type(self.sampler).__name__) as bar,
        ):
            for first, x, bound in parts:
                if bound is not planned:  # a plan may hold the model, and with it the conditions
                    planned, ahead = bound, None if way is None else Ahead(bound, way)
                    asked = ahead or bound
                    about = asked.planned_by(), plan, self.times, self.denoise
                    course = recall(partial(self._plan, plan, asked, bound), "plan", *about)
                    bar.total = len(course.steps) * len(parts)
                noise = self.noise(first, self.times)
                if ahead is None:
                    moves = take_steps(self.sampler, course.steps, bound, x, noise)
                else:
                    moves = ahead.take_steps(self.sampler, course.steps, x, noise)
                ends.append(self._run_chunk(bound, course, moves, x, bar))
        return torch.cat(ends, 1 if self.return_path else 0)

    def _plan(self, plan: Callable[[ScoreModel, Tensor], list[Any]], asked: ScoreModel, model: ScoreModel) -> Course:
        """Plan all that follows from the times alone: steps that ask one model, and an end that asks another."""
        steps, times, question = plan(asked, self.times), self.times, None
        stops = times[: len(steps) + 1]
        if self.denoise:
            one = as_linear(model.sde, ", and has no denoiser.").marginal(times[-1:]).Phi.one()
            stops, question = torch.cat([stops, times.new_zeros(1)]), model.ask(times[-1:], denoise=one)[0]
        return Course(steps, question, reach_of(model, stops))

    def _run_chunk(
        self, model: ScoreModel, course: Course, moves: Iterator[tuple[Tensor, Any]], x: Tensor, bar: Any
    ) -> Tensor:
        """Run the states `x` through their moves, and return those they end in."""
        steps, path = course.steps, [x]
        ranges = [*torch.aminmax(x.detach())]  # looked at once, at the end: no synchronisation inside the loop
        for i, (x, _) in enumerate(moves):
            ranges += torch.aminmax(x.detach())
            if self.return_path:
                path.append(x)
            if self.callback is not None:
                self.callback(i, self.times[i + 1], x)
            bar.update()
        if self.denoise:
            x = check_answer(f"{type(model).__name__}.denoise", model.answer(x, course.question), x.shape, x)
            path.append(x)
            ranges += torch.aminmax(x.detach())
            if self.callback is not None:
                self.callback(len(steps), torch.zeros_like(self.times[-1]), x)
        self._check(course, torch.stack(ranges).tolist())
        return torch.stack(path) if self.return_path else x

    def _check(self, course: Course, ends: list[float]) -> None:
        """Refuse a run with a state that was not finite, and warn of one that was out of reach: `ends` has the least and the
        largest number at the start and after every move.

        A sum of finite numbers may overflow; these are NaN or infinite only if a number is.
        """
        largest = [max(abs(low), abs(high)) for low, high in zip(ends[::2], ends[1::2], strict=True)]
        bad = [i for i, most in enumerate(largest) if not math.isfinite(most)]
        if bad:
            i = max(1, bad[0])
            t = self.times[min(i, len(self.times)) - 1].item()
            raise ValueError(
                f"the state turned non-finite in step {i} of {len(largest) - 1}, from t = {t:.6g}; take more steps, another "
                "grid or sampler, or check the model at that time."
            )
        if course.reach is not None:
            warn_of_escape(course.reach, largest)
