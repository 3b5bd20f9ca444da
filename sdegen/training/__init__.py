"""Training: weightings, losses, and the loop that lowers them."""

from . import losses, weightings
from .loop import constant, cosine, fit
from .losses import NonFiniteLoss
from .run import Run, Step

__all__ = ["NonFiniteLoss", "Run", "Step", "constant", "cosine", "fit", "losses", "weightings"]
