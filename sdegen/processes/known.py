"""The base class of nonlinear processes whose transition laws are known: `KnownSDE`."""

from __future__ import annotations

__all__ = ["KnownSDE"]

from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributions import constraints

from ..laws.domains import check_domain
from ..laws.draws import check_given, noise_like
from ..laws.kernels import StateLaw
from ..laws.marginals import Perturbed
from ..laws.operators import rows
from .base import SDE
from .dynamics import as_ordered_times, as_time


class KnownSDE(SDE):
    """The base class of nonlinear processes whose transition law is known: subclass it with `drift`, `diffusion` and `law`.

    Noised states are drawn from the exact law given the data, and its score is the target of training: nothing is simulated, and
    there is no short kernel.

    Attributes
    ----------
    starts
        The set that paths may start from, if it is more than the domain: the boundary too, where paths enter from there.
    pool
        How many rows of the batch the target of a state in training is averaged over, any of which the state may be from
        (`losses.Denoising`). 1 for a law that takes longer to compute than a network to answer.
    """

    is_known, pool = True, 16
    starts: constraints.Constraint | None = None

    @property
    def _starts(self) -> constraints.Constraint:
        return self.domain if self.starts is None else self.starts

    @abstractmethod
    def law(self, x_s: Tensor, s: Tensor, t: Tensor) -> StateLaw:
        """Return the law of ``x_t`` given `x_s`, for times ``()`` or ``(B,)``, float64, `s` not after `t`."""

    def kernel(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> StateLaw:
        """Return the exact law of ``x_t`` given `x_s`.

        Parameters
        ----------
        x_s
            States at `s`, ``(B, *)``.
        s, t
            Times, ``()`` or ``(B,)``.

        Raises
        ------
        ValueError
            If a state lies outside of the domain, or `s` after `t`.
        """
        s, t = as_ordered_times(s, t, self.T)
        check_domain(self._starts, x_s, "x_s")
        return self.law(x_s, s, t)

    def perturb(
        self, x_0: Tensor, t: Tensor | float, z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Perturbed:
        """Draw noised states at `t` from the exact law given the data, and return them with this law and the noise.

        Parameters
        ----------
        x_0
            Data ``(B, *)``.
        t
            Times, ``()`` or ``(B,)``.
        z
            Standard normal noise of the shape of `x_0`; drawn by default.
        generator
            Randomness of the noise.
        """
        t, data = as_time(t, self.T), self.standardise(x_0)
        x_0 = self.embed(data)
        rows(t, x_0)  # refuses another number of times
        check_domain(self._starts, x_0, "x_0")
        kernel = self.law(x_0, torch.zeros_like(t), t)
        z = noise_like(x_0, generator) if z is None else check_given(x_0, z)
        x = kernel.sample(z)
        return Perturbed(x, kernel, z, self.at(t.expand(len(x_0)), x), data)
