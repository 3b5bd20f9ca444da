"""Tables of named columns as vectors that score models learn, and the way back: `Table`."""

from __future__ import annotations

__all__ = ["Table"]

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_arguments, check_law
from ..checks import check_count, check_tensor
from ..laws.columns import Columns
from .columns import CategoryColumn, Column, CountColumn, GappedColumn, NumberColumn, PositiveColumn, find_gaps


class Table:
    """Named columns of a table, each of a kind of its own, which become vectors and come back.

    ``x = table.encode(frame)`` are vectors ``(N, d)`` for `fit`, and ``VP().in_coordinates(table.coordinates)`` a process that
    keeps positive numbers positive and numbers of an interval inside. ``table.decode(sample(model, 100))`` is a table again.

    Parameters
    ----------
    columns
        The kind of each column, by its name.

    Raises
    ------
    ValueError
        If there are no columns.

    Examples
    --------
    >>> import torch
    >>> from sdegen import data
    >>> eyes = data.CategoryColumn(("blue", "brown"))
    >>> table = Table({"height": data.PositiveColumn(), "eyes": eyes, "children": data.CountColumn()})
    >>> people = {"height": [1.70, 1.82], "eyes": ["brown", "blue"], "children": [2, 0]}
    >>> x = table.encode(people, torch.Generator().manual_seed(0))
    >>> x.shape
    torch.Size([2, 3])
    >>> {name: column.tolist() for name, column in table.decode(x).items()}
    {'height': [1.7, 1.82], 'eyes': ['brown', 'blue'], 'children': [2, 0]}
    """

    @check_arguments
    def __init__(self, columns: Mapping[str, Column]) -> None:
        if not columns:
            raise ValueError("a table of no columns; give one at least, such as {'age': data.PositiveColumn()}.")
        self.columns = dict(columns)

    @classmethod
    def of(cls, frame: Any) -> Table:
        """Make the table that a frame seems to be: look at it before you use it.

        Words and truth values are categories, those that occur; whole numbers counts, from 0 on if none is negative; other
        numbers positive if all of them are. A column in which entries are missing has gaps.

        Parameters
        ----------
        frame
            Columns by their names: a dictionary of lists or arrays, or a frame of pandas or polars.

        Raises
        ------
        TypeError
            If it has no named columns.
        ValueError
            If columns have different lengths, or one has fewer than two values where it should be a category.
        """
        names, entries = _read(frame)
        return cls({name: _guess(entries[name]) for name in names})

    def __repr__(self) -> str:
        return f"Table({', '.join(f'{name}: {column!r}' for name, column in self.columns.items())})"

    @property
    def width(self) -> int:
        """How many numbers a row becomes."""
        return sum(column.width for column in self.columns.values())

    @property
    def coordinates(self) -> Columns:
        """The coordinates in which a process has no bounds to keep to, for ``sde.in_coordinates``."""
        return Columns([c.width for c in self.columns.values()], [c.coordinates for c in self.columns.values()])

    @property
    def places(self) -> dict[str, slice]:
        """Where each column's numbers are in a vector."""
        ends = np.cumsum([column.width for column in self.columns.values()]).tolist()
        return {
            name: slice(end - column.width, end) for (name, column), end in zip(self.columns.items(), ends, strict=True)
        }

    def encode(self, frame: Any, generator: torch.Generator | None = None) -> Tensor:
        """Return the rows of a frame as vectors ``(N, width)``, float64.

        Parameters
        ----------
        frame
            Columns by their names: a dictionary of lists or arrays, or a frame of pandas or polars. Others than the table's are
            refused.
        generator
            Source of the noise that whole numbers, categories and gaps have.

        Raises
        ------
        TypeError
            If it has no named columns.
        ValueError
            If names or lengths do not fit, or entries are not of their column's kind.
        """
        names, entries = _read(frame)
        missing, unknown = [n for n in self.columns if n not in entries], [n for n in names if n not in self.columns]
        if missing or unknown:
            raise ValueError(
                f"the frame has columns {names}, the table {list(self.columns)}; "
                + (f"add {missing}" if missing else f"leave out {unknown}")
                + "."
            )
        return torch.cat([column.encode(name, entries[name], generator) for name, column in self.columns.items()], 1)

    def decode(self, x: Tensor, into: Callable[[dict[str, np.ndarray]], Any] = dict) -> Any:
        """Return vectors ``(N, width)`` as a table.

        Parameters
        ----------
        x
            Vectors, as `encode` or a sampler returns them.
        into
            What makes a frame of columns by their names, such as ``pandas.DataFrame`` or ``polars.DataFrame``.

        Raises
        ------
        TypeError
            If `x` is not floating point.
        ValueError
            If it has another shape, or holds NaN or infinite values.
        """
        x = check_tensor("x", x, shape=(None, self.width)).detach().cpu().double()
        parts = x.split([column.width for column in self.columns.values()], 1)
        return into({name: column.decode(v) for (name, column), v in zip(self.columns.items(), parts, strict=True)})

    @check_arguments
    def log_prob(self, law: Any, frame: Any, draws: int = 10, generator: torch.Generator | None = None) -> Tensor:
        """Return a lower bound on the logarithm of the density of rows, ``(N,)``: probabilities of whole numbers, categories and
        gaps, times the density of the rest.

        ``log P(row) >= E log mean_k p(x_k) V``, with `V` the volume of the noise, by which a row becomes the vectors ``x_k``; it
        rises with the number of draws (Y. Burda, R. Grosse and R. Salakhutdinov, *Importance weighted autoencoders*, 2016,
        arXiv:1509.00519). Without such columns it is exact.

        Parameters
        ----------
        law
            Of vectors: anything whose ``log_prob`` takes ``(N, width)``, such as ``Density(model)``.
        frame
            The rows.
        draws
            Vectors for each row.
        generator
            Source of the noise.

        Raises
        ------
        TypeError
            If the frame has no named columns.
        ValueError
            If names or lengths do not fit, or entries are not of their column's kind.
        """
        check_law("law", law, "log_prob"), check_count("draws", draws)
        volume = sum(column.log_volume for column in self.columns.values())
        found = torch.stack([law.log_prob(self.encode(frame, generator)).double() for _ in range(draws)])
        return found.logsumexp(0) - math.log(draws) + volume


def _read(frame: Any) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of a frame's columns, and its columns as arrays.

    Raises
    ------
    TypeError
        If it has no named columns.
    ValueError
        If their lengths differ, or there are no rows.
    """
    names: Sequence[Any] | None = list(frame) if isinstance(frame, Mapping) else getattr(frame, "columns", None)
    if names is None or isinstance(frame, type):
        raise TypeError(
            f"frame is a {type(frame).__name__}; give columns by their names: a dictionary of lists or arrays, or a frame of "
            "pandas or polars."
        )
    entries = {name: _as_entries(frame[name]) for name in names}
    lengths = {name: column.shape for name, column in entries.items()}
    if len(set(lengths.values())) != 1 or any(len(shape) != 1 or shape == (0,) for shape in lengths.values()):
        raise ValueError(f"the columns of the frame have shapes {lengths}; give as many entries in each, one at least.")
    return list(names), entries


def _as_entries(column: Any) -> np.ndarray:
    """Return the entries of a column as an array, in which numbers among words stay numbers."""
    entries = np.asarray(column)
    mixed = entries.dtype.kind in "US" and not all(isinstance(entry, (str, bytes)) for entry in column)
    return np.array(column, dtype=object) if mixed else entries


def _guess(entries: np.ndarray) -> Column:
    """Return the kind of column that entries seem to be of."""
    gaps = find_gaps(entries)
    known = entries[~gaps]
    if gaps.any():
        return GappedColumn(_guess(np.array(known.tolist()))) if len(known) else GappedColumn(NumberColumn())
    if known.dtype.kind not in "iuf":
        return CategoryColumn(sorted(set(known.tolist())))
    if known.dtype.kind in "iu":
        return CountColumn(0 if known.min() >= 0 else None)
    return PositiveColumn() if (known > 0).all() else NumberColumn()
