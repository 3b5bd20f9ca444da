"""Networks. They know nothing of SDEs: ``net(x, level, **cond)`` maps a state and a number per row to the state's shape."""

from .dit import DiT
from .embeddings import Fourier, Sinusoidal
from .hypernet import HyperMLP
from .mlp import MLP
from .transformer import CoordinateTransformer
from .unet import UNet

__all__ = ["MLP", "CoordinateTransformer", "DiT", "Fourier", "HyperMLP", "Sinusoidal", "UNet"]
