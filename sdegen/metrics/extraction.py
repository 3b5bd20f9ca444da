"""Samples through a feature network, a batch at a time, and the name of the network with every result.

A distance between features is a number about its network as much as about the images: every result names both
(`FeatureEstimate`). Any callable is a feature network; those that the library ships are in `features`.
"""

from __future__ import annotations

__all__ = ["Extractor", "FeatureEstimate", "ImageBatches", "all_features", "batches", "identity"]

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from .estimate import Estimate, check_samples
from .features import weights_hash

ImageBatches = Tensor | Iterable[Tensor]
Extractor = Callable[[Tensor], Tensor]


class FeatureEstimate(Estimate):
    """An estimate made through a feature network, which says through which, and from how many samples.

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


def identity(net: Extractor | None) -> tuple[str, str]:
    """Name and hash of a feature network; samples that are features already are called ``features``.

    A network's own ``name`` and ``hash`` if it has them; else the name of its class or function, and the hash of its
    parameters if it is an `nn.Module`.
    """
    if net is None:
        return "features", ""
    name = getattr(net, "name", None) or getattr(net, "__name__", type(net).__name__)
    found = getattr(net, "hash", "")
    return str(name), found or (weights_hash(net) if isinstance(net, nn.Module) else "")


def batches(data: ImageBatches, net: Extractor | None, batch_size: int, name: str) -> Iterator[Tensor]:
    """Features ``(b, d)`` of samples, a batch at a time: of a tensor ``(N, *)`` or of an iterable of such.

    Raises
    ------
    TypeError
        If something is not a floating-point tensor.
    ValueError
        If there is nothing, or samples or features are not finite, or `net` is in training mode.
    """
    if isinstance(net, nn.Module) and net.training:
        raise ValueError(
            f"{type(net).__name__} is in training mode, where features depend on the batch; call eval() first."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; expected at least 1.")
    weight = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    empty = True
    for block in [data] if isinstance(data, Tensor) else data:
        if not isinstance(block, Tensor):
            raise TypeError(
                f"{name} yields a {type(block).__name__}; give a tensor, or an iterable of tensors: (x for x, _ in loader)."
            )
        check_samples(block, name)
        for x in block.detach().split(batch_size):
            if net is None:
                yield x.reshape(len(x), -1)
            else:
                with torch.no_grad():
                    found = net(x if weight is None else x.to(weight.device))
                if not isinstance(found, Tensor) or found.shape[:1] != x.shape[:1]:
                    raise ValueError(f"{identity(net)[0]} returned no tensor with {len(x)} rows for {len(x)} samples.")
                check_samples(found, f"{identity(net)[0]}({name})")
                yield found.reshape(len(x), -1)
            empty = False
    if empty:
        raise ValueError(f"{name} yields no batch; an iterator can be read only once.")


def all_features(data: ImageBatches, net: Extractor | None, batch_size: int, name: str) -> Tensor:
    """Features of all samples at once, ``(N, d)``; raises as `batches`."""
    return torch.cat(list(batches(data, net, batch_size, name)))
