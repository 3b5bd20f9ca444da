"""A process in other coordinates: `Transformed`, the process of ``u = phi(x)`` where `x` follows another SDE."""

from __future__ import annotations

__all__ = ["Transformed", "TransformedLaw", "score_in"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.coordinates import Coordinates
from ..laws.diagonal import Diagonal
from ..laws.kernels import StateLaw
from ..laws.marginals import Perturbed
from ..laws.matrices import Matrix
from ..laws.mixtures import Moments
from ..laws.operators import Operator, Scale
from ..laws.outside import as_law
from ..laws.products import pull_back, value_and_slope
from ..show import show_call
from .base import SDE
from .dynamics import diffusion_at, drift_at


class Transformed(SDE):
    """The process of the coordinates ``u = phi(x)`` of another process, by Itô's formula.

    ``du = (J f + ½ Σ_k phi''[g_k, g_k]) dt + J G dw``: ``J`` is the Jacobian of `phi` and ``g_k`` are the columns of `G`. A
    process on a half-line or an interval becomes one without bounds, in which no step of a sampler leaves the domain; data and
    samples stay as they are. K. Itô, *On a formula concerning stochastic differentials*, 1951.

    Parameters
    ----------
    sde
        The process of `x`: any SDE whose states are the data.
    coordinates
        The map ``phi``.

    Raises
    ------
    ValueError
        If the process has data in other units or coordinates.
    """

    coordinates: Coordinates

    @check_arguments
    def __init__(self, sde: SDE, coordinates: Coordinates) -> None:
        if sde.coordinates is not None or not sde.units.plain:
            raise ValueError(
                f"{type(sde).__name__} has data in other units or coordinates; transform the process without these, and give "
                "the transformed process units."
            )
        self.sde, self.coordinates = sde, coordinates
        self.T, self.t_min, self.domain = sde.T, sde.t_min, coordinates.image

    def enter(self, u: Tensor) -> Tensor:
        """Return coordinates that a step has moved, brought back into the image of the map."""
        return self.coordinates.enter(u)

    def drift(self, u: Tensor, t: Tensor) -> Tensor:
        """Return ``J f + ½ Σ_k phi''[g_k, g_k]``."""
        phi, x = self.coordinates, self.coordinates.inverse(u)
        f, G = drift_at(self.sde, x, t), diffusion_at(self.sde, x, t)
        if self._alone(G):
            return phi.slope(x) * (f + 0.5 * phi.bend(x) * G.gram()(torch.ones_like(x)))
        total = value_and_slope(phi, x, f)[1]
        for column in _columns(G, x):
            total = total + 0.5 * _second_slope(phi, x, column)
        return total

    def diffusion(self, u: Tensor, t: Tensor) -> Operator:
        """Return ``J G``: a number for each coordinate where `phi` and `G` act on each alone, else a matrix."""
        phi, x = self.coordinates, self.coordinates.inverse(u)
        G = diffusion_at(self.sde, x, t)
        if self._alone(G):
            c = phi.slope(x) * G(torch.ones_like(x))
            return Scale(c) if u.ndim == 1 else Diagonal(c)
        return Matrix(torch.stack([value_and_slope(phi, x, column)[1].flatten(1) for column in _columns(G, x)], -1))

    def _alone(self, G: Operator) -> bool:
        """Tell whether noise and map act on each coordinate alone."""
        return G.along(None) is not None and self.coordinates.elementwise

    @property
    def is_known(self) -> bool:  # type: ignore[override]
        """Whether the law of the process of `x` is known, and with it that of the coordinates."""
        return self.sde.is_known

    @property
    def pool(self) -> int:  # type: ignore[override]
        """How many data a target of training is averaged over, as for the process of `x`."""
        return self.sde.pool

    def kernel(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> StateLaw:
        """Return the law of ``u_t`` given ``u_s``: exact where the law of `x` is known, else that of a short step."""
        if not self.sde.is_known:
            return super().kernel(x_s, s, t)
        return TransformedLaw(self.sde.kernel(self.coordinates.inverse(x_s), s, t), self.coordinates)

    def perturb(
        self, x_0: Tensor, t: Tensor | float, z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Perturbed:
        """Draw noised states at `t`, and return them with their law and the noise: from the exact law given the data where the
        process of `x` has one.
        """
        if not self.sde.is_known:
            return super().perturb(x_0, t, z, generator)
        drawn = self.sde.perturb(x_0, t, z, generator)
        u, law = self.coordinates(drawn.x), TransformedLaw(drawn.kernel, self.coordinates)
        return Perturbed(u, law, drawn.z, self.at(drawn.at.t, u), self.standardise(x_0))

    def prior(self, moments: Moments) -> TransformedLaw:
        """Return the prior of the process of `x`, in these coordinates.

        Parameters
        ----------
        moments
            Moments of the data as they are, not of their coordinates.
        """
        return TransformedLaw(as_law(self.sde.prior(moments)), self.coordinates)

    @property
    def rescalable(self) -> bool:
        """False: the coordinates are of the data as they are."""
        return False

    @property
    def measured_in(self) -> Coordinates | None:
        """None: `prior` wants the moments of the data as they are."""
        return None


class TransformedLaw:
    """The law of ``u = phi(x)`` where `x` has a known law, with ``sample``, ``log_prob`` and ``score`` if the law of `x` has
    them.

    Parameters
    ----------
    law
        The law of `x`: of one point, or of each row of a batch.
    coordinates
        The map ``phi``.
    """

    __repr__ = show_call

    def __init__(self, law: Any, coordinates: Coordinates) -> None:
        self.law, self.coordinates = law, coordinates

    def sample(self, *how: Any) -> Tensor:
        """Draw points by the law of `x`, whose `sample` takes the same arguments, and return their coordinates."""
        return self.coordinates(self.law.sample(*how))

    def log_prob(self, u: Tensor) -> Tensor:
        """Return the log-density in nats, ``log p(x) − log |∂u/∂x|``, ``(B,)``."""
        x = self.coordinates.inverse(u)
        return self.law.log_prob(x) - self.coordinates.log_det(x)

    def score(self, u: Tensor) -> Tensor:
        """Return ``∇_u log p``."""
        return score_in(self.coordinates, u, self.law.score)


def score_in(coordinates: Coordinates, u: Tensor, score: Any) -> Tensor:
    """Return the score in coordinates `u` of a law with a known score in `x`: ``(∂x/∂u)ᵀ score(x) − ∇_u log |∂u/∂x|``.

    Parameters
    ----------
    coordinates
        The map from `x` to `u`.
    u
        Points in these coordinates, ``(B, *)``.
    score
        The score of the law in `x`, a function of `x`.
    """

    if coordinates.elementwise:
        x = coordinates.inverse(u)
        return (score(x) - coordinates.bend(x)) / coordinates.slope(x)

    def look(u: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = coordinates.inverse(u)
        return torch.cat([x.flatten(1), -coordinates.log_det(x)[:, None]], 1), (x,)

    _, (x,), back = pull_back(look, u)
    return back(torch.cat([score(x).flatten(1), u.new_ones(len(u), 1)], 1))


def _columns(G: Operator, x: Tensor) -> list[Tensor]:
    """Return the columns of `G` at the states `x`."""
    axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape[1:])
    return [G(axis.expand(x.shape)) for axis in axes]


def _second_slope(coordinates: Coordinates, x: Tensor, direction: Tensor) -> Tensor:
    """Return the second derivative of a map along a direction."""
    return value_and_slope(lambda y: value_and_slope(coordinates, y, direction)[1], x, direction)[1]
