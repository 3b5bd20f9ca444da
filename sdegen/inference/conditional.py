"""Laws of one variable given another, learned by a conditional score model: `ConditionalDensity`."""

from __future__ import annotations

__all__ = ["ConditionalDensity"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..data.parts import check_batch
from ..laws.coordinates import Coordinates
from ..likelihood import log_prob
from ..models import Conditioned, ScoreModel
from ..samplers import Sampler, sample
from ..show import show_call
from ..training import Run
from .guess import LinearGuess


class ConditionalDensity:
    """The law of `y` given `x` that a score model with one condition has learned, as an object that functions of `metrics` take.

    The states of the model are ``r = L⁻¹ (phi(y) − m(x))``: `y` in coordinates `phi` without bounds, less the best linear guess
    from `x`.

    Parameters
    ----------
    model
        A score model that is conditioned on `x`, by whatever name.
    coordinates
        The map ``phi``; none by default.
    guess
        ``m`` and ``L``; without it the model is of ``phi(y)`` itself.
    sampler
        The sampler of the model; by default the default sampler.
    batch
        The largest number of states that go through the model at a time; all by default.

    Attributes
    ----------
    run
        The record of the training; None for a model that was trained elsewhere.

    Raises
    ------
    ValueError
        If the model has no condition, or more than one (``Conditioned(model, label=3)`` fixes one of them); or `batch` is not a
        whole number of at least 1.

    Examples
    --------
    >>> import sdegen
    >>> from sdegen import guidance, measurements
    >>> seen = measurements.Linear(torch.tensor([[1.0, 0.0]]), std=0.5)
    >>> posterior = ConditionalDensity(guidance.PiGDM(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), seen))
    >>> posterior.sample(100, torch.tensor([3.0])).shape
    torch.Size([100, 2])
    """

    run: Run | None = None

    __repr__ = show_call

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        coordinates: Coordinates | None = None,
        guess: LinearGuess | None = None,
        sampler: Sampler | None = None,
        batch: int | None = None,
    ) -> None:
        names = sorted(model.conditions.names)
        if len(names) != 1:
            listed = f"the conditions {', '.join(names)}" if names else "no condition that it names"
            raise ValueError(
                f"the model has {listed}; give one with a single condition, and fix others by Conditioned."
            )
        self.model, self.coordinates, self.guess, self.name = model, coordinates, guess, names[0]
        check_batch(batch)
        self.sampler, self.batch = sampler, batch

    def sample(self, n: int, x: Tensor, *, steps: int | None = None, seed: int | None = None) -> Tensor:
        """Draw `n` values given one `x`, and return them, ``(n, *)``; arguments and refusals are those of `sample_each`."""
        return self.sample_each(n, self._as_row(x), steps=steps, seed=seed)[0]

    def sample_each(self, n: int, x: Tensor, *, steps: int | None = None, seed: int | None = None) -> Tensor:
        """Draw `n` values given each of several `x`, and return them, ``(K, n, *)``.

        Parameters
        ----------
        n
            The number of values for each `x`.
        x
            The conditions, a row for each, ``(K, *)``.
        steps
            Steps of the default sampler.
        seed
            The seed of the draws; a fresh one by default.

        Raises
        ------
        TypeError
            If `x` is not a tensor of floating-point numbers.
        ValueError
            If `n` is not a whole number of at least 1, `x` has another shape than the model was trained on, or holds NaN or
            infinite values.
        """
        n, x = check_count("n", n), self.check_rows(x)
        states = self.draw_states(n, x, steps, seed)
        return self.to_values(states, x.repeat_interleave(n, 0)).unflatten(0, (len(x), n))

    def draw_states(self, n: int, x: Tensor, steps: int | None = None, seed: int | None = None) -> Tensor:
        """Draw `n` states of the model given each of several `x`, which `check_rows` returned, and return them, ``(K n, *)``.

        States for the first `x` come first; arguments are those of `sample_each`.
        """
        bound = Conditioned(self.model, **{self.name: x.repeat_interleave(n, 0)})
        return sample(bound, n * len(x), sampler=self.sampler, steps=steps, seed=seed, batch=self.batch, progress=False)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the log-density in nats of values ``(n, *)`` given one `x`, ``(n,)``; −∞ outside of their domain.

        Parameters
        ----------
        y
            The values.
        x
            The condition, without a dimension for rows.

        Raises
        ------
        TypeError
            If `y` or `x` is not a tensor of floating-point numbers.
        ValueError
            If `y` or `x` has another shape than the model was trained on, or holds NaN or infinite values.
        """
        return self.log_prob_each(self._check_values(y)[None], self._as_row(x))[0]

    def log_prob_each(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the log-densities in nats of values ``(K, n, *)`` given each of several `x`, ``(K, n)``, by one integration.

        Parameters
        ----------
        y
            The values, `n` for each `x`.
        x
            The conditions, a row for each, ``(K, *)``.

        Raises
        ------
        TypeError
            If `y` or `x` is not a tensor of floating-point numbers.
        ValueError
            If `y` or `x` has another shape than the model was trained on, or holds NaN or infinite values, or numbers of rows
            differ.
        """
        x = self.check_rows(x)
        if check_tensor("y", y).ndim < 2 or len(y) != len(x):
            raise ValueError(
                f"y has shape {tuple(y.shape)} for {len(x)} x; give values (K, n, *), n for each of these."
            )
        flat, rows = self._check_values(y.flatten(0, 1)), x[:, None].expand(*y.shape[:2], *x.shape[1:]).flatten(0, 1)
        inside = self._inside(flat)
        found = torch.full((len(flat),), -torch.inf, dtype=y.dtype, device=y.device)
        if inside.any():
            kept, given = (flat, rows) if inside.all() else (flat[inside], rows[inside])
            states = self.model.cast_states(self.to_states(kept, given))
            value = log_prob(Conditioned(self.model, **{self.name: given}), states, batch=self.batch)
            found[inside] = value.to(found) + self.log_volume(kept)
        return found.unflatten(0, y.shape[:2])

    def _as_row(self, x: Tensor) -> Tensor:
        """Return one `x` as the only row; refuse several."""
        kind = self.model.conditions.kinds.get(self.name)
        hint = (
            ""
            if kind is None
            else f": one of {kind.what}; for several, a row for each, there are sample_each and log_prob_each, and for "
            "several observations of the same parameters ComposedPosterior"
        )
        return check_tensor("x", x, ndim=None if kind is None else kind.ndim, finite=False, hint=hint)[None]

    def check_rows(self, x: Tensor) -> Tensor:
        """Return several `x`, a row for each, as the condition reads them; refuse another shape, and values that are not
        finite.
        """
        kind = self.model.conditions.kinds.get(self.name)
        if isinstance(x, Tensor) and x.ndim and not len(x):
            raise ValueError(f"x has shape {tuple(x.shape)}; give one row at least.")
        if kind is None:
            return check_tensor("x", x)
        hint = f", {kind.what} with a row for each"
        return kind.read("x", check_tensor("x", x, ndim=kind.ndim + 1, finite=False, hint=hint))

    def _check_values(self, y: Tensor) -> Tensor:
        """Return values; refuse what is not a tensor ``(n, *)`` of the shape that the guess is made for."""
        check_tensor("y", y, shape=None if self.guess is None else (None, self._count_values(len(self.guess.b))))
        if y.ndim == 0 or not len(y):
            raise ValueError(f"y has shape {tuple(y.shape)}; give values (n, *), one row at least.")
        return y

    def _count_values(self, d: int) -> int:
        """Return how many numbers a value has if its coordinates are `d` numbers; on a simplex these are `d + 1`."""
        return (
            d if self.coordinates is None else self.coordinates.inverse(torch.zeros(1, d, dtype=torch.float64)).shape[1]
        )

    def _inside(self, y: Tensor) -> Tensor:
        """Return which values lie in the domain, ``(n,)``."""
        if self.coordinates is None:
            return torch.ones(len(y), dtype=torch.bool, device=y.device)
        return self.coordinates.domain.check(y).reshape(len(y), -1).all(1)

    def to_states(self, y: Tensor, x: Tensor) -> Tensor:
        """Return values ``(n, *)``, given `x` with a row for each or one for all, as states of the model."""
        u = y if self.coordinates is None else self.coordinates(y)
        return u if self.guess is None else self.guess.miss(u, x)

    def to_values(self, r: Tensor, x: Tensor) -> Tensor:
        """Return the values of states of the model: the inverse of `to_states`."""
        u = r if self.guess is None else self.guess.restore(r, x)
        return u if self.coordinates is None else self.coordinates.inverse(u)

    def log_volume(self, y: Tensor) -> Tensor:
        """Return the difference of the log-density of values from that of states, ``(n,)``."""
        volume = y.new_zeros(len(y)) if self.coordinates is None else self.coordinates.log_det(y)
        return volume if self.guess is None else volume + self.guess.log_det
