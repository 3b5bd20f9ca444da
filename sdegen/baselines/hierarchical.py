"""Hierarchical variational autoencoders: the evidence lower bound of any of them, and a ladder VAE of networks (`ladder`)."""

from __future__ import annotations

__all__ = ["HierarchicalVAE", "Hierarchy", "LatentLayer", "WarmUp"]

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from ..arguments import check_arguments
from ..checks import check_count
from ..data.parts import in_parts
from ..laws.draws import noise_like
from ..show import show_call
from .bounds import log_mean_weight
from .ladder import Ladder
from .likelihoods import Gaussian, PixelLaw
from .standardised import Standardised


class LatentLayer(NamedTuple):
    """One layer of a hierarchical VAE: the inference of the next lower latent, ``q(z_{k−1} | z_k, x)``, and its prior,
    ``p(z_{k−1} | z_k)``.

    Attributes
    ----------
    infer
        Returns ``q(z_{k−1} | z_k, x)``, given ``z_k`` and `x`, each ``(B, *)``.
    generate
        Returns ``p(z_{k−1} | z_k)``, given ``z_k``.
    """

    infer: Callable[[Tensor, Tensor], Normal]
    generate: Callable[[Tensor], Normal]

    def __repr__(self) -> str:
        return show_call(self)


class Hierarchy:
    """A hierarchical VAE of latents ``z_T, ..., z_1``, given by its conditional laws, whose inference runs top down as
    generation does.

    ``log p(x) >= −KL(q(z_T | x) ‖ p(z_T)) − Σ_k E KL(q(z_{k−1} | z_k, x) ‖ p(z_{k−1} | z_k)) + E log p(x | z_1)``.
    C. Sønderby, T. Raiko, L. Maaløe, S. Sønderby, O. Winther, *Ladder variational autoencoders*, 2016, arXiv:1602.02282.

    Parameters
    ----------
    top
        Returns ``q(z_T | x)``, given `x`.
    prior
        Returns ``p(z_T)``, given a latent of the shape of ``z_T``.
    layers
        The layers, from the top down.
    data
        Returns ``p(x | z_1)``, given ``z_1``.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(
        self,
        top: Callable[[Tensor], Normal],
        prior: Callable[[Tensor], Normal],
        layers: Sequence[LatentLayer],
        data: Callable[[Tensor], Normal],
    ) -> None:
        self.top, self.prior, self.layers, self.data = top, prior, layers, data

    def terms(self, x: Tensor, generator: torch.Generator | None = None, batch: int | None = None) -> Tensor:
        """Return the terms of the negative bound in nats, by one draw of the latents, ``(T + 1, B)``, from the top down and the
        data last. With `batch`, each conditional law is evaluated for at most that many data at a time.
        """

        def ask(law: Callable[..., Normal], *given: Tensor) -> Normal:
            def moments(*given: Tensor) -> Tensor:
                found = law(*given)
                return torch.stack([found.mean, found.stddev], 1)

            mean, std = in_parts(moments, batch, *given).unbind(1)
            return Normal(mean, std, validate_args=False)

        q = ask(self.top, x)
        z = _draw(q, generator)
        terms = [kl_divergence(_whole(q), _whole(ask(self.prior, z)))]
        for layer in self.layers:
            q = ask(layer.infer, z, x)
            terms.append(kl_divergence(_whole(q), _whole(ask(layer.generate, z))))
            z = _draw(q, generator)
        return torch.stack([*terms, -_whole(ask(self.data, z)).log_prob(x)])


class HierarchicalVAE(Standardised):
    """A ladder VAE: latents ``z_T, ..., z_1`` with networks on vectors; with T = 1 a plain VAE.

    The encoder first goes up from the data. Then, from the top down, the inference of each latent is the product of the encoder's
    Gaussian and the Gaussian that the model itself expects there: C. Sønderby et al., *Ladder variational autoencoders*, 2016,
    arXiv:1602.02282. Upper layers are easily left unused (posterior collapse), and there are three remedies. The weight of the KL
    may rise slowly (`WarmUp`); each layer may spend `free` nats without cost (D. Kingma et al., *Improved variational inference
    with inverse autoregressive flow*, 2016, arXiv:1606.04934); and the data may depend on all latents, not on the lowest alone
    (`skip`; A. Dieng et al., *Avoiding latent variable collapse with generative skip models*, 2018, arXiv:1807.04863).

    Parameters
    ----------
    shape
        The shape of a datum; its numbers are taken as a vector.
    latents
        The dimension of each latent, from the lowest, ``z_1``, up.
    width, depth
        Sizes of the networks, `nets.Perceptron`.
    likelihood
        ``p(x | z)``: `Gaussian`, the default, `Bernoulli` or `Continuous`.
    free
        Nats of each layer and datum that cost nothing in the loss; in the bounds all nats count.
    skip
        Whether every latent, and the data, depend on all latents above, and not on the next one alone.

    Attributes
    ----------
    beta
        Weight of the KL in the loss, one unless a `WarmUp` lowers it.

    Raises
    ------
    ValueError
        If there is no latent, the dimension of one is not positive, or `free` is negative.

    Examples
    --------
    >>> model = HierarchicalVAE((2,), latents=(2, 1), width=8)
    >>> model.terms(torch.zeros(5, 2)).shape, model.sample(3).shape
    (torch.Size([3, 5]), torch.Size([3, 2]))
    """

    beta: Tensor

    @check_arguments
    def __init__(
        self,
        shape: Sequence[int],
        latents: Sequence[int] = (2, 2),
        width: int = 64,
        depth: int = 1,
        likelihood: PixelLaw | None = None,
        free: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"width": width, "depth": depth}.items():
            check_count(name, value)
        if not latents or min(latents) < 1 or free < 0:
            raise ValueError(
                f"latents = {tuple(latents)}, free = {free}; give at least one latent, and no negative nats."
            )
        self.shape, self.latents, self.width, self.depth = tuple(shape), tuple(latents), width, depth
        self.likelihood = Gaussian() if likelihood is None else likelihood
        self.free, self.skip = free, skip
        self.net = Ladder(math.prod(shape), self.latents, width, depth, self.likelihood.outputs, skip)
        self.register_buffer("beta", torch.ones(()))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the numbers that the likelihood is for; None if it is for all numbers."""
        return self.likelihood.interval

    def asked(self) -> dict[str, PixelLaw]:
        """Return the likelihood, whose parameters the decoder gives."""
        return {"likelihood": self.likelihood}

    def _draw_terms(
        self, x: Tensor, generator: torch.Generator | None, batch: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the KL and ``log q / p`` of every layer, each ``(B, T)``, and ``log p(x | z)``, ``(B,)``, by one draw of the
        latents.
        """

        def read(x: Tensor, noise: Tensor) -> Tensor:
            kl, ratio, out = self.net(x, noise)
            return torch.cat([kl, ratio, law.log_prob(x, self._reshape(out))[:, None]], 1)

        volume, law, x = self.log_volume(x), self.likelihood.in_units(self.units), self.standardised(x)
        noise, T = noise_like(x.new_empty(len(x), sum(self.latents)), generator), len(self.latents)
        kl, ratio, log_likelihood = in_parts(read, batch, x, noise).split([T, T, 1], 1)
        return kl, ratio, log_likelihood[:, 0] - volume

    def _reshape(self, out: Tensor) -> Tensor:
        """Return the decoder's vectors in the shape of data, with as many channels as the likelihood asks for."""
        return out.reshape(len(out), self.likelihood.outputs * self.shape[0], *self.shape[1:])

    def terms(self, x: Tensor, generator: torch.Generator | None = None, batch: int | None = None) -> Tensor:
        """Return the terms of the negative bound in nats, by one draw of the latents, ``(T + 1, B)``, from the top down and the
        data last. With `batch`, they are computed for at most that many data at a time.
        """
        kl, _, log_likelihood = self._draw_terms(x, generator, batch)
        return torch.cat([kl, -log_likelihood[:, None]], 1).T

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``(beta Σ_k max(KL_k, free) − log p(x | z)) / D`` in nats per number, ``(B,)``."""
        kl, _, log_likelihood = self._draw_terms(x, generator)
        return (self.beta * kl.clamp_min(self.free).sum(1) - log_likelihood) / math.prod(self.shape)

    @torch.no_grad()
    def importance_bound(
        self, x: Tensor, draws: int = 64, generator: torch.Generator | None = None, batch: int | None = None
    ) -> Tensor:
        """Return ``log (1/K) Σ p(x, z) / q(z | x)`` over K draws, ``(B,)`` in nats: see `VAE.importance_bound`."""

        def log_weight() -> Tensor:
            _, ratio, log_likelihood = self._draw_terms(x, generator, batch)
            return log_likelihood - ratio.sum(1)

        return log_mean_weight(log_weight, draws)

    def codes(self, x: Tensor) -> Tensor:
        """Return the posterior means of the uppermost latent, ``(B, latents[-1])``."""
        return self.net.top_mean(self.net.heights(self.standardised(x))[-1])

    @torch.no_grad()
    @check_arguments
    def sample(self, n: int, generator: torch.Generator | None = None, mean: bool = False) -> Tensor:
        """Draw `n` samples; with `mean`, return the means of ``p(x | z)`` instead, as `VAE.sample` does."""
        like = next(self.parameters())
        out = self._reshape(
            self.net.generate(noise_like(like.new_empty(check_count("n", n), sum(self.latents)), generator))
        )
        law = self.likelihood.in_units(self.units)
        return self.restored(law.mean(out) if mean else law.draw(out, generator))


class WarmUp:
    """A callback of `sdegen.fit` that raises the weight `beta` of the KL terms of a `HierarchicalVAE` from 0 to 1 over the
    first steps.

    S. Bowman et al., *Generating sentences from a continuous space*, 2015, arXiv:1511.06349.

    Parameters
    ----------
    model
        The model whose `beta` is set, to 0 when the callback is made.
    steps
        The number of steps after which `beta` is 1.

    Raises
    ------
    ValueError
        If `steps` is not positive, or several processes train: callbacks reach only one of them.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, model: HierarchicalVAE, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps = {steps}; give at least one.")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise ValueError("a WarmUp reaches one process of several; train in one, or set beta yourself in each.")
        self.model, self.steps = model, steps
        model.beta.zero_()

    def __call__(self, step: Any) -> None:
        """Set the weight for the next step."""
        self.model.beta.fill_(min(1.0, step.step / self.steps))


def _whole(law: Normal) -> Independent:
    """Return the law of a whole latent, its coordinates taken together."""
    return Independent(law, law.mean.ndim - 1)


def _draw(law: Normal, generator: torch.Generator | None) -> Tensor:
    """Draw a latent, with derivatives by the law's parameters."""
    return law.mean + law.stddev * noise_like(law.mean, generator)
