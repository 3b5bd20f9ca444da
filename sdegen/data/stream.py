"""Batches from a user's own iterable, such as a `DataLoader`, which chooses their size and order; for data larger than memory.

Where rows can be asked for by number, or drawn from a law, `Source` makes the batches. Both have the same methods for training.
"""

from __future__ import annotations

__all__ = ["Stream", "source_of"]

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..arguments import check_arguments
from ..laws.coordinates import Coordinates
from ..laws.mixtures import Moments, moments_of
from ..precision import at_least_single, widened
from ..show import show_call, with_article
from ..waiting import at_hand
from .accepted import check_finite, check_rows
from .fingerprint import Fingerprint, standardised, tolerance
from .images import Images, Scaled, Split
from .moments import join_moments
from .rows import split_conditions
from .source import MOMENT_ROWS, Batch, Source

KEPT = 4  # first batches, kept for statistics (`few`)
AHEAD = 16  # batches of an iterator, which gives each but once, that are read ahead for moments and kept for training


class Stream:
    """An endless stream of the batches of an iterable, such as a `DataLoader`, in the iterable's own order, epoch after epoch.

    A batch is a tensor ``(B, *)``, or a pair of it and its conditions: a dict of tensors ``(B, ...)``, or one tensor, which
    becomes the keyword ``label``. Size and order are the iterable's own; batches are moved to the model's device, and those of
    half precision become float32. Several processes must be given the same batches in the same order.

    The moments are those of the first 65,536 data, or of the first pass if it is shorter; the first training pass then begins
    anew. An iterator, which cannot begin anew, is read 16 batches ahead for the moments, and training uses these batches too.

    A run that goes on reads and drops the batches that it had before. If these differ from what they were, the order does not
    come again, and the run is refused: give the loader a generator with a seed, or no `shuffle`.

    Parameters
    ----------
    data
        The iterable of batches.
    dtype, device
        The dtype and device of the model.
    cast
        As for `Source`.

    Attributes
    ----------
    own_size
        Number of rows in a batch: of the first batch, or of a `DataLoader` its batch size, of which batches may fall short.

    Raises
    ------
    TypeError
        If a batch is no floating-point tensor, nor a pair as above.
    ValueError
        If a batch is empty, not finite, coarser than the model, or of other conditions than the first; if there is no batch, or
        no further one and the iterable cannot begin anew; if the order is another one after an interruption.

    Examples
    --------
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> rows = TensorDataset(torch.arange(6.0)[:, None], torch.arange(6) % 2)
    >>> batches = Stream(DataLoader(rows, batch_size=4), torch.float32, torch.device("cpu")).batches(0, torch.Generator())
    >>> [next(batches).cond["label"].tolist() for _ in range(3)]
    [[0, 1, 0, 1], [0, 1], [0, 1, 0, 1]]
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, data: Iterable[Any], dtype: torch.dtype, device: torch.device, cast: bool = False) -> None:
        self.data, self.dtype, self.device, self.cast = data, dtype, device, cast
        self.read, self.given = 0, 0
        self.cond: dict[str, Tensor] = {}  # those of the first batch
        self._fingerprints: dict[str, Fingerprint] = {}
        self._first: list[Batch] = []
        first = self._pass()
        self._ahead: list[Batch] = []
        if isinstance(data, Iterator):
            self._rest, self._ahead = first, [_copy(batch) for batch in islice(first, AHEAD)]
            first = iter(self._ahead)
        head = next(first, None)
        if head is None:
            raise ValueError(f"data is {with_article(type(data).__name__)} that gave no batch; give at least one.")
        self.own_size = getattr(data, "batch_size", None) or len(head.x)
        self._moments = join_moments(
            (len(batch.x), moments_of(batch.x)) for batch in _take_rows(MOMENT_ROWS, chain([head], first))
        )
        self._batches = self._endless()

    def moments(self, generator: torch.Generator, coordinates: Coordinates | None = None) -> Moments:
        """Return mean and covariance of the first data, or of their coordinates, read once more; the generator is not used."""
        if coordinates is not None:
            some = _take_rows(MOMENT_ROWS, self.once(MOMENT_ROWS))
            parts = (coordinates(coordinates.check(part.x.double(), "data")) for part in some)
            return join_moments((len(u), moments_of(u)) for u in parts)
        return self._moments

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Give batches without end; their size and order are the iterable's own."""
        for batch in self._batches:
            self._note(batch)
            yield batch

    def few(self, size: int) -> Iterator[Batch]:
        """Return the first few batches, as they were read when the stream was made: to read on would change the order."""
        return iter(self._first)

    def once(self, size: int) -> Iterator[Batch]:
        """Return the batches of one pass.

        Raises
        ------
        ValueError
            If the iterable can be gone through only once.
        """
        if isinstance(self.data, Iterator):
            raise ValueError(
                f"data is {with_article(type(self.data).__name__)}, which can be gone through only once; give an iterable that "
                "begins anew, such as a DataLoader."
            )
        return self._pass()

    def state(self) -> dict[str, Tensor]:
        """Return the number of batches read so far, and fingerprints of all of them."""
        return {"batches": torch.tensor(self.given)} | {
            f"batch:{name}": sums.value() for name, sums in sorted(self._fingerprints.items())
        }

    def fingerprint(self, moments: Moments) -> dict[str, Tensor]:
        """Return an empty dict: batches that have been read are recognised by `state`."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Read and discard the batches that were used before, so that the stream continues after them.

        Raises
        ------
        ValueError
            If the batches are not the same as before.
        """
        for batch in islice(self._batches, int(tensors["batches"])):
            self._note(batch)
        now = self.state()
        then = {name: value for name, value in tensors.items() if name.startswith("batch")}
        near = tolerance(self._moments, self.dtype)
        if now.keys() != then.keys() or any(
            not torch.allclose(now[k], v, rtol=1e-12, atol=near) for k, v in then.items()
        ):
            raise ValueError(
                f"the first {self.given} batches of the data are not those that the run had, so that it cannot go on; give "
                "batches in an order that comes again, as of DataLoader(..., generator=torch.Generator().manual_seed(0)), "
                "which needs num_workers=1 at least if items draw random numbers; or give the data set without a loader, or "
                "another folder to start anew."
            )

    def _note(self, batch: Batch) -> None:
        """Count a batch, and add it to the fingerprints."""
        self.given += 1
        columns = {"x": standardised(batch.x, self._moments)} | {f"condition {k}": v for k, v in batch.cond.items()}
        for name, rows in columns.items():
            self._fingerprints.setdefault(name, Fingerprint()).add(rows)

    def _pass(self) -> Iterator[Batch]:
        """Yield the batches of one pass, checked."""
        for item in self.data:
            self.read += 1
            batch = self._as_batch(item, f"batch {self.read} of the data")
            if len(self._first) < KEPT:
                self._first.append(_copy(batch))
            yield batch

    def _endless(self) -> Iterator[Batch]:
        """Yield the batches of one pass after another; of an iterator those that were read ahead, and its rest."""
        yield from self._ahead
        passed: Iterator[Batch] = self._rest if isinstance(self.data, Iterator) else self._pass()
        while True:
            some = False
            for batch in passed:
                some = True
                yield batch
            if not some or isinstance(self.data, Iterator):
                raise ValueError(
                    f"data is {with_article(type(self.data).__name__)} that is exhausted after {self.given} batches and gives "
                    "no other pass; give an iterable that begins anew, such as a DataLoader, or an iterator without end."
                )
            passed = self._pass()

    def _as_batch(self, item: Any, what: str) -> Batch:
        """Return an item of the iterable as a batch in the model's dtype and on its device; refuse a batch unlike the first."""
        x, cond = split_conditions(item[0] if isinstance(item, (tuple, list)) and len(item) == 1 else item)
        check_rows(x, cond, self.dtype, what)
        if at_hand(x.device):
            check_finite(x, what)
        if self.read == 1:
            self.cond, self._shape = cond, x.shape[1:]
        if x.shape[1:] != self._shape:
            raise ValueError(
                f"{what} has rows of shape {tuple(x.shape[1:])}, the first {tuple(self._shape)}; give all the same."
            )
        if cond.keys() != self.cond.keys():
            raise ValueError(
                f"{what} has the conditions {sorted(cond)}, the first {sorted(self.cond)}; give all the same."
            )
        moved = {name: value.to(self.device, non_blocking=True) for name, value in cond.items()}
        x = x.to(self.device, non_blocking=True)
        return Batch(x.to(at_least_single(self.dtype)) if self.cast else widened(x), moved)


def source_of(data: Any, dtype: torch.dtype, device: torch.device, cast: bool = False) -> Source | Stream:
    """Return an object that makes batches of any data: a `Stream` of an iterable of batches, or a `Source` of anything else.

    Parameters
    ----------
    data
        As for `Source` or `Stream`.
    dtype, device
        The dtype and device of the model.
    cast
        As for `Source`.
    """
    rows = (Tensor, np.ndarray, Sequence, Mapping, Dataset, Images, Scaled, Split)
    stream = isinstance(data, Iterable) and not isinstance(data, rows) and not hasattr(data, "sample")
    return Stream(data, dtype, device, cast) if stream else Source(data, dtype, device, cast)


def _copy(batch: Batch) -> Batch:
    """Copy a batch that is kept: the iterable may write the next one to the same memory."""
    return Batch(batch.x.clone(), {name: value.clone() for name, value in batch.cond.items()})


def _take_rows(n: int, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches until they have `n` rows together."""
    for batch in batches:
        yield batch
        n -= len(batch.x)
        if n <= 0:
            return
