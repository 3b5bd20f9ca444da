"""The Jacobi (Wright–Fisher) diffusion on the unit interval: `Jacobi`."""

from __future__ import annotations

__all__ = ["Jacobi"]

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from ..arguments import check_arguments
from ..checks import check_number, check_tensor
from ..dense import with_all_digits
from ..laws.diagonal import Diagonal
from ..laws.jacobi import LEAST_CLOCK, BetaLaw, JacobiLaw
from ..laws.mixtures import Moments
from ..laws.operators import Operator, rows
from ..laws.reflected import fold_into
from ..laws.sticks import StickFractions
from ..warning import warn_caller
from .bounded import FORGOTTEN, BoundedSDE
from .dynamics import as_time

LARGEST = 20.0  # parameter up to which the sums of a law that starts at an end keep their digits


class Jacobi(BoundedSDE):
    """The Jacobi or Wright–Fisher diffusion of numbers in (0, 1), each coordinate by itself: proportions, frequencies,
    probabilities. ``dx = ½ speed(t) [a (1 − x) − b x] dt + √(speed(t) x (1 − x)) dw``.

    Its stationary law, the prior, is Beta(a, b); its exact kernel is `JacobiLaw`, after ``∫ speed dt``. A state does not come
    to an end where the parameter on its side, `a` at 0 and `b` at 1, is at least 1. Otherwise it is reflected there, and a
    warning says what does not hold then. P. Avdeyev et al., *Dirichlet diffusion score model for biological sequence generation*,
    2023, arXiv:2305.10699.

    Parameters
    ----------
    a, b
        Positive numbers up to 20, or tensors with a number for each coordinate, of the shape of a datum.
    speed
        The mean of ``speed(t)`` over all times, a number, or a tensor with a number for each coordinate. By default the data are
        forgotten to 1e-8: the mean of a state, which decays as ``exp(−½ (a + b) ∫ speed dt)``, keeps that much of them.
    power
        How fast noise grows, at least ½: ``∫ speed dt ∝ t^(2 power)``; with ½ the speed is constant.
    T
        The last time.

    Raises
    ------
    ValueError
        If `a`, `b`, `speed` or `T` is not positive, `a` or `b` above 20, `power` below ½, or there is too little noise for an
        exact kernel.

    Examples
    --------
    >>> sde = Jacobi(a=2.0, b=2.0)
    >>> x = sde.perturb(torch.tensor([[0.5, 0.99]]), 0.2, z=torch.ones(1, 2)).x
    >>> [round(v, 3) for v in x[0].tolist()]
    [0.627, 0.972]
    """

    domain, pool = constraints.unit_interval, 1

    @check_arguments
    def __init__(
        self,
        a: Tensor | float = 1.0,
        b: Tensor | float = 1.0,
        speed: Tensor | float | None = None,
        power: float = 1.5,
        T: float = 1.0,
    ) -> None:
        super().__init__(power, T)
        self.a, self.b = _positive("a", a, LARGEST), _positive("b", b, LARGEST)
        default = -2 * math.log(FORGOTTEN) / ((self.a + self.b) * T)
        self.speed = default if speed is None else _positive("speed", speed)
        least = 1.25 * LEAST_CLOCK / (with_all_digits(self.speed).min().item() * T)
        if least >= 1:
            raise ValueError(
                f"speed × T = {1.25 * LEAST_CLOCK / least:.3g}, which is too little noise for an exact kernel; give at least "
                f"{2 * LEAST_CLOCK:g}, or no speed for one at which the data are forgotten."
            )
        self.t_min = T * least ** (0.5 / power)
        lowest = min(with_all_digits(v).min().item() for v in (self.a, self.b))
        if lowest < 1:
            warn_caller(
                f"min(a, b) = {lowest:.6g} is below 1: paths come to that end of the interval, where the score is not "
                "square-integrable. The law of the forward process is exact, but losses of score matching have no finite mean."
            )

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``½ speed(t) [a (1 − x) − b x]``."""
        a, b, speed = self._parameters(x)
        return 0.5 * speed * rows(self.T * self.pace(t), x) * (a * (1 - x) - b * x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``√(speed(t) |x (1 − x)|)``, of the shape of `x`; a step may ask for it beyond an end."""
        speed = self._parameters(x)[2]
        return (speed * rows(self.T * self.pace(t), x)).sqrt() * (x * (1 - x)).abs().sqrt()

    @classmethod
    def of_dirichlet(cls, concentration: Tensor, power: float = 1.5, T: float = 1.0) -> Jacobi:
        """Return the process of data ``(B, K)`` on the simplex whose stationary law is a Dirichlet law.

        The parts are broken off a stick one after the other (`laws.sticks.StickFractions`), and each fraction that is broken
        off what is left follows a Jacobi diffusion, of the parameters ``a_i = concentration_i`` and ``b_i = Σ_{j > i}
        concentration_j``.

        Parameters
        ----------
        concentration
            Parameters of the Dirichlet law, positive, ``(K,)`` with K at least 2.
        power, T
            As for `Jacobi`.

        Raises
        ------
        ValueError
            If `concentration` is not of that shape, or not positive.
        """
        check_tensor("concentration", concentration, ndim=1)
        if len(concentration) < 2:
            raise ValueError("concentration has 1 number; a simplex has at least two parts.")
        if not (concentration > 0).all():
            raise ValueError(
                f"concentration holds {concentration.min().item():.6g}; all numbers of it must be positive."
            )
        below = concentration.double().flip(0).cumsum(0).flip(0)[1:]
        return cls(concentration[:-1], below, power=power, T=T).in_coordinates(StickFractions())

    def law_after(self, x_s: Tensor, elapsed: Tensor) -> JacobiLaw:
        """Return the exact law of a state, given `x_s`, after ``∫ speed dt = speed T elapsed``."""
        a, b, speed = self._parameters(torch.empty(x_s.shape, dtype=torch.float64))
        clock = self.T * elapsed.reshape(-1, *[1] * (x_s.ndim - 1)) * speed
        return JacobiLaw(x_s, a, b, clock)

    def root(self, t: Tensor | float, x: Tensor | None = None) -> Operator:
        """Return a root of the variance of noise at `t`, ``√(x (1 − x) (1 − exp(−(a + b) ∫ speed dt)) / (a + b))``, by default
        that of a state in the middle. The mean of this variance under the stationary law is that of ``x_t`` given the start.
        """
        x = torch.full((1, 1), 0.5, dtype=torch.float64) if x is None else x
        a, b, speed = self._parameters(x)
        rate = (a + b) * speed * self.T * rows(self.elapsed(as_time(t, self.T)), x)
        return Diagonal((x * (1 - x) * -torch.expm1(-rate) / (a + b)).sqrt())

    def enter(self, x: Tensor) -> Tensor:
        """Reflect states that a step has moved beyond an end, and return all states. The process itself does not pass an end, and
        the share of steps that do vanishes with their length.
        """
        numbers = torch.finfo(x.dtype)
        # Not onto an end, where there is no noise.
        return fold_into(x, numbers.tiny / numbers.eps, 1 - 0.5 * numbers.eps)

    def prior(self, moments: Moments) -> BetaLaw:
        """Return the stationary law Beta(a, b), over the shape of the data."""
        one = torch.ones(moments.mean.shape, dtype=torch.float64)
        return BetaLaw(self.a * one, self.b * one)

    def _parameters(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `a`, `b` and the mean speed as they multiply states.

        Raises
        ------
        ValueError
            If a parameter has a number for each coordinate, and states have another shape.
        """
        found = []
        for name in ("a", "b", "speed"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64)
            if value.ndim and value.shape != x.shape[1:]:
                raise ValueError(
                    f"x has shape {tuple(x.shape)} and {name} of the process {tuple(value.shape)}; give states (B, *) with one "
                    "number for each of those."
                )
            found.append(value if value.ndim == 0 else value.to(x))
        a, b, speed = found
        return a, b, speed


def _positive(name: str, value: Tensor | float, most: float | None = None) -> Tensor | float:
    """Check that a number, or each number of a tensor, is positive and not above a bound; return it, a tensor as float64.

    Raises
    ------
    ValueError
        If a number is not positive, or too large.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return check_number(name, value, above=0, at_most=most)
    for number in check_tensor(name, value).flatten().tolist():
        check_number(f"a number of {name}", number, above=0, at_most=most)
    return value.double().clone()
