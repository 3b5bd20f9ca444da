"""Modules by which conditions enter a network, one for each kind; `conditioning` holds those of a network.

The declarations of `conditions` say what a value is; these modules hold the weights. Each is called as ``entry(value, e, x)``
with a value that has a row for each datum or one for all, or is None where the condition is dropped. It returns the features `e`
of the noise level, ``(n, features)``, and the states `x`, ``(n, C, *grid)``, one of which it has changed by what the value says:
labels, vectors and sets are added to the features, fields become channels of the states.
"""

from __future__ import annotations

__all__ = ["ConditionUnits", "FieldEntry", "LabelEntry", "LevelEntry", "SetEntry", "VectorEntry", "zero"]

from collections.abc import Callable, Iterable
from typing import Self

import torch
from torch import Tensor, nn

from .embeddings import Sinusoidal

EQUAL = 2.0  # roundings of the mean: numbers that spread by no more are all equal


def zero(layer: nn.Module) -> None:
    """Set weights and biases of a layer to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class LabelEntry(nn.Module):
    """A learned vector for each class, and one for none, added to the features of the noise level.

    Parameters
    ----------
    classes, features
        Number of classes, and of features.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, features)

    def silence(self) -> None:
        """Set the vectors of all classes to 0."""
        zero(self.table)

    def forward(self, label: Tensor | None, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add the vectors of labels, ``(n,)`` or ``(1,)``, to features ``(n, features)`` or ``(1, features)``."""
        weight = self.table.weight
        if label is None:
            return e + weight[:1], x
        return e + self.table(label.to(weight.device, non_blocking=True) + 1), x


class ConditionUnits(nn.Module):
    """Units in which the numbers of a condition have mean 0 and standard deviation 1, once `measure` has seen some of them.

    The mean is subtracted in two parts, its rounded value and what the rounding has left: times in seconds since 1970 may have a
    standard deviation that is less than the rounding of their mean.

    Parameters
    ----------
    size
        How many numbers have units of their own.
    axis
        Their axis, counted from the last.
    """

    mean: Tensor
    rest: Tensor
    std: Tensor
    measured: Tensor

    def __init__(self, size: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("rest", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.register_buffer("measured", torch.tensor(False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the units, and keep them in float32 at least: in bfloat16 a mean may be off by many units."""
        exact = self.mean, self.rest, self.std
        super()._apply(fn, recurse)
        if self.mean.dtype.itemsize <= 2:
            self.mean, self.rest, self.std = (v.to(self.mean.device) for v in exact)
        return self

    def measure(self, values: Iterable[Tensor]) -> None:
        """Take the units of batches of values ``(B, *)``, unless there are units already; missing numbers do not count, and
        numbers that are all equal keep the unit 1.
        """
        if self.measured:
            return
        given = list(values)
        rows = torch.cat([value.movedim(self.axis, 0).flatten(1).double() for value in given], 1)
        there = ~rows.isnan()
        number = there.sum(1).clamp_min(1)
        mean = rows.nan_to_num().sum(1) / number
        std = (torch.where(there, rows - mean[:, None], 0.0).square().sum(1) / number).sqrt()
        eps = torch.finfo(given[0].dtype).eps if given[0].is_floating_point() else 0.0
        self.mean.copy_(mean)
        self.rest.copy_(mean - self.mean.double())
        self.std.copy_(torch.where(std > EQUAL * eps * mean.abs(), std, 1.0))
        self.measured.fill_(True)

    def forward(self, value: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return values in these units, with 0 where they are missing, and a mask that is 1 where they are there and 0 where they
        are missing, both in the dtype of `like`.
        """
        value = value.float() if like.device.type == "mps" else value  # "mps" has no float64
        value = value.to(like.device, non_blocking=True)
        there, over = ~value.isnan(), (..., *[None] * (-1 - self.axis))
        known = ((value - self.mean[over] - self.rest[over]) / self.std[over]).masked_fill(~there, 0)
        return known.to(like.dtype), there.to(like.dtype)


class VectorEntry(nn.Module):
    """Two layers on a vector in units of its spread, whose answer is added to the features of the noise level; a learned vector
    is added where the condition is dropped.

    Parameters
    ----------
    size, gaps, joined
        As for `Vector`.
    features
        The number of features.
    """

    def __init__(self, size: int, gaps: bool, features: int, joined: bool = False) -> None:
        super().__init__()
        self.gaps, self.joined, self.units = gaps, joined, ConditionUnits(size, -1)
        inner = nn.Linear(size * (1 + gaps), features)
        self.layers = nn.Sequential(inner, nn.SiLU(), nn.Linear(features, features))
        self.null = nn.Parameter(torch.zeros(features))

    def silence(self) -> None:
        """Set to 0 what is added for any vector."""
        zero(self.layers[-1])

    def forward(self, value: Tensor | None, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add what vectors ``(n, size)`` or ``(1, size)`` say to features; vectors without any number add the null. Joined
        vectors become two further channels of states ``(n, C, size)``.
        """
        if value is None:
            return e + self.null, _join(x, x.new_zeros(1, 2, *x.shape[2:])) if self.joined else x
        known, there = self.units(value, self.null)
        said = self.layers(torch.cat([known, there], 1) if self.gaps else known)
        dropped = there.sum(1, keepdim=True) == 0
        return e + torch.where(dropped, self.null, said), _join(x, torch.stack([known, there], 1)) if self.joined else x


class SetEntry(nn.Module):
    """Attention with a learned query over the elements of a set, which gives what is added to the features of the noise level.

    One more element, learned, is always there, so that an empty set has a vector too. As attention only averages, the logarithm
    of the number of elements is a further input.

    Parameters
    ----------
    size
        The dimension of an element.
    features
        The number of features.
    """

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.units = ConditionUnits(size, -1)
        self.heads = next(k for k in (4, 2, 1) if features % k == 0)
        self.elements = nn.Sequential(nn.Linear(size, features), nn.SiLU(), nn.Linear(features, features))
        self.always = nn.Parameter(torch.zeros(features))
        self.keys, self.values = nn.Linear(features, self.heads), nn.Linear(features, features)
        self.join = nn.Sequential(nn.Linear(features + 1, features), nn.SiLU(), nn.Linear(features, features))

    def silence(self) -> None:
        """Set to 0 what is added for any set."""
        zero(self.join[-1])

    def forward(self, value: Tensor | None, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add what sets ``(n, number, size)`` or ``(1, number, size)`` say to features."""
        if value is None:
            value = self.units.mean.new_zeros(1, 0, len(self.units.mean))
        known, there = self.units(value, self.always)
        h = torch.cat([self.always.expand(len(known), 1, -1), self.elements(known)], 1)
        there = torch.cat([there.new_ones(len(known), 1), there[:, :, 0]], 1)  # (n, 1 + number)
        weights = self.keys(h).masked_fill(there[:, :, None] == 0, -torch.inf).softmax(1)  # (n, 1 + number, heads)
        seen = self.values(h).unflatten(2, (self.heads, -1))
        pooled = (weights[..., None] * seen).sum(1).flatten(1)
        return e + self.join(torch.cat([pooled, there.sum(1, keepdim=True).log()], 1)), x


class FieldEntry(nn.Module):
    """Further channels of the state: the condition in units of its standard deviation, and a mask of where it is there.

    Parameters
    ----------
    channels, dims
        As for `Fields`.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.channels, self.units = channels, ConditionUnits(channels, -1 - dims)

    def silence(self) -> None:
        """Set nothing to 0: the weights of the channels are those of the network's first layer, not of this module."""

    def forward(self, value: Tensor | None, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features as they are, and states ``(n, C, *grid)`` with ``2 channels`` more."""
        dropped = value is None
        more = x.new_zeros(1, 2 * self.channels, *x.shape[2:]) if dropped else torch.cat(self.units(value, x), 1)
        return e, _join(x, more)


class LevelEntry(nn.Module):
    """Two layers on a second noise level and the features of the first, which at first add nothing to these.

    Parameters
    ----------
    features
        The number of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.embedding = Sinusoidal()
        self.inner, self.outer = nn.Linear(self.embedding.dim + features, features), nn.Linear(features, features)
        self.act = nn.SiLU()
        self.silence()

    def silence(self) -> None:
        """Set to 0 what is added for any level."""
        zero(self.outer)

    def forward(self, value: Tensor, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add what levels ``(n,)`` or ``(1,)`` say to features ``(n, features)`` or ``(1, features)``."""
        seen = self.embedding(value.to(e.device, torch.promote_types(e.dtype, torch.float32))).to(e.dtype)
        n = max(len(seen), len(e))
        joined = torch.cat([seen.expand(n, -1), e.expand(n, -1)], 1)
        return e + self.outer(self.act(self.inner(joined))), x


def _join(x: Tensor, channels: Tensor) -> Tensor:
    """Return states with further channels, which have a row for each state or one for all."""
    return torch.cat([x, channels.to(x.dtype).expand(len(x), *channels.shape[1:])], 1)
