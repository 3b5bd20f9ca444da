"""Coordinates in which a law of ``torch.distributions`` has no bounds: `free_coordinates`, read off the law itself.

Independent numbers whose law knows its distribution function and the inverse of it become standard normal ones (`NormalRanks`);
of all others the support says which map to take (`InverseTransform`).
"""

from __future__ import annotations

__all__ = ["NormalRanks", "free_coordinates"]

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.distributions import constraints

from ..arguments import check_arguments, check_law
from .coordinates import Coordinates, InverseTransform
from .vectors import sum_rows

LEAST = 2.0**-53  # probability on either side of a number: beyond it a double cannot tell it from 1


class NormalRanks(Coordinates):
    """The map of numbers of given laws to standard normal numbers of the same rank, ``u = Phi⁻¹(F(x))``, elementwise.

    Draws of these laws become standard normal, so that their bounds are gone. Computed in float64; ranks are clipped to at least
    2⁻⁵³ from 0 and 1.

    Parameters
    ----------
    law
        A law of numbers, or of independent ones, that knows its distribution function and the inverse.

    Raises
    ------
    TypeError
        If the law does not know these, or does not say where its numbers lie.

    Examples
    --------
    >>> import torch
    >>> ranks = NormalRanks(D.Uniform(torch.tensor([0.0, -3.0]), torch.tensor([1.0, 3.0])))
    >>> ranks(torch.tensor([[0.5, 0.0]])).tolist(), ranks.inverse(torch.tensor([[40.0, -40.0]])).tolist()
    ([[0.0, 0.0]], [[1.0, -3.0]])
    """

    elementwise = True

    @check_arguments
    def __init__(self, law: D.Distribution) -> None:
        inner = _of_numbers(law)
        if not _knows_ranks(inner):
            raise TypeError(
                f"{law!r} does not know its distribution function and the inverse; take an InverseTransform."
            )
        self.law, self.domain = inner, _support(inner)

    def __call__(self, x: Tensor) -> Tensor:
        rank = self.law.cdf(x.double()).clamp(LEAST, 1 - LEAST)
        return torch.special.ndtri(rank).to(x)

    def inverse(self, u: Tensor) -> Tensor:
        rank = 0.5 * torch.special.erfc(-(0.5**0.5) * u.double())  # ndtr itself loses its digits from −6 on
        rank = rank.clamp(LEAST, 1 - LEAST)
        return self.law.icdf(rank).to(u)

    def slope(self, x: Tensor) -> Tensor:
        """Return ``phi' = p(x) / N(u)``, with the density `p` of the law and `N` of the standard normal one."""
        return self._log_slope(x).exp().to(x)

    def log_det(self, x: Tensor) -> Tensor:
        """Return ``log p(x) − log N(u)``, summed over the numbers of a datum, ``(B,)``."""
        return sum_rows(self._log_slope(x)).to(x)

    def _log_slope(self, x: Tensor) -> Tensor:
        """Return ``log phi'`` of each number, float64."""
        x = x.double()
        return self.law.log_prob(x) - D.Normal(0.0, 1.0).log_prob(self(x))


def free_coordinates(law: Any) -> Coordinates | None:
    """Return coordinates in which a law has no bounds; None for a law without bounds.

    Parameters
    ----------
    law
        A law of ``torch.distributions``, or any other law: its attribute ``coordinates`` is returned, or None.

    Raises
    ------
    TypeError
        If `law` is no law, or its draws are whole numbers, which have no density.

    Examples
    --------
    >>> import torch
    >>> free_coordinates(D.Dirichlet(torch.ones(3)))
    InverseTransform(StickBreakingTransform())
    >>> free_coordinates(D.Normal(torch.zeros(2), 1.0)) is None
    True
    """
    if not isinstance(check_law("law", law), D.Distribution):
        coordinates: Coordinates | None = getattr(law, "coordinates", None)
        return coordinates
    support, numbers = _support(law), _of_numbers(law)
    if support.is_discrete:
        raise TypeError(f"{law!r} is a law of whole numbers; give one with a density.")
    inner = support
    while isinstance(inner, constraints.independent):
        inner = inner.base_constraint
    if inner in (constraints.real, constraints.real_vector):
        return None
    return NormalRanks(law) if _knows_ranks(numbers) else InverseTransform(D.biject_to(support))


def _of_numbers(law: D.Distribution) -> D.Distribution:
    """Return a law without the wrappers that make its batch one datum."""
    while isinstance(law, D.Independent):
        law = law.base_dist
    return law


def _support(law: D.Distribution) -> constraints.Constraint:
    """Return where a law has its draws: everywhere, if it does not say; a mixture, where all its components have theirs."""
    if isinstance(law, D.Independent):
        return constraints.independent(_support(law.base_dist), law.reinterpreted_batch_ndims)
    if isinstance(law, D.MixtureSameFamily):
        inside = _support(law.component_distribution)
        bare = inside
        while isinstance(bare, constraints.independent):
            bare = bare.base_constraint
        if any(isinstance(bound, Tensor) and bound.ndim for bound in vars(bare).values()):
            raise TypeError(
                f"{type(law).__name__} mixes laws with bounds of their own; give one whose components have the same domain, or a "
                "law of your own with sample, log_prob and coordinates."
            )
        return inside
    try:
        support: constraints.Constraint | None = law.support
    except NotImplementedError:
        support = None
    return constraints.real if support is None else support


def _knows_ranks(law: D.Distribution) -> bool:
    """Tell whether a law of single numbers knows its distribution function and the inverse of it."""
    if law.event_shape:
        return False
    try:
        middle = torch.full(law.batch_shape, 0.5, dtype=torch.float64)
        law.cdf(law.icdf(middle))
    except NotImplementedError:
        return False
    return True
