"""The start of a sampling run: states from the prior or the user, the rows of each process, and chunks of them."""

from __future__ import annotations

__all__ = [
    "check_sampler_given",
    "check_known",
    "check_states",
    "chunks",
    "noise_at",
    "rows_of_part",
    "spread_at",
    "start",
    "warn_of_narrow_data",
    "warn_of_small_start",
]

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..answers import check_answer
from ..checks import check_count, check_tensor
from ..conditions import has_rows
from ..data.parts import part_of
from ..dense import check_dense
from ..laws.domains import check_domain
from ..laws.mixtures import Moments
from ..models.score import ScoreModel, check_dtype
from ..models.wrapper import Conditioned, Wrapper
from ..precision import all_finite, widened
from ..processes.base import SDE
from ..processes.linear import is_linear
from ..processes.scalar import is_scalar
from ..warning import warn_caller
from .base import Sampler
from .noise import draw
from .priors import check_start, prior_of

ENOUGH = 16  # numbers in a start, at least, for its root mean square to be compared with that of noise
SMALLER = 4.0  # times smaller than expected, which the root mean square of noise is less than once in ten million times
KNOWN = 4.0  # spread of the data over the noise at 0, below which posterior means have less than 0.97 of that spread


def check_sampler_given(steps: int | None, sampler: Sampler | None) -> None:
    """Refuse `steps` given together with a sampler.

    Raises
    ------
    ValueError
        If both are given.
    """
    if steps is not None and sampler is not None:
        raise ValueError(f"steps = {steps} and a sampler were both given; set the steps in the sampler.")


def chunks(
    model: ScoreModel,
    x: Tensor,
    batch: int | None,
    cond: dict[str, Any],
    begin: int,
    n: int,
    like: Tensor | None = None,
) -> Iterator[tuple[int, Tensor, ScoreModel]]:
    """Yield the rows from `begin` on, of `n`, in chunks of at most `batch`: the index of the first row, the rows, and the
    model under their conditions.

    All chunks have the same model if neither a condition nor the model itself has a row for each sample. If the rows are not
    states, `like` is a state.
    """
    whole = Conditioned(model, **cond) if cond else model
    batch = n if batch is None else batch
    if batch >= n == len(x):
        yield 0, x, whole
        return
    batch = _choose_chunk_size(whole, min(batch, len(x)), n)
    for first, part in zip(range(begin, begin + len(x), batch), x.split(batch)):
        yield first, part, whole.part(slice(first, first + len(part)), x[:1] if like is None else like, n)


def _held_by(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield the conditions, by name, that a model and the models inside it hold."""
    if isinstance(thing, Wrapper):
        yield from getattr(thing, "cond", {}).items()
        for inside in {**vars(thing), **thing._modules}.values():
            yield from _held_by(inside)


def _choose_chunk_size(model: ScoreModel, batch: int, n: int) -> int:
    """Return the size of chunks, `batch` or fewer rows, so that no condition that all `n` samples share has as many rows.

    A network would take such a condition for one with a row for each sample of the chunk.

    Raises
    ------
    TypeError
        If a condition has a value for each sample, and is not a tensor, which could be cut.
    """
    shared: set[int] = set()
    for name, value in _held_by(model):
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        if any(has_rows(part, n) for part in parts) or (isinstance(value, (list, tuple)) and len(value) == n):
            raise TypeError(
                f"{name} is a {type(value).__name__} with something for each of {n} samples, which batch= and part= cannot cut; "
                "give a tensor (n, ...), or each part as a condition of its own."
            )
        if isinstance(value, Tensor) and value.ndim:
            shared.add(len(value))
    while batch > 1 and batch in shared:
        batch -= 1
    return batch


def start(model: ScoreModel, n: int, seed: int, first: int = 0, times: Tensor | None = None) -> Tensor:
    """Return `n` draws from the prior, from the place `first` on (`noise.draw`), as the model's states at the beginning of a run.

    The run goes through `times`, and by default begins at T.
    """
    moments = model.state_moments(" for the prior to be matched to, or pass x_T")
    if model.like is not None:
        check_dense("the model's first weight", model.like)
    n, prior = check_count("n", n), prior_of(model.sde, moments, "pass x_T")
    if times is not None and times[0] > times[-1]:  # a run that stays at one time forgets where it began
        check_start(model.sde, moments, times[0].item())
    x_T = draw(prior, n, seed, moments.mean.numel(), first)
    shape = model.sde.embed(moments.mean[None]).shape[1:]
    who = f"{type(prior).__name__}.sample"
    return model.cast_states(check_answer(who, x_T, (n, *shape), must="states of the shape of lifted data"))


def check_known(model: ScoreModel) -> None:
    """Refuse a run to clean data if the noise at 0 is so large that posterior means there are narrower than the data; a model
    with unknown moments passes.

    Parameters
    ----------
    model
        A score model.

    Raises
    ------
    ValueError
        If the data spread by less than `KNOWN` times the noise at 0; data that are one point pass.
    """
    spread, name = spread_at(model, 0.0), type(model.sde).__name__
    if spread is not None and 0 < spread < KNOWN:
        raise ValueError(
            f"{name} smooths the data: they spread by {spread:.3g} times the noise at t = 0, from where their "
            "posterior mean is narrower than they are. Give the process the units of the data, "
            "sde.in_units(law.moments().units()), or less noise at 0, or pass x_T."
        )


def warn_of_narrow_data(sde: SDE, spread: float | None, end: Tensor) -> None:
    """Warn that samples have another spread than the data, if the noise at the end of a grid is not small compared with the data:
    posterior means are narrower then, and states wider.

    Parameters
    ----------
    sde
        The process.
    spread
        The spread of the data over that noise; None to warn of nothing.
    end
        The last time of the grid.
    """
    if spread is not None and 0 < spread < KNOWN:
        warn_caller(
            f"the grid ends at t = {end.item():.4g}, where the data spread by {spread:.3g} times the noise, and samples will not "
            "have the spread of the data; give the process the units of the data, sde.in_units(law.moments().units()), or the "
            f"sampler a grid that goes nearer to 0, grids.{'Angle' if is_linear(sde) else 'Quadratic'}(end=...)."
        )


def warn_of_small_start(x: Tensor, noise: float | None, t: Tensor) -> None:
    """Warn of states to start from that are smaller than the noise alone is at their time, such as standard normal noise if that
    of the process is larger.

    There is no warning of fewer than `ENOUGH` numbers, nor of zeros.

    Parameters
    ----------
    x
        States, ``(B, *)``.
    noise
        The standard deviation of the noise at that time; None to warn of nothing.
    t
        The time at which the run begins.
    """
    n = x.numel()
    if noise is None or n < ENOUGH:
        return
    size = torch.linalg.vector_norm(x.detach() if x.requires_grad else x).item() / n**0.5
    if 0 < size < noise / SMALLER:
        warn_caller(
            f"x_T has a root mean square of {size:.3g}, and at t = {t.item():.4g}, where the run begins, noise alone has one of "
            f"{noise:.3g}: samples will not follow the model; multiply standard normal noise by {noise:.3g}, or leave x_T out."
        )


def noise_at(sde: SDE, t: Tensor) -> float | None:
    """Return the standard deviation of the noise of a scalar process at a time; None for other processes."""
    return sde.marginal(t).R.matrix().item() if is_scalar(sde) else None


def spread_at(model: ScoreModel, t: Tensor | float) -> float | None:
    """Return the spread of the data over the noise at a time; None if the moments of the data or the noise are not known."""
    sde = model.sde
    if model.moments is None:
        return None
    if is_linear(sde):
        return (sde.snr(t).detach() * model.state_moments().variance()).sqrt().item()
    if not sde.rescalable or sde.coordinates is not None:  # a process with bounds has times of its own
        return None
    mean, variance = model.state_moments().mean[None], model.state_moments().variance()
    noise = sde.root(t, mean)(torch.ones_like(mean)).square().mean()
    return (variance / noise).sqrt().item() if noise > 0 else None


def rows_of_part(part: tuple[int, int] | None, n: int) -> slice:
    """Return the rows, of `n`, that part `part` of a run has; all rows if it is None.

    Raises
    ------
    ValueError
        If `part` is not a rank and a number of processes, or there are more processes than rows.
    """
    if part is None:
        return slice(0, n)
    pair = isinstance(part, (tuple, list)) and [type(v) for v in part] == [int, int]
    if not pair or not 0 <= part[0] < part[1]:
        raise ValueError(f"part = {part}; give (rank, number), whole numbers with 0 <= rank < number.")
    if part[1] > n:
        raise ValueError(f"part = {part}: {n} samples are too few for {part[1]} processes; launch at most {n}.")
    return part_of(n, part[1], part[0])


def check_states(name: str, x: Tensor, model: ScoreModel) -> Tensor:
    """Return states that the model can take, those of half precision in float32; refuse others, in a sentence that calls them
    `name`.

    Raises
    ------
    TypeError
        If the states are not floating point.
    ValueError
        If the states are not finite, outside of the domain, coarser than the model's weights, or on another device.
    """
    check_tensor(name, x, finite=False)
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; give states (B, *), one row at least.")
    if not all_finite(x):
        raise ValueError(f"{name} holds NaN or infinite values; remove them first.")
    check_dtype(model, x)
    check_domain(model.sde.domain, x, name)
    if model.sde.coordinates is None and model.moments is not None:  # coordinates may have another shape than the data
        _check_shape(name, x, model, model.moments)
    return widened(x)


def _check_shape(name: str, x: Tensor, model: ScoreModel, moments: Moments) -> None:
    """Refuse rows that have neither the shape of the data nor that of their states; networks may take images of other sides.

    Raises
    ------
    ValueError
        If the shape fits neither.
    """
    data, given = moments.mean.shape, x.shape[1:]
    if given == data:
        return
    state = model.sde.embed(moments.mean[None]).shape[1:]
    if given == state:
        return
    resized = len(data) > 1 and moments.covariance.ndim == 1 and model.like is not None
    for shape in (data, state):
        before = len(shape) - len(data) + 1  # axes that are no sides of an image: its channels, and those of the state
        if resized and len(given) == len(shape) and given[:before] == shape[:before]:
            return
    raise ValueError(f"{name} has shape {tuple(x.shape)}; the data have shape {tuple(data)}: give rows like them.")
