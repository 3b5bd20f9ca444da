"""sdegen: generative modelling as one object and one network, a forward SDE and a score model.

`kernels` and `distributions` are the Gaussian laws; `sde`, `linear`, `scalar` and `matrix` the forward SDEs, `processes`
and `nonlinear` the zoo of them; `models` the score models, `parametrizations` what their networks are asked for;
`weightings` and `losses` what they are trained by; `grids` and `samplers` how they are sampled; `likelihood`, `elbo` and
`bits` their densities; `nets`, `data`, `training` and `checkpoints` the practical side; `metrics`, `diagnose`, `testing`
and `plots` what one judges by.
"""

__version__ = "0.1.0"

from . import (
    baselines,
    data,
    divergence,
    foreign,
    grids,
    guidance,
    kernels,
    losses,
    measurements,
    metrics,
    nets,
    plots,
    samplers,
    testing,
    weightings,
)
from .bits import bits_per_dim
from .checkpoints import load, save
from .diagnose import Budget, diagnose
from .distributions import Empirical, GaussianMixture, Moments, moments_of
from .editing import edit
from .elbo import Bound, Chain, discrete_elbo, elbo
from .fokker_planck import FokkerPlanck
from .foreign import from_denoiser, from_diffusers, from_network, to_diffusers
from .hierarchy import diffusion_hierarchy
from .learned import LearnedSchedule, LearnedSDE
from .likelihood import Density as density
from .likelihood import LogProb, log_prob, sample_with_log_prob
from .linear import LinearSDE
from .losses import NonFiniteLoss
from .matrix import MatrixSDE
from .models import Conditioned, DirectModel, Exact, ExactConditional, LearnedVariance, Model, ScoreModel, VelocityModel
from .operators import Matrix, Operator, Scale
from .pretrained import pretrained
from .processes import CLD, DDPM, EDM, OU, VE, VP, Cosine, DoubleWell, Rectified, SubVP
from .samplers import sample
from .scalar import ScalarSDE, ScheduleSDE
from .sde import SDE, Dynamics, Reverse
from .simulate import simulate
from .training import Run, fit

__all__ = [
    # processes
    "SDE", "Dynamics", "LinearSDE", "MatrixSDE", "Reverse", "ScalarSDE", "ScheduleSDE",
    "CLD", "DDPM", "EDM", "OU", "VE", "VP", "Cosine", "DoubleWell", "LearnedSDE", "LearnedSchedule", "Rectified", "SubVP",
    "simulate",
    # laws
    "Empirical", "GaussianMixture", "Matrix", "Moments", "Operator", "Scale", "moments_of",
    # models
    "Conditioned", "DirectModel", "Exact", "ExactConditional", "FokkerPlanck", "LearnedVariance", "Model", "ScoreModel",
    "VelocityModel",
    "from_denoiser", "from_diffusers", "from_network", "to_diffusers",
    # training, sampling, likelihood
    "NonFiniteLoss", "Run", "fit", "load", "save", "pretrained", "sample", "edit", "Bound", "Budget", "Chain", "LogProb",
    "bits_per_dim", "density", "diagnose", "diffusion_hierarchy", "discrete_elbo", "elbo", "log_prob", "sample_with_log_prob",
    # chapters
    "baselines", "data", "divergence", "foreign", "grids", "guidance", "kernels", "losses", "measurements", "metrics", "nets",
    "plots", "samplers", "testing", "weightings",
]  # fmt: skip
