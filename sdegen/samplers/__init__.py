"""Samplers: each is a rule for one step, which `sample` repeats along the times of a grid (`grids`).

``sample(model, n, steps=10)`` takes the `default`. By the names of the literature: DDPM is `Ancestral`, DDIM `DDIM`; the
probability flow is followed by `ProbabilityFlow` (adaptive), `Heun` (EDM's) and `Multistep` (DPM-Solver++, DEIS, UniPC);
the reversed SDE by `EulerMaruyama`, `ReverseDiffusion`, `ExponentialSDE` (SDE-DPM-Solver++, SA-Solver) and `AdaptiveSDE`;
EDM's stochastic sampler is `Churn`, and Langevin dynamics are `Langevin`, `AnnealedLangevin` and `PredictorCorrector`.
`uniform_subsequence` and the like make grids of the steps that a chain was trained on. `encode`, `decode`, `interpolate`
and `edit` go up and down the flow.
"""

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
