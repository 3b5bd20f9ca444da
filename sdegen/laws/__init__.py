"""Probability tools without time: linear maps of a state, Gaussian kernels, mixtures, divergences, interpolation, random
draws.
"""

from . import bases, coordinates, derivatives, kernels
from .columns import Columns
from .coordinates import InverseTransform
from .diagonal import Diagonal
from .empirical import Empirical
from .harmonics import BoxHarmonics, CircleHarmonics
from .matrices import Matrix
from .mixtures import Distribution, GaussianMixture, Moments, moments_of
from .operators import Operator, Scale
from .planar import PlanarLaw
from .powers import Normalised, multiply_laws, tilt_law
from .profiles import Profile
from .supports import NormalRanks, free_coordinates
from .units import Units

__all__ = [
    "BoxHarmonics", "CircleHarmonics", "Diagonal", "Distribution", "Empirical", "GaussianMixture",
    "InverseTransform", "Matrix", "Moments", "NormalRanks", "Normalised",
    "Columns", "Operator", "PlanarLaw", "Profile", "Scale", "Units", "bases", "coordinates", "derivatives", "free_coordinates",
    "kernels", "moments_of", "multiply_laws", "tilt_law",
]  # fmt: skip
