"""Networks, independent of any SDE: ``net(x, level, **cond)`` maps a state, and a noise level for each row, to the state's
shape.

Those of `plain` are told no level.
"""

from .dit import DiT
from .embeddings import Fourier, Sinusoidal
from .hypernet import HyperMLP
from .mlp import MLP
from .plain import Convolutional, Perceptron
from .pyramid import Down, Up
from .transformer import CoordinateTransformer
from .unet import UNet

__all__ = [
    "MLP",
    "Convolutional",
    "CoordinateTransformer",
    "DiT",
    "Down",
    "Fourier",
    "HyperMLP",
    "Perceptron",
    "Sinusoidal",
    "UNet",
    "Up",
]
