"""Variational autoencoders with a categorical latent, whose bound and density are sums over all categories."""

from __future__ import annotations

__all__ = ["CategoricalVAE"]

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..data.parts import in_parts
from ..laws.draws import uniform_like
from .bounds import BoundTerms
from .likelihoods import PixelLaw
from .vae import LikelihoodCoder, Networks


class CategoricalVAE(LikelihoodCoder):
    """A variational autoencoder with a latent of K categories, ``x ~ p(x | decoder(one-hot))``, trained with the
    Gumbel-softmax relaxation.

    E. Jang, S. Gu, B. Poole, *Categorical reparameterization with Gumbel-softmax*, 2016, arXiv:1611.01144. The KL to the
    uniform prior is exact, ``log K − H(q)``; the relaxed draw ``softmax((log q + Gumbel) / tau)`` goes to the decoder in
    training only. Both the bound and the density are exact sums over categories.

    Parameters
    ----------
    encoder
        The network from data ``(B, *)`` to logits ``(B, K)``.
    decoder
        The network from codes ``(B, K)`` to the parameters of the likelihood.
    categories
        K, the number of categories.
    likelihood
        ``p(x | c)``: `Gaussian`, the default, `Bernoulli` or `Continuous`.
    temperature
        The temperature `tau` of relaxed draws: the smaller, the nearer these are to one-hot vectors, and the noisier the
        gradient.

    Raises
    ------
    ValueError
        If `temperature` is not positive.
    """

    @check_arguments
    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        categories: int,
        likelihood: PixelLaw | None = None,
        temperature: float = 0.5,
    ) -> None:
        super().__init__(_Relaxed(encoder, decoder), likelihood)
        check_count("categories", categories), check_number("temperature", temperature, above=0)
        self.categories, self.temperature = categories, temperature

    def encode(self, x: Tensor) -> Tensor:
        """Return the log-probabilities ``log q(c | x)`` of the categories, ``(B, K)``."""
        return self.encoder(self.standardised(x)).log_softmax(1)

    def codes(self, x: Tensor) -> Tensor:
        """Return the probabilities ``q(c | x)`` of the categories, ``(B, K)``."""
        return self.encode(x).exp()

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``(KL − log p(x | relaxed draw)) / D`` in nats per coordinate, ``(B,)``."""
        volume, x = self.log_volume(x), self.standardised(x)
        u = uniform_like(x.new_empty(len(x), self.categories), generator).clamp_min(torch.finfo(x.dtype).tiny)
        gumbel = -(-u.log()).log()
        log_q, out = self.net(x, gumbel, self.temperature)
        return (self._kl(log_q) - self._law.log_prob(x, out) + volume) / x[0].numel()

    def bound(self, x: Tensor, batch: int | None = None) -> BoundTerms:
        """Return both terms of the evidence lower bound, as exact sums over the categories; with `batch`, computed for at most
        that many data at a time.
        """

        def terms(x: Tensor) -> Tensor:
            log_q = self.encode(x)
            return torch.stack([(log_q.exp() * self._each(x)).sum(1), self._kl(log_q)], 1)

        return BoundTerms(*in_parts(terms, batch, x).unbind(1))

    def log_prob(self, x: Tensor, batch: int | None = None) -> Tensor:
        """Return ``log Σ_c p(x | c) / K`` in nats, ``(B,)``, exactly; with `batch`, computed for at most that many data at a
        time.
        """
        return in_parts(self._each, batch, x).logsumexp(1) - math.log(self.categories)

    @torch.no_grad()
    @check_arguments
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` samples."""
        device = None if generator is None else generator.device
        c = torch.randint(self.categories, (check_count("n", n),), generator=generator, device=device)
        out = self.decoder(self._one_hot())
        return self.restored(self._law.draw(out[c.to(out.device)], generator))

    def _one_hot(self) -> Tensor:
        """Return the code of every category, ``(K, K)``."""
        like = next(self.parameters())
        return torch.eye(self.categories, dtype=like.dtype, device=like.device)

    def _each(self, x: Tensor) -> Tensor:
        """Return ``log p(x | c)`` for every category, ``(B, K)``."""
        outs, law, u = self.decoder(self._one_hot()), self._law, self.standardised(x)
        each = [law.log_prob(u, out.expand(len(u), *out.shape)) for out in outs]
        return torch.stack(each, 1) - self.log_volume(x)

    def _kl(self, log_q: Tensor) -> Tensor:
        """Return the KL divergence to the uniform prior, ``log K − H(q)``, ``(B,)``."""
        return math.log(self.categories) + (log_q.exp() * log_q).sum(1)


class _Relaxed(Networks):
    """The networks of a categorical VAE."""

    def forward(self, x: Tensor, gumbel: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return ``log q(c | x)``, and the answer of the decoder to a relaxed draw."""
        log_q = self.encoded(x).log_softmax(1)
        return log_q, self.decoder(F.softmax((log_q + gumbel) / temperature, 1))
