"""Training: weightings, losses, and the loop that lowers them."""

from . import losses, weightings
from .loop import constant_rate, cosine_decay, fit
from .losses import NonFiniteLoss
from .run import Run, Step

__all__ = ["NonFiniteLoss", "Run", "Step", "constant_rate", "cosine_decay", "fit", "losses", "weightings"]
