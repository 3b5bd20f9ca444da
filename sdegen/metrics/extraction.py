"""Features of samples, extracted by a network batch by batch, and results that name the network they depend on.

A distance between features says as much about the network as about the images, so every result names its network
(`FeatureEstimate`). Any callable is a feature network; those that the library ships are in `features`. `extract` yields features
batch by batch, of which `streaming` keeps moments alone; `feature_pair` holds all of two sets, for metrics that compare points.
"""

from __future__ import annotations

__all__ = [
    "Extent", "Extractor", "FeatureEstimate", "ImageBatches", "extract", "feature_pair", "move_to_weights", "name_and_hash",
    "refuse_training_mode", "warn_of_ranges",
]  # fmt: skip

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ..data.images import Scaled
from ..mixing import check_unmixed
from ..show import with_article
from ..warning import warn_caller
from .estimate import Estimate, as_pair, check_samples
from .features import weights_hash

ImageBatches = Tensor | Scaled | Iterable[Tensor]  # samples: all at once, images with their scaling, or batch by batch
Extractor = Callable[[Tensor], Tensor]  # a feature network, from samples (B, *) to features (B, *)


class FeatureEstimate(Estimate):
    """An estimate computed from features, with the name of the feature network and the numbers of samples.

    Attributes
    ----------
    value, stderr
        As for `Estimate`.
    metric
        Name of the metric.
    extractor, hash
        Name of the feature network, and the hash of its weights; empty where it has none.
    counts
        Numbers of samples: of the first set, and of the second where there is one.

    Examples
    --------
    >>> print(FeatureEstimate(3.4171, 0.052, "FID", "fashion-cnn-v1", "1a2b3c4d", (10_000, 10_000)))
    FID[fashion-cnn-v1 1a2b3c] 3.42 ± 0.05 (10,000 vs 10,000)
    """

    metric: str
    extractor: str
    hash: str
    counts: tuple[int, ...]

    def __new__(
        cls,
        value: float,
        stderr: float,
        metric: str = "",
        extractor: str = "",
        hash: str = "",
        counts: tuple[int, ...] = (),
    ) -> FeatureEstimate:
        self = super().__new__(cls, value, stderr)
        self.metric, self.extractor, self.hash, self.counts = metric, extractor, hash, counts
        return self

    def __str__(self) -> str:
        network = f"{self.extractor} {self.hash[:6]}".rstrip()
        return f"{self.metric}[{network}] {super().__str__()} ({' vs '.join(f'{n:,}' for n in self.counts)})"


class Extent:
    """The smallest and the largest value in a set of images ``(N, C, H, W)``; data of other shapes are not counted.

    Examples
    --------
    >>> extent = Extent()
    >>> extent.include(torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2))
    >>> print(extent)
    [-1, 1]
    """

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def include(self, x: Tensor) -> None:
        """Update the extent, so that it holds the values of a batch."""
        if x.ndim == 4:
            low, high = x.aminmax()
            self.low, self.high = min(self.low, low.item()), max(self.high, high.item())

    def join(self, other: Extent) -> None:
        """Update the extent, so that it holds another one."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def __str__(self) -> str:
        return f"[{self.low:.4g}, {self.high:.4g}]"


def warn_of_ranges(generated: Extent, real: Extent) -> None:
    """Warn if generated and real images seem to be scaled differently: their minima or maxima differ by 0.4 of the
    narrower range.

    A sampler overshoots by far less, and [0, 1] and [−1, 1] differ by more.

    Warns
    -----
    UserWarning
        With both ranges.
    """
    narrower = min(generated.high - generated.low, real.high - real.low)
    apart = max(abs(generated.low - real.low), abs(generated.high - real.high))
    if math.isfinite(narrower) and apart > 0.4 * narrower:
        warn_caller(
            f"generated images lie in {generated}, real ones in {real}: if they are scaled differently, the metric measures "
            "that; bring both to one range, as by (x + 1) / 2 and clamp(0, 1)."
        )


def name_and_hash(net: Extractor | None) -> tuple[str, str]:
    """Return the name and the hash of a feature network; samples that are features already are called ``features``.

    These are the network's own ``name`` and ``hash`` if it has them; else the name of its class or function, and the hash of its
    weights if it is an `nn.Module`.
    """
    if net is None:
        return "features", ""
    return _name_of(net), getattr(net, "hash", "") or (weights_hash(net) if isinstance(net, nn.Module) else "")


def _name_of(net: Extractor) -> str:
    return str(getattr(net, "name", None) or getattr(net, "__name__", type(net).__name__))


def extract(data: ImageBatches, net: Extractor | None, batch_size: int, name: str, extent: Extent) -> Iterator[Tensor]:
    """Yield the features ``(b, d)`` of samples batch by batch.

    Parameters
    ----------
    data
        The samples: a tensor ``(N, *)``, images with their scaling, or an iterable of tensors.
    net
        The feature network; None if the samples are features already.
    batch_size
        Samples that go through the network at a time.
    name
        What an error calls the samples.
    extent
        Updated, so that it holds the range of the samples.

    Raises
    ------
    TypeError
        If something is not a floating-point tensor.
    ValueError
        If there are no samples, or samples or features are not finite, or `net` is in training mode or mixes the rows of a batch.
    """
    refuse_training_mode(net, "features")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; expected at least 1.")
    empty = True
    for block in _blocks(data, batch_size):
        if not isinstance(block, Tensor):
            raise TypeError(
                f"{name} yields {with_article(type(block).__name__)}; give a tensor, or an iterable of tensors: (x for x, _ in "
                "loader)."
            )
        if block.ndim > 1 and len(block) == 0:  # the last batch of a loader, say
            continue
        check_samples(block, name)
        extent.include(block)
        for x in block.detach().split(batch_size):
            yield (x if net is None else _run(net, x, name, first=empty)).reshape(len(x), -1)
            empty = False
    if empty:
        raise ValueError(f"{name} yields no batch; give a list or a DataLoader, as an iterator can be read only once.")


def refuse_training_mode(net: object, what: str) -> None:
    """Refuse a network in training mode, where its output, called `what` in the error, depends on the batch.

    Raises
    ------
    ValueError
        If the network is in training mode.
    """
    if isinstance(net, nn.Module) and net.training:
        raise ValueError(
            f"{type(net).__name__} is in training mode, where {what} depend on the batch; call eval() first."
        )


def move_to_weights(x: Tensor, net: object) -> Tensor:
    """Return samples on the device of a network's weights; as they are, where the network has no weights."""
    weight = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    return x if weight is None else x.to(weight.device)


def _run(net: Extractor, x: Tensor, name: str, first: bool) -> Tensor:
    """Return the features of a batch by a network, checked; for the `first` batch also check that no row depends on another."""
    on = move_to_weights(x, net)
    with torch.no_grad():
        found = net(on)
    if not isinstance(found, Tensor) or found.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"{_name_of(net)} returned no tensor with {len(x)} rows for {len(x)} samples; let it return features (n, d)."
        )
    check_samples(found, f"{_name_of(net)}({name})")
    if first and len(on) > 1:
        check_unmixed(_name_of(net), net, on[:2])
    return found


def _blocks(data: ImageBatches, batch_size: int) -> Iterable[Tensor]:
    """Return the tensors that samples come in. Images become numbers a batch at a time; dequantisation noise has one seed, so
    that a metric is the same at every call.
    """
    if isinstance(data, Tensor):
        return [data]
    if isinstance(data, Scaled):
        generator = torch.Generator().manual_seed(0)
        return (data.rows(part, generator=generator) for part in torch.arange(len(data)).split(batch_size))
    return data


def feature_pair(
    generated: ImageBatches, real: ImageBatches, net: Extractor | None, batch_size: int, least: int
) -> tuple[Tensor, Tensor]:
    """Return the features ``(n, d)`` and ``(m, d)`` of two sets of samples in float64; refuse sets smaller than `least`.

    Raises
    ------
    TypeError, ValueError
        As for `extract`; ValueError too if there are too few samples, or dimensions differ.

    Warns
    -----
    UserWarning
        If images of the two sets seem to be scaled differently.
    """
    extents = Extent(), Extent()
    a, b = (
        torch.cat(list(extract(data, net, batch_size, name, extent)))
        for data, name, extent in zip((generated, real), ("generated", "real"), extents)
    )
    warn_of_ranges(*extents)
    return as_pair(a, b, least)
