"""Training of models: loss weightings, losses, and `fit`, the loop that minimises them."""

from . import losses, weightings
from .finite import NonFiniteLoss
from .learner import Learner
from .listeners import Listener
from .loop import fit, train
from .map_losses import Lagrangian, MapLoss, PairTimes, Semigroup
from .path_losses import AdjointMatching, LogVariance, PathDivergence
from .replay import Replay
from .run import Run, Step
from .settings import Settings, constant_rate, cosine_decay
from .state import Training
from .tensorboard import TensorBoard
from .trajectories import Paths, Trajectories, trace
from .validation import Validation

__all__ = [
    "AdjointMatching", "Lagrangian", "Learner", "Listener", "LogVariance", "MapLoss", "NonFiniteLoss", "PairTimes",
    "PathDivergence", "Paths", "Replay", "Run", "Semigroup", "Settings", "Step", "TensorBoard", "Training", "Trajectories",
    "Validation", "constant_rate", "cosine_decay", "fit", "losses", "trace", "train", "weightings",
]  # fmt: skip
