"""Brownian motion on a circle, and of data of any shape on a torus: `CircularBrownianMotion`."""

from __future__ import annotations

__all__ = ["CircularBrownianMotion"]

import math

from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.circle import UniformAngles, WrappedGaussian, wrap
from ..laws.domains import Angles
from ..laws.harmonics import CircleHarmonics
from ..laws.mixtures import Moments
from .bounded import FORGOTTEN, BoundedBrownianMotion

UNIFORM = math.sqrt(2 * math.log(2 / FORGOTTEN))  # noise whose first harmonic, 2 exp(−½ sigma²), is as small: 6.18


class CircularBrownianMotion(BoundedBrownianMotion):
    """Brownian motion of angles, ``dx = g(t) dw`` with `x` in ``[−π, π)``, where a circle closes: dihedral angles, directions,
    phases. Data of any shape are points of a torus. A network is shown the cosine and sine of each angle (`DirectModel`).

    ``x_t | x_0`` is a wrapped Gaussian of standard deviation ``sigma(t) = sigma_max (t / T)^power``, and ``g² = d sigma² / dt``.
    At T it is uniform to 1e-8 by default, and the prior is uniform. V. De Bortoli et al., *Riemannian score-based generative
    modelling*, 2022, arXiv:2202.02763; B. Jing et al., *Torsional diffusion for molecular conformer generation*, 2022,
    arXiv:2206.01729.

    Parameters
    ----------
    sigma_max
        The standard deviation at T before wrapping, in radians. With 3 the law at T is uniform to 2 %, with 6.2 to 1e-8.
    power
        How fast noise grows, at least ½; with ½ the diffusion `g` is constant.
    T
        The last time.

    Raises
    ------
    ValueError
        If `sigma_max` or `T` is not positive, or `power` below ½.

    Examples
    --------
    >>> import torch
    >>> sde = CircularBrownianMotion()
    >>> angles = torch.tensor([[3.0, -3.0]])
    >>> x = sde.perturb(angles, 0.2, z=torch.ones(1, 2)).x
    >>> [round(v, 3) for v in x[0].tolist()]  # the first has gone round
    [-2.73, -2.447]
    """

    domain = Angles()  # both ends are one angle, and numbers are rounded to either
    harmonics = CircleHarmonics()

    @check_arguments
    def __init__(self, sigma_max: float = UNIFORM, power: float = 1.5, T: float = 1.0) -> None:
        super().__init__(power, T)
        self.sigma_max = check_number("sigma_max", sigma_max, above=0)

    @property
    def spread(self) -> float:
        """The standard deviation at T, were there no circle to go round."""
        return self.sigma_max

    def law_after(self, x_s: Tensor, elapsed: Tensor) -> WrappedGaussian:
        """Return the wrapped Gaussian around `x_s` of the variance ``sigma_max² elapsed``."""
        return WrappedGaussian(x_s, self.spread * elapsed.sqrt())

    def prior(self, moments: Moments) -> UniformAngles:
        """Return the uniform law on the torus, over the shape of the data."""
        return UniformAngles(moments.mean.shape)

    def enter(self, x: Tensor) -> Tensor:
        """Bring angles that a step has moved over the end of the circle back by full turns, and return them."""
        return wrap(x)
