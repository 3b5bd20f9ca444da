"""Score models of long series, composed of models of short windows: `LongSeries`."""

from __future__ import annotations

__all__ = ["LongSeries", "extend"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..conditions import Conditions
from ..laws.mixtures import Moments
from ..processes.linear import LinearSDE, as_linear
from ..transforms import isolated
from .reversal import LearnedReversal
from .score import ScoreModel
from .wrapper import Wrapper

MANY = 256  # numbers of a series, above which no covariance is formed
APART = 1e-6  # of a state: differences up to it are rounding


class LongSeries(Wrapper):
    """The score model of long series, composed of a model of their windows and one of what neighbouring windows share.

    ``∇ log q_t(x) = Σ_k ∇ log p_t(window k) − Σ_k ∇ log p_t(overlap k)``: each window continues the one before, given the places
    that they share. At every time, of all laws with no longer memory than an overlap, `q` is the nearest to the law of the series
    in the Kullback–Leibler divergence, and the windows of `q` have the right law. At noise 0 it is exact for data whose memory is
    no longer than an overlap. Noised states remember longer; the error falls exponentially with the widths.

    F. Rozet and G. Louppe, *Score-based data assimilation*, 2023, arXiv:2306.10574, take the score of the middle of each window
    instead, which needs only one model. Except for the shortest windows their error is larger, and the more so the wider windows
    are. Places are the last axis of a state, ``(*, length)``.

    Parameters
    ----------
    model
        A score model of windows ``(*, w)``, of a linear process that treats all places alike.
    overlaps
        A score model of the places that two neighbouring windows share, ``(*, o)`` with ``o < w``, of the same process in the
        same units.
    length
        The number of places in a series, ``w`` plus a multiple of ``w − o``; states of other such lengths have scores too.

    Raises
    ------
    TypeError
        If the process is not linear.
    ValueError
        If a model does not know its data's moments, an overlap is not narrower than a window, the length does not fit, or
        processes or units differ from place to place or from one model to the other.

    Examples
    --------
    >>> import sdegen
    >>> place = torch.arange(9.0)
    >>> C = 0.8 ** (place[:, None] - place).abs()  # of an autoregressive process
    >>> exact = lambda n: sdegen.Exact(sdegen.VP(), sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, n), C[None, :n, :n]))
    >>> model, truth = LongSeries(exact(3), exact(2), length=9), exact(9)
    >>> x = torch.randn(5, 9, dtype=torch.float64)
    >>> torch.allclose(model.score(x, 0.0), truth.score(x, 0.0))
    True
    """

    @check_arguments
    def __init__(self, model: ScoreModel, overlaps: ScoreModel, length: int) -> None:
        super().__init__(model)
        self.overlaps = overlaps
        instead = ": the width of a window is read from them"
        window, overlap = (tuple(m.require_moments(instead).event_shape) for m in (model, overlaps))
        if not window or window[:-1] != overlap[:-1] or not 0 < overlap[-1] < window[-1]:
            raise ValueError(
                f"windows have data of shape {window}, overlaps of {overlap}; give models of (*, w) and of (*, o) with o < w."
            )
        self.width, self.shared = window[-1], overlap[-1]
        self.length = check_count("length", length)
        self._known: tuple[Moments | None, Moments | None] = (None, None)
        self._count(length)
        self._check_places(window[:-1])

    @property
    def step(self) -> int:
        """The number of places from the beginning of a window to that of the next, ``w − o``."""
        return self.width - self.shared

    @property
    def moments(self) -> Moments | None:
        """The moments of series: the mean over the places of a window, and the covariance of windows that continue each other, or
        for many numbers its diagonal. None as long as the model of windows knows no moments.
        """
        return self._extended(self.model.moments)

    @moments.setter
    def moments(self, moments: Moments | None) -> None:
        """Set the moments of series, in place of those that follow from windows, until the model inside gets other moments."""
        self._known = (self.model.moments, moments)

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments of series that follow from those of windows if no condition is given; None under conditions."""
        inside = {name: value for name, value in cond.items() if value is not None}
        return None if inside else self._extended(self.model.conditional_moments())

    @property
    def reversal(self) -> LearnedReversal | None:
        """None: learned variances of windows do not give variances of series."""
        return None

    @property
    def conditions(self) -> Conditions:
        """The conditions that both models take. Conditions on the grid of the state are as long as the series, and cut with
        it.
        """
        return self.model.conditions.both(self.overlaps.conditions)

    def part(self, rows: slice | Tensor, x: Tensor, n: int) -> ScoreModel:
        """Return the model for some of the `n` samples of a run, made of the models inside for these samples."""
        return super().part(rows, x[..., : self.width], n)

    def with_rows(self, cond: dict[str, Any], x: Tensor, n: int) -> list[str]:
        """Return the names of the conditions with a row for each of `n` samples, as the model of windows does."""
        return super().with_rows(cond, x[..., : self.width], n)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the scores of windows less those of overlaps, each at its places."""
        return self._compose(lambda model, x, t, cond: model.score(x, t, **cond)[None], x, t, cond)[0]

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return clean states and noise of windows less those of overlaps, each at its places."""
        both = self._compose(lambda model, x, t, cond: torch.stack(model.estimate(x, t, **cond)), x, t, cond)
        return both[0], both[1]

    def _compose(
        self,
        read: Callable[[ScoreModel, Tensor, Tensor | float, dict[str, Any]], Tensor],
        x: Tensor,
        t: Tensor | float,
        cond: dict[str, Any],
    ) -> Tensor:
        """Return the sum of `read` over windows less that over overlaps, as readings ``(·, B, *, length)``."""
        n, last = self._count(x.shape[-1]), x.shape[-1] - self.step
        total = self._read(self.model, slice(0, x.shape[-1]), self.width, read, x, t, cond)
        if n > 1:
            total = total - self._read(self.overlaps, slice(self.step, last), self.shared, read, x, t, cond)
        return total

    def _read(
        self,
        model: ScoreModel,
        places: slice,
        width: int,
        read: Callable[[ScoreModel, Tensor, Tensor | float, dict[str, Any]], Tensor],
        x: Tensor,
        t: Tensor | float,
        cond: dict[str, Any],
    ) -> Tensor:
        """Return the sum of `read` over the pieces of the given width among the places, each piece where it lies in the
        series.
        """
        first, B = torch.arange(places.start, places.stop - width + 1, self.step), len(x)
        rows = torch.arange(B, device=x.device).repeat_interleave(len(first))
        pieces = self._cut(x, places, width)
        own = self._conditions_of_pieces(cond, x, rows, places, width)
        times = t.to(rows.device)[rows].to(t.device) if isinstance(t, Tensor) and t.ndim else t
        said = read(model.part(rows, x[..., :width], B), pieces, times, own)  # (·, B K, *, width)
        said = said.unflatten(1, (B, len(first))).movedim(2, -2).flatten(-2)  # (·, B, *, K width)
        index = (first[:, None] + torch.arange(width)).flatten().to(x.device)
        return said.new_zeros(len(said), *x.shape).index_add(-1, index, said)

    def _cut(self, x: Tensor, places: slice, width: int) -> Tensor:
        """Cut ``(B, *, length)`` into its pieces ``(B K, *, width)``."""
        return x[..., places].unfold(-1, width, self.step).movedim(-2, 1).flatten(0, 1)

    def _conditions_of_pieces(
        self, cond: dict[str, Any], x: Tensor, rows: Tensor, places: slice, width: int
    ) -> dict[str, Any]:
        """Return conditions with a row for each piece, if they have a row for each series or lie on the grid of the state."""
        kinds, with_rows, own = self.conditions.kinds, self.with_rows(cond, x, len(x)), dict(cond)
        for name, value in cond.items():
            if name in kinds and kinds[name].extra and value is not None:
                if value.shape[-1] != x.shape[-1]:
                    raise ValueError(
                        f"{name} has {value.shape[-1]} places, the series {x.shape[-1]}; give a value for every place of it."
                    )
                whole = value if name in with_rows else value[None]
                own[name] = self._cut(whole.expand(len(x), *whole.shape[1:]), places, width)
            elif name in with_rows:
                own[name] = value[rows.to(value.device)]
        return own

    def _count(self, length: int) -> int:
        """Return the number of windows in a series; refuse a length that windows do not fill."""
        more, left = divmod(length - self.width, self.step)
        if more < 0 or left:
            near = self.width + max(0, more) * self.step
            raise ValueError(
                f"the series has {length} places; windows of {self.width} that share {self.shared} fill {near} or "
                f"{near + self.step}: take such a length."
            )
        return more + 1

    def _check_places(self, shape: tuple[int, ...]) -> None:
        """Refuse processes or units that differ from place to place, or from one model to the other."""
        why = ": its noised windows have no closed-form law to compose."
        ours, theirs = (as_linear(model.sde, why) for model in (self.model, self.overlaps))
        data = torch.randn(1, *shape, self.length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

        def noised(sde: LinearSDE, data: Tensor) -> Tensor:
            at, x = sde.marginal(0.5 * sde.T), sde.embed(sde.standardise(data))
            return at.Phi(x) + at.R(x)

        try:
            whole = noised(ours, data)
            pairs = [
                (noised(sde, data[..., part]), whole[..., part])
                for sde, width in ((ours, self.width), (theirs, self.shared))
                for part in (slice(0, width), slice(self.length - width, None))
            ]
            alike = all(torch.allclose(a, b, rtol=APART, atol=APART) for a, b in pairs)
        except (RuntimeError, ValueError):  # coefficients or units that have a number for each place of a window
            alike = False
        if not alike:
            raise ValueError(
                "windows and overlaps do not have one process that treats all places alike, in one unit; make both with a "
                "process that is told its units, one mean and one std for all places: sde.in_units(sdegen.Units(0.0, 1.0))."
            )

    def _extended(self, known: Moments | None) -> Moments | None:
        """Return the moments of series from those of windows, kept as long as these are the same."""
        if self._known[0] is not known:
            with isolated():
                self._known = (known, None if known is None else extend(known, self.shared, self.length))
        return self._known[1]


def extend(moments: Moments, shared: int, length: int) -> Moments:
    """Return the moments of series made of windows that continue each other.

    Each window adds places by their regression on the places that it shares with the window before. If there are many numbers, or
    only variances are known, each place has the mean variance of a window.

    Parameters
    ----------
    moments
        The moments of windows, ``(*, w)``.
    shared
        The number of places that neighbouring windows share.
    length
        The number of places in a series.
    """
    shape = moments.event_shape
    channels, width = shape[:-1].numel(), shape[-1]
    mean = moments.mean.double().mean(-1, keepdim=True).expand(*shape[:-1], length).clone()
    if moments.covariance.ndim == 1 or channels * length > MANY:
        variances = moments.variances().reshape(shape).mean(-1, keepdim=True)
        return Moments(mean, variances.expand(*shape[:-1], length).flatten())
    # Places first, so that a stretch of them is a block.
    C = moments.covariance.double().reshape(channels, width, channels, width).permute(1, 0, 3, 2)
    C = C.reshape(width * channels, width * channels)
    old, whole = shared * channels, C
    gain = C[old:, :old] @ torch.linalg.pinv(C[:old, :old], hermitian=True)
    rest = C[old:, old:] - gain @ C[:old, old:]
    for _ in range((length - width) // (width - shared)):
        cross = gain @ whole[-old:]
        new = rest + cross[:, -old:] @ gain.mT
        whole = torch.cat([torch.cat([whole, cross.mT], 1), torch.cat([cross, new], 1)])
    whole = whole.reshape(length, channels, length, channels).permute(1, 0, 3, 2)
    return Moments(mean, whole.reshape(length * channels, length * channels))
