"""Samplers: one step each. `sample` runs them; `grids` tells them where to stop."""

from .adaptive import AdaptiveSDE
from .base import Sampler
from .ddim import DDIM, Ancestral, learned_variance, posterior_variance, transition_variance
from .defaults import default
from .edit import edit
from .encode import Encoded, decode, encode, interpolate, slerp
from .euler import EulerMaruyama
from .exponential import Multistep, Singlestep, angle, log_ratio, share
from .fitted import Fitted, fit_solver
from .langevin import AnnealedLangevin, Langevin, PredictorCorrector
from .noise import BrownianNoise, SampleNoise
from .ode import Heun, ProbabilityFlow
from .references import Matched, Normal, PointMass, Reference, Unbounded
from .run import sample
from .stochastic import Churn, ExponentialSDE, Interval, Restart, ReverseDiffusion
from .subsequence import (
    StepCosts,
    optimal_subsequence,
    quadratic_subsequence,
    subsequence,
    trained_times,
    uniform_subsequence,
)

__all__ = [
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "BrownianNoise",
    "Churn",
    "DDIM",
    "Encoded",
    "EulerMaruyama",
    "ExponentialSDE",
    "Fitted",
    "Heun",
    "Interval",
    "Langevin",
    "Matched",
    "Multistep",
    "Normal",
    "PointMass",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Reference",
    "Restart",
    "ReverseDiffusion",
    "SampleNoise",
    "Sampler",
    "Singlestep",
    "StepCosts",
    "Unbounded",
    "angle",
    "decode",
    "edit",
    "default",
    "encode",
    "fit_solver",
    "interpolate",
    "learned_variance",
    "log_ratio",
    "optimal_subsequence",
    "posterior_variance",
    "quadratic_subsequence",
    "sample",
    "share",
    "slerp",
    "subsequence",
    "trained_times",
    "transition_variance",
    "uniform_subsequence",
]
