"""The Gaussian law wrapped onto a circle, and the uniform law there.

Angles lie in ``[−π, π)``; data of any shape are points of a torus. The law of a Brownian motion on the circle is exact at every
noise: a sum over windings where there is little of it, a Fourier series where there is much.
"""

from __future__ import annotations

__all__ = ["UniformAngles", "WrappedGaussian", "log_wrapped", "slope_of_log_wrapped", "wrap"]

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..precision import at_least_single, widened
from ..show import show_call
from .draws import check_draws
from .kernels import check_noise
from .mixtures import check_event
from .operators import rows
from .vectors import sum_rows

# Of a law of this variance, windings beyond the second and harmonics beyond the fifth are below 1e-16 of the density anywhere.
SWITCH, WINDINGS, HARMONICS = 3.0, 2, 5


def wrap(x: Tensor) -> Tensor:
    """Bring angles to ``[−π, π)`` by full turns, and return them; those that lie there stay as they are.

    >>> wrap(torch.tensor([0.5, 7.0, -4.0])).tolist()
    [0.5, 0.7168145179748535, 2.2831854820251465]
    """
    turned = x - 2 * math.pi * torch.floor(x / (2 * math.pi) + 0.5)
    last = math.pi * (1 - torch.finfo(x.dtype).eps)
    return torch.where((x >= -math.pi) & (x < math.pi), x, turned.clamp(-math.pi, last))  # rounding may pass either end


def _windings(d: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole turns ``2 π k``, and by how much the exponents ``−½ (d + 2 π k)² / variance`` of their Gaussians exceed the
    exponent of no turn, along a new first axis.
    """
    turns = 2 * math.pi * torch.arange(-WINDINGS, WINDINGS + 1).to(d).reshape(-1, *[1] * d.ndim)
    return turns, -turns * (d + 0.5 * turns) / variance


def _harmonics(d: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return orders `n`, coefficients ``2 exp(−½ n² variance)`` and angles ``n d`` of the Fourier series, along a new first
    axis.
    """
    n = torch.arange(1, HARMONICS + 1).to(d).reshape(-1, *[1] * d.ndim)
    return n, 2 * (-0.5 * n.square() * variance).exp(), n * d


def log_wrapped(d: Tensor, sigma: Tensor) -> Tensor:
    """Return the log-density of a centred wrapped Gaussian at each angle, of the shape of `d`.

    ``p(d) = Σ_k N(d + 2 π k; 0, sigma²) = (1 + 2 Σ_n exp(−½ n² sigma²) cos(n d)) / (2 π)`` (Poisson's summation), by the one of
    the two sums that is exact to rounding.

    Parameters
    ----------
    d
        Angles in ``[−π, π)``.
    sigma
        The standard deviation before wrapping, positive, of a shape that broadcasts over `d`.
    """
    variance = sigma.square()
    narrow = variance < SWITCH
    little = variance.clamp_max(SWITCH)
    of_none = -0.5 * (d.square() / little + (2 * math.pi * little).log())
    _, c, angle = _harmonics(d, variance.clamp_min(SWITCH))
    return torch.where(
        narrow, of_none + _windings(d, little)[1].logsumexp(0), (c * angle.cos()).sum(0).log1p() - math.log(2 * math.pi)
    )


def slope_of_log_wrapped(d: Tensor, sigma: Tensor) -> Tensor:
    """Return the derivative of `log_wrapped` by the angle, of the shape of `d`.

    Parameters
    ----------
    d, sigma
        As for `log_wrapped`.
    """
    variance = sigma.square()
    narrow = variance < SWITCH
    little = variance.clamp_max(SWITCH)
    turns, exponents = _windings(d, little)
    from_windings = -(d + (exponents.softmax(0) * turns).sum(0)) / little
    n, c, angle = _harmonics(d, variance.clamp_min(SWITCH))
    return torch.where(narrow, from_windings, -(n * c * angle.sin()).sum(0) / (1 + (c * angle.cos()).sum(0)))


class WrappedGaussian(NamedTuple):
    """The law of ``mean + sigma z`` brought to the circle, with `z` standard normal, each coordinate by itself.

    K. Mardia and P. Jupp, *Directional statistics*, 2000; for dihedral angles: B. Jing et al., *Torsional diffusion for molecular
    conformer generation*, 2022, arXiv:2206.01729.

    Attributes
    ----------
    mean
        Angles ``(B, *)``.
    sigma
        The standard deviation before wrapping, float64, ``()`` or ``(B,)``.
    """

    mean: Tensor
    sigma: Tensor

    def __repr__(self) -> str:
        return show_call(self)

    def sample(self, z: Tensor) -> Tensor:
        """Return ``mean + sigma z``, wrapped, for standard noise `z` of the shape of `mean`."""
        return wrap(self.mean + rows(self.sigma, z) * z)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of angles `x` in nats, ``(B,)``, in float32 at least; the same for any number of turns.

        Raises
        ------
        ValueError
            If there is no noise.
        """
        return sum_rows(log_wrapped(*self._from_mean(x)))

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x)``, of the shape of `x`.

        Raises
        ------
        ValueError
            If there is no noise.
        """
        return slope_of_log_wrapped(*self._from_mean(x)).to(x.dtype)

    def _from_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the angles of `x` from the mean, and the standard deviation for each row."""
        check_noise(self.sigma)
        d = wrap(widened(x) - self.mean)
        return d, rows(self.sigma, d)


class UniformAngles:
    """The uniform law on a torus.

    Parameters
    ----------
    event_shape
        The shape of a datum.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, event_shape: Sequence[int]) -> None:
        self.event_shape = torch.Size(event_shape)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points, ``(n, *event_shape)``, float64."""
        n = check_draws(n, generator)
        device = None if generator is None else generator.device
        u = torch.rand(n, *self.event_shape, dtype=torch.float64, generator=generator, device=device)
        return wrap(2 * math.pi * u - math.pi)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, the same at all angles."""
        check_event(x, self.event_shape)
        value = -self.event_shape.numel() * math.log(2 * math.pi)
        return torch.full((len(x),), value, dtype=at_least_single(x.dtype), device=x.device)

    def score(self, x: Tensor) -> Tensor:
        """Return zeros of the shape of `x`."""
        return torch.zeros_like(x)
