"""Wasserstein GANs: the critic's Lipschitz constant is bounded, by clipped weights or by a gradient penalty."""

from __future__ import annotations

__all__ = ["WGAN", "WGANGP", "Wasserstein"]

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..laws.draws import uniform_like
from .gans import Adversarial, check_no_batch_norm, gradient_norm


class Wasserstein(Adversarial):
    """The base class of Wasserstein GANs, ``sup_{Lip v <= 1} E_p v − E_q v``; subclasses differ in what bounds the
    critic's slope.
    """

    def of_critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return ``v(fake) − v(real)``."""
        return fake - real

    def of_generator(self, fake: Tensor) -> Tensor:
        """Return ``−v(fake)``."""
        return -fake


class WGAN(Wasserstein):
    """A Wasserstein GAN with clipped weights: the critic estimates ``sup_{Lip v <= 1} E_p v − E_q v`` up to a factor.

    M. Arjovsky, S. Chintala, L. Bottou, *Wasserstein GAN*, 2017, arXiv:1701.07875. The critic's weights are clipped before
    every step, so that its Lipschitz constant is bounded, by an unknown number.

    Parameters
    ----------
    generator, critic, latent
        As for `Adversarial`.
    clip
        Largest absolute weight of the critic.

    Raises
    ------
    ValueError
        If `clip` is not positive.
    """

    @check_arguments
    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent: int,
        clip: float = 0.01,
    ) -> None:
        super().__init__(generator, critic, latent)
        if not clip > 0:
            raise ValueError(f"clip = {clip}; it must be positive.")
        self.clip = clip

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the sum of both players' losses, ``(B,)``, after the critic's weights were clipped."""
        with torch.no_grad():
            for p in self.critic.parameters():
                p.clamp_(-self.clip, self.clip)
        return super().loss(x, generator=generator)


class WGANGP(Wasserstein):
    """A Wasserstein GAN with a gradient penalty on the critic in place of clipped weights.

    ``weight (‖∇v(y)‖ − 1)²`` at ``y = u x + (1 − u) fake``, u uniform: I. Gulrajani et al., *Improved training of Wasserstein
    GANs*, 2017, arXiv:1704.00028. The critic must not normalise over the batch. Its estimate for two laws at the distance `W` is
    too large by the factor ``1 + W / (2 weight)`` at least, and by exactly this factor where one law is the other shifted.

    Parameters
    ----------
    generator, critic, latent
        As for `Adversarial`.
    weight
        Weight of the penalty.

    Raises
    ------
    ValueError
        If `weight` is not positive, or the critic normalises over the batch.
    """

    @check_arguments
    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent: int,
        weight: float = 10.0,
    ) -> None:
        super().__init__(generator, critic, latent)
        if not weight > 0:
            raise ValueError(f"weight = {weight}; that of a penalty is positive.")
        check_no_batch_norm(critic)
        self.weight = weight

    def penalty(self, x: Tensor, made: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return ``weight (‖∇v(y)‖ − 1)²``, ``(B,)``."""
        u = uniform_like(x.new_empty(len(x), *[1] * (x.ndim - 1)), generator)
        return self.weight * (gradient_norm(self.critic, u * x + (1 - u) * made) - 1).square()
