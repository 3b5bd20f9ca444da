"""Tables of named columns as vectors that score models learn, and the way back: `Table`."""

from __future__ import annotations

__all__ = ["Table"]

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..answers import ask_log_prob
from ..arguments import check_arguments, check_law
from ..checks import check_count, check_kind, check_tensor
from ..laws.columns import Columns
from ..laws.outside import as_law
from .columns import CategoryColumn, Column, CountColumn, NumberColumn, PositiveColumn
from .entries import find_gaps, read_frame
from .gaps import GappedColumn


class Table:
    """Named columns of a table, each of a kind of its own, whose rows become vectors, and vectors rows again.

    ``x = table.encode(frame)`` are vectors ``(N, d)`` for `fit`, and ``VP().in_coordinates(table.coordinates)`` a process that
    keeps positive numbers positive and numbers of an interval inside. ``table.decode(sample(model, 100))`` is a table again.

    Parameters
    ----------
    columns
        The kind of each column, by its name.

    Raises
    ------
    TypeError
        If a value is no column; from entries a table is made by `Table.of`.
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
        for name, column in columns.items():
            check_kind(
                f"columns[{name!r}]", column, Column, "a column, such as data.NumberColumn(), or Table.of(frame)"
            )
        self.columns = dict(columns)

    @classmethod
    def of(cls, frame: Any) -> Table:
        """Make a table with a column of the kind that each column of a frame seems to be, and return it; look at the kinds before
        you use it.

        Words and truth values become categories, those that occur; whole numbers become counts, from 0 on if none is negative;
        other numbers become positive numbers if all of them are. A column in which entries are missing gets gaps. Times are no
        numbers: subtract the first, and divide by a unit. Replace a column of the wrong kind by
        ``Table(Table.of(frame).columns | {"share": IntervalColumn(0, 1)})``.

        Parameters
        ----------
        frame
            Columns by their names: a dictionary of lists or arrays, or a frame of pandas or polars.

        Raises
        ------
        TypeError
            If the frame has no named columns.
        ValueError
            If columns have different lengths, or one is of no such kind, as times are, or has one category alone.
        """
        names, entries = read_frame(frame)
        return cls({name: _guess(name, entries[name]) for name in names})

    def __repr__(self) -> str:
        return f"Table({', '.join(f'{name}: {column!r}' for name, column in self.columns.items())})"

    @property
    def width(self) -> int:
        """How many numbers a row becomes."""
        return sum(column.width for column in self.columns.values())

    @property
    def coordinates(self) -> Columns:
        """The coordinates in which vectors have no bounds, for ``sde.in_coordinates``."""
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
            Columns by their names: a dictionary of lists or arrays, or a frame of pandas or polars. Columns that the table does
            not have are refused.
        generator
            Source of the noise that whole numbers, categories and gaps have.

        Raises
        ------
        TypeError
            If the frame has no named columns.
        ValueError
            If names or lengths do not fit, or entries are not of their column's kind.
        """
        return self._encode(frame, generator)[0]

    def _encode(self, frame: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return the rows of a frame as vectors, and the logarithms of the volumes of their noise, ``(N,)``."""
        entries = self.read(frame)
        parts = [c.encode_with_volume(name, entries[name], generator) for name, c in self.columns.items()]
        return torch.cat([x for x, _ in parts], 1), torch.stack([volume for _, volume in parts]).sum(0)

    def read(self, frame: Any, some: bool = False) -> dict[str, np.ndarray]:
        """Return the columns of a frame as arrays ``(N,)`` by their names, which are the table's.

        Parameters
        ----------
        frame
            As for `encode`.
        some
            Whether columns of the table may be left out.

        Raises
        ------
        TypeError
            If the frame has no named columns.
        ValueError
            If names or lengths do not fit.
        """
        names, entries = read_frame(frame)
        missing, unknown = [n for n in self.columns if n not in entries], [n for n in names if n not in self.columns]
        if unknown or (missing and not some):
            raise ValueError(
                f"the frame has columns {names}, the table {list(self.columns)}; "
                + (f"leave out {unknown}" if unknown else f"add {missing}")
                + "."
            )
        return entries

    def tell(self, frame: Any) -> Tensor:
        """Return what a network may be told of whole rows, ``(N, width)``: the coordinates of all entries with the mean of their
        noise, and NaN for missing entries. Training hides a part of these (`TableRows`); `ask` is for rows of which a part is
        known.

        Parameters
        ----------
        frame
            As for `encode`.

        Raises
        ------
        TypeError
            If the frame has no named columns.
        ValueError
            If names or lengths do not fit, or entries are not of their column's kind.
        """
        entries = self.read(frame)
        told = [column.centre(name, entries[name]) + column.middle for name, column in self.columns.items()]
        return self.coordinates(torch.cat(told, 1))

    def ask(self, given: Any) -> Tensor:
        """Return what a network is told where some entries are given, ``(N, width)``: their coordinates with the mean of the
        noise, and NaN for all entries that are asked for.

        Parameters
        ----------
        given
            Some columns of a frame. A missing entry in a column with gaps is asked for too; the network is told that it is there.

        Raises
        ------
        TypeError
            If the frame has no named columns.
        ValueError
            If names or lengths do not fit, or entries are not of their column's kind.
        """
        entries = self.read(given, some=True)
        told = {name: self.columns[name].ask(name, column) for name, column in entries.items()}
        known = torch.full((len(next(iter(told.values()))), self.width), math.nan, dtype=torch.float64)
        for name, numbers in told.items():
            known[:, self.places[name]] = numbers
        return self.coordinates(known)

    def decode(self, x: Tensor, into: Callable[[dict[str, np.ndarray]], Any] = dict) -> Any:
        """Return the columns of the rows that vectors ``(N, width)`` stand for, as a frame.

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
            If `x` has another shape, or holds NaN or infinite values, or numbers that a column cannot have, as below 0 of a
            `PositiveColumn`.
        """
        x = check_tensor("x", x, shape=(None, self.width)).detach().cpu().double()
        return into({name: _decode(name, column, x[:, self.places[name]]) for name, column in self.columns.items()})

    @check_arguments
    def log_prob(self, law: Any, frame: Any, draws: int = 10, generator: torch.Generator | None = None) -> Tensor:
        """Return a lower bound on the logarithm of the density of rows, ``(N,)``: probabilities of whole numbers, categories and
        gaps, times the density of the rest.

        ``log P(row) >= E log mean_k p(x_k) V``, with `V` the volume of the noise, by which a row becomes the vectors ``x_k``. The
        bound rises with the number of draws (Y. Burda, R. Grosse and R. Salakhutdinov, *Importance weighted autoencoders*, 2016,
        arXiv:1509.00519). For columns without noise it is exact. Where an entry is missing, `V` is one over the density of the
        numbers that fill the gap, which depends on the entries of the frame that are there.

        Parameters
        ----------
        law
            A law of vectors: anything whose ``log_prob`` takes ``(N, width)``, such as ``Density(model)``.
        frame
            The rows.
        draws
            Number of vectors for each row.
        generator
            Source of the noise.

        Raises
        ------
        TypeError
            If the frame has no named columns.
        ValueError
            If names or lengths do not fit, or entries are not of their column's kind.
        """
        law = as_law(check_law("law", law, "log_prob"))
        check_count("draws", draws)
        found = []
        for _ in range(draws):
            x, log_volume = self._encode(frame, generator)
            found.append(ask_log_prob(law, x).double() + log_volume)
        return torch.stack(found).logsumexp(0) - math.log(draws)


def _decode(name: str, column: Column, x: Tensor) -> np.ndarray:
    """Return the entries of the column `name`; an error names the column."""
    try:
        return column.decode(x)
    except ValueError as error:
        raise ValueError(f"column {name!r}: {error}") from None


def _guess(name: str, entries: np.ndarray) -> Column:
    """Return the kind of column that entries seem to be of.

    Raises
    ------
    ValueError
        If the entries seem to be of no kind, or are of one category alone.
    """
    gaps = find_gaps(entries)
    known = entries[~gaps].tolist()
    if gaps.any():
        return GappedColumn(_guess(name, entries[~gaps]) if known else NumberColumn())
    if all(isinstance(entry, (Real, Decimal)) and not isinstance(entry, bool) for entry in known):
        if all(isinstance(entry, Integral) for entry in known):
            return CountColumn(0 if min(known) >= 0 else None)
        return PositiveColumn() if min(known) > 0 else NumberColumn()
    strange = {type(entry).__name__ for entry in known if not isinstance(entry, (str, bytes, bool, Real))}
    levels = [] if strange else sorted(set(known), key=lambda level: (type(level).__name__, level))
    if len(levels) < 2:
        why = f"{levels[0]!r} alone" if levels else f"a {min(strange)} among its entries"
        raise ValueError(
            f"column {name!r} has {why}; leave it out, or declare its kind, such as CategoryColumn(levels) with two levels at "
            "least."
        )
    return CategoryColumn(levels)
