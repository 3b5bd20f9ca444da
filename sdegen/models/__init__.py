"""Score models: the true ones of known laws, networks, other people's networks, and solutions on a grid."""

from .exact import Exact, ExactConditional
from .fokker_planck import FokkerPlanck
from .foreign import from_denoiser, from_diffusers, from_network, to_diffusers
from .network import DirectModel, LearnedVariance, Model, Trainable
from .parametrizations import Data, EDMParametrization, Noise, Parametrization, Score, Velocity
from .score import Conditioned, ScoreModel, VelocityModel

__all__ = [
    "Conditioned", "DirectModel", "Exact", "ExactConditional", "FokkerPlanck", "LearnedVariance", "Model", "ScoreModel",
    "Trainable", "VelocityModel",
    "from_denoiser", "from_diffusers", "from_network", "to_diffusers",
    # what a `Model` may be asked for
    "Data", "EDMParametrization", "Noise", "Parametrization", "Score", "Velocity",
]  # fmt: skip
