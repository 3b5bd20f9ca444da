"""Probability tools without processes: linear maps, Gaussian kernels, laws in closed form, coordinates, derivatives, quadrature.

- Linear maps of a state: `operators`, `diagonal` in orthonormal `bases`, `matrices`; `embedding`, from data to states.
- Laws of a state given an earlier one: `kernels`, and `marginals`, given the data; of bounded states `circle`, `reflected`,
  `positive` (by `bessel` and `chi_square`) and `jacobi` (by `jacobi_series` and `jacobi_short`); what networks are shown of
  these: `harmonics`.
- Laws of data: `mixtures` (by `covariances` and `conditioning`), `empirical`, their `powers`, `planar` ones by quadrature, and
  those of ``torch.distributions`` (`outside`).
- Coordinates: `units`, `coordinates`, `columns`, `sticks`, and `supports`, which finds those of a law; `domains`.
- Numerics: `derivatives` by `products`, `odes`, `interpolation`, `monotone` functions, densities on a grid (`cells`) and how they
  move (`chains`), `draws`, `vectors`.
- What a model's state dict says besides its weights: `described`, `calibrated`, `profiles`.
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
