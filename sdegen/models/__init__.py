"""Score models: exact ones of known distributions, networks, networks from elsewhere, and numerical Fokker–Planck solutions."""

from .diffusers import from_diffusers, to_diffusers
from .direct import DirectModel
from .exact import Exact, ExactConditional
from .fokker_planck import FokkerPlanck
from .foreign import from_denoiser, from_network
from .learned import LearnedVariance
from .long_series import LongSeries
from .network import Model, Trainable
from .parametrizations import (
    DataParametrization,
    EDMParametrization,
    MatchedParametrization,
    NoiseParametrization,
    Parametrization,
    ScoreParametrization,
    StraightParametrization,
    VelocityParametrization,
)
from .reversal import LearnedReversal
from .score import ScoreModel, VelocityModel
from .wrapper import Conditioned, Wrapper

__all__ = [
    "LongSeries", "Conditioned", "DirectModel", "Exact", "ExactConditional", "FokkerPlanck", "LearnedReversal", "LearnedVariance",
    "Model", "ScoreModel", "Trainable", "VelocityModel", "Wrapper",
    "from_denoiser", "from_diffusers", "from_network", "to_diffusers",
    # what a `Model` may be asked for
    "DataParametrization", "EDMParametrization", "MatchedParametrization", "NoiseParametrization", "Parametrization",
    "ScoreParametrization", "StraightParametrization",
    "VelocityParametrization",
]  # fmt: skip
