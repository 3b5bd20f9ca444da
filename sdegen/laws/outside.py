"""Laws of ``torch.distributions`` in this library's convention: `as_law`, which takes either."""

from __future__ import annotations

__all__ = ["ClosedLaw", "TorchLaw", "as_closed", "as_law"]

from typing import Any

import torch
from torch import Tensor
from torch import distributions as D

from ..seeding import seeded
from ..show import show_call, with_article
from ..transforms import check_constant
from .mixtures import Distribution, GaussianMixture, check_event
from .products import pull_back

ClosedLaw = Distribution | D.Distribution  # what is given for a law in closed form


class TorchLaw:
    """A law of ``torch.distributions`` as a law of this library, with ``sample(n, generator)``, ``log_prob`` and ``score``.

    Batch dimensions are coordinates: ``Normal(torch.zeros(2), 1.0)`` is a law of points in the plane. Draws come from the
    generator that is given, and torch's own is left as it was.

    Parameters
    ----------
    distribution
        The law.

    Examples
    --------
    >>> law = TorchLaw(D.Laplace(torch.zeros(2), 1.0))
    >>> law.sample(3, torch.Generator().manual_seed(0)).shape, round(law.log_prob(torch.zeros(1, 2)).item(), 6)
    (torch.Size([3, 2]), -1.386294)
    """

    __repr__ = show_call

    def __init__(self, distribution: D.Distribution) -> None:
        self.distribution = distribution
        axes = len(distribution.batch_shape)
        self._joint = D.Independent(distribution, axes) if axes else distribution
        self.event_shape = self._joint.event_shape
        with seeded(torch.Generator().manual_seed(0)):
            self._one = self._joint.sample(torch.Size([1]))  # a point of the support, in the law's own dtype

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points, ``(n, *event_shape)``, float64."""
        with seeded(generator):
            return self._joint.sample(torch.Size([n])).double()

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``; −∞ outside of the support.

        Parameters
        ----------
        x
            ``(B, *event_shape)``.
        """
        check_event(x, self.event_shape)
        own = x.to(self._one)
        inside = self._inside(own)
        place = inside.reshape(-1, *[1] * len(self.event_shape))
        # A law with checks of its own refuses points outside of its support.
        value = self._joint.log_prob(torch.where(place, own, self._one))
        return torch.where(inside, value, -torch.inf).to(x)

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x)``, of the shape of `x`, the derivative of the log-density; NaN outside of the support, where there
        is none.

        Parameters
        ----------
        x
            ``(B, *event_shape)``.
        """
        value, _, back = pull_back(lambda y: (self.log_prob(y), ()), x)
        inside = (value > -torch.inf).reshape(-1, *[1] * len(self.event_shape))
        return torch.where(inside, back(torch.ones_like(value)), torch.nan)

    def _inside(self, x: Tensor) -> Tensor:
        """Tell which points lie in the support, ``(B,)``; all where the law does not say."""
        try:
            inside = self._joint.support.check(x)  # type: ignore[union-attr]
        except (NotImplementedError, AttributeError):
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        return inside.reshape(len(x), -1).all(1)


def as_law(law: Any) -> Any:
    """Return a law of ``torch.distributions`` as one of this library, with closed forms if it is Gaussian or a mixture of such;
    any other law as it is.

    Parameters
    ----------
    law
        Anything with ``sample``.

    Raises
    ------
    TypeError
        If `law` is a table of numbers, such as a data frame, whose ``sample`` draws some of its rows.

    Examples
    --------
    >>> as_law(D.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    GaussianMixture(K=1, event_shape=(2,))
    """
    if hasattr(law, "sample") and hasattr(law, "to_numpy"):
        raise TypeError(
            f"{with_article(type(law).__name__)} of {type(law).__module__.split('.')[0]} is a table, no law; give its numbers "
            "as a tensor, torch.from_numpy(table.to_numpy()), or of columns of many kinds data.Table.of(table).encode(table)."
        )
    if not isinstance(law, D.Distribution):
        return law
    found = _gaussian(law, len(law.batch_shape)) if not isinstance(law, D.MixtureSameFamily) else _mixture(law)
    return TorchLaw(law) if found is None else found


def _mixture(law: D.MixtureSameFamily) -> GaussianMixture | None:
    """Return a mixture of Gaussians in closed form; None of another mixture."""
    parts = law.component_distribution
    if len(law.batch_shape) or _moments(parts, len(parts.batch_shape) - 1) is None:
        return None
    weights = _constants(law, "probs", law.mixture_distribution.probs)
    mean, covariance = _moments(parts, len(parts.batch_shape) - 1)  # type: ignore[misc]
    some = weights > 0
    return GaussianMixture(weights[some] / weights.sum(), mean[some], covariance[some])


def _gaussian(law: D.Distribution, axes: int) -> GaussianMixture | None:
    """Return a Gaussian in closed form, with `axes` of its batch as coordinates; None of any other law."""
    moments = _moments(law, axes)
    return None if moments is None else GaussianMixture(torch.ones(1), moments[0][None], moments[1][None])


def _moments(law: D.Distribution, axes: int) -> tuple[Tensor, Tensor] | None:
    """Return mean and covariance, or variances, of a Gaussian; None of any other law, or where `axes` of the batch would have to
    be joined to coordinates that depend on each other.
    """
    inner: Any = law
    while isinstance(inner, D.Independent):
        inner = inner.base_dist
    if type(inner) is D.Normal:
        return _constants(law, "mean", inner.mean), _constants(law, "variance", inner.variance)
    if type(law) in (D.MultivariateNormal, D.LowRankMultivariateNormal) and axes == 0:
        return _constants(law, "mean", inner.mean), _constants(law, "covariance", inner.covariance_matrix)
    return None


def _constants(law: D.Distribution, name: str, value: Tensor) -> Tensor:
    return check_constant(f"the {name} of {type(law).__name__}", value).detach().double()


def as_closed(law: Any) -> Any:
    """Return a law whose noised states are known in closed form as it is, and one of ``torch.distributions`` by `as_law`.

    Parameters
    ----------
    law
        A `Distribution`, or whatever has its methods ``observed``, ``diffuse`` and ``moments``.

    Raises
    ------
    TypeError
        If the law has no such closed forms.
    """
    known = as_law(law)
    if isinstance(known, type) or not all(hasattr(known, name) for name in ("observed", "diffuse", "moments")):
        given = law if isinstance(law, type) else type(law)
        raise TypeError(
            f"the law is {with_article(given.__name__)}, whose noised states have no closed form here; give a GaussianMixture, "
            "or Empirical(x) of samples of it."
        )
    return known
