"""`TableDensity`, a score model of a table as a law of its rows, in which any columns may be given."""

from __future__ import annotations

__all__ = ["TableDensity"]

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from ..arguments import check_arguments
from ..checks import check_count
from ..data.entries import find_gaps
from ..data.parts import check_batch
from ..data.table import Table
from ..models.score import ScoreModel
from ..samplers.base import Sampler
from ..samplers.run import sample
from ..show import show_call
from ..warning import warn_caller
from .flow import log_prob

FAR = 10.0  # standard deviations from the mean, beyond which a given entry is hardly in the units of training


class TableDensity:
    """A score model of a table as a law of its rows, in which any columns may be given: samples, missing entries and
    log-densities of some columns given others.

    The model has learned `data.TableRows` by a network with the condition ``known``.

    Parameters
    ----------
    table
        The columns, and how rows become vectors.
    model
        A score model of these vectors, in the coordinates of the table.
    sampler
        How to sample; the default sampler otherwise.
    batch
        Most rows that go through the model at a time; all by default.

    Raises
    ------
    TypeError
        If the network declares no condition ``known``.
    ValueError
        If that condition does not fit the table, `batch` is not a positive whole number, or a column has coordinates that are no
        function of one number each.

    Examples
    --------
    >>> from sdegen import VP, Model, data, fit, nets
    >>> table = Table({"height": data.PositiveColumn(), "eyes": data.CategoryColumn(("blue", "brown"))})
    >>> net = nets.MLP(table.width, width=8, conditions={"known": nets.Vector(table.width, gaps=True, dropout=None, joined=True)})
    >>> model = Model(net, VP().in_coordinates(table.coordinates))
    >>> people = {"height": [1.70, 1.82, 1.76], "eyes": ["brown", "blue", "blue"]}
    >>> run = fit(model, data.TableRows(table, people), steps=2, batch_size=8, seed=0)
    >>> law = TableDensity(table, model)
    >>> law.sample(2, {"eyes": "blue"})["eyes"].tolist()
    ['blue', 'blue']
    >>> law.log_prob(people, given=["eyes"], draws=2).shape
    torch.Size([3])
    """

    __repr__ = show_call

    @check_arguments
    def __init__(
        self, table: Table, model: ScoreModel, sampler: Sampler | None = None, batch: int | None = None
    ) -> None:
        check_batch(batch)
        self.table, self.model, self.sampler, self.batch = table, model, sampler, batch
        wanted = f"nets.Vector({table.width}, gaps=True, dropout=None, joined=True)"
        kind = model.conditions.kinds.get("known")
        if kind is None:
            raise TypeError(
                "the model's network declares no condition 'known', by which columns are given; construct it with "
                f"conditions={{'known': {wanted}}}, and train it on data.TableRows."
            )
        if kind.dropout or getattr(kind, "size", 0) != table.width or not getattr(kind, "gaps", 0):
            raise ValueError(f"the network's condition 'known' is {kind}; declare it as {wanted}.")
        if not table.coordinates.elementwise:
            raise ValueError("a column has coordinates that are no function of one number each; give others.")

    @check_arguments
    def sample(
        self,
        n: int,
        given: Any = None,
        generator: torch.Generator | None = None,
        into: Callable[[dict[str, np.ndarray]], Any] = dict,
    ) -> Any:
        """Draw rows of the table given some of their entries, which come back as they were given.

        Parameters
        ----------
        n
            The number of rows.
        given
            Columns by their names, with `n` entries each or one for all rows. In columns with gaps, missing entries are drawn,
            and none comes back missing. By default nothing is given.
        generator
            Source of the randomness.
        into
            What makes a frame of columns by their names, such as ``pandas.DataFrame``.

        Raises
        ------
        TypeError
            If `given` has no named columns.
        ValueError
            If names or lengths do not fit, entries are not of their column's kind, or every entry is given.
        """
        check_count("n", n)
        columns, told = self._read_given(n, given)
        known = told if columns else None
        x = sample(self.model, n, sampler=self.sampler, generator=generator, batch=self.batch, known=known)
        x = torch.where(told.isnan(), x.double().cpu(), self.table.coordinates.inverse(told))
        drawn: dict[str, np.ndarray] = self.table.decode(x)
        for name, entries in columns.items():
            there = ~find_gaps(entries)
            if there.all():
                drawn[name] = entries
            else:
                drawn[name][there] = entries[there]
        return into(drawn)

    @check_arguments
    def log_prob(
        self, frame: Any, given: Sequence[str] = (), draws: int = 10, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return a lower bound on the log-density of rows given some of their columns, ``(N,)``: probabilities of whole numbers,
        categories and gaps, times the density of the rest.

        ``log P(row | given) >= E log mean_k p(x_k | given) V / N(noise_k)``, with `V` the volume of the noise by which a row
        becomes the vectors ``x_k``, and `N` the density of the noise in the place of numbers that are given or missing. The bound
        rises with the number of draws
        (Y. Burda, R. Grosse and R. Salakhutdinov, *Importance weighted autoencoders*, 2016, arXiv:1509.00519).

        Parameters
        ----------
        frame
            The rows, as columns by their names.
        given
            The names of columns that are given.
        draws
            Vectors for each row.
        generator
            Source of the noise.

        Raises
        ------
        TypeError
            If the frame has no named columns.
        ValueError
            If names or lengths do not fit, entries are not of their column's kind, or all columns are given.
        """
        check_count("draws", draws)
        table, coordinates, columns = self.table, self.table.coordinates, self.table.columns
        entries = table.read(frame)
        unknown = [name for name in given if name not in columns]
        if unknown or len(set(given)) == len(columns):
            why = f"leave out {unknown}" if unknown else "leave one of them out, whose density is asked for"
            raise ValueError(f"given = {list(given)}, of a table with columns {list(columns)}; {why}.")
        told = table.tell(frame)
        noise = told.isnan()
        for name in given:
            noise[:, table.places[name]] = True
        known = told.masked_fill(~self._places(given), math.nan) if given else None
        volume = sum(columns[name].log_volumes(entries[name]) for name in columns if name not in given)
        mean, std = self._units()
        found = []
        for _ in range(draws):
            u = coordinates(table.encode(frame, generator))
            filler = mean + std * torch.randn(u.shape, dtype=u.dtype, generator=generator)
            x = coordinates.inverse(torch.where(noise, filler, u))
            flat = log_prob(self.model, self.model.cast_states(x), batch=self.batch, known=known).double().cpu()
            slopes = coordinates.slope(x).log().masked_fill(~noise, 0).sum(1)
            spent = Normal(mean, std).log_prob(filler).masked_fill(~noise, 0).sum(1)
            found.append(flat - slopes - spent)
        return torch.stack(found).logsumexp(0) - math.log(draws) + volume

    def _read_given(self, n: int, given: Any) -> tuple[dict[str, np.ndarray], Tensor]:
        """Return the columns that are given, of `n` entries each, and what the network is told of them, ``(n, width)``.

        Raises
        ------
        ValueError
            If there are not `n` entries, or nothing is left to draw.
        """
        table = self.table
        if given is None or (isinstance(given, Mapping) and not given):
            return {}, torch.full((n, table.width), math.nan, dtype=torch.float64)
        if isinstance(given, Mapping):
            given = {name: [v] * n if v is None or np.ndim(v) == 0 else v for name, v in given.items()}
        told, columns = table.ask(given), table.read(given, some=True)
        if len(told) != n:
            raise ValueError(f"given has {len(told)} rows for n = {n}; give one for each, or one entry for all.")
        if not told.isnan().any():
            raise ValueError("every entry is given, so that nothing is left to draw; leave out a column.")
        mean, std = self._units()
        far = ((told - mean).abs() > FAR * std).nonzero()
        if len(far):
            row, place = far[0].tolist()
            name = next(name for name, where in table.places.items() if place < where.stop)
            warn_caller(
                f"given[{name!r}] has {columns[name].tolist()[row]!r} in row {row}, more than {FAR:g} standard deviations from "
                "the mean of what the model has learned; see that it is in the units of training."
            )
        return columns, told

    def _places(self, names: Sequence[str]) -> Tensor:
        """Tell which numbers of a vector belong to columns, ``(width,)``."""
        found = torch.zeros(self.table.width, dtype=torch.bool)
        for name in names:
            found[self.table.places[name]] = True
        return found

    def _units(self) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of the coordinates of the data, ``(width,)``."""
        units = self.model.require_moments().units()
        return units.mean.cpu(), units.std.cpu()
