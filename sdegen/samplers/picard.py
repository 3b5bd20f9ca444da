"""Parallel sampling (`Picard`): the model's answers in many steps are guessed, asked for in one call, and corrected, round after
round.

A plan knows every coefficient, and the noise of a step belongs to the sample and the step. So a step waits for nothing but the
model's answer at the state before, and here this answer is guessed for a window of steps. The states follow from the guesses by
the sampler's own steps, and the model answers at all of them in one call. These answers are the next guesses, until the states
that follow are those that the model was asked about. Then they are the states of the run that takes its steps in turn.
"""

from __future__ import annotations

__all__ = ["GuessingModel", "Expected", "Guess", "Picard", "Tape", "as_picard", "learn"]

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_count, check_number
from ..laws.marginals import Marginal
from ..laws.operators import Operator
from ..laws.vectors import dot, over_rows
from ..models.parametrizations import EDMParametrization
from ..models.question import gather
from ..models.reversal import LearnedReversal
from ..models.score import ScoreModel, rotated
from ..models.wrapper import Wrapper
from ..processes.linear import as_linear
from ..show import show_call
from .base import Noise, Sampler
from .steps import take_steps

T = TypeVar("T")
NOISE = 6.0  # times the rounding of a number, times the root of how many guesses come before: no round removes it
SHOWS = 1000  # times the rounding of a number: smaller changes show no slope
IN_TURN = "sample without parallel, or by a sampler that asks all it needs in its plan, such as DDIM or Multistep"


@asked_as("a number of steps, or samplers.Picard(window=100)")
class Picard:
    """The iteration that takes `window` steps of a run together, and the number of its rounds.

    Let ``a_k`` be the model's answer to the question of step `k` at the states ``x_k``, and let ``G_k`` be the linear map that
    answers this question for Gaussian data of the data's spread. A round takes the steps with the guesses

        answer_k(x) = a_k + G_k (x − x_k) + (δa_k − G_k δx_k) ⟨δx_k, x − x_k⟩ / |δx_k|²,

    where ``δ`` is the change since the round before, and then asks the model at the states that it has found. This is E. Picard's
    iteration for what the model says beyond the Gaussian, with the slope that two rounds show. A step is done when the steps
    before are done and its states have not moved since the model was asked. Each round completes one step at least, and the
    window moves on. A. Shih et al., *Parallel sampling of diffusion models*, 2023, arXiv:2305.16317, iterate without the Gaussian
    and the slope; Z. Tang et al., *Accelerating parallel sampling of diffusion models*, 2024, arXiv:2402.09970, with the changes
    of several rounds.

    Parameters
    ----------
    window
        The largest number of questions about a sample in one call of the model; most samplers have one question a step. With 1
        the run is an ordinary one.
    tolerance
        The largest change of a number, in root mean squares of the states, that does not count as a move; at least what rounding
        grows to in so many steps. Samples differ by a few times the tolerance.

    Attributes
    ----------
    rounds
        Calls of the model in the last run, all chunks together, without the last move to clean data.
    evaluations
        States that the model was asked about in these calls, all samples together.

    Raises
    ------
    ValueError
        If `window` is not a positive whole number, or `tolerance` not positive.

    Examples
    --------
    >>> import sdegen
    >>> model, picard = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), Picard(window=100)
    >>> x, y = (sdegen.sample(model, 8, sampler=sdegen.samplers.DDIM(100), seed=0, parallel=way) for way in (None, picard))
    >>> bool((x - y).abs().max() < 1e-4), picard.rounds < 12
    (True, True)
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, window: int, tolerance: float = 1e-6) -> None:
        self.window, self.tolerance = check_count("window", window), check_number("tolerance", tolerance, above=0)
        self.rounds = self.evaluations = 0


def as_picard(way: int | Picard | None) -> Picard | None:
    """Return the iteration for a new run, with its counts at 0: the given one, or a new one with this window; None for None."""
    picard = way if way is None or isinstance(way, Picard) else Picard(check_count("parallel", way))
    if picard is not None:
        picard.rounds = picard.evaluations = 0
    return picard


class Expected(NamedTuple):
    """A question to a model, and the linear map that answers it for Gaussian data of the data's spread."""

    question: Any
    gaussian: Operator


class Guess:
    """A guess at the model's answer to a question in a run, for states that are not known yet.

    Parameters
    ----------
    asked
        The question.
    """

    def __init__(self, asked: Expected) -> None:
        self.asked = asked
        self.x = torch.empty(0)  # the states that follow from the guesses before
        self.seen: tuple[Tensor, Tensor] | None = None  # the states that the model was asked about, and its answer
        # A direction, and what the answer does along it beyond the Gaussian's.
        self.slope: tuple[Tensor, Tensor] | None = None

    def answer(self, x: Tensor) -> Tensor:
        """Return the guess at the states `x`, and keep `x`."""
        self.x, gaussian = x, self.asked.gaussian
        if self.seen is None:
            return gaussian(x)
        at, said = self.seen
        change = x - at
        said = gaussian.onto(said.clone(), change)
        if self.slope is not None:
            along, beyond = self.slope
            said.addcmul_(beyond, _inner(along, change))
        return said

    def holds(self, tolerance: float, after: int) -> bool:
        """Tell whether the states are those that the model was asked about, up to what rounding grows to `after` so many guesses.

        States that are not finite count as such, since a run with them is refused.
        """
        if self.seen is None:
            return False
        tolerance = max(tolerance, NOISE * after**0.5 * torch.finfo(self.x.dtype).eps)
        near = (self.x - self.seen[0]).abs().max() <= tolerance * self.x.square().mean().sqrt()
        return bool(near) or not bool(self.x.isfinite().all())


class Tape(Generic[T]):
    """A list of things in the order in which a run makes them, through which each round goes again."""

    def __init__(self) -> None:
        self.made: list[T] = []
        self.place = 0

    def next(self, make: Callable[[], T]) -> T:
        """Return the next thing, made by `make` if there is none yet."""
        if self.place == len(self.made):
            self.made.append(make())
        self.place += 1
        return self.made[self.place - 1]


class GuessingModel(Wrapper):
    """A model that answers the questions of a plan by guesses, and takes its steps by them.

    Parameters
    ----------
    model
        A score model of a linear process.
    picard
        The iteration, which has the window and counts the rounds.

    Raises
    ------
    TypeError
        In a run, if the sampler asks for more than its plan does, or at times that depend on the states.
    """

    def __init__(self, model: ScoreModel, picard: Picard) -> None:
        super().__init__(model)
        self.picard = picard
        self.guesses: Tape[Guess] = Tape()

    def take_steps(self, sampler: Sampler, plan: list[Any], x: Tensor, noise: Noise) -> Iterator[tuple[Tensor, Any]]:
        """Take the steps of a plan that has been made for this model, and yield after each what `steps.take_steps` does.

        Parameters
        ----------
        sampler, plan
            A sampler, and its plan.
        x
            The states to begin from, ``(B, *)``.
        noise
            Gives the steps their noise.
        """
        guesses, draws, picard = Tape[Guess](), Tape[Tensor](), self.picard
        self.guesses, state, taken = guesses, None, 0
        while taken < len(plan):
            guesses.place = draws.place = known = 0
            done, waits = (0, 0), False
            again = take_steps(sampler, plan[taken:], self, x, lambda like: draws.next(partial(noise, like)), state)
            for after in again:
                if not waits:
                    known = self._count_known(known)
                    waits = known < guesses.place
                if waits and guesses.place - known >= picard.window:
                    break
                if not waits:
                    done, taken = (guesses.place, draws.place), taken + 1
                    x, state = after
                    yield after
            if waits:
                picard.rounds += 1
                picard.evaluations += self._learn(guesses.made[known : guesses.place][: picard.window])
            del guesses.made[: done[0]], draws.made[: done[1]]

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Prepare the model's questions, each with the map that answers it for Gaussian data."""
        sde = as_linear(self.sde, f", and guesses are those of a Gaussian; {IN_TURN}.")
        std = 1.0 if self.moments is None else float(self.state_moments().variance()) ** 0.5
        at = sde.marginal(t)
        (skip, out), velocity = rotated(at, **weights), EDMParametrization().coefficients(sde, at, std).c_skip
        gaussian = (skip + out @ velocity).prepared(self.like)
        return [Expected(question, gaussian[i]) for i, question in enumerate(self.model.ask(t, **weights))]

    def gain(self, at: Marginal) -> Operator | None:
        """Return the gain of the model inside, which answers the questions."""
        return self.model.gain(at)

    def answer(self, x: Tensor, question: Expected, /, **cond: Any) -> Tensor:
        """Return a guess at the answer, for the states `x`."""
        guess = self.guesses.next(partial(Guess, question))
        if guess.asked is not question:
            self._refuse()
        return guess.answer(x)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Raise an error: a step asks by questions alone."""
        self._refuse()

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Raise an error: a step asks by questions alone."""
        self._refuse()

    def velocity_at(self, x: Tensor, at: Marginal, /, **cond: Any) -> Tensor:
        """Raise an error: a step asks by questions alone."""
        self._refuse()

    @property
    def reversal(self) -> LearnedReversal | None:
        """Raise an error: a learned variance is more than the answer to a question."""
        self._refuse()

    def _count_known(self, known: int) -> int:
        """Return how many guesses of this round hold, one after another from the first; `known` of them were found to hold
        before.
        """
        made, tolerance = self.guesses.made[: self.guesses.place], self.picard.tolerance
        while known < len(made) and made[known].holds(tolerance, known + 1):
            known += 1
        return known

    def _learn(self, guesses: list[Guess]) -> int:
        """Ask the model about these guesses in one call, and return the number of states it was asked about."""
        x = torch.stack([guess.x for guess in guesses])
        n, B = x.shape[:2]
        if n == 1:  # as a step in turn would ask, to the bit
            model, question = self.model, guesses[0].asked.question
        else:
            model = self.model.part(torch.arange(B).repeat(n), x[0, :1], B)
            question = gather([guess.asked.question for guess in guesses], B)
        said = model.answer(x.flatten(0, 1), question).reshape(x.shape)
        finite = x.isfinite()
        learn(guesses, x.where(finite, 0.0), said.where(finite, 0.0))  # what ran away tells nothing
        return n * B

    def _refuse(self) -> NoReturn:
        raise TypeError(
            f"the sampler asks the model more than its plan tells, so that its steps wait for one another; {IN_TURN}."
        )


def learn(guesses: list[Guess], x: Tensor, said: Tensor) -> None:
    """Keep the model's answers in the guesses, and the slopes that the changes of the answers show.

    Parameters
    ----------
    guesses
        The guesses, in the order of the run.
    x, said
        States and answers, ``(guesses, B, *)``.
    """
    seen = [guess.seen for guess in guesses if guess.seen is not None]  # the first of all: new guesses come last
    if seen:
        n, shape = len(seen), (len(seen), *x.shape[1:])
        at, before = (torch.stack(part).flatten(0, 1) for part in zip(*seen, strict=True))
        x_now, said_now = (v[:n].flatten(0, 1) for v in (x, said))
        change = x_now - at
        beyond = said_now - gather([guess.asked.gaussian for guess in guesses[:n]], x.shape[1]).onto(before, change)
        least = _inner(x_now, x_now) * (SHOWS * torch.finfo(x.dtype).eps) ** 2
        beyond /= (_inner(change, change) + least).clamp_min(1e-30)
        for guess, *slope in zip(guesses[:n], change.reshape(shape), beyond.reshape(shape), strict=True):
            guess.slope = slope[0], slope[1]
    for guess, at, answer in zip(guesses, x, said, strict=True):
        guess.seen = at, answer


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner product of each row of `x` and `y`, shaped to multiply them."""
    return over_rows(dot(x, y), x)
