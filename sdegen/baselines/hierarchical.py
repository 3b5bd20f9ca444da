"""Hierarchical variational autoencoders with Gaussian layers, and the one that a diffusion model is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from ..models import LearnedVariance


class Layer(NamedTuple):
    """One layer: the inference of the latent below, ``q(z_{k−1} | z_k, x)``, and its generation, ``p(z_{k−1} | z_k)``."""

    infer: Callable[[Tensor, Tensor], Normal]
    generate: Callable[[Tensor], Normal]


class Hierarchy:
    """A hierarchical VAE of latents ``z_T, ..., z_1`` whose inference runs top down, as its generation does.

    ``log p(x) >= −KL(q(z_T | x) ‖ p(z_T)) − Σ_k E KL(q(z_{k−1} | z_k, x) ‖ p(z_{k−1} | z_k)) + E log p(x | z_1)``.
    C. Sønderby, T. Raiko, L. Maaløe, S. Sønderby, O. Winther, *Ladder variational autoencoders*, 2016, arXiv:1602.02282.

    Parameters
    ----------
    top
        ``q(z_T | x)``, given `x`.
    prior
        ``p(z_T)``, given a latent of its shape.
    layers
        From the top down.
    data
        ``p(x | z_1)``, given ``z_1``.
    """

    def __init__(
        self,
        top: Callable[[Tensor], Normal],
        prior: Callable[[Tensor], Normal],
        layers: Sequence[Layer],
        data: Callable[[Tensor], Normal],
    ) -> None:
        self.top, self.prior, self.layers, self.data = top, prior, layers, data

    def terms(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The terms of the negative bound in nats, from the top down and the data last, ``(T + 1, B)``; one draw of latents."""
        q = self.top(x)
        z = _draw(q, generator)
        terms = [kl_divergence(_whole(q), _whole(self.prior(z)))]
        for layer in self.layers:
            q = layer.infer(z, x)
            terms.append(kl_divergence(_whole(q), _whole(layer.generate(z))))
            z = _draw(q, generator)
        return torch.stack([*terms, -_whole(self.data(z)).log_prob(x)])


def diffusion_hierarchy(model: Any, times: Tensor) -> Hierarchy:
    """The hierarchical VAE that a diffusion model of a scalar process is, on the times ``t_N > ... > t_1``.

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
    """
    sde, at = model.sde, times.double()
    alpha, sigma = (torch.as_tensor(c(at), dtype=torch.float64).tolist() for c in (sde.alpha, sde.sigma))

    def layer(k: int) -> Layer:
        ratio = alpha[k] / alpha[k + 1]  # of the step from the latent below to this one
        beta = sigma[k] ** 2 - (ratio * sigma[k + 1]) ** 2
        of_x = alpha[k + 1] * beta / sigma[k] ** 2
        of_z = ratio * (sigma[k + 1] / sigma[k]) ** 2
        std = sigma[k + 1] * math.sqrt(beta) / sigma[k]

        def infer(z: Tensor, x: Tensor) -> Normal:
            return Normal(of_x * x + of_z * z, torch.full_like(z, std))

        def generate(z: Tensor) -> Normal:
            width = torch.full_like(z, std)
            if isinstance(model, LearnedVariance):
                width = model.reverse_noise(z, at[k + 1], at[k], torch.ones_like(z))
            return Normal(of_x * model.denoise(z, at[k]) + of_z * z, width)

        return Layer(infer, generate)

    def top(x: Tensor) -> Normal:
        return Normal(alpha[0] * x, torch.full_like(x, sigma[0]))

    def prior(z: Tensor) -> Normal:
        law = sde.prior(model.moments)
        mean, covariance = law.moments()
        return Normal(mean.to(z).expand_as(z), covariance.diagonal().sqrt().to(z).reshape(mean.shape).expand_as(z))

    def data(z: Tensor) -> Normal:
        return Normal(model.denoise(z, at[-1]), torch.full_like(z, sigma[-1] / alpha[-1]))

    return Hierarchy(top, prior, [layer(k) for k in range(len(at) - 1)], data)


def _whole(law: Normal) -> Independent:
    """The law of a whole latent, not of its coordinates."""
    return Independent(law, law.mean.ndim - 1)


def _draw(law: Normal, generator: torch.Generator | None) -> Tensor:
    """A latent, with derivatives."""
    z = torch.randn(law.mean.shape, dtype=law.mean.dtype, generator=generator)
    return law.mean + law.stddev * z.to(law.mean.device)
