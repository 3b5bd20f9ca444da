"""Mixtures of laws: a score model for ``Σ w_i p_i``, whose score is the mean of the members' by their responsibilities."""

from __future__ import annotations

__all__ = ["Mixed"]

import math
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.mixtures import GaussianMixture, Moments
from ..laws.operators import rows
from ..laws.powers import read_powers
from ..models.densities import ask_log_density
from ..models.score import ScoreModel
from ..models.wrapper import bind_rows
from ..processes.linear import gaussian
from .members import Members, Powers


class Mixed(Members):
    """A score model of a mixture of laws, ``Σ w_i p_i``, made of score models of the `p_i` on one process.

    A mixture stays a mixture under noise, so the score is exact at every time and every sampler draws from the law of the
    mixture:

        s(x, t) = Σ r_i s_i(x, t),    r_i ∝ w_i p_i,t(x).

    The responsibilities `r_i` need densities, so members are models that know these (`Exact`, `ExactConditional`, either with
    fixed conditions, and other mixtures). Clean states and noises are means by the same responsibilities.

    Parameters
    ----------
    models
        A dict of score models and their weights, or pairs of these; weights are positive and sum to one. All get the conditions
        of a call.

    Raises
    ------
    TypeError
        If a process is not linear, or a member is not a score model with a number; at a call, if a member does not know its
        density.
    ValueError
        If weights are not positive or do not sum to one, or processes differ.

    Examples
    --------
    >>> import torch, sdegen
    >>> left, right = (sdegen.GaussianMixture(torch.ones(1), torch.tensor([[m]]), torch.ones(1, 1)) for m in (-5.0, 5.0))
    >>> both = Mixed({sdegen.Exact(sdegen.VP(), left): 0.25, sdegen.Exact(sdegen.VP(), right): 0.75})
    >>> x = sdegen.sample(both, 2000, seed=0)
    >>> abs((x > 0).double().mean().item() - 0.75) < 0.03
    True
    """

    conditioned = True

    @check_arguments
    def __init__(self, models: Powers) -> None:
        pairs = read_powers("models", models, ScoreModel, "a score model", "weight")
        super().__init__([model for model, _ in pairs])
        self.weights = tuple(weight for _, weight in pairs)
        if min(self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"the weights are {self.weights}; give positive ones that sum to one.")

    @property
    def models(self) -> list[tuple[ScoreModel, float]]:
        """The members with their weights."""
        return list(zip(self.members, self.weights, strict=True))

    @property
    def moments(self) -> Moments | None:
        """The moments of the mixture; None if those of a member are not known."""
        return self._mixed([model.moments for model in self.members])

    @moments.setter
    def moments(self, moments: Moments | None) -> None:
        """Refuse moments that differ from those that follow from the members; a file of a mixture holds the same ones."""
        own = self.moments
        if own is None or moments is None or not all(map(torch.equal, own, moments)):
            raise AttributeError("the moments of a mixture are those of its members; set theirs.")

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments of the mixture under conditions; None if those of a member are not known."""
        return self._mixed([model.conditional_moments(**cond) for model in self.members])

    def _mixed(self, each: list[Moments | None]) -> Moments | None:
        """Return the moments of the mixture of the Gaussians with the given moments."""
        laws = [gaussian(m) for m in each if m is not None and m.mean.shape == m.event_shape]
        if len(laws) < len(each):
            return None
        means, covariances = torch.cat([law.means for law in laws]), [law.flat()[1] for law in laws]
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return GaussianMixture(weights, means, torch.cat(covariances)).moments()

    def responsibilities(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the probabilities of the members given states at one time, ``(m, B)`` float64."""
        return self._log_joint(x, t, cond).softmax(0)

    def log_density(self, x: Tensor, t: float, /, **cond: Any) -> Tensor:
        """Return ``log p_t(x)`` of states at one time, ``(B,)`` float64."""
        return self._log_joint(x, t, cond).logsumexp(0)

    def _log_joint(self, x: Tensor, t: Tensor | float, cond: dict[str, Any]) -> Tensor:
        """Return ``log w_i + log p_i,t(x)``, ``(m, B)``."""
        at = torch.as_tensor(t, dtype=torch.float64).reshape(-1).tolist()
        if len(set(at)) > 1:
            found = torch.stack([_log_densities_of_rows(model, x, at, cond) for model in self.members])
        else:
            found = self.member_log_densities(x, at[0], **cond)
        return torch.stack([math.log(w) + v for w, v in zip(self.weights, found, strict=True)])

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the means of clean state and noise by the responsibilities."""
        x_0, eps = self.member_estimates(x, t, **cond)
        shares = self.responsibilities(x, t, **cond).to(x)
        return self._mean(shares, x_0), self._mean(shares, eps)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the mean of the members' scores by the responsibilities."""
        each = torch.stack([model.score(x, t, **cond) for model in self.members])
        return self._mean(self.responsibilities(x, t, **cond).to(x), each)

    @staticmethod
    def _mean(shares: Tensor, values: Tensor) -> Tensor:
        """Return the mean of the members' values, ``(m, B, *)``, weighted by shares ``(m, B)``."""
        return sum(
            (rows(share, value) * value for share, value in zip(shares, values, strict=True)),
            torch.zeros_like(values[0]),
        )


def _log_densities_of_rows(model: ScoreModel, x: Tensor, times: list[float], cond: dict[str, Any]) -> Tensor:
    """Return ``log p_t(x)`` of states at a time of their own each, under their rows of the conditions, ``(B,)``."""
    rows = [slice(i, i + 1) for i in range(len(x))]
    each = [
        ask_log_density(bind_rows(model, cond, row, x, len(x)), x[row], t) for row, t in zip(rows, times, strict=True)
    ]
    return torch.cat(each)
