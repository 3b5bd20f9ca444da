"""Probability tools without time: linear maps of a state, Gaussian kernels, mixtures, divergences, interpolation, random
draws.
"""

from . import derivatives, kernels
from .empirical import Empirical
from .mixtures import Distribution, GaussianMixture, Moments, moments_of
from .operators import Matrix, Operator, Scale
from .units import Units

__all__ = [
    "Distribution", "Empirical", "GaussianMixture", "Matrix", "Moments", "Operator", "Scale", "Units", "derivatives",
    "kernels", "moments_of",
]  # fmt: skip
