"""Gaussian laws, with no time in them: linear maps of a state, kernels, mixtures, derivatives, interpolation, draws."""

from . import derivatives, kernels
from .mixtures import Distribution, Empirical, GaussianMixture, Moments, moments_of
from .operators import Matrix, Operator, Scale

__all__ = [
    "Distribution", "Empirical", "GaussianMixture", "Matrix", "Moments", "Operator", "Scale", "derivatives", "kernels",
    "moments_of",
]  # fmt: skip
