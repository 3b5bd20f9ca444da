"""Generative adversarial networks: a generator trained against a critic that estimates a divergence of data and samples.

Both players train at once, by one loss: its first part moves the critic alone, its second the generator alone.
"""

from __future__ import annotations

__all__ = [
    "Adversarial",
    "GAN",
    "Players",
    "Stability",
    "check_no_batch_norm",
    "gradient_norm",
    "normalises_over_batch",
]

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import update_bn

from ..answers import check_answer
from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..laws.draws import noise_like
from ..precision import dtype_of
from ..show import show_call
from .divergences import FDivergence, Game
from .standardised import Standardised, range_of

SETTLING = 1024  # latents by which batch normalisation takes its statistics before samples are drawn


class Players(nn.Module):
    """The two networks of a GAN, generator and critic, evaluated in one call."""

    def __init__(self, generator: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return three outputs of the critic: on real data and on generated data, for its own loss, and on generated data,
        for the generator's loss.

        The generated data are returned too, as a fourth tensor without derivatives.
        """
        fake = check_answer("the generator", self.generator(z), x.shape, x, "the shape of the data")
        # No gradient reaches the critic through the third output, nor the generator through the second.
        constants = {name: p.detach() for name, p in self.critic.named_parameters()}
        for_generator = functional_call(self.critic, constants, (fake,))
        constant = fake.detach()
        if for_generator.numel() != len(x):
            raise ValueError(
                f"the critic returned shape {tuple(for_generator.shape)} for data {tuple(x.shape)}; it must return one number a "
                "datum."
            )
        return self.critic(x).flatten(), self.critic(constant).flatten(), for_generator.flatten(), constant


class Adversarial(Standardised, ABC):
    """The base class of adversarial models: a generator, a critic, sampling, and the sum of both players' losses.

    Both networks work on data in units of their spread, which `fit` measures, unless the generator's last layer makes numbers of
    an interval, as a sigmoid or a tanh does.

    Parameters
    ----------
    generator
        The network from latents ``(B, latent)`` to data ``(B, *)``, such as
        ``nets.Up(latent, shape, batch_norm=True, bounded=True)``.
    critic
        The network from data ``(B, *)`` to numbers ``(B, 1)``, such as ``nets.Down(shape, 1)``.
    latent
        The dimension of the latents, which are standard normal.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module, latent: int) -> None:
        super().__init__()
        self.net = Players(generator, critic)
        self.latent = check_count("latent", latent)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that the generator's last layer brings its answers into; None where it has no such layer."""
        return range_of(self.generator)

    @property
    def generator(self) -> nn.Module:
        """The network from latents to data."""
        return self.net.generator

    @property
    def critic(self) -> nn.Module:
        """The network from a datum to a number."""
        return self.net.critic

    @abstractmethod
    def of_critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the critic's loss from its outputs on real data and on generated data, ``(B,)``."""

    @abstractmethod
    def of_generator(self, fake: Tensor) -> Tensor:
        """Return the generator's loss from the critic's outputs on generated data, ``(B,)``."""

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the sum of both players' losses, ``(B,)``: the gradient of each reaches the weights of its own player alone."""
        x = self.standardised(x)
        z = noise_like(x.new_empty(len(x), self.latent), generator)
        real, fake, for_generator, made = self.net(x, z)
        return self.of_critic(real, fake) + self.of_generator(for_generator) + self.penalty(x, made, generator)

    def penalty(self, x: Tensor, made: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the penalty that is added to the critic's loss, ``(B,)``, from real data `x` and generated data `made`; 0
        by default.
        """
        return x.new_zeros(len(x))

    @torch.no_grad()
    @check_arguments
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` samples; a generator with batch normalisation first takes its statistics from 1,024 latents.

        The statistics of training belong to the weights at each step, and not to the averaged weights of `fit`.
        """
        check_count("n", n)
        like, mode = next(self.parameters()), self.generator.training
        if normalises_over_batch(self.generator):
            seed = torch.Generator().manual_seed(0)
            update_bn([noise_like(like.new_empty(SETTLING, self.latent), seed)], self.generator)
        x = self.generator.eval()(noise_like(like.new_empty(n, self.latent), generator))
        self.generator.train(mode)
        return self.restored(x)


class GAN(Adversarial):
    """A GAN on any f-divergence: the critic maximises a lower bound of the divergence of data and samples, the generator
    minimises it.

    I. Goodfellow et al., *Generative adversarial nets*, 2014, arXiv:1406.2661, for the default; S. Nowozin et al., *f-GAN*,
    2016, arXiv:1606.00709, for the others. The generator's loss is ``−E a(v(fake))`` (non-saturating) or, with
    `saturating`, the game's own ``−E c(v(fake))``, whose gradient vanishes where the critic wins.

    Parameters
    ----------
    generator, critic, latent
        As for `Adversarial`.
    divergence
        `Game` by default, `JensenShannon`, `KL`, `ReverseKL`, `Pearson`, `Hellinger`, `TotalVariation`, or your own.
    saturating
        Whether the generator has the game's own loss in place of the non-saturating one.
    r1
        Weight of the penalty ``‖∇v(x)‖² / 2`` at data in the critic's loss. With it the game converges near its equilibrium;
        without it the players may go round each other for ever (L. Mescheder, A. Geiger, S. Nowozin, *Which training methods for
        GANs do actually converge?*, 2018, arXiv:1801.04406). The critic must then not normalise over the batch.

    Raises
    ------
    ValueError
        If `r1` is negative, or positive for a critic that normalises over the batch.
    """

    @check_arguments
    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent: int,
        divergence: FDivergence | None = None,
        saturating: bool = False,
        r1: float = 0.0,
    ) -> None:
        super().__init__(generator, critic, latent)
        if not r1 >= 0:
            raise ValueError(f"r1 = {r1}; give a weight of the penalty that is not negative.")
        if r1:
            check_no_batch_norm(critic)
        self.divergence, self.saturating, self.r1 = Game() if divergence is None else divergence, saturating, r1

    def of_critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return ``c(v(fake)) − a(v(real))``."""
        return self.divergence.conjugate(fake) - self.divergence.activation(real)

    def of_generator(self, fake: Tensor) -> Tensor:
        """Return ``−a(v(fake))``, or ``−c(v(fake))`` for a saturating loss."""
        return -(self.divergence.conjugate if self.saturating else self.divergence.activation)(fake)

    def penalty(self, x: Tensor, made: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return ``r1 ‖∇v(x)‖² / 2``, ``(B,)``."""
        if not self.r1:
            return super().penalty(x, made, generator)
        return self.r1 / 2 * gradient_norm(self.critic, x).square()


def normalises_over_batch(net: nn.Module) -> bool:
    """Tell whether a network contains batch normalisation, by which its output at one datum depends on the others."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules())


class Stability:
    """A callback of `sdegen.fit` that records, every few steps, the losses of both players, gradient norms and slopes, which
    show whether adversarial training is stable; `plots.players` draws the losses.

    Parameters
    ----------
    model
        The model that is trained.
    x
        Data ``(B, *)`` on which the losses and slopes are measured.
    every
        How many steps there are from one record to the next.

    Attributes
    ----------
    records
        A dict for each record: ``step``; ``L_D`` and ``L_G``, the losses of critic and generator on the data and as many samples,
        without penalties; ``critic`` and ``generator``, the norms of both gradients before clipping; ``gap``, the mean of the
        critic on data less its mean on samples; ``slope``, the largest norm of the critic's gradient halfway between data and
        samples, a lower bound of its Lipschitz constant. Lengths are in the units of the model.

    Raises
    ------
    ValueError
        If `every` is less than 1.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, model: Adversarial, x: Tensor, every: int = 100) -> None:
        check_count("every", every), check_tensor("x", x)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}; give data (B, *), one row at least.")
        self.model, self.x, self.every = model, x, every
        self.records: list[dict[str, float]] = []

    def __call__(self, step: Any) -> None:
        """Add a record, if the number of the step is a multiple of `every`."""
        if step.step % self.every:
            return
        net = self.model.net
        norms = {
            name: math.hypot(*(p.grad.norm().item() for p in player.parameters() if p.grad is not None))
            for name, player in (("critic", net.critic), ("generator", net.generator))
        }
        # The gradients have been clipped together already, by one factor, which is undone here.
        together = math.hypot(*norms.values())
        factor = step.grad_norm / together if together else 1.0
        with step.averaged():
            real = self.model.standardised(self.x)
            fake = self.model.standardised(self.model.sample(len(real), torch.Generator().manual_seed(0))).to(real)
            with torch.no_grad():
                of_real, of_fake = net.critic(real).flatten(), net.critic(fake).flatten()
                found = {
                    "L_D": self.model.of_critic(of_real, of_fake).mean().item(),
                    "L_G": self.model.of_generator(of_fake).mean().item(),
                    "gap": (of_real.mean() - of_fake.mean()).item(),
                }
            found["slope"] = gradient_norm(net.critic, 0.5 * (real + fake)).max().item()
        self.records.append({"step": step.step} | found | {k: factor * v for k, v in norms.items()})


def check_no_batch_norm(critic: nn.Module) -> None:
    """Raise a `ValueError` if a critic contains batch normalisation, by which its slope at one datum depends on the others."""
    if normalises_over_batch(critic):
        raise ValueError(
            "the critic normalises over the batch, so its slope at one datum depends on the others; use batch_norm=False."
        )


def gradient_norm(critic: nn.Module, x: Tensor) -> Tensor:
    """Return the norm of a critic's gradient, ``‖∇v(x)‖``, ``(B,)``: the largest is a lower bound of the critic's
    Lipschitz constant.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x.to(dtype_of(critic, x))).to(x.dtype).sum(), x, create_graph=True)
    return gradient.flatten(1).norm(dim=1)
