"""Random batches of training data from anything that has rows or a law: a distribution, tensors, images, a `Dataset`. Nothing is
scaled silently. For batches that a user's own iterable makes see `stream`.
"""

from __future__ import annotations

__all__ = ["Batch", "Source"]

from collections.abc import Iterator
from copy import copy
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..answers import ask_draws
from ..arguments import check_arguments, check_law
from ..laws.coordinates import Coordinates
from ..laws.mixtures import Moments, moments_of
from ..laws.outside import as_law
from ..precision import at_least_single, widened
from ..show import show_call, with_article
from .accepted import check_finite, check_rows, loses_digits
from .arrays import as_array_rows
from .fingerprint import Fingerprint, standardised
from .images import Images, Scaled, Split
from .moments import join_moments, split_rows
from .rows import DatasetRows, Rows, held_tensors, split_conditions

EPOCH_DRAWS = 4096  # draws of a distribution that stand for the rows of one epoch
MOMENT_ROWS = 65_536  # rows that moments are taken of, where a law has no end of them or reading them all takes long
PROBE_ROWS = 256  # draws of a law, or rows that are read anew, by which data are checked and recognised
FEW_BATCHES = 8  # batches that `few` gives, for statistics
READ_ROWS = 1024  # rows that are read at once, where no batch size is given


class Batch(NamedTuple):
    """A batch of data ``(B, *)`` with the keyword conditions of its rows.

    Attributes
    ----------
    x
        The data, ``(B, *)``.
    cond
        Tensors of `B` rows by their keywords; empty where there are none, as for a law.
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
        One of these:

        - a law: anything with ``sample(n, generator)``, or a law of ``torch.distributions``;
        - a tensor ``(N, *)``, or a pair of it and its conditions: a dict of tensors ``(N, ...)``, or one tensor, which becomes
          the keyword ``label``;
        - a map-style `Dataset` of such rows, each read anew whenever it is drawn, unless the data set holds tensors (`rows`);
        - a memory-mapped array, ``numpy.load(path, mmap_mode="r")``, alone or with its conditions: only rows drawn are read;
        - rows of a table (`TableRows`);
        - images with their scaling (`Scaled`), whose labels become ``label``.
    dtype, device
        The dtype and device of the network that learns. Coarser data, or data on another device, are refused; draws of laws and
        images get this dtype, float32 at least.
    cast
        Whether data that are finer are cast to this dtype as well; else they stay as they are.

    Attributes
    ----------
    own_size
        None: batches are as large as they are asked for.
    order
        The rows that are still to come in this pass. Put back, it lets a run go on in the order that it began with.

    Raises
    ------
    TypeError
        If data are not floating point, or of no known kind.
    ValueError
        If data are empty, not finite, coarser than the model, or on another device, or conditions do not match them in number.
    """

    __repr__ = show_call
    own_size: int | None = None

    @check_arguments
    def __init__(self, data: Any, dtype: torch.dtype, device: torch.device, cast: bool = False) -> None:
        # The dtype that batches have, and the coarsest that rows may have.
        self.dtype, self.least, self.device, self.cast = at_least_single(dtype), dtype, device, cast
        self.law: Any = check_law("data", as_law(data)) if hasattr(data, "sample") else None
        self.x: Tensor | Scaled | Rows | None = None
        self.cond: dict[str, Tensor] = {}
        self.order = torch.empty(0, dtype=torch.long)
        if self.law is not None:
            x = ask_draws(self.law, PROBE_ROWS, torch.Generator())
            check_finite(x, "data.sample(n)")
            if not cast and device.type != "mps" and loses_digits(x, self.dtype):  # "mps" has no float64
                self.dtype = x.dtype
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
                f"data is {with_article(type(data).__name__)}, which gives rows one by one; give the batches of "
                "torch.utils.data.DataLoader(data, batch_size=...)."
            )
        data = as_array_rows(data)
        if isinstance(data, (Dataset, Rows)):
            tensors = held_tensors(data) if isinstance(data, Dataset) else None
            if tensors is None or len(tensors) > 2:
                self.x = data if isinstance(data, Rows) else DatasetRows(data)
                self.cond = self._read(torch.arange(1), torch.Generator()).cond
                return
            data = tensors if len(tensors) == 2 else tensors[0]
        x, self.cond = split_conditions(data)
        check_rows(x, self.cond, dtype, "data")
        check_finite(x, "data")
        if cast and loses_digits(x, self.dtype, 0.03):
            raise ValueError(
                f"data is {x.dtype}, and so far from zero that {self.dtype}, which the model takes, hardly tells its rows apart; "
                "subtract the mean first, or make the model finer: model.double()."
            )
        self.x = x
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
            If the position is one in other data.
        """
        order, n = tensors["order"], 0 if self.x is None else len(self.x)
        if len(order) and not 0 <= order.min() <= order.max() < n:
            raise ValueError(
                f"the checkpoint goes on with rows {order.min()} to {order.max()} of data that have {n}; give the data that the "
                "run began with, or another folder to start anew."
            )
        self.order = order

    def moments(self, generator: torch.Generator, coordinates: Coordinates | None = None) -> Moments:
        """Return the mean and covariance of the data: of a distribution its own, if it has them, or else those of 65,536 draws;
        of rows that are read anew those of one pass, over 65,536 rows at most.

        Parameters
        ----------
        generator
            Randomness of draws.
        coordinates
            A map of the data, whose values the moments are of; by default they are those of the data.
        """
        if coordinates is not None:
            if self.x is None:
                drawn = ask_draws(self.law, MOMENT_ROWS, generator).double()
                return moments_of(coordinates(coordinates.check(drawn, "data")))
            parts = self._read_evenly(generator) if isinstance(self.x, Rows) else (b.x for b in self.once(READ_ROWS))
            numbers = (coordinates(coordinates.check(part.double(), "data")) for part in parts)
            return join_moments((len(u), moments_of(u)) for u in numbers)
        if isinstance(self.x, Scaled):
            return self.x.moments()
        if self.x is not None:
            parts = (
                self._read_evenly(generator) if isinstance(self.x, Rows) else map(self._as_states, split_rows(self.x))
            )
            return join_moments((len(part), moments_of(part)) for part in parts)
        if hasattr(self.law, "moments"):
            return self.law.moments()
        return moments_of(ask_draws(self.law, MOMENT_ROWS, generator))

    def _read_evenly(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield data of rows that are read anew: of all, or of 65,536 at even distances."""
        assert isinstance(self.x, Rows)
        few = min(len(self.x), MOMENT_ROWS)
        return (self._read(which, generator).x for which in (torch.arange(few) * len(self.x) // few).split(READ_ROWS))

    def _as_states(self, x: Tensor) -> Tensor:
        """Return rows in the dtype that the model takes."""
        return x.to(self.dtype) if self.cast else widened(x)

    def fingerprint(self, moments: Moments) -> dict[str, Tensor]:
        """Return fingerprints of the data and of each condition, by which a run that goes on recognises them (`fingerprint`).

        Fingerprints of a law, and of rows that are read anew, are of a few draws. A part that differs between two draws with one
        seed is left out, as it would never be recognised.

        Parameters
        ----------
        moments
            Mean and covariance of the data.
        """
        if isinstance(self.x, (Scaled, Tensor)):
            rows = self.x.images.x if isinstance(self.x, Scaled) else self.x
            return _fingerprints(rows, self.cond, moments)
        one, other = (_fingerprints(*self._probe(), moments) for _ in range(2))
        return {name: value for name, value in one.items() if torch.equal(value, other[name])}

    def _probe(self) -> Batch:
        """Return a few draws of a law, or rows from all over those that are read anew, the same at every call."""
        generator = torch.Generator()  # a new one has always the same seed, which no user takes
        if isinstance(self.x, Rows):
            few = min(len(self.x), PROBE_ROWS)
            return self._read(torch.arange(few) * len(self.x) // few, generator)
        return Batch(ask_draws(self.law, PROBE_ROWS, generator), {})

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
        elif isinstance(self.x, Rows):
            return self._read(which, generator)
        else:
            assert self.x is not None
            x = self._as_states(self.x[which.to(self.x.device, non_blocking=True)])
        return Batch(x, {name: value[which.to(value.device, non_blocking=True)] for name, value in self.cond.items()})

    def _read(self, which: Tensor, generator: torch.Generator) -> Batch:
        """Read rows anew, and return them, checked, as a batch on the model's device."""
        assert isinstance(self.x, Rows)
        x, cond = self.x.read(which, generator)
        check_rows(x, cond, self.least, "data")
        if not x.isfinite().all():
            bad = int(which[(~x.isfinite()).reshape(len(x), -1).any(1)][0])
            raise ValueError(f"data holds NaN or infinite values in row {bad}; remove or replace them.")
        moved = {name: value.to(self.device, non_blocking=True) for name, value in cond.items()}
        return Batch(self._as_states(x).to(self.device, non_blocking=True), moved)

    def few(self, size: int) -> Iterator[Batch]:
        """Return a few random batches, the same at every call; the batches that a run has yet to come stay as they are."""
        other = copy(self)
        other.order = torch.empty(0, dtype=torch.long)
        return islice(other.batches(size, torch.Generator().manual_seed(0)), FEW_BATCHES)

    def once(self, size: int) -> Iterator[Batch]:
        """Return every row of a data set once, in order, in batches; of a distribution 4,096 draws, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        if self.x is None:
            x = ask_draws(self.law, EPOCH_DRAWS, generator).to(self.device, self.dtype)
            yield from (Batch(part, {}) for part in x.split(size))
            return
        for rows in torch.arange(len(self.x)).split(size):
            yield self._rows(rows, generator)


def _fingerprints(x: Tensor, cond: dict[str, Tensor], moments: Moments) -> dict[str, Tensor]:
    """Return the fingerprint of data and of each condition by name; data of floating point are standardised first."""
    found = {}
    for name, rows in ({"x": x} | {f"condition {name}": value for name, value in cond.items()}).items():
        sums = Fingerprint()
        for part in rows.split(READ_ROWS):
            sums.add(standardised(part, moments) if name == "x" and part.is_floating_point() else part)
        found[name] = sums.value()
    return found
