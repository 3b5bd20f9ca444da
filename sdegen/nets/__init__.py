"""Networks, independent of any SDE: ``net(x, level, **cond)`` maps a state, and a noise level for each row, to the state's
shape.

Those of `plain` are told no level. What the others are conditioned on is declared: labels, vectors, sets and channels
(`conditions`).
"""

from .conditions import Fields, Label, SecondLevel, Set, Vector
from .dit import DiT
from .embeddings import Fourier, Sinusoidal
from .extension import add_conditions
from .hypernet import HyperMLP
from .levels import ByteMean
from .mlp import MLP
from .plain import Convolutional, Perceptron
from .pyramid import Down, Up
from .transformer import CoordinateTransformer
from .unet import UNet
from .waves import FourierState

__all__ = [
    "MLP",
    "ByteMean",
    "Fields",
    "Convolutional",
    "CoordinateTransformer",
    "DiT",
    "Down",
    "Fourier",
    "FourierState",
    "HyperMLP",
    "Label",
    "SecondLevel",
    "Perceptron",
    "Set",
    "Sinusoidal",
    "UNet",
    "Up",
    "Vector",
    "add_conditions",
]
