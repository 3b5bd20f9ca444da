"""The networks of a ladder VAE, `hierarchical.HierarchicalVAE`, and the Gaussians that their answers stand for."""

from __future__ import annotations

__all__ = ["Ladder", "as_normal", "product"]

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ..nets import Perceptron


class Ladder(nn.Module):
    """The networks of a hierarchical VAE, evaluated in one call; latents and their noise are in the order of generation.

    Attributes
    ----------
    up
        The networks of the encoder, from the data up.
    said
        The networks from the encoder's features to its own Gaussian of each latent.
    expected
        The networks from the latents above to the prior of each latent but the uppermost.
    data
        The network from the latents to the parameters of the likelihood.
    """

    def __init__(self, dim: int, latents: tuple[int, ...], width: int, depth: int, outputs: int, skip: bool) -> None:
        super().__init__()
        down = latents[::-1]
        self.down, self.skip = down, skip
        self.up = nn.ModuleList(Perceptron(dim if i == 0 else width, width, width, depth) for i in range(len(latents)))
        self.said = nn.ModuleList(Perceptron(width, 2 * n, width, 0) for n in down)
        above = [sum(down[: i + 1]) if skip else down[i] for i in range(len(down))]
        self.expected = nn.ModuleList(Perceptron(above[i], 2 * n, width, depth) for i, n in enumerate(down[1:]))
        self.data = Perceptron(above[-1], outputs * dim, width, depth)

    def heights(self, x: Tensor) -> list[Tensor]:
        """Return the encoder's features at every height, from the data up."""
        features = []
        for part in self.up:
            x = part(x)
            features.append(x)
        return features

    def top_mean(self, features: Tensor) -> Tensor:
        """Return the mean of the uppermost latent, from the encoder's uppermost features."""
        return self.said[0](features).to(features).chunk(2, 1)[0]

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the KL and ``log q / p`` at the draw for every layer from the top down, each ``(B, T)``, and the decoder's
        answer.
        """
        features, kls, ratios = self.heights(x)[::-1], [], []
        drawn: list[Tensor] = []
        for i, eps in enumerate(noise.split(self.down, 1)):
            said = as_normal(self.said[i](features[i]).to(x))
            p = self._prior(drawn, said.mean)
            q = said if i == 0 else product(said, p)
            z = q.mean + q.stddev * eps
            kls.append(kl_divergence(q, p).sum(1))
            ratios.append((q.log_prob(z) - p.log_prob(z)).sum(1))
            drawn.append(z)
        return torch.stack(kls, 1), torch.stack(ratios, 1), self.data(self._above(drawn)).to(x)

    def generate(self, noise: Tensor) -> Tensor:
        """Return the decoder's answer to noise ``(B, Σ latents)``."""
        drawn: list[Tensor] = []
        for eps in noise.split(self.down, 1):
            p = self._prior(drawn, eps)
            drawn.append(p.mean + p.stddev * eps)
        return self.data(self._above(drawn))

    def _above(self, drawn: list[Tensor]) -> Tensor:
        """Return the input of the network below the latents that are drawn: all of these, or the last alone."""
        return torch.cat(drawn, 1) if self.skip else drawn[-1]

    def _prior(self, drawn: list[Tensor], like: Tensor) -> Normal:
        """Return the prior of the next latent, given those that are drawn."""
        if not drawn:
            return Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False)
        return as_normal(self.expected[len(drawn) - 1](self._above(drawn)).to(like))


def product(a: Normal, b: Normal) -> Normal:
    """Multiply two normal densities `a` and `b`, and return the normal law that is proportional to the product: precisions
    add.
    """
    u, v = a.stddev**-2, b.stddev**-2
    return Normal((u * a.mean + v * b.mean) / (u + v), (u + v) ** -0.5, validate_args=False)


def as_normal(out: Tensor) -> Normal:
    """Return the normal law that a network's answer ``(B, 2 n)`` stands for: means, and numbers from which a softplus makes
    standard deviations of at least a thousandth.
    """
    mean, raw = out.chunk(2, 1)
    return Normal(mean, F.softplus(raw) + 1e-3, validate_args=False)
