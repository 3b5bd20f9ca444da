"""Samplers: one step each. `sample` runs them; `grids` tells them where to stop."""

from .base import Sampler
from .ddim import DDIM, Ancestral, learned_variance, posterior_variance, transition_variance
from .euler import EulerMaruyama
from .exponential import Multistep, Singlestep, angle, log_ratio, share
from .langevin import AnnealedLangevin, Langevin, PredictorCorrector
from .ode import Heun, ProbabilityFlow
from .references import Matched, Normal, PointMass, Reference, Unbounded
from .run import default, sample

__all__ = [
    "Ancestral",
    "AnnealedLangevin",
    "DDIM",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "Matched",
    "Multistep",
    "Normal",
    "PointMass",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Reference",
    "Sampler",
    "Singlestep",
    "Unbounded",
    "angle",
    "default",
    "learned_variance",
    "log_ratio",
    "posterior_variance",
    "sample",
    "share",
    "transition_variance",
]
