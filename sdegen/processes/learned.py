"""Processes whose coefficients are learned together with the network, by the evidence lower bound (`losses.Variational`).

Each is a module as well as an SDE. Its parameters belong to those of its model, and are trained, averaged and saved with them.
They reach every law of the process, since all laws are differentiable in the coefficients.
"""

from __future__ import annotations

__all__ = ["LearnedSDE", "LearnedSchedule", "as_coefficients", "bernstein"]

import math

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..laws.mixtures import GaussianMixture, Moments
from ..show import show_call
from .scalar import ScheduleSDE


class LearnedSchedule(nn.Module, ScheduleSDE):
    """A process with a learned noise schedule: ``log snr(t) = first + (last − first) B(t)``, B increasing from 0 to 1,
    with learned ends.

    `B` is a polynomial in Bernstein's form with increasing coefficients; ``alpha² + sigma²`` stays what it is at 0. The prior is
    the standard normal law, whatever is learned. The bound in continuous time depends only on the ends of the schedule; the bound
    of a chain of N steps depends on the schedule at all its times. D. Kingma, T. Salimans, B. Poole, J. Ho, *Variational
    diffusion models*, 2021, arXiv:2107.00630.

    Parameters
    ----------
    first, last
        The log-SNR at 0 and at T before training.
    degree
        Degree of the polynomial.

    Raises
    ------
    ValueError
        If `first` is not greater than `last`, or `degree` is less than 1.

    Examples
    --------
    >>> sde = LearnedSchedule()
    >>> [round(sde.snr(t).log().item(), 6) for t in (0.0, 1.0)]
    [8.0, -6.0]
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, first: float = 8.0, last: float = -6.0, degree: int = 12) -> None:
        super().__init__()
        if not (first > last and degree >= 1):
            raise ValueError(
                f"first = {first}, last = {last}, degree = {degree}; the log-SNR falls, by a degree of at least 1."
            )
        self.first, self.last, self.degree = first, last, degree
        self.ends = nn.Parameter(torch.tensor([first, last]))
        self.increments = nn.Parameter(torch.zeros(degree))

    def prior(self, moments: Moments) -> GaussianMixture:
        """Return the standard normal law, which does not depend on what is learned."""
        one = torch.ones(1, dtype=torch.float64)
        return GaussianMixture(one, torch.zeros_like(moments.mean)[None], one)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return ``log snr(t)``, float64."""
        t = torch.as_tensor(t, dtype=torch.float64).cpu()
        first, last = as_coefficients(self.ends)
        rising = torch.cat([torch.zeros(1, dtype=torch.float64), as_coefficients(self.increments).softmax(0).cumsum(0)])
        return first + (last - first) * bernstein(rising, t)

    @property
    def sigma_0(self) -> float:  # type: ignore[override]
        """The standard deviation of the noise that data have at time 0, ``snr(0)^-½``."""
        return math.exp(-0.5 * self.ends[0].item())

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``√((1 + 1 / snr(0)) / (1 + 1 / snr))``, 1 at 0."""
        start = as_coefficients(self.ends)[0]
        return (0.5 * (nn.functional.logsigmoid(self.log_snr(t)) - nn.functional.logsigmoid(start))).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``alpha / √snr``."""
        return self.alpha(t) * (-0.5 * self.log_snr(t)).exp()


class LearnedSDE(LearnedSchedule):
    """A process with learned drift and diffusion: ``dx = −b(t) x dt + g(t) dw``, with ``b > 0`` and a learned
    signal-to-noise ratio.

    `b` is a polynomial in Bernstein's form with positive coefficients, so ``log alpha = −∫_0^t b`` is one too, and
    ``g² = alpha² d(1 / snr) / dt`` with the log-SNR of `LearnedSchedule`: every law is in closed form. The bound depends on `b`
    only by the law at T, which has to match the prior (D. Kingma et al., 2021, arXiv:2107.00630, section 5.1); at the times
    between, `b` only scales the states that the network sees.

    Parameters
    ----------
    rate
        `b` at the start of training; by default ``−last / 2``, with which the noise at T has size 1.
    first, last, degree
        As for `LearnedSchedule`.

    Raises
    ------
    ValueError
        If `rate` is not positive, or as for `LearnedSchedule`.
    """

    @check_arguments
    def __init__(self, rate: float | None = None, first: float = 8.0, last: float = -6.0, degree: int = 12) -> None:
        super().__init__(first, last, degree)
        self.rate = -0.5 * last if rate is None else rate
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate = {self.rate}; the drift pulls to 0 at a positive rate (by default half of -last).")
        # softplus of these is the rate
        self.rates = nn.Parameter(torch.full((degree,), self.rate + math.log(-math.expm1(-self.rate))))

    @property
    def _rates(self) -> Tensor:
        return nn.functional.softplus(as_coefficients(self.rates))

    def f(self, t: Tensor) -> Tensor:
        """Return ``−b``."""
        return -bernstein(self._rates, t)

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``exp −∫_0^t b``."""
        total = torch.cat([torch.zeros(1, dtype=torch.float64), self._rates.cumsum(0)]) / self.degree
        return (-bernstein(total, t)).exp()


def bernstein(coefficients: Tensor, t: Tensor) -> Tensor:
    """Return ``Σ_k c_k (n choose k) t^k (1 − t)^(n − k)`` on [0, 1], by de Casteljau's convex combinations."""
    c, u = coefficients, t[..., None]
    while c.shape[-1] > 1:
        c = (1 - u) * c[..., :-1] + u * c[..., 1:]
    return c[..., 0].expand(t.shape)


def as_coefficients(parameter: Tensor) -> Tensor:
    """Return a parameter in float64 on the CPU, as coefficients are, with its derivatives."""
    return parameter.double().cpu()
