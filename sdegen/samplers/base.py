"""The interface of samplers: `step`, and `plan`, which computes the coefficients of all steps once per run.

The loop, the grid, the noise source and the progress bar live elsewhere. A sampler is given a model and the times. Its `plan`
refuses, before any network is called, a process that the sampler does not apply to.
"""

from __future__ import annotations

__all__ = ["C", "Noise", "S", "Sampler", "check_plan", "require_linear", "require_noise"]

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_count
from ..models.score import ScoreModel
from ..processes.base import SDE
from ..processes.grids import Angle, Grid, Quadratic
from ..processes.linear import LinearSDE, is_linear
from ..show import show_call
from ..signatures import Overridable
from .step_noise import StepNoise

Noise = Callable[[Tensor], Tensor]
C = TypeVar("C")  # what a step needs, formed before the run
S = TypeVar("S")  # what a step remembers for the next
T = TypeVar("T")


@asked_as("a sampler with its steps, such as samplers.Heun(steps=18)")
class Sampler(Overridable, ABC, Generic[C, S]):
    """The base class of samplers: a rule for one step from ``x_t`` to ``x_s``, ``s < t``.

    A subclass says what its `plan` makes for a step, and what a step remembers for the next (None for nothing):
    ``class DDIM(Sampler[DDIMStep, None])``.

    A step of a sampler with coefficients from `plan` can be compiled by torch 2.11 and later with the network in it, as one graph
    for all steps:

        sampler.step = torch.compile(sampler.step, fullgraph=True)

    Multistep methods have one graph more for each step of their start. The noise of `SampleNoise` is drawn by generators
    on the host and cannot be in a graph; a sampler that draws noise gets it from outside:

        step = sampler.step
        graph = torch.compile(lambda model, x, c, z, state: step(model, x, c, lambda _: z, state), fullgraph=True)
        sampler.step = lambda model, x, c, noise, state: graph(model, x, c, noise(x), state)

    or from torch's own generator, ``sample(..., noise=lambda seed, first, times: torch.randn_like)``. This holds for networks
    in a `Model` on scalar processes and for the samplers that ask all their questions in `plan`: `DDIM`, `Ancestral`,
    `EulerMaruyama`, `Heun`, `ProbabilityFlow` with the fixed steps of ``laws.odes.TABLEAUS``, `Multistep`, `Singlestep`,
    `ExponentialSDE`, `SecantSDE` and `ReverseDiffusion`. Not compiled as a whole: adaptive integrators, whose steps depend on the
    state; learned variances; `Exact` models and nonlinear processes, which form coefficients in the step. Coefficients stay on
    the CPU, so CUDA graphs (``mode="reduce-overhead"``) do not apply.

    Parameters
    ----------
    steps
        Number of moves, the last of which goes to clean data under ``final="denoise"``.
    grid
        The times at which it stops; by default equal steps in ``sigma / (alpha + sigma)``, and in ``√t`` on a nonlinear process.

    Attributes
    ----------
    default_grid
        The grid on a linear process if none is given.
    convergence_order
        The power of the step size with which the law of the samples approaches the model's (the weak order of a stochastic
        method); None if none is claimed, as for steps chosen by a tolerance. `testing.check_sampler` tests this claim.
        It is the order in the limit of many steps, on grids that are smooth in the time. On `CLD`, which oscillates, orders above
        three show from some 256 steps on. A grid even in the noise alone, whose last step is long in the time, has order one to
        two there until steps are shorter than that.

    reaches_data
        Whether the last step ends in clean data, so that no posterior mean is taken after it.

    Raises
    ------
    ValueError
        If `steps` is not a positive whole number.
    """

    default_grid: type[Grid] = Angle
    convergence_order: int | None = None
    reaches_data: bool = False

    __repr__ = show_call

    @check_arguments
    def __init__(self, steps: int = 50, grid: Grid | None = None) -> None:
        self.steps = check_count("steps", steps)
        self.grid = grid

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the times of a run, one more than the sampler's steps; one fewer if the last step goes to the posterior
        mean (`denoise`).
        """
        return self._grid(sde)(sde, self.steps if denoise else self.steps + 1)

    def _grid(self, sde: SDE) -> Grid:
        """Return the grid that was given, or the default. On a nonlinear process this has equal steps in ``√t``: all that is
        known of the noise level there is that it begins in proportion to ``√t``.
        """
        if self.grid is not None:
            return self.grid
        return self.default_grid() if is_linear(sde) else Quadratic()

    @abstractmethod
    def plan(self, model: ScoreModel, times: Tensor) -> list[C]:
        """Plan the coefficients of every step, once and in float64, and return a list of one entry for each.

        Parameters
        ----------
        model
            A score model, its conditions fixed; `ScoreModel.ask` makes such a list of questions to it.
        times
            Where the run stops, from noise to data, float64; step `k` goes from ``times[k]`` to ``times[k + 1]``.

        Raises
        ------
        TypeError, ValueError
            If the sampler does not apply to the model's process; the message says why.
        """

    @abstractmethod
    def step(self, model: ScoreModel, x: Tensor, c: C, noise: Noise, state: S | None) -> tuple[Tensor, S]:
        """Take the step from ``x_t`` to ``x_s``, and return ``x_s`` with what the next step needs to remember.

        Parameters
        ----------
        model
            A score model, its conditions fixed.
        x
            ``x_t``, ``(B, *)``.
        c
            This step's entry of `plan`.
        noise
            Returns standard normal noise of the shape of what it is given; called only where noise is used.
        state
            What the step before returned; None at the first.
        """

    def step_noise(self, model: ScoreModel, x: Tensor, c: C) -> StepNoise:
        """Return the Gaussian law of the noise that a step adds to its mean.

        The mean is what `step` returns for noise 0. What such a step remembers does not depend on its noise.

        Parameters
        ----------
        model, x, c
            As for `step`.

        Raises
        ------
        TypeError
            If the density of the sampler's steps is not known.
        ValueError
            If the sampler was told to draw no noise.
        """
        raise TypeError(
            f"steps of {type(self).__name__} have no density in closed form: they draw no noise, ask the model after they have "
            "drawn it, or add noise whose size depends on the step before; take EulerMaruyama, Ancestral, ReverseDiffusion, "
            "ExponentialSDE, Langevin, or DDIM with eta > 0."
        )


def check_plan(sampler: Sampler, planned: Any, moves: int) -> None:
    """Refuse what a sampler has planned, if it is no list with an entry for each of its moves.

    Parameters
    ----------
    sampler
        The sampler.
    planned
        What its `plan` returned.
    moves
        How many moves there are between its times.

    Raises
    ------
    TypeError
        If it is no list.
    ValueError
        If it has another length.
    """
    who = f"{type(sampler).__name__}.plan"
    must = f"it must return a list with an entry for each of the {moves} moves between its times"
    if not isinstance(planned, list):
        raise TypeError(
            f"{who} returned a {type(planned).__name__}; {must}, such as model.ask(...), or of several parts "
            "list(zip(model.ask(...), operator.each(len(times) - 1)))."
        )
    if len(planned) != moves:
        raise ValueError(f"{who} returned {len(planned)} entries; {must}.")


def require_noise(sampler: Sampler, drawn: T | None) -> T:
    """Return `drawn`, what a step tells of its noise; refuse None, of a step that draws no noise."""
    if drawn is None:
        raise ValueError(
            f"this step of {sampler!r} draws no noise, and has no density; give the sampler a noise level eta above 0."
        )
    return drawn


def require_linear(sampler: Sampler, sde: SDE) -> LinearSDE:
    """Return a process if it is linear; refuse any other, for which Tweedie's formula does not hold."""
    if not is_linear(sde):
        raise TypeError(
            f"{type(sampler).__name__} needs the posterior mean of the data, which only a LinearSDE has; for "
            f"{type(sde).__name__} use EulerMaruyama, Heun or ProbabilityFlow."
        )
    return sde
