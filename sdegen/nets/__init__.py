"""Networks. They know nothing of SDEs: ``net(x, level, **cond)`` maps a state and a number per row to the state's shape."""

from .embeddings import Fourier, Sinusoidal
from .hypernet import HyperMLP
from .mlp import MLP
from .transformer import CoordinateTransformer

__all__ = ["MLP", "CoordinateTransformer", "Fourier", "HyperMLP", "Sinusoidal"]
