"""Brownian motion in a box, reflected at its walls: `ReflectedBrownianMotion`."""

from __future__ import annotations

__all__ = ["ReflectedBrownianMotion"]

import math

from torch import Tensor
from torch.distributions import constraints

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.harmonics import BoxHarmonics
from ..laws.mixtures import Moments
from ..laws.reflected import ReflectedGaussian, UniformBox, fold_into
from .bounded import BoundedBrownianMotion
from .circle import UNIFORM


class ReflectedBrownianMotion(BoundedBrownianMotion):
    """Brownian motion in the box ``[low, high]``, each coordinate reflected at both ends: ``dx = g(t) dw + dl`` with the
    least push `l` at the walls that keeps `x` inside.

    ``x_t | x_0`` is a Gaussian of standard deviation ``sigma(t) = sigma_max (high − low) (t / T)^power`` folded into the box,
    and ``g² = d sigma² / dt``. Its density has no slope at the walls, and is uniform at T, to 1e-8 by default; the prior is
    uniform. A step that leaves the box is reflected (`enter`), as the process itself is, and not clamped. A network is shown
    cosines that are level at the walls (`DirectModel`), so that no flow goes through the walls. A. Lou and S. Ermon, *Reflected
    diffusion models*, 2023, arXiv:2304.04740.

    Parameters
    ----------
    low, high
        The ends of the box, the same for every coordinate.
    sigma_max
        The standard deviation at T before folding, in widths of the box. With 1 the law at T is uniform to 1.5 %, with 1.97 to
        1e-8.
    power
        How fast noise grows, at least ½; with ½ the diffusion `g` is constant.
    T
        The last time.

    Raises
    ------
    ValueError
        If `low` is not below `high`, `sigma_max` or `T` is not positive, or `power` below ½.

    Examples
    --------
    >>> import torch
    >>> sde = ReflectedBrownianMotion(0.0, 1.0)
    >>> x = sde.perturb(torch.tensor([[0.9]]), 0.2, z=torch.ones(1, 1)).x
    >>> round(x.item(), 3)  # 1.076 before the fold
    0.924
    """

    @check_arguments
    def __init__(
        self,
        low: float = 0.0,
        high: float = 1.0,
        sigma_max: float = UNIFORM / math.pi,
        power: float = 1.5,
        T: float = 1.0,
    ) -> None:
        super().__init__(power, T)
        check_number("low", low), check_number("high", high)
        if not low < high:
            raise ValueError(f"low = {low:g}, high = {high:g}; a box has a width: give a low that is below high.")
        self.low, self.high, self.sigma_max = low, high, check_number("sigma_max", sigma_max, above=0)
        self.domain, self.harmonics = constraints.interval(low, high), BoxHarmonics(low, high)

    @property
    def spread(self) -> float:
        """The standard deviation at T, were there no walls."""
        return self.sigma_max * (self.high - self.low)

    def law_after(self, x_s: Tensor, elapsed: Tensor) -> ReflectedGaussian:
        """Return the Gaussian around `x_s` of the variance ``(sigma_max (high − low))² elapsed``, folded into the box."""
        return ReflectedGaussian(x_s, self.spread * elapsed.sqrt(), self.low, self.high)

    def prior(self, moments: Moments) -> UniformBox:
        """Return the uniform law on the box, over the shape of the data."""
        return UniformBox(self.low, self.high, moments.mean.shape)

    def enter(self, x: Tensor) -> Tensor:
        """Bring states that a step has moved out of the box back by reflection, and return them."""
        return fold_into(x, self.low, self.high)
