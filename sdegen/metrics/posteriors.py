"""Common parts of the tests of posteriors: the interface of a posterior, its draws given each of many observations, and the place
of the true parameters among these draws.
"""

from __future__ import annotations

__all__ = [
    "BatchedLaw",
    "BatchedSampler",
    "ConditionalLaw",
    "ConditionalSampler",
    "draw_for_each",
    "draw_for_pairs",
    "find_places",
    "generator_apart",
]

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import check_count, check_tensor
from ..progress import should_show
from .estimate import as_generator

APART = 7_302_026  # added to a seed: any number so odd that a user's own seeds do not differ by it


class ConditionalSampler(Protocol):
    """The interface of a law of parameters given an observation that can be drawn from."""

    def sample(self, n: int, x: Tensor, /) -> Tensor:
        """Draw `n` parameters given one observation `x`, ``(n, *)``."""


@runtime_checkable
class BatchedSampler(ConditionalSampler, Protocol):
    """The interface of a law of parameters that can be drawn from given many observations at once, which is faster."""

    def sample_each(self, n: int, x: Tensor, /) -> Tensor:
        """Draw `n` parameters given each of the observations ``(K, *)``, ``(K, n, *)``."""


class ConditionalLaw(ConditionalSampler, Protocol):
    """The interface of a law of parameters given an observation whose density is known too."""

    def log_prob(self, theta: Tensor, x: Tensor, /) -> Tensor:
        """Return the log-density of parameters ``(n, *)`` given one observation `x`, ``(n,)``."""


@runtime_checkable
class BatchedLaw(ConditionalLaw, Protocol):
    """The interface of a law of parameters whose density is known given many observations at once, which is faster."""

    def log_prob_each(self, theta: Tensor, x: Tensor, /) -> Tensor:
        """Return the log-densities of parameters ``(K, n, *)`` given each of the observations ``(K, *)``, ``(K, n)``."""


def draw_for_each(posterior: ConditionalSampler, x: Tensor, draws: int, progress: bool | None = None) -> Tensor:
    """Draw parameters from a posterior given each of several observations, and return them as ``(K, draws, *)``.

    Parameters
    ----------
    posterior
        An object with ``sample(n, x)``; one with ``sample_each(n, x)`` is asked once, for all observations.
    x
        Observations, ``(K, *)``.
    draws
        Number of parameters for each observation.
    progress
        Whether to show a bar; by default on a terminal and in a notebook.

    Raises
    ------
    TypeError
        If the posterior returns no tensor of floating-point numbers.
    ValueError
        If the posterior draws another number of parameters, NaN or infinite values, or parameters of several shapes.
    """
    if isinstance(posterior, BatchedSampler):
        return _check_draws(f"posterior.sample_each({draws}, x)", posterior.sample_each(draws, x), (len(x), draws))
    observations = enumerate(tqdm(x, desc="posteriors", disable=not should_show(progress)))
    each = ((f"posterior.sample({draws}, x[{i}])", posterior.sample(draws, observed)) for i, observed in observations)
    found = [_check_draws(name, theta, (draws,)) for name, theta in each]
    for i, theta in enumerate(found):
        if theta.shape != found[0].shape:
            raise ValueError(
                f"posterior.sample({draws}, x[{i}]) has shape {tuple(theta.shape)}, and that of x[0] {tuple(found[0].shape)}; it "
                "must return parameters of one shape."
            )
    return torch.stack(found)


def _check_draws(name: str, theta: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Check that drawn parameters are finite numbers, as many as were asked for, and return them."""
    check_tensor(name, theta)
    if theta.shape[: len(counts)] != counts:
        expected = ", ".join(map(str, counts))
        raise ValueError(f"{name} has shape {tuple(theta.shape)}; it must return ({expected}, *), a row for each draw.")
    return theta.detach()


def draw_for_pairs(
    posterior: ConditionalSampler, theta: Tensor, x: Tensor, draws: int, progress: bool | None = None
) -> Tensor:
    """Draw parameters from a posterior given the data of each pair, and return them, ``(K, draws, *)``.

    Raises
    ------
    TypeError
        As for `draw_for_each`, or if `theta` or `x` is not floating point.
    ValueError
        As for `draw_for_each`, or if `theta` and `x` are no pairs ``(K, *)``, or draws have another shape than the parameters.
    """
    check_tensor("theta", theta), check_tensor("x", x), check_count("draws", draws)
    if theta.ndim == 0 or x.ndim == 0 or len(theta) != len(x) or len(theta) < 2:
        raise ValueError(
            f"theta has shape {tuple(theta.shape)} and x {tuple(x.shape)}; give pairs, (K, *) both, with the same K >= 2."
        )
    drawn = draw_for_each(posterior, x, draws, progress)
    if drawn.shape[2:] != theta.shape[1:]:
        raise ValueError(
            f"what the posterior draws has shape {tuple(drawn.shape[1:])}; it must have shape ({draws}, "
            f"{', '.join(map(str, theta.shape[1:]))}), parameters of the shape of theta's."
        )
    return drawn


def find_places(drawn: Tensor, true: Tensor, seed: int | None) -> Tensor:
    """Return the places of true numbers ``(K, 1, m)`` among drawn ones ``(K, draws, m)``, ``(K, m)`` float64 on the CPU.

    A place is uniform on [0, 1] where the true number and the draws are exchangeable: it is drawn within the part of [0, 1], of
    length ``1 / (draws + 1)``, that belongs to the rank, or within the parts of all ranks that equal numbers leave open.
    """
    below, equal = (drawn < true).sum(1).cpu(), (drawn == true).sum(1).cpu()
    u = torch.rand(below.shape, dtype=torch.float64, generator=generator_apart(seed))
    return (below + (equal + 1) * u) / (drawn.shape[1] + 1)


def generator_apart(seed: int | None) -> torch.Generator | None:
    """Return a generator for `seed` whose numbers are independent of what the same seed draws elsewhere, such as parameters."""
    return as_generator(None, None if seed is None else seed + APART)
