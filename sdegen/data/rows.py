"""Rows that are read anew whenever they are drawn (`Rows`), such as those of a user's `Dataset`, or once and for all (`collect`).

A `TensorDataset`, or a `Subset` or `ConcatDataset` of such, holds tensors that do not change: `held_tensors` takes them as they
are, which is faster.
"""

from __future__ import annotations

__all__ = ["DatasetRows", "Rows", "collect", "held_tensors", "split_conditions"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from ..seeding import seeded
from ..show import show_call, with_article


def split_conditions(data: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split ``x``, ``(x, labels)`` or ``(x, conditions)``, and return the data and a dict of their conditions by keyword."""
    x, cond = data if isinstance(data, (tuple, list)) and len(data) == 2 else (data, {})
    return x, cond if isinstance(cond, dict) else {"label": cond}


class Rows(ABC):
    """The base class of data whose rows are asked for by their numbers, and read or made anew whenever they are drawn."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def read(self, which: Tensor, generator: torch.Generator | None = None) -> tuple[Any, dict[str, Tensor]]:
        """Return the data ``(n, *)`` of rows by their numbers ``(n,)``, and their conditions; random parts draw from the
        generator.
        """


class DatasetRows(Rows):
    """The rows of a map-style `Dataset`, each read anew whenever it is drawn.

    So a data set that changes its rows at random (crops, mirrors, noise) gives other rows in every pass. While rows are read,
    the global generators of torch, NumPy and Python are seeded from the generator that is given, and are put back afterwards.

    Parameters
    ----------
    dataset
        A data set with ``len(dataset)`` and ``dataset[i]``, which is a datum, or a datum and a label or a dict of conditions. A
        datum is a tensor, an array, or a PIL image, whose pixels are bytes ``(C, H, W)``.

    Raises
    ------
    TypeError
        If the data set has no length.
    ValueError
        If the data set is empty.
    """

    __repr__ = show_call

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        try:
            self._n = len(dataset)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            raise TypeError(
                f"data is {with_article(type(dataset).__name__)} without a length; define __len__, or give the batches of a "
                "DataLoader."
            ) from None
        if self._n < 1:
            raise ValueError("data is an empty Dataset; give at least one row.")

    def __len__(self) -> int:
        return self._n

    def read(self, which: Tensor, generator: torch.Generator | None = None) -> tuple[Any, dict[str, Tensor]]:
        """Read rows by their numbers, and return the data ``(n, *)`` and their conditions.

        Parameters
        ----------
        which
            The numbers, ``(n,)``.
        generator
            Randomness of rows that change at random.

        Raises
        ------
        TypeError
            If rows are of a kind that no tensor can hold, or of more than two values.
        ValueError
            If rows differ in kind or shape.
        """
        numbers = which.tolist()
        with seeded(generator):
            rows = [self._row(i) for i in numbers]
        if not isinstance(rows[0], (tuple, list)):
            return _stack(rows, numbers, "the datum"), {}
        sizes = [len(row) if isinstance(row, (tuple, list)) else 1 for row in rows]
        if sizes[0] not in (1, 2):
            raise TypeError(
                f"the Dataset yields {sizes[0]} values a row; expected a datum, or a datum and a label or dict of conditions."
            )
        if len(set(sizes)) > 1:
            odd = next(i for i, size in enumerate(sizes) if size != sizes[0])
            raise ValueError(
                f"row {numbers[odd]} of the Dataset has {sizes[odd]} values, row {numbers[0]} {sizes[0]}; give all the same."
            )
        x, *cond = zip(*rows, strict=True)
        return split_conditions(
            (_stack(x, numbers, "the datum"), _stack(cond[0], numbers, "the label") if cond else {})
        )

    def _row(self, i: int) -> Any:
        """Return one row; refuse a Dataset that has fewer rows than it says, by an IndexError."""
        try:
            return self.dataset[i]
        except IndexError as error:
            # It has fewer rows if its first can be read and its last cannot; else the error is of the row's own making.
            if not self._can_read(0) or self._can_read(len(self) - 1):
                error.add_note(f"from row {i} of {len(self)} of the {type(self.dataset).__name__}")
                raise
            raise IndexError(
                f"{type(self.dataset).__name__} says it has {len(self)} rows, and its row {i} raises IndexError ({error}); let "
                "__len__ return how many there are."
            ) from error
        except StopIteration as error:  # training would take it for the end of the batches
            raise RuntimeError(
                f"row {i} of the {type(self.dataset).__name__} raises StopIteration, as of an iterator that is used up; let "
                "__getitem__ return the row of any number, at any time."
            ) from error

    def _can_read(self, i: int) -> bool:
        """Tell whether row `i` can be read without an IndexError."""
        try:
            self.dataset[i]
        except IndexError:
            return False
        return True


def collect(dataset: Dataset) -> tuple[Tensor, dict[str, Tensor]]:
    """Read every row of a `Dataset` once, and return the data ``(N, *)`` and their conditions, ready for `sdegen.fit`.

    For rows that do not change this is faster than to read them anew in every pass. Raises as `DatasetRows`.

    Parameters
    ----------
    dataset
        As for `DatasetRows`.

    Examples
    --------
    >>> class Squares(Dataset):
    ...     def __len__(self): return 4
    ...     def __getitem__(self, i): return torch.tensor([float(i**2)]), i % 2
    >>> collect(Squares())[1]
    {'label': tensor([0, 1, 0, 1])}
    """
    rows = DatasetRows(dataset)
    return rows.read(torch.arange(len(rows)))


def held_tensors(dataset: Dataset) -> tuple[Tensor, ...] | None:
    """Return the tensors whose rows are those of a data set, if it is one of torch's own that holds tensors; None for any other.

    Parameters
    ----------
    dataset
        A map-style data set.
    """
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset:
        inside = held_tensors(dataset.dataset)
        return None if inside is None else tuple(part[list(dataset.indices)] for part in inside)
    if type(dataset) is ConcatDataset:
        parts = [held_tensors(part) for part in dataset.datasets]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts) or len({len(part) for part in whole}) > 1:
            return None
        return tuple(torch.cat(columns) for columns in zip(*whole, strict=True))
    return None


def _stack(column: Sequence[Any], numbers: Sequence[int], what: str) -> Any:
    """Stack values of one kind to a tensor, or dicts of values to a dict of tensors, and return it."""
    if any(isinstance(value, dict) for value in column):
        keys = [sorted(map(str, value)) if isinstance(value, dict) else [] for value in column]
        for row, own in zip(numbers, keys, strict=True):
            if own != keys[0]:
                raise ValueError(
                    f"row {row} of the Dataset has {own}, row {numbers[0]} {keys[0]}; give all rows the same."
                )
        return {
            str(name): _stack([row[name] for row in column], numbers, f"the condition {name!r}") for name in column[0]
        }
    values = [_tensor(value, row, what) for row, value in zip(numbers, column, strict=True)]
    for row, value in zip(numbers, values, strict=True):
        if (value.shape, value.dtype) != (values[0].shape, values[0].dtype):
            first, other = (f"{tuple(v.shape)} {v.dtype}" for v in (values[0], value))
            raise ValueError(
                f"{what} in row {row} of the Dataset is {other}, in row {numbers[0]} {first}; give all rows the same."
            )
    return torch.stack(values)


def _tensor(value: Any, row: int, what: str) -> Tensor:
    """Return a number, an array or a PIL image as a tensor."""
    if isinstance(value, Tensor):
        return value
    try:
        array = np.array(value)
    except ValueError:  # a ragged list
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        kind = with_article(type(value).__name__) + (" that is no table of numbers" if array.ndim else "")
        raise TypeError(
            f"{what} in row {row} of the Dataset is {kind}; give a tensor, an array, a number or a PIL image."
        )
    image = hasattr(value, "getbands")  # an image of PIL, whose channels are its last axis
    tensor = (
        torch.from_numpy(array) if array.dtype != np.float64 or isinstance(value, np.ndarray) else torch.tensor(value)
    )
    return tensor.permute(2, 0, 1) if image and array.ndim == 3 else tensor[None] if image else tensor
