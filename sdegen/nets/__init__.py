"""Networks, independent of any SDE: ``net(x, level, **cond)`` maps a state, and a noise level for each row, to the state's
shape.

On vectors: `MLP`, `HyperMLP` whose weights depend on the level, `CoordinateTransformer` with a token for each coordinate. On
signals, images and volumes: `UNet` and `DiT`. Around a network of these: `FourierState`, which shows it waves of the state, and
`ByteMean`, which gives the mean of bytes from the mixtures that it predicts. Networks without a noise level, for the baselines,
are in `plain` and `pyramid`.

What a network is conditioned on is declared (`conditions`): labels, vectors, sets, fields. `entries` holds the modules by which
conditions enter, `conditioning` keeps all conditions of a network, and `extension` gives a trained network further ones.
"""

from .byte_mean import ByteMean
from .conditions import Fields, Label, SecondLevel, Set, Vector
from .dit import DiT
from .embeddings import Fourier, Sinusoidal
from .extension import add_conditions
from .hypernet import HyperMLP
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
