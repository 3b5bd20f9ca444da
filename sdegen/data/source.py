"""Batches of training data from anything a user brings: a distribution, tensors, images or a `Dataset`. Nothing is scaled
silently.
"""

from __future__ import annotations

__all__ = ["Batch", "Source", "check_finite", "check_rows", "parted"]

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..answers import ask_draws
from ..arguments import check_arguments
from ..laws.mixtures import Moments, moments_of
from ..precision import at_least_single, is_finer, widened
from ..show import show_call
from .images import Images, Scaled, Split

DRAWS = 4096  # draws of a distribution where all rows of a data set would be used


class Batch(NamedTuple):
    """A batch of data ``(B, *)`` with the keyword conditions of its rows.

    Attributes
    ----------
    x
        ``(B, *)``.
    cond
        Tensors of `B` rows by their keywords; empty where there are none, as of a law.
    """

    x: Tensor
    cond: dict[str, Tensor]

    def __repr__(self) -> str:
        return show_call(self)


class Source:
    """An endless stream of random batches from a distribution, a tensor, ``(x, cond)``, images, or a `Dataset`.

    Parameters
    ----------
    data
        Anything with ``sample(n, generator)``; a tensor ``(N, *)``; a pair of it and its conditions, a dict of tensors
        ``(N, ...)`` or one tensor, which becomes the keyword ``label``; a map-style `Dataset` of such rows; or images with
        their scaling (`Scaled`), whose labels become ``label``.
    dtype, device
        Those of the network that learns. Coarser data, or data on another device, are refused, finer ones stay as they are, laws
        and images become its dtype; in float32 at least all of them.

    Attributes
    ----------
    order
        The rows that are still to come in this pass. Put back, it lets a run go on in the order it began.

    Raises
    ------
    TypeError
        If data is not floating point, or of no known kind.
    ValueError
        If it is empty, not finite, coarser than the model, on another device, or conditions do not match it in number.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, data: Any, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = at_least_single(dtype), device
        self.law: Any = data if hasattr(data, "sample") else None
        self.x: Tensor | Scaled | None = None
        self.cond: dict[str, Tensor] = {}
        self.order = torch.empty(0, dtype=torch.long)
        if self.law is not None:
            return
        if isinstance(data, Images):
            raise TypeError(
                "images are bytes; say what numbers they become: images.scaled(-1, 1), or dequantised(-1, 1)."
            )
        if isinstance(data, Split):
            raise TypeError("a Split has two parts; give the one to train on, in numbers: split.train.scaled(-1, 1).")
        if isinstance(data, Scaled):
            self.x, self.cond = data, {name: value.to(device) for name, value in data.images.cond.items()}
            return
        if isinstance(data, IterableDataset):
            raise TypeError(
                f"data is a {type(data).__name__}, which gives rows one by one; give the batches of "
                "torch.utils.data.DataLoader(data, batch_size=...)."
            )
        if isinstance(data, Dataset):
            data = _collect(data)
        x, self.cond = parted(data)
        check_rows(x, self.cond, dtype, "data")
        check_finite(x, "data")
        self.x = widened(x)
        if x.device != device:
            raise ValueError(
                f"data is {x.dtype} on {x.device}, the model {dtype} on {device}; move one to the other: "
                "data.to(dtype=..., device=...) or model.to(...)."
            )

    def state(self) -> dict[str, Tensor]:
        """Return the position in the data, from which `restore` continues with the same order of batches."""
        return {"order": self.order}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a position that `state` returned.

        Raises
        ------
        ValueError
            If it is one in other data.
        """
        order, n = tensors["order"], 0 if self.x is None else len(self.x)
        if len(order) and not 0 <= order.min() <= order.max() < n:
            raise ValueError(
                f"the checkpoint goes on with rows {order.min()} to {order.max()} of data that have {n}; give the data that the "
                "run began with, or another folder to start anew."
            )
        self.order = order

    def moments(self, generator: torch.Generator) -> Moments:
        """Return the mean and covariance of the data: a distribution's own if it gives them, else those of 65,536 draws of it."""
        if isinstance(self.x, Scaled):
            return self.x.moments()
        if self.x is not None:
            return moments_of(self.x)
        if hasattr(self.law, "moments"):
            return self.law.moments()
        return moments_of(ask_draws(self.law, 65_536, generator))

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Yield batches without end: fresh draws of a distribution, or every row of a data set once per epoch in random order."""
        if self.x is None:
            x = ask_draws(self.law, size, generator)  # checked once
            while True:
                yield Batch(x.to(self.device, self.dtype, non_blocking=True), {})
                x = self.law.sample(size, generator)
        n = len(self.x)
        while True:
            while len(self.order) < size:
                self.order = torch.cat([self.order, torch.randperm(n, generator=generator)])
            rows, self.order = self.order[:size], self.order[size:]
            yield self._rows(rows, generator)

    def _rows(self, which: Tensor, generator: torch.Generator) -> Batch:
        """Return the rows of the given numbers."""
        if isinstance(self.x, Scaled):
            x = self.x.rows(which, self.dtype, generator).to(self.device, non_blocking=True)
        else:
            assert self.x is not None
            x = self.x[which.to(self.x.device, non_blocking=True)]
        return Batch(x, {name: value[which.to(value.device, non_blocking=True)] for name, value in self.cond.items()})

    def once(self, size: int) -> Iterator[Batch]:
        """Return every row of a data set once, in order, in batches; of a distribution 4,096 draws, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        if self.x is None:
            x = ask_draws(self.law, DRAWS, generator).to(self.device, self.dtype)
            yield from (Batch(part, {}) for part in x.split(size))
            return
        for rows in torch.arange(len(self.x)).split(size):
            yield self._rows(rows, generator)


def parted(data: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split ``x``, ``(x, labels)`` or ``(x, conditions)`` into the data and their conditions by keyword."""
    x, cond = data if isinstance(data, (tuple, list)) and len(data) == 2 else (data, {})
    return x, cond if isinstance(cond, dict) else {"label": cond}


def check_rows(x: Any, cond: dict[str, Any], dtype: torch.dtype, what: str) -> None:
    """Refuse data that are not ``(N, *)`` in the given dtype or a finer one, or whose conditions do not have `N` rows.

    Parameters
    ----------
    x, cond
        Data and conditions as `parted` returns them.
    dtype
        The model's dtype.
    what
        What an error calls them.

    Raises
    ------
    TypeError
        If data are no floating-point tensor, or a condition is no tensor.
    ValueError
        If data are empty or of a coarser dtype, or conditions do not match them in number.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{what} is a {type(x).__name__}; give a tensor, (tensor, conditions), a Dataset, an iterable of batches such as a "
            "DataLoader, or anything with sample(n)."
        )
    if not x.is_floating_point():
        raise TypeError(
            f"{what} has dtype {x.dtype}; convert and scale it to floating point first, as in x / 127.5 - 1."
        )
    if x.ndim == 0:
        raise ValueError(f"{what} has shape (); give a tensor (N, *), one row a datum.")
    if len(x) == 0:
        raise ValueError(f"{what} is empty; give at least one row.")
    if not is_finer(x.dtype, dtype):
        raise ValueError(
            f"{what} is {x.dtype} on {x.device}, the model {dtype}; data are not coarser than the model: move one to the other, "
            "data.to(dtype=...) or model.to(...)."
        )
    for name, value in cond.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"condition {name!r} is a {type(value).__name__}; give a tensor with one row per datum.")
        if value.ndim == 0:
            raise ValueError(f"condition {name!r} has shape (); give one row per datum: value.expand({len(x)}).")
        if len(value) != len(x):
            raise ValueError(f"condition {name!r} has {len(value)} rows for {len(x)} rows of data; give one each.")


def check_finite(x: Tensor, what: str) -> None:
    """Refuse data ``(N, *)`` that are not finite.

    Raises
    ------
    ValueError
        Naming the first row.
    """
    if not x.isfinite().all():
        bad = int((~x.isfinite()).reshape(len(x), -1).any(1).nonzero()[0, 0])
        raise ValueError(f"{what} holds NaN or infinite values, first in row {bad}; remove or replace them.")


def _collect(dataset: Dataset) -> Any:
    """Collect a data set of rows, or of (row, conditions) pairs, into tensors."""
    rows = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
    if not rows:
        raise ValueError("data is an empty Dataset; give at least one row.")
    if isinstance(rows[0], (tuple, list)):
        columns = [_stacked(column) for column in zip(*rows, strict=True)]
        if len(columns) > 2:
            raise TypeError(
                f"the Dataset yields {len(columns)} values a row; expected a datum, or a datum and a label or dict of conditions."
            )
        return columns[0] if len(columns) == 1 else tuple(columns)
    return _stacked(rows)


def _stacked(column: Sequence[Any]) -> Any:
    """Stack values of one kind to a tensor, dicts of them to a dict of tensors."""
    if not isinstance(column[0], dict):
        return torch.stack([torch.as_tensor(value) for value in column])
    for i, row in enumerate(column):
        if row.keys() != column[0].keys():
            raise ValueError(
                f"row {i} of the Dataset has {sorted(row)}, row 0 {sorted(column[0])}; give all rows the same."
            )
    return {name: _stacked([row[name] for row in column]) for name in column[0]}
