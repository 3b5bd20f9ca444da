"""Rows of a table as training data, whose noise and whose known columns are drawn anew with every batch: `TableRows`."""

from __future__ import annotations

__all__ = ["TableRows"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.mixtures import moments_of
from ..show import show_call
from .gaps import GappedColumn
from .rows import Rows
from .table import Table


class TableRows(Rows):
    """The rows of a frame as vectors for `fit`, in which random columns are known, so that one network learns the law of any
    columns given any others.

    Every batch draws the noise of whole numbers and categories anew, and which columns are known: first how many, from none to
    all but one with equal probability, then which. A network is told these columns by its condition ``known``: their coordinates
    without noise, ``(width,)``, NaN where nothing is known. In the vector itself, numbers that are known and numbers of missing
    entries are replaced by normal noise of the column's mean and spread. So a model learns a density of all numbers,
    ``p(x_unknown | x_known) N(noise)``, from which conditional densities follow without another integral
    (`likelihood.TableDensity`), and the network spends nothing on copying what it was told.

    Parameters
    ----------
    table
        The table.
    frame
        The rows, as for `Table.encode`.

    Raises
    ------
    TypeError
        If the frame has no named columns.
    ValueError
        If names or lengths do not fit, or entries are not of their column's kind.

    Examples
    --------
    >>> from sdegen import data, nets
    >>> table = Table({"height": data.PositiveColumn(), "eyes": data.CategoryColumn(("blue", "brown"))})
    >>> rows = TableRows(table, {"height": [1.70, 1.82], "eyes": ["brown", "blue"]})
    >>> x, cond = rows.read(torch.arange(2), torch.Generator().manual_seed(0))
    >>> x.shape, cond["known"].shape
    (torch.Size([2, 2]), torch.Size([2, 2]))
    >>> net = nets.MLP(table.width, conditions={"known": nets.Vector(table.width, gaps=True, dropout=None, joined=True)})
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, table: Table, frame: Any) -> None:
        self.table, self._told, columns = table, table.tell(frame), table.columns.items()
        entries = table.read(frame)
        self._centres = [column.centre(name, entries[name]) for name, column in columns]
        self._units = moments_of(table.coordinates(table.encode(frame, torch.Generator().manual_seed(0)))).units()
        self._column = torch.arange(len(columns)).repeat_interleave(torch.tensor(table.coordinates.widths))
        flagged = [table.places[name].start for name, column in columns if isinstance(column, GappedColumn)]
        self._flags = torch.tensor(flagged, dtype=torch.long)

    def __len__(self) -> int:
        return len(self._told)

    def read(self, which: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the vectors of rows ``(n, width)`` with new noise and new known columns, and what is known, ``(n, width)``.

        Parameters
        ----------
        which
            The numbers of the rows, ``(n,)``.
        generator
            Source of the randomness.
        """
        n, coordinates = len(which), self.table.coordinates
        parts = zip(self.table.columns.values(), self._centres, strict=True)
        u = coordinates(torch.cat([column.spread(x[which], generator) for column, x in parts], 1))
        known, told = self._draw_known(n, generator), self._told[which]
        noise = self._units.mean + self._units.std * torch.randn(u.shape, dtype=u.dtype, generator=generator)
        x = coordinates.inverse(torch.where(known | told.isnan(), noise, u))
        return x, {"known": told.masked_fill(~known, torch.nan)}

    def _draw_known(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Draw which numbers of `n` rows are known, ``(n, width)``: those of a random number of random columns; and of each other
        column with gaps, with probability ½, the number that tells whether there is an entry.
        """
        columns = len(self.table.columns)
        how_many = torch.randint(columns, (n, 1), generator=generator)
        rank = torch.rand(n, columns, dtype=torch.float64, generator=generator).argsort(1).argsort(1)
        known = (rank < how_many)[:, self._column]
        known[:, self._flags] |= torch.rand(n, len(self._flags), dtype=torch.float64, generator=generator) < 0.5
        return known
