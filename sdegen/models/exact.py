"""Exact score models of known distributions: `Exact`, and `ExactConditional` with one distribution for every label."""

from __future__ import annotations

__all__ = ["Exact", "ExactConditional"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..answers import check_answer, check_pair
from ..arguments import asked_as, check_arguments
from ..blocks import OfTensors
from ..conditions import NONE, Conditions, check_labels
from ..fixed import Fixed
from ..laws.embedding import Observation
from ..laws.followed import Followed
from ..laws.marginals import Marginal
from ..laws.mixtures import Moments
from ..laws.outside import ClosedLaw, as_closed
from ..laws.units import Units
from ..precision import widened
from ..processes.linear import LinearSDE
from ..processes.validity import check_process
from .named import read_named
from .score import ScoreModel

# The score of a law takes time in proportion to the numbers that the law is made of (means, covariances, data).
QUICK = 2_000  # numbers of a law, above which fewer data are drawn for a profile, in inverse proportion
FEWEST = 4  # data drawn, at least
LONG = 20_000  # numbers of a law, above which no data are drawn
DATA_SEED = 8_061_997  # a seed that no user is likely to take, and no other draw of the library takes


@asked_as("an exact model, such as Exact(VP(), data.gaussian_ring())")
class Exact(Fixed, ScoreModel):
    """The exact score model of a linear SDE started from a known distribution.

    Parameters
    ----------
    sde
        Any linear SDE.
    distribution
        The law of the data, in their own units: `GaussianMixture`, `Empirical`, any `Distribution`, or a Gaussian or a mixture of
        Gaussians of ``torch.distributions``. On a process in coordinates (``sde.in_coordinates``) it is the law of the
        coordinates: samples are data whose coordinates have this law.

    Raises
    ------
    TypeError
        If the SDE is not linear.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> Exact(sdegen.VP(), ring).denoise(torch.zeros(1, 2), 1.0).abs().max().item() < 0.1
    True
    """

    sde: LinearSDE
    settable = ("moments", "end", "profile")

    @check_arguments
    def __init__(self, sde: LinearSDE, distribution: ClosedLaw) -> None:
        self.sde, self.distribution = sde, as_closed(distribution)
        check_process(sde)
        self._known = Followed(_moments_of, self.distribution)
        self._scaled = Followed(_in_units, self.distribution, sde.units)
        self._known(), self._scaled()  # what is wrong with the law is said here

    @property
    def moments(self) -> Moments | None:
        """Mean and covariance of the law as it is now, or what was set in their place."""
        return self._known() if self._given is None else self._given[0]

    @moments.setter
    def moments(self, moments: Moments | None) -> None:
        self._given = (moments,)

    _given: tuple[Moments | None] | None = None

    @property
    def _law(self) -> Any:
        """The law in the units of the process, as it is now."""
        return self.distribution if self.sde.units.plain else self._scaled()

    @property
    def conditions(self) -> Conditions:
        """None: the truth of one law."""
        return NONE

    def draw_standardised(self, n: int) -> Tensor | None:
        """Draw `n` data in the coordinates and units of the process, and return them; fewer, or None, if the law's score is
        slow.
        """
        size = self._size()
        if size > LONG:
            return None
        few = min(n, max(FEWEST, n * QUICK // max(size, 1)))
        return self._law.sample(few, torch.Generator().manual_seed(DATA_SEED))

    def planned_by(self) -> Any:
        """Return the process, what is known of the data, and the law itself if data are drawn from it (`draw_standardised`)."""
        law = None if self._size() > LONG else self.distribution
        return type(self), self.sde, law, self.moments, self.profile, self.end

    def _size(self) -> int:
        """Return the number of numbers that the law is made of."""
        return sum(v.numel() for v in vars(self.distribution).values() if isinstance(v, Tensor))

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``∇ log p_t(x)``."""
        read_named(self, cond, self.score)
        states = widened(x)
        seen, _, of_y = self._observed(states, self.sde.marginal(t))
        return seen.by.score(states, of_y).to(x.dtype)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return ``E[x_0 | x_t]`` and ``E[z | x_t]``."""
        read_named(self, cond, self.estimate)
        states, at = widened(x), self.sde.marginal(t)
        seen, mean, of_y = self._observed(states, at)
        return self.sde.embed(mean).to(x.dtype), seen.by.noise(states, of_y, at.R).to(x.dtype)

    def log_density(self, x: Tensor, t: float, /, **cond: Any) -> Tensor:
        """Return ``log p_t(x)`` of states at one time, ``(B,)`` float64."""
        read_named(self, cond, self.log_density)
        return self.sde.diffused(self.distribution, t).log_prob(widened(x)).double()

    def _observed(self, x: Tensor, at: Marginal) -> tuple[Observation, Tensor, Tensor]:
        """Return the statistic of the data that the states hold, the posterior mean of the data, and the score of the
        statistic.
        """
        seen, who = at.observe(x), f"{type(self.distribution).__name__}.observed"
        found = self._law.observed(seen.y, seen.by.C, seen.by.S)
        mean, of_y = check_pair(who, found, "the posterior mean and the score")
        return seen, check_answer(who, mean, seen.y.shape, seen.y), check_answer(who, of_y, seen.y.shape, seen.y)


def _moments_of(law: Any) -> Moments:
    found: Moments = law.moments()
    return found


def _in_units(law: Any, units: Units) -> Any:
    return law.in_units(units)


class ExactConditional(OfTensors, Fixed, ScoreModel):
    """The exact score model of a linear SDE started from one of several known distributions, chosen row by row by `label`.

    With the law of all data as ``null`` it is the exact counterpart of a network trained with dropped labels. Like such a network
    it goes into ``guidance.ClassifierFree``, so that guidance can be studied without errors of a network.

    Parameters
    ----------
    sde
        Any linear SDE.
    laws
        The law of the data of each label ``0, 1, ...``.
    null
        The law for the label −1, or without a label.

    Raises
    ------
    TypeError
        If the SDE is not linear, or labels are not whole numbers.
    ValueError
        If there are no laws, their data differ in shape, or there is no law for a label.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> law, one = sdegen.GaussianMixture, torch.ones(1)
    >>> modes = [law(one, m[None], v[None]) for m, v in zip(ring.means, ring.covariances)]
    >>> model = ExactConditional(sdegen.VP(), modes, ring)
    >>> sdegen.sample(model, 2000, seed=0, label=2).mean(0).round().tolist()  # the mode at the top
    [0.0, 4.0]
    """

    sde: LinearSDE
    settable = ("moments", "end")

    @check_arguments
    def __init__(
        self,
        sde: LinearSDE,
        laws: Sequence[ClosedLaw],
        null: ClosedLaw,
    ) -> None:
        known = [as_closed(law) for law in (*laws, null)]
        shapes = {tuple(law.event_shape) for law in known}
        if not laws or len(shapes) > 1:
            raise ValueError(
                f"{len(laws)} laws with data of shapes {shapes}; give at least one, all of data of one shape."
            )
        self.laws, self.null = known[:-1], known[-1]
        self._models = [Exact(sde, law) for law in known]  # −1 is the last
        self.sde = sde

    @property
    def moments(self) -> Moments | None:
        """Mean and covariance of the law of all data as it is now, or what was set in their place."""
        return self._models[-1].moments if self._given is None else self._given[0]

    @moments.setter
    def moments(self, moments: Moments | None) -> None:
        self._given = (moments,)

    _given: tuple[Moments | None] | None = None

    @property
    def conditions(self) -> Conditions:
        """The label."""
        return Conditions(frozenset({"label"}), nulls={"label": -1})

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments of the law of a label; for many labels a row of means, and the mean of the covariances."""
        label = cond.get("label")
        if label is None:
            return self.moments
        rows = check_labels(label, None, len(self.laws), -1, look=True).cpu()
        each = [model.moments for model in self._models]
        if rows.ndim == 0:
            return each[int(rows)]
        if not len(rows):
            return None
        means, covariances = zip(*each, strict=True)
        full = any(C.ndim == 2 for C in covariances)
        shares = (rows + 1).bincount(minlength=len(each)).roll(-1) / len(rows)  # −1 is the last
        known = torch.stack([C.diag() if full and C.ndim == 1 else C for C in covariances])
        return Moments(torch.stack(means)[rows], torch.tensordot(shares.to(known), known, 1))

    def planned_by(self) -> Any:
        """Return the process and what is known of the data: plans depend on the laws of labels by their moments alone."""
        return type(self), self.sde, self.moments, self.profile, self.end

    def with_rows(self, cond: dict[str, Any], x: Tensor, n: int) -> list[str]:
        """Return ``["label"]`` if there is a label for each of `n` samples, and else an empty list."""
        check_labels(-1 if cond.get("label") is None else cond["label"], n, len(self.laws), -1)
        return super().with_rows(cond, x, n)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``∇ log p_t(x | label)``, with `label` of shape ``()`` or ``(B,)``."""
        return self._by_label(Exact.score, x, t, **read_named(self, cond, self.score))

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return ``E[x_0 | x_t, label]`` and ``E[z | x_t, label]``."""

        def both(model: Exact, x: Tensor, t: Tensor) -> Tensor:
            return torch.stack(model.estimate(x, t), 1)

        x_0, eps = self._by_label(both, x, t, **read_named(self, cond, self.estimate)).unbind(1)
        return x_0, eps

    def log_density(self, x: Tensor, t: float, /, **cond: Any) -> Tensor:
        """Return ``log p_t(x | label)`` of states at one time, ``(B,)`` float64."""
        return self._by_label(Exact.log_density, x, t, **read_named(self, cond, self.log_density))

    def _by_label(
        self, reading: Callable[..., Tensor], x: Tensor, t: Tensor | float, label: Tensor | int | None = None
    ) -> Tensor:
        """Return `reading` of every row, by the model of its label."""
        t, label = torch.as_tensor(t, dtype=torch.float64), self._checked(label, len(x))
        places = [(label == k).nonzero()[:, 0] for k in range(-1, len(self.laws))]
        parts = [
            reading(self._models[k], x[own], t[own] if t.shape == label.shape else t)
            for k, own in enumerate(places, -1)
            if len(own)
        ]
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _checked(self, label: Tensor | int | None, n: int) -> Tensor:
        """Check the labels, and return one for each of `n` rows."""
        return check_labels(-1 if label is None else label, n, len(self.laws), -1, look=True).cpu().expand(n)
