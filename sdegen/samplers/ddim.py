"""Ancestral sampling and DDIM: the steps that know the forward process in closed form."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor

from ..grids import Grid
from ..kernels import posterior
from ..operators import Operator
from .base import Noise, Sampler, require_linear


class AncestralStep(NamedTuple):
    """Coefficients of ``x_s | x_t``: ``x_s = Phi E[x_0 | x_t] + K_R E[z | x_t] + root z``."""

    s: Tensor
    t: Tensor
    Phi: Operator
    K_R: Operator
    small: Operator
    large: Operator


Variance = Callable[[Any, Tensor, AncestralStep, Tensor], Tensor]


def posterior_variance(model: Any, x: Tensor, c: AncestralStep, z: Tensor) -> Tensor:
    """Noise with the posterior's variance given clean data, DDPM's ``beta tilde``: right for one data point."""
    return c.small(z)


def transition_variance(model: Any, x: Tensor, c: AncestralStep, z: Tensor) -> Tensor:
    """Noise with the forward transition's variance, DDPM's ``beta``: right for standard normal data."""
    return c.large(z)


def learned_variance(model: Any, x: Tensor, c: AncestralStep, z: Tensor) -> Tensor:
    """Noise with the variance that the model has learned (`LearnedVariance`), between the other two."""
    return model.reverse_noise(x, c.s, c.t, z)


class Ancestral(Sampler):
    """DDPM's reversed chain on any linear SDE: ``x_s ~ q(x_s | x_t, x_0 = E[x_0 | x_t])``, weak order 1.

    J. Ho et al., 2020, arXiv:2006.11239; learned variance: A. Nichol and P. Dhariwal, 2021, arXiv:2102.09672.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    variance
        `posterior_variance`, `transition_variance` or `learned_variance`.
    """

    def __init__(self, steps: int = 500, grid: Grid | None = None, variance: Variance = posterior_variance) -> None:
        super().__init__(steps, grid)
        self.variance = variance

    def plan(self, model: Any, times: Tensor) -> list[AncestralStep]:
        """Gaussian conditioning between every pair of times."""
        require_linear(self, model.sde)
        if self.variance is learned_variance and not hasattr(model, "reverse_noise"):
            raise TypeError(
                f"{type(model).__name__} has no learned variance; use LearnedVariance(net, sde), or another variance."
            )
        steps = []
        for t, s in pairwise(times):
            at_s, at_t, s_to_t = model.sde.marginal(s), model.sde.marginal(t), model.sde.transition(s, t)
            law = posterior(at_s, at_t, s_to_t)
            large = s_to_t.R
            steps.append(AncestralStep(s, t, at_s.Phi, law.K @ at_t.R, law.covariance.sqrt(), large))
        return steps

    def step(self, model: Any, x: Tensor, c: AncestralStep, noise: Noise, state: Any) -> tuple[Tensor, None]:
        """One draw from the reversed chain."""
        x_0, eps = model.estimate(x, c.t)
        return c.Phi(x_0) + c.K_R(eps) + self.variance(model, x, c, noise(x)), None


class DDIM(Sampler):
    """``x_s = Phi_s E[x_0 | x_t] + M E[z | x_t] + eta root z`` with ``M Mᵀ = Sigma_s − eta² beta_tilde``, order 1.

    ``eta = 0`` is deterministic, the exponential Euler step of the probability flow, exact for one data point; for it `M`
    is the marginal's root at s, the one that solves the root equation (a Cholesky factor would be wrong for matrices).
    ``eta = 1`` is ancestral sampling. J. Song, C. Meng, S. Ermon, *Denoising diffusion implicit models*, 2020,
    arXiv:2010.02502.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    eta
        Noise level in [0, 1].
    """

    class Coefficients(NamedTuple):
        """Of ``x_s = Phi x_0 + M eps + root z``."""

        t: Tensor
        Phi: Operator
        M: Operator
        root: Operator

    def __init__(self, steps: int = 50, grid: Grid | None = None, eta: float = 0.0) -> None:
        super().__init__(steps, grid)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta = {eta}; DDIM's noise level lies between 0 (deterministic) and 1 (ancestral).")
        self.eta = eta

    def plan(self, model: Any, times: Tensor) -> list[Coefficients]:
        """Two coefficients a step, three with noise."""
        require_linear(self, model.sde)
        steps = []
        for t, s in pairwise(times):
            at_s, at_t = model.sde.marginal(s), model.sde.marginal(t)
            M, root = at_s.R, at_s.R * 0.0
            if self.eta:
                s_to_t = model.sde.transition(s, t)
                root = posterior(at_s, at_t, s_to_t).covariance.sqrt() * self.eta
                # In units of R_s the posterior's covariance is 1 − Psi Psiᵀ, regular where R_s is not invertible.
                Psi = at_s.R.T @ s_to_t.Phi.T @ at_t.R.inv().T
                M = at_s.R @ (M.one() - (M.one() - Psi @ Psi.T) * self.eta**2).sqrt()
            steps.append(self.Coefficients(t, at_s.Phi, M, root))
        return steps

    def step(self, model: Any, x: Tensor, c: Coefficients, noise: Noise, state: Any) -> tuple[Tensor, None]:
        """One step; noise is drawn only where ``eta > 0``."""
        x_0, eps = model.estimate(x, c.t)
        x_s = c.Phi(x_0) + c.M(eps)
        return (x_s + c.root(noise(x)) if self.eta else x_s), None
