"""Products of powers of laws: a score model for ``∏ p_i^β_i``, whose score is the sum of the members' scores times their
powers.
"""

from __future__ import annotations

__all__ = ["Product"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.mixtures import Moments
from ..laws.powers import multiply_components, read_powers
from ..models.score import ScoreModel
from ..precision import uncast
from ..processes.linear import gaussian
from .base import inverse
from .members import Members, Powers


class Product(Members):
    """A score model of a product of powers of laws, ``∏ p_i^β_i / Z``, made of score models of the `p_i` on one process.

    At each time its score is ``Σ β_i s_i``, that of the product of the noised laws. These products are not the marginals of a
    process, so a sampler that follows the score does not end in the product of the data's laws; `corrected` weights particles so
    that they have that law. With a model `m`, a condition, and `Without` or `Conditioned` to fix it, products are

    - guidance along a class, ``p(x | c)^w p(x)^(1 − w)``: ``Product([(m, w), (Without(m), 1 - w)])``;
    - guidance away from another condition: ``Product([(m, w), (Without(m, label=3), 1 - w)])``;
    - guidance away from a weaker model: ``Product({m: w, weak: 1 - w})``;
    - tempering, ``p^β``: ``Product({m: beta})``;
    - `n` observations of one datum, ``∏ p(x | y_i) p(x)^(1 − n)``: ``Product([*((Without(m, y=y), 1.0) for y in ys),
      (prior, 1.0 - n)])``;
    - another prior, ``p(x | y) q(x) / p(x)``: ``Product([(m, 1.0), (other, 1.0), (prior, -1.0)])``.

    Members that are trained are made of the process of the first that was fitted, ``Model(net, first.sde)``, which keeps its
    units in training.

    The powers need not sum to 1. If they do not, the clean state of a state without signal, which tells nothing of the data, is
    0.

    Parameters
    ----------
    models
        A dict of score models and their powers, or pairs of these. All get the conditions of a call.

    Raises
    ------
    TypeError
        If a process is not linear, or a member is not a score model with a number.
    ValueError
        If there are no members, the powers do not sum to a positive number, so that the law without signal is improper, or
        processes differ.

    Examples
    --------
    >>> import torch, sdegen
    >>> standard = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    >>> cold = Product({sdegen.Exact(sdegen.VP(), standard): 4.0})  # of variance 1 / 4
    >>> cold.score(torch.ones(1, 2), 0.0001).round().tolist()
    [[-4.0, -4.0]]
    """

    conditioned = True

    @check_arguments
    def __init__(self, models: Powers) -> None:
        pairs = read_powers("models", models, ScoreModel, "a score model")
        super().__init__([model for model, _ in pairs])
        self.powers = tuple(power for _, power in pairs)
        if not self.power > 0:
            raise ValueError(
                f"the powers sum to {self.power:.6g}, and the product of laws of noise, where no signal is left, has no "
                "finite integral; give powers of positive sum."
            )

    @property
    def models(self) -> list[tuple[ScoreModel, float]]:
        """The members with their powers."""
        return list(zip(self.members, self.powers, strict=True))

    @property
    def power(self) -> float:
        """The sum of the powers."""
        return sum(self.powers)

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments of the product of the Gaussians that have the members' moments under the conditions.

        It is None if those of a member are not known, or the product has no finite integral.
        """
        known = [model.conditional_moments(**cond) for model in self.members]
        if any(moments is None or moments.mean.shape != moments.event_shape for moments in known):
            return None
        laws = [gaussian(moments) for moments in known if moments is not None]
        found = multiply_components([(law, power) for law, power in zip(laws, self.powers, strict=True)])
        return None if found is None else found.law.moments()

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the noise ``Σ β_i eps_i``, and the clean state that the state has with this noise."""
        x_0, eps = (self.combine(values) for values in self.member_estimates(x, t, **cond))
        if self.power == 1:
            return x_0, eps
        return x_0 + inverse(self._marginal(t).Phi)(x) * (1 - self.power), eps

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score ``Σ β_i s_i``."""
        return self.combine(torch.stack([model.score(x, t, **cond) for model in self.members]))

    def combine(self, values: Tensor) -> Tensor:
        """Return the sum of the members' `values`, ``(m, B, *)``, times their powers."""
        with uncast(values):
            return torch.tensordot(torch.tensor(self.powers, dtype=values.dtype, device=values.device), values, 1)
