"""The f-divergences that GANs minimise, each with its variational lower bound.

Each turns a critic's outputs on real and on generated data into a bound, and gives the divergence itself for known densities.
Nothing here knows of networks.
"""

from __future__ import annotations

__all__ = ["FDivergence", "Game", "Hellinger", "JensenShannon", "KL", "Pearson", "ReverseKL", "TotalVariation"]

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..blocks import OfTensors
from ..show import show_call


class FDivergence(OfTensors, ABC):
    """An f-divergence ``D_f(p ‖ q) = E_q f(p / q)`` with ``f(1) = 0``, and its variational lower bound, which a critic maximises.

    ``D_f(p ‖ q) >= E_p a(v(x)) − E_q c(v(x))`` for every critic `v`, with equality for the optimal one. `a` maps a critic's
    output into the domain of the convex conjugate ``f*`` of `f`, and ``c(v) = f*(a(v))`` is written out so that nothing
    overflows. S. Nowozin, B. Cseke, R. Tomioka, *f-GAN*, 2016, arXiv:1606.00709.
    """

    __repr__ = show_call

    @abstractmethod
    def f(self, u: Tensor) -> Tensor:
        """Return ``f(u)`` for density ratios ``u = p / q``."""

    @abstractmethod
    def activation(self, v: Tensor) -> Tensor:
        """Return ``a(v)``, which maps a critic's output `v` into the domain of the convex conjugate of `f`."""

    @abstractmethod
    def conjugate(self, v: Tensor) -> Tensor:
        """Return ``c(v) = f*(a(v))``, the convex conjugate of `f` at the activated output."""

    @abstractmethod
    def optimum(self, log_ratio: Tensor) -> Tensor:
        """Return the output `v` of the optimal critic, ``a(v) = f'(p / q)``, from ``log p / q``."""

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the lower bound ``E_p a(v) − E_q c(v)`` from a critic's outputs at draws of p and of q."""
        return self.activation(real).mean() - self.conjugate(fake).mean()


class KL(FDivergence):
    """The Kullback–Leibler divergence KL(p ‖ q): ``f = u log u``.

    S. Nowozin, B. Cseke, R. Tomioka, *f-GAN*, 2016, arXiv:1606.00709.
    """

    def f(self, u: Tensor) -> Tensor:
        """Return ``u log u``."""
        return torch.xlogy(u, u)

    def activation(self, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def conjugate(self, v: Tensor) -> Tensor:
        """Return ``exp(v − 1)``."""
        return (v - 1).exp()

    def optimum(self, log_ratio: Tensor) -> Tensor:
        """Return ``1 + log p / q``."""
        return 1 + log_ratio


class ReverseKL(FDivergence):
    """The reverse Kullback–Leibler divergence KL(q ‖ p): ``f = −log u``.

    S. Nowozin, B. Cseke, R. Tomioka, *f-GAN*, 2016, arXiv:1606.00709.
    """

    def f(self, u: Tensor) -> Tensor:
        """Return ``−log u``."""
        return -u.log()

    def activation(self, v: Tensor) -> Tensor:
        """Return ``−exp(−v)``."""
        return -(-v).exp()

    def conjugate(self, v: Tensor) -> Tensor:
        """Return ``v − 1``."""
        return v - 1

    def optimum(self, log_ratio: Tensor) -> Tensor:
        """Return ``log p / q``."""
        return log_ratio


class Pearson(FDivergence):
    """Pearson's χ² divergence of p from q: ``f = (u − 1)²``.

    S. Nowozin, B. Cseke, R. Tomioka, *f-GAN*, 2016, arXiv:1606.00709.
    """

    def f(self, u: Tensor) -> Tensor:
        """Return ``(u − 1)²``."""
        return (u - 1).square()

    def activation(self, v: Tensor) -> Tensor:
        """Return ``v``."""
        return v

    def conjugate(self, v: Tensor) -> Tensor:
        """Return ``v² / 4 + v``."""
        return 0.25 * v.square() + v

    def optimum(self, log_ratio: Tensor) -> Tensor:
        """Return ``2 (p / q − 1)``."""
        return 2 * torch.expm1(log_ratio)


class Hellinger(FDivergence):
    """The squared Hellinger distance ``∫ (√p − √q)²``: ``f = (√u − 1)²``.

    S. Nowozin, B. Cseke, R. Tomioka, *f-GAN*, 2016, arXiv:1606.00709.
    """

    def f(self, u: Tensor) -> Tensor:
        """Return ``(√u − 1)²``."""
        return (u.sqrt() - 1).square()

    def activation(self, v: Tensor) -> Tensor:
        """Return ``1 − exp(−v)``."""
        return -torch.expm1(-v)

    def conjugate(self, v: Tensor) -> Tensor:
        """Return ``exp(v) − 1``."""
        return torch.expm1(v)

    def optimum(self, log_ratio: Tensor) -> Tensor:
        """Return ``½ log p / q``."""
        return 0.5 * log_ratio


class TotalVariation(FDivergence):
    """The total variation distance, between 0 and 1: ``f = |u − 1| / 2``.

    S. Nowozin, B. Cseke, R. Tomioka, *f-GAN*, 2016, arXiv:1606.00709.
    """

    def f(self, u: Tensor) -> Tensor:
        """Return ``|u − 1| / 2``."""
        return 0.5 * (u - 1).abs()

    def activation(self, v: Tensor) -> Tensor:
        """Return ``tanh(v) / 2``."""
        return 0.5 * v.tanh()

    def conjugate(self, v: Tensor) -> Tensor:
        """Return ``tanh(v) / 2``."""
        return 0.5 * v.tanh()

    def optimum(self, log_ratio: Tensor) -> Tensor:
        """Return infinity with the sign of ``log p / q``: the optimal critic is unbounded."""
        return torch.where(log_ratio > 0, math.inf, -math.inf).to(log_ratio)


class JensenShannon(FDivergence):
    """Twice the Jensen–Shannon divergence, KL(p ‖ m) + KL(q ‖ m) with m = (p + q) / 2: ``f = u log u − (1 + u) log((1 + u)
    / 2)``.

    S. Nowozin, B. Cseke, R. Tomioka, *f-GAN*, 2016, arXiv:1606.00709.
    """

    def f(self, u: Tensor) -> Tensor:
        """Return ``u log u − (1 + u) log((1 + u) / 2)``."""
        return torch.xlogy(u, u) - (1 + u) * ((1 + u) / 2).log()

    def activation(self, v: Tensor) -> Tensor:
        """Return ``log 2 − log(1 + exp(−v))``."""
        return math.log(2) - F.softplus(-v)

    def conjugate(self, v: Tensor) -> Tensor:
        """Return ``log(1 + exp(v)) − log 2``."""
        return F.softplus(v) - math.log(2)

    def optimum(self, log_ratio: Tensor) -> Tensor:
        """Return ``log p / q``."""
        return log_ratio


class Game(JensenShannon):
    """The value of the original GAN game, ``E_p log D + E_q log(1 − D)`` for a discriminator D: `JensenShannon` minus log 4.

    As ``f(1) = −log 4`` here, equal laws are at −log 4. I. Goodfellow et al., *Generative adversarial nets*, 2014,
    arXiv:1406.2661.
    """

    def f(self, u: Tensor) -> Tensor:
        """Return ``u log u − (1 + u) log(1 + u)``."""
        return torch.xlogy(u, u) - (1 + u) * (1 + u).log()

    def activation(self, v: Tensor) -> Tensor:
        """Return ``−log(1 + exp(−v)) = log D``."""
        return -F.softplus(-v)

    def conjugate(self, v: Tensor) -> Tensor:
        """Return ``log(1 + exp(v)) = −log(1 − D)``."""
        return F.softplus(v)
