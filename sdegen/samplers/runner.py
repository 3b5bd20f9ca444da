"""The loop over the chunks of a run and the steps of each (`Runner`), with progress, path, and the last move to clean data."""

from __future__ import annotations

__all__ = ["Callback", "Course", "Runner", "TakeSteps"]

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..answers import check_answer
from ..models.modes import evaluating
from ..models.score import ScoreModel
from ..processes.linear import as_linear
from ..progress import show_bar
from ..recall import recall
from .base import Noise, Sampler, check_plan
from .picard import GuessingModel, Picard, as_picard
from .reach import Reach, reach_of, warn_of_escape
from .steps import take_steps

MANY = 2**14  # numbers in states, above which only their extremes are kept
# How many of its states a run checks, or up to twice as many; fewer if states are large, since a check of these costs a sixth of
# a step of the default sampler.
LOOKS, FEWER = 8, 4
Callback = Callable[[int, Tensor, Tensor], object]
TakeSteps = Callable[[Sampler, list[Any], ScoreModel, Tensor, Noise], Iterator[tuple[Tensor, Any]]]


class Course(NamedTuple):
    """What is known of a run before it starts: the coefficients of its steps, the question for clean data after the last step,
    and how far from zero its states may be.
    """

    steps: list[Any]
    question: Any
    reach: Reach | None


class Runner(NamedTuple):
    """The loop over the chunks of a run and the steps of each, from noise to data or back.

    Attributes
    ----------
    sampler
        The sampler that makes the steps.
    times
        The times at which the steps stop, in the order of the run.
    denoise
        Whether a move to clean data follows the last step.
    noise
        Called as ``noise(first, times)`` for the samples from place `first` on, it returns the noise of their steps.
    callback, return_path, grad, parallel
        As for `sample`.
    take
        Takes the steps of a run in turn.
    """

    sampler: Sampler
    times: Tensor
    denoise: bool
    noise: Callable[[int, Tensor], Noise]
    callback: Callback | None = None
    return_path: bool = False
    grad: bool = False
    parallel: int | Picard | None = None
    take: TakeSteps = take_steps

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
        guessing, way = None, as_picard(self.parallel)
        with (
            torch.set_grad_enabled(self.grad),
            evaluating(model),
            show_bar(progress, type(self.sampler).__name__) as bar,
        ):
            for first, x, bound in parts:
                if bound is not planned:  # a plan may hold the model, and with it the conditions
                    planned, guessing = bound, None if way is None else GuessingModel(bound, way)
                    asked = guessing or bound
                    about = asked.planned_by(), plan, self.times, self.denoise
                    course = recall(partial(self._plan, plan, asked, bound), "plan", *about)
                    bar.total = len(course.steps) * len(parts)
                noise = self.noise(first, self.times)
                if guessing is None:
                    moves = self.take(self.sampler, course.steps, bound, x, noise)
                else:
                    moves = guessing.take_steps(self.sampler, course.steps, x, noise)
                ends.append(self._run_chunk(bound, course, moves, x, bar))
        return torch.cat(ends, 1 if self.return_path else 0)

    def _plan(self, plan: Callable[[ScoreModel, Tensor], list[Any]], asked: ScoreModel, model: ScoreModel) -> Course:
        """Plan what follows from the times alone: the steps, which ask the model `asked`, and the end, which asks `model`."""
        steps, times, question = plan(asked, self.times), self.times, None
        check_plan(self.sampler, steps, len(times) - 1)
        stops = times[: len(steps) + 1]
        if self.denoise:
            one = as_linear(model.sde, ", and has no denoiser.").marginal(times[-1:]).Phi.one()
            stops, question = torch.cat([stops, times.new_zeros(1)]), model.ask(times[-1:], denoise=one)[0]
        return Course(steps, question, reach_of(model, stops))

    def _run_chunk(
        self, model: ScoreModel, course: Course, moves: Iterator[tuple[Tensor, Any]], x: Tensor, bar: Any
    ) -> Tensor:
        """Run the states `x` through their moves, and return the last states, or the whole path."""
        steps, path = course.steps, [x]
        looks = LOOKS if x.numel() <= MANY else FEWER
        every = 1 if self.return_path else max(1, len(steps) // looks)
        looked, seen = [0], [_shown(x)]  # read once, at the end: no synchronisation inside the loop
        for i, (x, _) in enumerate(moves, 1):
            if i % every == 0 or (i == len(steps) and not self.denoise):
                looked.append(i)
                seen.append(_shown(x))
            if self.return_path:
                path.append(x)
            if self.callback is not None:
                self._tell(self.callback, i - 1, self.times[i], x)
            bar.update()
        if self.denoise:
            x = check_answer(f"{type(model).__name__}.denoise", model.answer(x, course.question), x.shape, x)
            path.append(x)
            looked.append(len(steps) + 1)
            seen.append(_shown(x))
            if self.callback is not None:
                self._tell(self.callback, len(steps), torch.zeros_like(self.times[-1]), x)
        self._check(course, looked, torch.stack([end for x in seen for end in _ends(x)]).tolist())
        return torch.stack(path) if self.return_path else x

    @staticmethod
    def _tell(callback: Callback, i: int, t: Tensor, x: Tensor) -> None:
        """Call a callback with copies of the time and the states.

        Raises
        ------
        ValueError
            If the callback changes the states in place.
        """
        seen = x.clone()  # compared below by its numbers: what is written by x.data is in no count of changes
        callback(i, t.clone(), seen)
        if not torch.equal(seen, x) and not bool(x.isnan().any()):  # a NaN is told of by the run
            raise ValueError(
                "callback changed the states in place, which changes nothing of the run, as they are a copy; let it work on "
                "x.clone(). What changes a run is a sampler, or a wrapper of the model."
            )

    def _check(self, course: Course, looked: list[int], ends: list[float]) -> None:
        """Refuse a run in which a state was not finite, and warn of one in which a state was out of reach.

        `ends` holds the least and the largest number of the states that were checked: the start and those after some moves. A
        number that is not finite stays so in all later states, so none is missed. Extremes, unlike a sum, which may overflow, are
        NaN or infinite only if a number is.
        """
        largest = [max(abs(low), abs(high)) for low, high in zip(ends[::2], ends[1::2], strict=True)]
        bad = [i for i, most in enumerate(largest) if not math.isfinite(most)]
        if bad:
            last = max(1, looked[bad[0]])
            first = looked[max(1, bad[0]) - 1] + 1
            where = f"step {last}" if first == last else f"one of the steps {first} to {last}"
            how = "" if first == last else " (return_path=True tells in which)"
            t = self.times[min(first, len(self.times)) - 1].item()
            raise ValueError(
                f"the state turned non-finite in {where} of {looked[-1]}, from t = {t:.6g}{how}; take more steps, another "
                "grid or sampler, or check the model at that time."
            )
        if course.reach is not None:
            warn_of_escape(course.reach.at(looked), largest)


def _shown(x: Tensor) -> Tensor:
    """Return small states as they are, and of large ones the least and the largest number.

    They are read after the run: between two calls of a network, with cold caches, reading takes many times as long.
    """
    return x if x.numel() <= MANY else torch.stack(_ends(x))


def _ends(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest number of states; NaN if there is a NaN."""
    x = x.detach() if x.requires_grad else x
    if x.is_cpu and x.numel() > MANY:  # two passes of PyTorch over many numbers take two thirds of the time of its one
        return x.amin(), x.amax()
    least, largest = torch.aminmax(x)
    return least, largest
