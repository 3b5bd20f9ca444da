"""Ancestral sampling (DDPM) and DDIM, whose steps use the closed forms of the forward process."""

from __future__ import annotations

__all__ = [
    "Ancestral",
    "AncestralStep",
    "DDIM",
    "DDIMStep",
    "learned_variance",
    "posterior_variance",
    "transition_variance",
]

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..arguments import check_arguments
from ..laws.diagonal import Diagonal
from ..laws.kernels import posterior
from ..laws.operators import Operator
from ..models.score import ScoreModel
from ..processes.grids import Grid
from .base import Noise, Sampler, require_linear, require_noise
from .step_noise import StepNoise


class AncestralStep(NamedTuple):
    """Coefficients of an ancestral step ``x_s | x_t``: both times, the mean ``Phi_s E[x_0 | x_t] + K R_t E[z | x_t]`` as a
    question, and the roots of the lower and the upper variance (`posterior_variance`, `transition_variance`).
    """

    s: Tensor
    t: Tensor
    mean: Any
    small: Operator
    large: Operator


Variance = Callable[[Any, Tensor, AncestralStep, Tensor], Tensor]


def posterior_variance(model: ScoreModel, x: Tensor, c: AncestralStep, z: Tensor) -> Tensor:
    """Take a step with DDPM's lower variance ``beta tilde``, the posterior's given clean data, exact for a single data point.

    J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv:2006.11239.

    Parameters
    ----------
    model
        A score model, its conditions fixed.
    x
        ``x_t``, ``(B, *)``.
    c
        This step's entry of ``Ancestral.plan``.
    z
        Standard normal noise, of the shape of `x`.

    Returns
    -------
    Tensor
        ``x_s``, ``(B, *)``.
    """
    return c.small.onto(model.answer(x, c.mean), z)


def transition_variance(model: ScoreModel, x: Tensor, c: AncestralStep, z: Tensor) -> Tensor:
    """Take a step with DDPM's upper variance ``beta``, the forward transition's, exact for standard normal data.

    J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv:2006.11239.

    Parameters
    ----------
    model, x, c, z
        As for `posterior_variance`.

    Returns
    -------
    Tensor
        ``x_s``, ``(B, *)``.
    """
    return c.large.onto(model.answer(x, c.mean), z)


def learned_variance(model: ScoreModel, x: Tensor, c: AncestralStep, z: Tensor) -> Tensor:
    """Take a step with the variance that the model has learned (`LearnedVariance`), between DDPM's lower and upper one.

    A. Nichol, P. Dhariwal, *Improved denoising diffusion probabilistic models*, 2021, arXiv:2102.09672.

    Parameters
    ----------
    model
        A `LearnedVariance`, its conditions fixed, or a model of `guidance` around one.
    x, c, z
        As for `posterior_variance`.

    Returns
    -------
    Tensor
        ``x_s``, ``(B, *)``.
    """
    assert model.reversal is not None  # `Ancestral.plan` refuses others
    return model.reversal.reverse_step(x, c.mean, c.s, c.t, z)


class Ancestral(Sampler[AncestralStep, None]):
    """Ancestral sampling (DDPM) on any linear SDE: ``x_s ~ q(x_s | x_t, x_0 = E[x_0 | x_t])``, weak order 1.

    J. Ho et al., 2020, arXiv:2006.11239; learned variance: A. Nichol and P. Dhariwal, 2021, arXiv:2102.09672.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    variance
        `posterior_variance`, `transition_variance` or `learned_variance`.

    Raises
    ------
    TypeError
        In a run, if the process is not linear, or the variance is to be the learned one and the model has none.
    """

    convergence_order = 1

    @check_arguments
    def __init__(self, steps: int = 500, grid: Grid | None = None, variance: Variance = posterior_variance) -> None:
        super().__init__(steps, grid)
        self.variance = variance

    def plan(self, model: ScoreModel, times: Tensor) -> list[AncestralStep]:
        """Plan the posterior ``q(x_s | x_t, x_0)`` between every two successive times."""
        sde = require_linear(self, model.sde)
        if self.variance is learned_variance and model.reversal is None:
            raise TypeError(
                f"{type(model).__name__} has no learned variance; use LearnedVariance(net, sde), or another variance."
            )
        t, s = times[:-1], times[1:]
        at_s, at_t, s_to_t = sde.marginal(s), sde.marginal(t), sde.transition(s, t)
        law = posterior(at_s, at_t, s_to_t)
        small, large = law.covariance.sqrt().prepared(model.like), s_to_t.R.prepared(model.like)
        means = model.ask(t, denoise=at_s.Phi, noise=law.K @ at_t.R)
        return [AncestralStep(s[i], t[i], mean, small[i], large[i]) for i, mean in enumerate(means)]

    def step(self, model: ScoreModel, x: Tensor, c: AncestralStep, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Draw the next state of the reversed chain."""
        return self.variance(model, x, c, noise(x)), None

    def step_noise(self, model: ScoreModel, x: Tensor, c: AncestralStep) -> StepNoise:
        """Return the law of the noise of the chosen variance; a learned variance takes an evaluation of the network.

        Raises
        ------
        TypeError
            If the variance is a function of the user's own.
        """
        if self.variance is posterior_variance:
            return StepNoise(c.small)
        if self.variance is transition_variance:
            return StepNoise(c.large)
        if self.variance is learned_variance and model.reversal is not None:
            return StepNoise(Diagonal((0.5 * model.reversal.reverse_log_variance(x, c.s, c.t)).exp()))
        raise TypeError(
            "the variance of these steps is a function of your own, so their density is not known; take posterior_variance, "
            "transition_variance or learned_variance."
        )


class DDIMStep(NamedTuple):
    """Coefficients of a DDIM step ``x_s = mean + root z``: the mean as a question, and the root, None if there is no noise."""

    mean: Any
    root: Operator | None


class DDIM(Sampler[DDIMStep, None]):
    """DDIM on any linear SDE: ``x_s = Phi_s E[x_0 | x_t] + M E[z | x_t] + eta root z`` with ``M Mᵀ = Sigma_s − eta²
    beta_tilde``, order 1.

    ``eta = 0`` is deterministic: the exponential Euler step of the probability flow, exact for one data point. Its `M` is the
    root of the marginal covariance at s that solves the root equation; a Cholesky factor would be wrong for matrices. ``eta = 1``
    is ancestral sampling. J. Song, C. Meng, S. Ermon, *Denoising diffusion implicit models*, 2020, arXiv:2010.02502.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    eta
        Noise level in [0, 1].

    Raises
    ------
    ValueError
        If `eta` lies outside [0, 1].
    TypeError
        In a run, if the process is not linear.
    """

    convergence_order = 1

    @check_arguments
    def __init__(self, steps: int = 50, grid: Grid | None = None, eta: float = 0.0) -> None:
        super().__init__(steps, grid)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta = {eta}; DDIM's noise level lies between 0 (deterministic) and 1 (ancestral).")
        self.eta = eta

    def plan(self, model: ScoreModel, times: Tensor) -> list[DDIMStep]:
        """Plan the means as questions, and the roots where there is noise."""
        sde = require_linear(self, model.sde)
        t, s = times[:-1], times[1:]
        at_s, at_t = sde.marginal(s), sde.marginal(t)
        M, root = at_s.R, None
        if self.eta:
            s_to_t = sde.transition(s, t)
            root = (posterior(at_s, at_t, s_to_t).covariance.sqrt() * self.eta).prepared(model.like)
            # In units of R_s the posterior's covariance is 1 − Psi Psiᵀ, regular where R_s is not invertible.
            Psi = at_s.R.T @ s_to_t.Phi.T @ at_t.R.inv().T
            M = at_s.R @ (M.one() - (M.one() - Psi @ Psi.T) * self.eta**2).sqrt()
        means = model.ask(t, denoise=at_s.Phi, noise=M)
        return [DDIMStep(mean, None if root is None else root[i]) for i, mean in enumerate(means)]

    def step(self, model: ScoreModel, x: Tensor, c: DDIMStep, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Take one step; noise is drawn only where ``eta > 0``."""
        x_s = model.answer(x, c.mean)
        return (x_s if c.root is None else c.root.onto(x_s, noise(x))), None

    def step_noise(self, model: ScoreModel, x: Tensor, c: DDIMStep) -> StepNoise:
        """Return the law of ``eta root z``."""
        return StepNoise(require_noise(self, c.root))
