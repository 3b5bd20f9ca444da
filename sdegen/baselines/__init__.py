"""Other families of generative models, which meet the score models in shared metrics and, here, in shared bounds.

Each is trained by `sdegen.fit`, which knows a model by its loss; those that generate have ``sample(n, generator)``, and
``log_prob(x)`` where their density is known. `vae`, `hierarchical` and their `likelihoods`; `flow` with `realnvp`, `residual`
and `continuous`; `gans`; `latent` is what is done with codes. They know nothing of processes and scores.
"""

from .continuous import ContinuousFlow
from .flow import Bijection, Chain, Flow, Logit, Marginals, Squeeze
from .gans import (
    GAN,
    KL,
    WGAN,
    WGANGP,
    Adversarial,
    Divergence,
    Game,
    Hellinger,
    JensenShannon,
    Pearson,
    ReverseKL,
    Stability,
    TotalVariation,
)
from .hierarchical import HierarchicalVAE, Hierarchy, Layer, WarmUp
from .latent import LatentClassifier, active_units, fgsm, interpolation, robustness, traversal
from .likelihoods import Bernoulli, Continuous, Gaussian, Likelihood
from .realnvp import RealNVP
from .residual import ResidualFlow
from .vae import VAE, Autoencoder, Bound, CategoricalVAE

__all__ = [
    # autoencoders
    "Autoencoder", "VAE", "CategoricalVAE", "HierarchicalVAE", "Hierarchy", "Layer", "Bound", "WarmUp",
    "Bernoulli", "Continuous", "Gaussian", "Likelihood",
    "LatentClassifier", "active_units", "fgsm", "interpolation", "robustness", "traversal",
    # flows
    "Flow", "RealNVP", "ResidualFlow", "ContinuousFlow", "Bijection", "Chain", "Logit", "Marginals", "Squeeze",
    # adversarial
    "Adversarial", "GAN", "WGAN", "WGANGP", "Stability",
    "Divergence", "Game", "Hellinger", "JensenShannon", "KL", "Pearson", "ReverseKL", "TotalVariation",
]  # fmt: skip
