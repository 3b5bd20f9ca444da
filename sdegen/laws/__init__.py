"""Gaussian laws, which know of no process: linear maps of a state, kernels, mixtures, derivatives, interpolation, draws."""

from . import derivatives, kernels
from .empirical import Empirical
from .mixtures import Distribution, GaussianMixture, Moments, moments_of
from .operators import Matrix, Operator, Scale

__all__ = [
    "Distribution", "Empirical", "GaussianMixture", "Matrix", "Moments", "Operator", "Scale", "derivatives", "kernels",
    "moments_of",
]  # fmt: skip
