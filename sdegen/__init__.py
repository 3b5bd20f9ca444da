"""sdegen: generative modelling as one object and one network, a forward SDE and a score model.

Chapters, each built on those before: `laws` of Gaussians; `nets` and `data`; `processes`, the forward SDEs, and their times;
`models`, which give a score; `metrics`; `samplers`; `baselines`, other families; `likelihood`; `guidance`; `diagnose`, `plots`
and `testing`, what one judges by; `files`; `training`; and `inference`, from simulations.

The modules beside the chapters serve all of them:

- checks of what users give: `arguments` (by annotations), `checks`, `dense` and `conditions` (by value), `signatures` (functions,
  before they are called), `answers` (after), `levels` and `mixing` (networks);
- memory: `fixed` (what follows from one object), `recall` (from equal values);
- files: `storage` (of tensors), `description` and `construction` (objects in JSON), `identity` and `written` (what tells two
  apart), `upgrades` (of older formats);
- the rest: `precision`, `seeding`, `waiting`, `show`, `progress`, `warning`, `failures`.
"""

__version__ = "0.2.0"

from . import (
    baselines,
    data,
    guidance,
    inference,
    laws,
    likelihood,
    metrics,
    models,
    nets,
    plots,
    processes,
    samplers,
    testing,
    training,
)
from .diagnose import Budget, diagnose
from .files import load, pretrained, save
from .guidance import measurements
from .laws import (
    Diagonal,
    Empirical,
    GaussianMixture,
    Matrix,
    Moments,
    Operator,
    Profile,
    Scale,
    Units,
    coordinates,
    derivatives,
    kernels,
    moments_of,
)
from .likelihood import (
    Bound,
    Chain,
    Codec,
    Density,
    LogProb,
    bits_per_dim,
    diffusion_hierarchy,
    discrete_bits_per_dim,
    discrete_elbo,
    elbo,
    estimate_log_prob,
    log_prob,
    noised_bits_per_dim,
    sample_with_log_prob,
)
from .models import (
    Conditioned,
    DirectModel,
    Exact,
    ExactConditional,
    FokkerPlanck,
    LearnedVariance,
    LongSeries,
    Model,
    ScoreModel,
    VelocityModel,
    foreign,
    from_denoiser,
    from_diffusers,
    from_network,
    to_diffusers,
)
from .processes import (
    CIR,
    CLD,
    DDPM,
    EDM,
    OU,
    SDE,
    VE,
    VP,
    Blurring,
    CircularBrownianMotion,
    CoordinateScheduleSDE,
    CoordinateSDE,
    CorrelatedSDE,
    Cosine,
    DoubleWell,
    Dynamics,
    GeometricBrownianMotion,
    Jacobi,
    KnownSDE,
    LearnedSchedule,
    LearnedSDE,
    LiftedSDE,
    LinearSDE,
    MatrixSDE,
    Rectified,
    ReflectedBrownianMotion,
    Reverse,
    ScalarSDE,
    ScheduleSDE,
    SquaredBessel,
    SubVP,
    Transformed,
    grids,
    simulate,
)
from .samplers import FlowMap, edit, sample
from .training import NonFiniteLoss, Run, fit, losses, weightings

__all__ = [
    # processes
    "SDE", "CoordinateSDE", "CoordinateScheduleSDE", "CorrelatedSDE", "Dynamics", "KnownSDE", "LiftedSDE", "LinearSDE",
    "MatrixSDE", "Reverse", "ScalarSDE", "ScheduleSDE", "Transformed",
    "Blurring", "CIR", "CLD", "CircularBrownianMotion", "DDPM", "EDM", "OU", "VE", "VP", "Cosine", "DoubleWell",
    "GeometricBrownianMotion", "Jacobi", "LearnedSDE", "LearnedSchedule", "Rectified", "ReflectedBrownianMotion",
    "SquaredBessel", "SubVP",
    "simulate",
    # laws
    "Diagonal", "Empirical", "GaussianMixture", "Matrix", "Moments", "Operator", "Profile", "Scale", "Units", "moments_of",
    # models
    "LongSeries", "Conditioned", "DirectModel", "Exact", "ExactConditional", "FlowMap", "FokkerPlanck", "LearnedVariance",
    "Model", "ScoreModel", "VelocityModel",
    "from_denoiser", "from_diffusers", "from_network", "to_diffusers",
    # training, sampling, likelihood
    "NonFiniteLoss", "Run", "fit", "load", "save", "pretrained", "sample", "edit", "Bound", "Budget", "Chain", "Codec", "Density",
    "LogProb",
    "bits_per_dim", "diagnose", "diffusion_hierarchy", "discrete_bits_per_dim", "discrete_elbo", "elbo",
    "estimate_log_prob", "log_prob", "noised_bits_per_dim", "sample_with_log_prob",
    # chapters
    "baselines", "coordinates", "data", "derivatives", "foreign", "grids", "guidance", "inference", "kernels", "laws",
    "likelihood",
    "losses", "measurements",
    "metrics", "models", "nets", "plots", "processes", "samplers", "testing", "training", "weightings",
]  # fmt: skip
