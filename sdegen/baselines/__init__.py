"""Baselines: VAEs, GANs, normalizing flows and others, which are compared with score models by the same metrics and bounds.

Each is trained by `sdegen.fit`, which knows a model by its loss; generative models have ``sample(n, generator)``, and
``log_prob(x)`` where their density is known. Autoencoders are in `vae`, `categorical` and `hierarchical` (with its networks in
`ladder`), with `likelihoods` and `bounds`; flows in `flow`, `realnvp`, `residual` and `continuous`; adversarial models in `gans`
and `wgan`, with `divergences`; tools for latent codes in `latent`. All take data in units of their spread (`standardised`), and
know nothing of processes and scores.
"""

from .bounds import BoundTerms
from .categorical import CategoricalVAE
from .continuous import ContinuousFlow
from .divergences import KL, FDivergence, Game, Hellinger, JensenShannon, Pearson, ReverseKL, TotalVariation
from .flow import Bijection, Composition, Logit, Marginals, NormalizingFlow, Squeeze
from .gans import GAN, Adversarial, Stability
from .hierarchical import HierarchicalVAE, Hierarchy, LatentLayer, WarmUp
from .latent import LatentClassifier, active_units, fgsm, robustness, traversal, walk_latents
from .likelihoods import Bernoulli, Continuous, Gaussian, PixelLaw
from .realnvp import RealNVP
from .residual import ResidualFlow
from .vae import VAE, Autoencoder
from .wgan import WGAN, WGANGP

__all__ = [
    # autoencoders
    "Autoencoder", "VAE", "CategoricalVAE", "HierarchicalVAE", "Hierarchy", "LatentLayer", "BoundTerms", "WarmUp",
    "Bernoulli", "Continuous", "Gaussian", "PixelLaw",
    "LatentClassifier", "active_units", "fgsm", "walk_latents", "robustness", "traversal",
    # flows
    "NormalizingFlow", "RealNVP", "ResidualFlow", "ContinuousFlow", "Bijection", "Composition", "Logit", "Marginals", "Squeeze",
    # adversarial
    "Adversarial", "GAN", "WGAN", "WGANGP", "Stability",
    "FDivergence", "Game", "Hellinger", "JensenShannon", "KL", "Pearson", "ReverseKL", "TotalVariation",
]  # fmt: skip
