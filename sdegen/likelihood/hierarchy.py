"""A diffusion model as a hierarchical VAE of `baselines`, by which the bounds of both are compared, and by which a `Codec`
codes.
"""

from __future__ import annotations

__all__ = ["Rise", "diffusion_hierarchy"]

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from ..arguments import check_arguments
from ..baselines import Hierarchy, LatentLayer
from ..checks import check_tensor
from ..models.score import ScoreModel
from ..processes.linear import as_linear


class Rise(NamedTuple):
    """A step of a scalar process from one state to a noisier one, in numbers.

    Attributes
    ----------
    ratio
        What the state is multiplied by.
    beta
        The variance of the noise that comes in.
    back
        The standard deviation of the first state given the second and the datum.
    """

    ratio: float
    beta: float
    back: float

    @classmethod
    def between(cls, first: tuple[float, float], second: tuple[float, float]) -> Rise:
        """Return the step between two states, each with its ``alpha`` and ``sigma``."""
        (alpha, sigma), (less, more) = first, second
        ratio = less / alpha
        beta = more**2 - (ratio * sigma) ** 2
        return cls(ratio, beta, sigma * math.sqrt(beta) / more)


@check_arguments
def diffusion_hierarchy(model: ScoreModel, times: Tensor) -> Hierarchy:
    """Return a diffusion model of a scalar process as a hierarchical VAE, whose latents are the states at the times ``t_N
    > ... > t_1``.

    Its inference has nothing to learn: ``q(z_k | x)`` is the noised state, ``q(z_{k−1} | z_k, x)`` the posterior of DDPM. A
    layer generates by the same posterior with the denoised state for `x`, and with the learned variance of a
    `LearnedVariance`. Term by term its bound is `sdegen.discrete_elbo`. The formulas are those of J. Ho et al., 2020,
    arXiv:2006.11239, in ``alpha`` and ``sigma``.

    Parameters
    ----------
    model
        A score model of a variance-preserving or any other scalar process.
    times
        Decreasing, each with some signal and some noise.

    Raises
    ------
    TypeError
        If the process is not linear, or has data in other coordinates than their own.
    ValueError
        If the times do not fall.
    """
    check_tensor("times", times, ndim=1)
    if len(times) < 1 or not (times.diff() < 0).all():
        raise ValueError(f"times = {times.tolist()}; give falling times (L,), one at least.")
    if model.sde.coordinates is not None:
        raise TypeError(
            f"the process has data in other coordinates, {model.sde.coordinates!r}, where the last layer is no Gaussian; model "
            "the data as they are."
        )
    sde, at = as_linear(model.sde, ": its noised states are not Gaussian given the data."), times.double()
    alpha, sigma = (A.matrix()[..., 0, 0].tolist() for A in (sde.marginal(at).Phi, sde.marginal(at).R))

    def layer(k: int) -> LatentLayer:
        ratio, beta, std = Rise.between((alpha[k + 1], sigma[k + 1]), (alpha[k], sigma[k]))  # from the latent below
        of_x = alpha[k + 1] * beta / sigma[k] ** 2
        of_z = ratio * (sigma[k + 1] / sigma[k]) ** 2

        def infer(z: Tensor, x: Tensor) -> Normal:
            return Normal(of_x * sde.lift(x) + of_z * z, torch.full_like(z, std))

        def generate(z: Tensor) -> Normal:
            width = torch.full_like(z, std)
            if model.reversal is not None:
                width = model.reversal.reverse_noise(z, at[k + 1], at[k], torch.ones_like(z))
            return Normal(of_x * model.denoise(z, at[k]) + of_z * z, width)

        return LatentLayer(infer, generate)

    def top(x: Tensor) -> Normal:
        return Normal(alpha[0] * sde.lift(x), torch.full_like(x, sigma[0]))

    def prior(z: Tensor) -> Normal:
        law = sde.prior(model.state_moments())
        mean, covariance = law.moments()
        return Normal(mean.to(z).expand_as(z), covariance.diagonal().sqrt().to(z).reshape(mean.shape).expand_as(z))

    def data(z: Tensor) -> Normal:
        width = sde.units.stretch(torch.full_like(z, sigma[-1] / alpha[-1]))
        return Normal(sde.project(model.denoise(z, at[-1])), width)

    return Hierarchy(top, prior, [layer(k) for k in range(len(at) - 1)], data)
