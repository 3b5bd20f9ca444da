"""Samplers: each is a rule for one step, which `sample` repeats along the times of a grid (`grids`)."""

from ..laws.interpolation import slerp
from .adaptive import AdaptiveSDE
from .base import Sampler
from .brownian import BrownianNoise
from .churn import Churn
from .clocks import angle, log_ratio, share
from .ddim import DDIM, Ancestral, learned_variance, posterior_variance, transition_variance
from .defaults import default
from .edit import edit
from .encode import Encoded, decode, encode, encode_with_error
from .euler import EulerMaruyama
from .even_error import EvenError
from .exponential_sde import ExponentialSDE
from .fitted import Fitted
from .fitting import fit_solver
from .flow_map import FlowMap
from .interpolation import interpolate
from .jumps import Jumps
from .langevin import AnnealedLangevin, Langevin, PredictorCorrector
from .multistep import Multistep
from .noise import SampleNoise
from .ode import Heun, ProbabilityFlow
from .picard import Picard
from .profiles import measure_profile
from .references import Matched, MatchedConditional, Normal, PointMass, Reference, Unbounded
from .restart import Interval, Restart
from .reverse_diffusion import ReverseDiffusion
from .rollout import Rollout, log_prob_of_steps
from .run import sample
from .secant_sde import SecantSDE
from .singlestep import Singlestep
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
    "EvenError",
    "ExponentialSDE",
    "Fitted",
    "FlowMap",
    "Heun",
    "Interval",
    "Jumps",
    "Langevin",
    "Matched",
    "MatchedConditional",
    "Multistep",
    "Normal",
    "Picard",
    "PointMass",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Reference",
    "Restart",
    "ReverseDiffusion",
    "Rollout",
    "SampleNoise",
    "Sampler",
    "SecantSDE",
    "Singlestep",
    "StepCosts",
    "Unbounded",
    "angle",
    "decode",
    "edit",
    "default",
    "encode",
    "encode_with_error",
    "fit_solver",
    "interpolate",
    "learned_variance",
    "log_prob_of_steps",
    "log_ratio",
    "measure_profile",
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
