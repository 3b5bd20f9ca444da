"""Samplers: one step each. `sample` runs them; `grids` tells them where to stop."""

from .base import Sampler
from .ddim import DDIM, Ancestral, learned_variance, posterior_variance, transition_variance
from .euler import EulerMaruyama
from .langevin import AnnealedLangevin, Langevin, PredictorCorrector
from .ode import Heun, ProbabilityFlow
from .run import default, sample

__all__ = [
    "DDIM",
    "Ancestral",
    "AnnealedLangevin",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Sampler",
    "default",
    "learned_variance",
    "posterior_variance",
    "sample",
    "transition_variance",
]
