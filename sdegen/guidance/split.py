"""Posterior samples by turns at falling noise levels: a draw given the measured values, and a denoised draw by the model."""

from __future__ import annotations

__all__ = ["decoupled_annealing", "split_gibbs"]

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..data.parts import check_batch
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..progress import show_bar
from ..samplers.multistep import Multistep
from ..samplers.noise import as_seed
from .coupling import CopiedData, CoupledCopy
from .langevin import LangevinCopy
from .measuring import LinearMeasurement, Measurement, refuse_own_y
from .misfit import warn_of_misfit

FIRST = 3.0  # spreads of the data: the first level of a run
LAST = 0.1  # of the variance of the measurement's noise: the variance that the last level adds to it


@check_arguments
def split_gibbs(
    model: ScoreModel,
    measurement: Measurement,
    n: int,
    *,
    y: Any,
    levels: Sequence[float] | int = 20,
    steps: int = 10,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """Draw samples of data given a measurement by the split Gibbs sampler (PnP-DM), and return them, ``(n, *)``.

    At every noise level a noisy copy `z` is drawn given the data and `y`, and then data are drawn given the copy, by the model's
    reversed process. At a fixed level this leaves the law ``p(x) ∫ N(z; x, level² D²) p(y | z) dz`` as it is, with the spread `D`
    of the data's units, so many turns at a low level converge to the posterior. Falling levels come near the posterior in few
    turns, but modes keep the weights that they had when the noise last reached from one to the other; `annealed_smc` corrects
    this. For a linear measurement with Gaussian noise the copy is a Gaussian draw. For other measurements it goes on from the
    last copy by steps that Metropolis' rule accepts or refuses, without evaluations of the model. Z. Wu et al., *Principled
    probabilistic imaging using diffusion models as plug-and-play priors*, 2024, arXiv:2405.18782.

    Parameters
    ----------
    model
        A score model of a scalar process.
    measurement
        The measurement of the data: any map that torch can differentiate, with any noise.
    n
        The number of samples.
    y
        The measured values, of one datum for all samples or with a row for each.
    levels
        Noise levels ``sigma / alpha`` of the turns, one after the other; or their number. Then they are evenly spaced in their
        logarithm, from three times the spread of the data to where a copy adds a tenth to the variance of the measurement's
        noise, for the datum of the model's draws that is measured best.
    steps
        Evaluations of a turn; the first data, drawn from the model, take twice as many.
    seed, generator
        Randomness.
    batch
        The largest number of samples that go through the model at a time; all by default.
    progress
        Show a bar; by default where standard error is a terminal.
    cond
        Conditions of the model.

    Raises
    ------
    TypeError
        If the process is not scalar, or has data in other coordinates.
    ValueError
        If a level is below the lowest that the model can denoise, `y` has another shape than a measurement, too many numbers are
        measured, or a measurement of data is not finite or has no derivative.

    Examples
    --------
    >>> import sdegen
    >>> from sdegen.guidance.measurements import Mask
    >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    >>> x = split_gibbs(model, Mask([True, False], std=0.1), 100, y=[3.0], seed=0)
    >>> bool((x[:, 0].mean() - 3.0).abs() < 0.1)
    True
    """
    coupling = _couple(model, measurement, y, steps, (seed, generator), batch, cond, split_gibbs)
    with torch.no_grad():
        x = coupling.draw_prior(n)
        for level in _show_levels(_read_levels(coupling, levels, x), progress, "split_gibbs"):
            x = coupling.move(x, level)
    warn_of_misfit(measurement, coupling.y, x)
    return x


@check_arguments
def decoupled_annealing(
    model: ScoreModel,
    measurement: Measurement,
    n: int,
    *,
    y: Any,
    levels: Sequence[float] | int = 40,
    steps: int = 5,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Tensor:
    """Draw samples of data given a measurement by decoupled annealing (DAPS), and return them, ``(n, *)``.

    At every noise level the probability flow takes a state to data in few steps. New data are drawn given `y`, with the Gaussian
    around these data, of the level's width, as prior. Fresh noise takes the new data to the next level, so that errors of the
    flow are not carried on. The Gaussian stands for the law of the data given the state, and is an approximation. B. Zhang et
    al., *Improving diffusion inverse problem solving with decoupled noise annealing*, 2024, arXiv:2407.01521, draw by Langevin
    steps; here the draw is that of `split_gibbs`, without the error of these steps.

    Parameters
    ----------
    model, measurement, n, y
        As for `split_gibbs`.
    levels
        As for `split_gibbs`; if their number is given, they begin at the highest level of the process.
    steps
        Evaluations of the flow from a level.
    seed, generator, batch, progress, cond
        As for `split_gibbs`.

    Raises
    ------
    TypeError, ValueError
        As for `split_gibbs`.

    Examples
    --------
    >>> import sdegen
    >>> from sdegen.guidance.measurements import Mask
    >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    >>> x = decoupled_annealing(model, Mask([True, False], std=0.1), 100, y=[3.0], seed=0)
    >>> bool((x[:, 0].mean() - 3.0).abs() < 0.1)
    True
    """
    coupling = _couple(model, measurement, y, steps, (seed, generator), batch, cond, decoupled_annealing)
    with torch.no_grad():
        x = coupling.draw_prior(n)
        turns = _read_levels(coupling, levels, x, coupling.largest)
        for level in _show_levels(turns, progress, "decoupled_annealing"):
            clean = coupling.denoise(coupling.add_noise(x, level), level, Multistep(steps))
            x = coupling.draw_copy(clean, level)
    warn_of_misfit(measurement, coupling.y, x)
    return x


def _couple(
    model: ScoreModel,
    measurement: Measurement,
    y: Any,
    steps: int,
    source: tuple[int | None, torch.Generator | None],
    batch: int | None,
    cond: dict[str, Any],
    caller: Callable[..., Any],
) -> CopiedData:
    """Return the coupling of a call, whose conditions are checked."""
    check_count("steps", steps)
    check_batch(batch)
    refuse_own_y(model)
    cond = read_conditions(model, cond, caller)
    draws = torch.Generator().manual_seed(as_seed(*source))
    kind = CoupledCopy if isinstance(measurement, LinearMeasurement) else LangevinCopy
    return kind(model, measurement, y, draws, steps, batch, cond)


def _read_levels(
    coupling: CopiedData, levels: Sequence[float] | int, x: Tensor, first: float | None = None
) -> list[float]:
    """Return the levels of a call, checked; if only their number is given, from the first to the lowest useful one.

    Raises
    ------
    ValueError
        If there are no levels, or a level is below the lowest that the model can denoise.
    """
    if isinstance(levels, int):
        number = check_count("levels", levels)
        first = FIRST * coupling.spread if first is None else first
        last = max(LAST**0.5 * coupling.matching_level(x), coupling.least)
        shares = torch.linspace(0, 1, number, dtype=torch.float64) if number > 1 else torch.ones(1)
        return [first * (min(last, first) / first) ** share for share in shares.tolist()]
    least = coupling.least
    given = [check_number("levels", level, above=0) for level in levels]
    if not given or min(given) < least:
        low = f"has {min(given):.4g}" if given else "is empty"
        raise ValueError(f"levels {low}; give noise levels sigma / alpha, of at least {least:.4g} for this model.")
    return given


def _show_levels(turns: list[float], progress: bool | None, name: str) -> Iterator[float]:
    """Yield noise levels one by one, and show on a progress bar how many are done."""
    with show_bar(progress, name) as bar:
        bar.total = len(turns)
        for level in turns:
            yield level
            bar.update()
