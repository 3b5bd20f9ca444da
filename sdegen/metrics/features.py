"""Feature networks for image metrics: small, named, verified by a hash, and shipped with the library.

They are classifiers of the data sets that they are named after, and mean little elsewhere. Any callable can stand in their place.
"""

from __future__ import annotations

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "FeatureNet",
    "HASHES",
    "Inception",
    "check_unit_images",
    "features",
    "read_network",
    "weights_hash",
]

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load as load_bytes
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors


class Architecture(NamedTuple):
    """A stack of 3×3 convolutions with ReLU, global average pooling, and a linear layer of logits.

    Attributes
    ----------
    shape
        The shape of one image: channels, height, width.
    widths
        Channels of each convolution; the last is the dimension of the features.
    strides
        Stride of each convolution.
    classes
        Names of the classes.
    """

    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    classes: tuple[str, ...]


_DIGITS = tuple("0123456789")
ARCHITECTURES = {
    "digits-cnn-v1": Architecture((1, 8, 8), (32, 64, 96, 128), (1, 1, 2, 1), _DIGITS),
    "mnist-cnn-v1": Architecture((1, 28, 28), (24, 32, 48, 64, 128), (1, 2, 1, 2, 1), _DIGITS),
    "fashion-cnn-v1": Architecture(
        (1, 28, 28),
        (32, 48, 64, 96, 128),
        (1, 2, 1, 2, 1),
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "sprites-cnn-v1": Architecture(
        (3, 16, 16), (32, 48, 64, 96, 128), (1, 2, 1, 2, 1), ("hero", "creature", "food", "item", "scenery")
    ),
}


# SHA-256 of the files in sdegen/weights.
HASHES = {
    "digits-cnn-v1": "49d59ffb9179a3044082242b1e16086763267d133202ca9cb76c455d2f62de59",
    "mnist-cnn-v1": "1ba90a06c1dac1e74296851f6f0392c9388402115ab751b16dc7441920b957f7",
    "fashion-cnn-v1": "5328ef1bd21c57688beda1b6c0abecd23bcd04bcb11c787cc9f7d0ca0ed639b4",
    "sprites-cnn-v1": "66099aadc40fb71cfa13b4dcf346080ebc829573983b2b9476fee3de27a06d13",
}


class FeatureNet(OfTensors, nn.Module):
    """A small classifier of images in [0, 1], whose penultimate layer gives the features of image metrics.

    Parameters
    ----------
    name
        Name that results are printed with.
    architecture
        Layers and classes.

    Attributes
    ----------
    hash
        SHA-256 of the weights' file; empty for weights that come from no file.
    """

    @check_arguments
    def __init__(self, name: str, architecture: Architecture) -> None:
        super().__init__()
        self.name, self.hash, self.architecture = name, "", architecture
        inputs = (architecture.shape[0], *architecture.widths)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride, padding=1)
            for i, o, stride in zip(inputs, architecture.widths, architecture.strides)
        )
        self.linear = nn.Linear(inputs[-1], len(architecture.classes))

    @property
    def dim(self) -> int:
        """Dimension of the features."""
        return self.linear.in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of images, ``(B, dim)``, float32.

        Parameters
        ----------
        x
            Images ``(B, *shape)``, floating point in [0, 1]; they are moved to the network's device.

        Raises
        ------
        TypeError
            If `x` is not floating point.
        ValueError
            If its shape is another, or values are not in [0, 1].
        """
        check_unit_images(x, self.architecture.shape)
        x = x.to(self.linear.weight)
        for convolution in self.convolutions:
            x = convolution(x).relu()
        return x.mean((2, 3))

    def logits(self, x: Tensor) -> Tensor:
        """Return the unnormalised log-probabilities of the classes, ``(B, classes)``."""
        return self.linear(self(x))

    def __repr__(self) -> str:
        return f"FeatureNet({self.name} {self.hash[:6]}, {self.architecture.shape} -> {self.dim})"


def check_unit_images(x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse anything but a batch of images ``(B, *shape)`` with values in [0, 1].

    Raises
    ------
    TypeError
        If `x` is not floating point.
    ValueError
        If its shape is another, or values are not in [0, 1].
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; expected floating point in [0, 1]: bytes are x.float() / 255.")
    if x.shape[1:] != shape:
        raise ValueError(f"x has shape {tuple(x.shape)}; this network takes (B, {', '.join(map(str, shape))}).")
    if len(x) and not (x.min() >= 0 and x.max() <= 1):  # NaN compares false
        low, high = x.min().item(), x.max().item()
        raise ValueError(
            f"x has values from {low:.4g} to {high:.4g}; this network takes images in [0, 1]: map data in [-1, 1] by "
            "(x + 1) / 2, and clamp(0, 1) what a sampler overshoots."
        )


@check_arguments
def features(name: str) -> FeatureNet:
    """Load a shipped feature network, with its weights, in evaluation mode.

    All are classifiers of the training split of the data that they are named after (``python -m
    benchmarks.feature_networks`` trains them); features have 128 dimensions. The share of test images that they classify right:

    | network | images | test images right |
    |---|---|---|
    | `digits-cnn-v1` | (1, 8, 8), scikit-learn's digits | 359 of 359, ``digits().split(0.8, seed=0)`` |
    | `mnist-cnn-v1` | (1, 28, 28), MNIST | 9,954 of 10,000 |
    | `fashion-cnn-v1` | (1, 28, 28), Fashion-MNIST | 9,299 of 10,000 |
    | `sprites-cnn-v1` | (3, 16, 16), DawnLike sprites, five classes | 270 of 309, ``sprites_held_out()`` |

    Parameters
    ----------
    name
        The name of one of these networks.

    Raises
    ------
    ValueError
        If there is no such network, or the file of its weights is not the one that the library was made with.

    Examples
    --------
    >>> net = features("mnist-cnn-v1")
    >>> net(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 128])
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no feature network {name!r}; the library ships {', '.join(ARCHITECTURES)}.")
    return read_network(name, Path(str(files("sdegen") / "weights" / f"{name}.safetensors")))


def read_network(name: str, path: Path) -> FeatureNet:
    """Read the network `name` from a file, whose SHA-256 must be the recorded one, and return the network.

    Raises
    ------
    ValueError
        If the SHA-256 is another.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != HASHES[name]:
        raise ValueError(
            f"{path} has SHA-256 {found}, but {name} is {HASHES[name]}; install the library again: other weights are "
            "another network, and its numbers cannot be compared with others."
        )
    net = FeatureNet(name, ARCHITECTURES[name])
    net.load_state_dict(load_bytes(content))
    net.hash = found
    return net.eval().requires_grad_(False)


class Inception(nn.Module):
    """The 2,048 pooled features of Inception v3 (2015, TensorFlow's weights) through torch-fidelity's port of it.

    Published FIDs use this network. It takes RGB images of any size, and rescales them to 299 × 299. torch-fidelity comes with
    the extra ``inception``, and downloads the weights (about 90 MB) unless it is given a file.

    Parameters
    ----------
    weights
        File of the weights, in torch-fidelity's format.

    Attributes
    ----------
    name, hash
        ``"inception-v3"``, and the SHA-256 of the weights.

    Raises
    ------
    ImportError
        If torch-fidelity is not installed.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ImportError(
                "Inception features come through torch-fidelity, which is not installed: pip install sdegen[inception], "
                "or pass one of the shipped networks, features('mnist-cnn-v1')."
            ) from error
        path = None if weights is None else str(weights)
        self.net = FeatureExtractorInceptionV3("inception-v3", ["2048"], feature_extractor_weights_path=path)
        self.name, self.hash = "inception-v3", weights_hash(self.net)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(B, 2048)`` of images ``(B, 3, H, W)`` in [0, 1], rounded to bytes as the network was trained."""
        check_unit_images(x, (3, *x.shape[2:]))
        return self.net((x * 255).round().to(torch.uint8))[0]


def weights_hash(net: nn.Module) -> str:
    """Hash the names, dtypes, shapes and bytes of parameters and buffers by SHA-256, and return the hexadecimal digits."""
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
