"""Likelihoods of score models: log-densities by the probability flow, and evidence lower bounds by the reversed SDE."""

from .bits import bits_per_dim, discrete_bits_per_dim
from .codec import Codec
from .decoded import decode_with_log_prob
from .density import Density
from .dequantiser import Dequantiser
from .elbo import Bound, Chain, discrete_elbo, elbo
from .flow import LogProb, estimate_log_prob, log_prob, sample_with_log_prob
from .hierarchy import diffusion_hierarchy
from .noised import noised_bits_per_dim
from .tables import TableDensity

__all__ = [
    "Bound", "Chain", "Codec", "Density", "Dequantiser", "LogProb", "TableDensity", "bits_per_dim", "decode_with_log_prob",
    "diffusion_hierarchy", "discrete_bits_per_dim", "discrete_elbo", "elbo",
    "estimate_log_prob", "log_prob", "noised_bits_per_dim",
    "sample_with_log_prob",
]  # fmt: skip
