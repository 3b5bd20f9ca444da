"""Autoencoders: plain, variational with Gaussian latents, and with categories.

A variational autoencoder is a latent variable model ``p(z) p(x | z)`` with an encoder ``q(z | x)``, both trained by the
evidence lower bound, ``log p(x) >= E_q log p(x | z) − KL(q(z | x) ‖ p(z))``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from ..draws import noise_like, uniform_like


class Likelihood(ABC):
    """What a decoder's answer says of data: ``p(x | z)``, numbers independent given z."""

    outputs = 1  # numbers of the decoder for a number of the data, along dimension 1

    @abstractmethod
    def each(self, out: Tensor, x: Tensor) -> Tensor:
        """``log p`` of every number, of the shape of `x`; NaN where it has no density."""

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """The mean, of the shape of data."""

    @abstractmethod
    def draw(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample."""

    def log_prob(self, out: Tensor, x: Tensor) -> Tensor:
        """``log p(x | z)`` in nats, ``(B,)``.

        Raises
        ------
        ValueError
            If the decoder's answer is not of the shape that data ask for.
        """
        expected = (len(x), self.outputs * x.shape[1], *x.shape[2:])
        if out.shape != expected:
            raise ValueError(
                f"the decoder answers with shape {tuple(out.shape)} for data {tuple(x.shape)}; {type(self).__name__} needs "
                f"{expected}, {self.outputs} for every number."
            )
        return self.each(out, x).flatten(1).sum(1)


class Gaussian(Likelihood):
    """``N(x; out, std²)``.

    Parameters
    ----------
    std
        Of every number; None: the decoder gives its logarithm too, with twice as many channels.
    """

    def __init__(self, std: float | None = None) -> None:
        if std is not None and not std > 0:
            raise ValueError(f"std = {std}; it must be positive, or None to be learned.")
        self.std = std
        self.outputs = 2 if std is None else 1

    def law(self, out: Tensor) -> Normal:
        """The normal law of data."""
        if self.std is not None:
            return Normal(out, torch.full_like(out, self.std), validate_args=False)
        mean, log_std = out.chunk(2, 1)
        return Normal(mean, log_std.exp(), validate_args=False)

    def each(self, out: Tensor, x: Tensor) -> Tensor:
        """``log N(x; mean, std²)``."""
        return self.law(out).log_prob(x)

    def mean(self, out: Tensor) -> Tensor:
        """The mean."""
        return self.law(out).mean

    def draw(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample."""
        law = self.law(out)
        return law.mean + law.stddev * noise_like(law.mean, generator)


class Bernoulli(Likelihood):
    """``p^x (1 − p)^(1 − x)`` with ``logit p`` from the decoder: for numbers that are 0 or 1.

    Grey values in between are commonly given to it, as the cross-entropy; that is no density of greys, and bounds in nats
    cannot be compared with densities. `Continuous` is one.
    """

    def each(self, out: Tensor, x: Tensor) -> Tensor:
        """``x log p + (1 − x) log(1 − p)``, for x in [0, 1]."""
        return torch.where((x >= 0) & (x <= 1), x * out - F.softplus(out), torch.nan)

    def mean(self, out: Tensor) -> Tensor:
        """p."""
        return out.sigmoid()

    def draw(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample."""
        return (uniform_like(out, generator) < out.sigmoid()).to(out)


class Continuous(Likelihood):
    """The continuous Bernoulli law, ``λ exp(λ x) / (exp(λ) − 1)`` on [0, 1], with λ, the logit of p, from the decoder.

    G. Loaiza-Ganem and J. Cunningham, *The continuous Bernoulli: fixing a pervasive error in variational autoencoders*,
    2019, arXiv:1907.06845. Written in λ it holds for any, as pixels that are always black ask for; torch's own, in p, is cut
    off at |λ| = 16 in float32.
    """

    def each(self, out: Tensor, x: Tensor) -> Tensor:
        """``log p``. From the end that the law leans to, it is exponential of rate ``|λ|``, cut off at one."""
        rate, near = out.abs(), out.abs() < 1e-2
        a = torch.where(near, 1.0, rate)
        distance = torch.where(out < 0, x, 1 - x)
        value = a.log() - (-torch.expm1(-a)).log() - a * distance
        value = torch.where(near, out * x - out / 2 - out.square() / 24, value)
        return torch.where((x >= 0) & (x <= 1), value, torch.nan)

    def mean(self, out: Tensor) -> Tensor:
        """``1 / |λ| − 1 / (exp|λ| − 1)`` from that end."""
        rate, near = out.abs(), out.abs() < 0.1
        a = torch.where(near, 1.0, rate)
        distance = torch.where(near, 0.5 - rate / 12 + rate**3 / 720, 1 / a - 1 / torch.expm1(a))
        return torch.where(out < 0, distance, 1 - distance)

    def draw(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample, by the inverse of the distribution function."""
        a = out.abs().clamp_min(1e-6)
        distance = -torch.log1p(uniform_like(out, generator) * torch.expm1(-a)) / a
        return torch.where(out < 0, distance, 1 - distance)


class Autoencoder(nn.Module):
    """``x ≈ decoder(encoder(x))``, trained by the squared error. It has codes but no law of them, so no samples.

    Parameters
    ----------
    encoder, decoder
        ``(B, *)`` to codes, and back.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(encoder, decoder)
        self.moments: Any = None

    @property
    def encoder(self) -> nn.Module:
        """Data to codes."""
        return self.net[0]

    @property
    def decoder(self) -> nn.Module:
        """Codes to data."""
        return self.net[1]

    def codes(self, x: Tensor) -> Tensor:
        """Codes, ``(B, *)``."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Data of codes."""
        return self.decoder(z)

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The mean squared error over the numbers of a datum, ``(B,)``."""
        return (self.net(x).reshape(x.shape) - x).square().flatten(1).mean(1)


class Bound(NamedTuple):
    """The two terms of an evidence lower bound in nats, each ``(B,)``.

    Attributes
    ----------
    log_likelihood
        ``E_q log p(x | z)``, by the draws that were made.
    kl
        ``KL(q(z | x) ‖ p(z))``.
    """

    log_likelihood: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """Their difference, at most ``log p(x)`` in the mean."""
        return self.log_likelihood - self.kl


class _Coder(nn.Module):
    """Both networks of a VAE, asked at once."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-std of the latent, and the answer of the decoder to the latent of noise `z`."""
        mean, log_std = self.encoder(x).to(x).chunk(2, 1)
        if mean.shape != z.shape:
            raise ValueError(
                f"the encoder answers with {2 * mean.shape[1]} numbers for latent = {z.shape[1]}; it must give twice as many "
                "as a latent has, mean and log-std."
            )
        return mean, log_std, self.decoder(mean + log_std.exp() * z)


class VAE(nn.Module):
    """``z ~ N(0, I)``, ``x ~ p(x | decoder(z))``, and an encoder ``q(z | x) = N(m(x), diag s(x)²)``.

    D. Kingma and M. Welling, *Auto-encoding variational Bayes*, 2013, arXiv:1312.6114. Latents are ``z = m + s ε``, so the
    gradient passes through them (reparameterisation). With `beta` other than one the KL term has that weight: I. Higgins
    et al., *beta-VAE*, 2017.

    Parameters
    ----------
    encoder
        ``(B, *)`` to ``(B, 2 latent)``, mean and log-std of the latent, such as ``nets.Down(shape, 2 * latent)``.
    decoder
        ``(B, latent)`` to ``(B, *)``, such as ``nets.Up(latent, shape)``; with as many channels as the likelihood asks for.
    latent
        Numbers in a latent.
    likelihood
        `Gaussian`, `Bernoulli` or `Continuous`.
    beta
        Weight of the KL term in the loss, not in the bounds.

    Examples
    --------
    >>> from sdegen import nets
    >>> model = VAE(nets.Perceptron(2, 4), nets.Perceptron(2, 4), latent=2)
    >>> terms = model.bound(torch.zeros(5, 2))
    >>> terms.elbo.shape, model.sample(3).shape
    (torch.Size([5]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent: int,
        likelihood: Likelihood | None = None,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = _Coder(encoder, decoder)
        self.latent, self.beta = latent, beta
        self.likelihood = Gaussian() if likelihood is None else likelihood
        self.moments: Any = None

    @property
    def encoder(self) -> nn.Module:
        """Data to mean and log-std of latents."""
        return self.net.encoder

    @property
    def decoder(self) -> nn.Module:
        """Latents to what the likelihood takes."""
        return self.net.decoder

    def encode(self, x: Tensor) -> Normal:
        """``q(z | x)``."""
        mean, log_std = self.encoder(x).chunk(2, 1)
        return Normal(mean, log_std.exp(), validate_args=False)

    def codes(self, x: Tensor) -> Tensor:
        """Means of ``q(z | x)``, ``(B, latent)``."""
        return self.encode(x).mean

    def decode(self, z: Tensor) -> Tensor:
        """The mean of ``p(x | z)``."""
        return self.likelihood.mean(self.decoder(z))

    def bound(self, x: Tensor, generator: torch.Generator | None = None) -> Bound:
        """Both terms of the evidence lower bound with one draw of the latent; the KL in closed form."""
        mean, log_std, out = self.net(x, noise_like(x.new_empty(len(x), self.latent), generator))
        # KL(N(m, s²) ‖ N(0, 1)) = (m² + s² − 1) / 2 − log s
        kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(1)
        return Bound(self.likelihood.log_prob(out, x), kl)

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """``(beta KL − log p(x | z)) / D``, nats per number, ``(B,)``."""
        terms = self.bound(x, generator)
        return (self.beta * terms.kl - terms.log_likelihood) / x[0].numel()

    @torch.no_grad()
    def importance_bound(self, x: Tensor, draws: int = 64, generator: torch.Generator | None = None) -> Tensor:
        """``log (1/K) Σ_k p(x, z_k) / q(z_k | x)``, ``(B,)`` in nats: in the mean at least the ELBO, at most ``log p(x)``.

        Y. Burda, R. Grosse, R. Salakhutdinov, *Importance weighted autoencoders*, 2015, arXiv:1509.00519.

        Parameters
        ----------
        x
            Data ``(B, *)``.
        draws
            K.
        generator
            Of the latents.
        """
        if draws < 1:
            raise ValueError(f"draws = {draws}; at least one is needed.")
        q, prior, logs = self.encode(x), _unit(x), []
        for _ in range(draws):
            z = q.mean + q.stddev * noise_like(q.mean, generator)
            weight = (prior.log_prob(z) - q.log_prob(z)).sum(1)
            logs.append(self.likelihood.log_prob(self.decoder(z), x) + weight)
        return torch.stack(logs).logsumexp(0) - math.log(draws)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, mean: bool = False) -> Tensor:
        """`n` samples; with `mean`, the means of ``p(x | z)``, which are no samples of the model but look smoother."""
        z = noise_like(next(self.parameters()).new_empty(n, self.latent), generator)
        return self.decode(z) if mean else self.likelihood.draw(self.decoder(z), generator)


class CategoricalVAE(nn.Module):
    """A latent of one of K categories, ``x ~ p(x | decoder(one-hot))``, trained through Gumbel-softmax.

    E. Jang, S. Gu, B. Poole, *Categorical reparameterization with Gumbel-softmax*, 2016, arXiv:1611.01144. The KL to the
    uniform prior is exact, ``log K − H(q)``; the relaxed draw ``softmax((log q + Gumbel) / tau)`` goes to the decoder in
    training only. Both the bound and the density are exact sums over categories.

    Parameters
    ----------
    encoder
        ``(B, *)`` to logits ``(B, K)``.
    decoder
        ``(B, K)`` to what the likelihood takes.
    categories
        K.
    likelihood
        `Gaussian`, `Bernoulli` or `Continuous`.
    temperature
        tau.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        categories: int,
        likelihood: Likelihood | None = None,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature = {temperature}; it must be positive.")
        self.net = _Relaxed(encoder, decoder)
        self.categories, self.temperature = categories, temperature
        self.likelihood = Gaussian() if likelihood is None else likelihood
        self.moments: Any = None

    @property
    def encoder(self) -> nn.Module:
        """Data to logits of categories."""
        return self.net.encoder

    @property
    def decoder(self) -> nn.Module:
        """One-hot categories to what the likelihood takes."""
        return self.net.decoder

    def encode(self, x: Tensor) -> Tensor:
        """``log q(c | x)``, ``(B, K)``."""
        return self.encoder(x).log_softmax(1)

    def codes(self, x: Tensor) -> Tensor:
        """``q(c | x)``, ``(B, K)``."""
        return self.encode(x).exp()

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """``(KL − log p(x | relaxed draw)) / D``, nats per number, ``(B,)``."""
        u = uniform_like(x.new_empty(len(x), self.categories), generator).clamp_min(torch.finfo(x.dtype).tiny)
        log_q, out = self.net(x, -(-u.log()).log(), self.temperature)
        return (self._kl(log_q) - self.likelihood.log_prob(out, x)) / x[0].numel()

    def bound(self, x: Tensor) -> Bound:
        """Both terms of the evidence lower bound, exact."""
        log_q = self.encode(x)
        return Bound((log_q.exp() * self._each(x)).sum(1), self._kl(log_q))

    def log_prob(self, x: Tensor) -> Tensor:
        """``log Σ_c p(x | c) / K`` in nats, ``(B,)``, exact."""
        return self._each(x).logsumexp(1) - math.log(self.categories)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` samples."""
        device = None if generator is None else generator.device
        c = torch.randint(self.categories, (n,), generator=generator, device=device)
        out = self.decoder(self._one_hot())
        return self.likelihood.draw(out[c.to(out.device)], generator)

    def _one_hot(self) -> Tensor:
        like = next(self.parameters())
        return torch.eye(self.categories, dtype=like.dtype, device=like.device)

    def _each(self, x: Tensor) -> Tensor:
        """``log p(x | c)`` of every category, ``(B, K)``."""
        outs = self.decoder(self._one_hot())
        return torch.stack([self.likelihood.log_prob(out.expand(len(x), *out.shape), x) for out in outs], 1)

    def _kl(self, log_q: Tensor) -> Tensor:
        return math.log(self.categories) + (log_q.exp() * log_q).sum(1)


class _Relaxed(nn.Module):
    """Both networks of a categorical VAE, asked at once."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor, gumbel: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """``log q(c | x)``, and the answer of the decoder to a relaxed draw."""
        log_q = self.encoder(x).to(x).log_softmax(1)
        return log_q, self.decoder(F.softmax((log_q + gumbel) / temperature, 1))


def _unit(x: Tensor) -> Normal:
    return Normal(x.new_zeros(()), x.new_ones(()), validate_args=False)
