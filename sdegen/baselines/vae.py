"""Autoencoders: plain, and variational with Gaussian latents (VAE).

A variational autoencoder is a latent variable model ``p(z) p(x | z)`` with an encoder ``q(z | x)``, both trained by the
evidence lower bound, ``log p(x) >= E_q log p(x | z) − KL(q(z | x) ‖ p(z))``.
"""

from __future__ import annotations

__all__ = ["Autoencoder", "Coder", "LikelihoodCoder", "Networks", "VAE"]

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ..answers import check_answer, check_each
from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..data.parts import in_parts
from ..laws.draws import noise_like
from .bounds import BoundTerms, log_mean_weight
from .likelihoods import Gaussian, PixelLaw
from .standardised import Standardised, range_of


class Networks(nn.Module):
    """The encoder and the decoder of an autoencoder, as one module."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encoded(self, x: Tensor) -> Tensor:
        """Return the encoder's answer, a row for each datum."""
        return check_each("the encoder", self.encoder(x), len(x), x, "a row of numbers for each datum")


class Coder(Standardised):
    """The base class of autoencoders: an encoder and a decoder, held by the module `net`.

    Both work on data in units of their spread, which `fit` measures, unless the likelihood is for numbers of an interval, or the
    decoder's last layer makes such numbers, as a sigmoid or a tanh does.

    Parameters
    ----------
    net
        Encoder and decoder.
    """

    def __init__(self, net: Networks) -> None:
        super().__init__()
        self.net = net

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the numbers that the decoder makes; None where it makes all numbers."""
        return range_of(self.decoder)

    @property
    def encoder(self) -> nn.Module:
        """The network from data to codes, or to the parameters of their law."""
        return self.net.encoder

    @property
    def decoder(self) -> nn.Module:
        """The network from codes to data, or to the parameters of their likelihood."""
        return self.net.decoder


class LikelihoodCoder(Coder):
    """The base class of autoencoders with a likelihood, ``p(x | decoder(z))``.

    Parameters
    ----------
    net
        Encoder and decoder.
    likelihood
        The likelihood of the data, in their own units; `Gaussian()` if None.
    """

    def __init__(self, net: Networks, likelihood: PixelLaw | None) -> None:
        super().__init__(net)
        self.likelihood = Gaussian() if likelihood is None else likelihood

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the numbers that the likelihood is for, or that the decoder makes; None if it is for all numbers."""
        own = self.likelihood.interval
        return super().interval if own is None else own

    def asked(self) -> dict[str, PixelLaw]:
        """Return the likelihood, whose parameters the decoder gives."""
        return {"likelihood": self.likelihood}

    @property
    def _law(self) -> PixelLaw:
        """The likelihood of data in the units of the model."""
        return self.likelihood.in_units(self.units)


class _Plain(Networks):
    """The networks of a plain autoencoder."""

    def forward(self, x: Tensor) -> Tensor:
        """Encode `x`, and return the data that its code stands for."""
        return self.decoder(self.encoder(x))


class Autoencoder(Coder):
    """A plain autoencoder, ``x ≈ decoder(encoder(x))``, trained by the squared error; it defines no law of codes, so it
    cannot sample.

    G. Hinton and R. Salakhutdinov, *Reducing the dimensionality of data with neural networks*, 2006.

    Parameters
    ----------
    encoder, decoder
        The networks from data ``(B, *)`` to codes, and from codes to data.
    """

    @check_arguments
    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__(_Plain(encoder, decoder))

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of data, ``(B, *)``."""
        return self.encoder(self.standardised(x))

    def decode(self, z: Tensor) -> Tensor:
        """Return the data that codes `z` decode to."""
        return self.restored(self.decoder(z))

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean squared reconstruction error over the coordinates of a datum, in the units of the model, ``(B,)``."""
        x = self.standardised(x)
        out = check_each("the decoder", self.net(x), len(x), x, "a reconstruction of each datum")
        out = out.reshape(len(x), -1)
        out = check_answer("the decoder", out, (len(x), x[0].numel()), x, "as many numbers as a datum has")
        return (out - x.flatten(1)).square().mean(1)


class _Reparameterised(Networks):
    """The networks of a VAE."""

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean and log-std of the latent, and the output of the decoder at the latent that noise `z` gives."""
        must = f"twice as many numbers as a latent has, mean and log-std, {2 * z.shape[1]} for each datum"
        mean, log_std = check_answer("the encoder", self.encoded(x), (len(x), 2 * z.shape[1]), x, must).chunk(2, 1)
        return mean, log_std, self.decoder(mean + log_std.exp() * z)


class VAE(LikelihoodCoder):
    """A variational autoencoder: ``z ~ N(0, I)``, ``x ~ p(x | decoder(z))``, with an encoder ``q(z | x) = N(m(x), diag s(x)²)``.

    D. Kingma and M. Welling, *Auto-encoding variational Bayes*, 2013, arXiv:1312.6114. Latents are ``z = m + s ε``, so the
    gradient passes through them (reparameterisation). With `beta` other than one the KL term has that weight: I. Higgins
    et al., *beta-VAE*, 2017.

    Parameters
    ----------
    encoder
        The network from data ``(B, *)`` to the mean and log-std of the latent, ``(B, 2 latent)``, such as
        ``nets.Down(shape, 2 * latent)``.
    decoder
        The network from latents ``(B, latent)`` to ``(B, *)``, such as ``nets.Up(latent, shape)``, with as many channels as the
        likelihood needs.
    latent
        The dimension of the latent.
    likelihood
        ``p(x | z)``: `Gaussian`, the default, `Bernoulli` or `Continuous`.
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

    @check_arguments
    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent: int,
        likelihood: PixelLaw | None = None,
        beta: float = 1.0,
    ) -> None:
        super().__init__(_Reparameterised(encoder, decoder), likelihood)
        check_count("latent", latent), check_number("beta", beta, at_least=0)
        self.latent, self.beta = latent, beta

    def encode(self, x: Tensor) -> Normal:
        """Return the approximate posterior ``q(z | x)``."""
        return self._posterior(self.standardised(x))

    def _posterior(self, u: Tensor) -> Normal:
        """Return ``q(z | x)`` of data in the units of the model."""
        mean, log_std = self.encoder(u).chunk(2, 1)
        return Normal(mean, log_std.exp(), validate_args=False)

    def codes(self, x: Tensor) -> Tensor:
        """Return the means of ``q(z | x)``, ``(B, latent)``."""
        return self.encode(x).mean

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of ``p(x | z)``."""
        return self.restored(self._law.mean(self.decoder(z)))

    def bound(self, x: Tensor, generator: torch.Generator | None = None, batch: int | None = None) -> BoundTerms:
        """Return both terms of the evidence lower bound, the log-likelihood by one draw of the latent and the KL in closed
        form; with `batch`, computed for at most that many data at a time.
        """

        def terms(x: Tensor, noise: Tensor) -> Tensor:
            mean, log_std, out = self.net(x, noise)
            # KL(N(m, s²) ‖ N(0, 1)) = (m² + s² − 1) / 2 − log s
            kl = (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(1)
            return torch.stack([law.log_prob(x, out) - volume, kl], 1)

        volume, law, x = self.log_volume(x), self._law, self.standardised(x)
        return BoundTerms(*in_parts(terms, batch, x, noise_like(x.new_empty(len(x), self.latent), generator)).unbind(1))

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``(beta KL − log p(x | z)) / D`` in nats per coordinate, ``(B,)``."""
        terms = self.bound(x, generator)
        return (self.beta * terms.kl - terms.log_likelihood) / x[0].numel()

    @torch.no_grad()
    def importance_bound(
        self, x: Tensor, draws: int = 64, generator: torch.Generator | None = None, batch: int | None = None
    ) -> Tensor:
        """Return ``log (1/K) Σ_k p(x, z_k) / q(z_k | x)``, ``(B,)`` in nats: in the mean at least the ELBO, at most ``log p(x)``.

        Y. Burda, R. Grosse, R. Salakhutdinov, *Importance weighted autoencoders*, 2015, arXiv:1509.00519.

        Parameters
        ----------
        x
            Data ``(B, *)``.
        draws
            K, the number of draws of the latent.
        generator
            Randomness of the latents.
        batch
            Data at a time; None for all at once.
        """
        volume, law, x = self.log_volume(x), self._law, self.standardised(x)
        prior = Normal(x.new_zeros(()), x.new_ones(()), validate_args=False)

        def posterior(x: Tensor) -> Tensor:
            q = self._posterior(x)
            return torch.stack([q.mean, q.stddev], 1)

        def log_weight(x: Tensor, moments: Tensor, noise: Tensor) -> Tensor:
            mean, std = moments.unbind(1)
            q = Normal(mean, std, validate_args=False)
            z = q.mean + q.stddev * noise
            return law.log_prob(x, self.decoder(z)) - volume + (prior.log_prob(z) - q.log_prob(z)).sum(1)

        moments = in_parts(posterior, batch, x)
        return log_mean_weight(
            lambda: in_parts(log_weight, batch, x, moments, noise_like(moments[:, 0], generator)), draws
        )

    @torch.no_grad()
    @check_arguments
    def sample(self, n: int, generator: torch.Generator | None = None, mean: bool = False) -> Tensor:
        """Draw `n` samples; with `mean`, return the means of ``p(x | z)``, which look smoother but are no samples."""
        z = noise_like(next(self.parameters()).new_empty(check_count("n", n), self.latent), generator)
        return self.decode(z) if mean else self.restored(self._law.draw(self.decoder(z), generator))
