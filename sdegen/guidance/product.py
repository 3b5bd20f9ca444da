"""Products of powers of laws: a score model for ``∏ p_i^β_i``, whose score is the sum of the members' times their powers."""

from __future__ import annotations

__all__ = ["Product"]

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..conditions import Conditions
from ..laws.mixtures import Moments
from ..laws.powers import multiply_components, read_powers
from ..models.score import ScoreModel
from ..processes.linear import gaussian
from .base import Guided, check_same_process, inverse, require_clean_means

Members = dict[ScoreModel, float] | Iterable[tuple[ScoreModel, float]]


class Product(Guided):
    """A score model of a product of powers of laws, ``∏ p_i^β_i / Z``, made of score models of the `p_i` on one process.

    At each time its score is ``Σ β_i s_i``, that of the product of the noised laws. These products are the marginals of no
    process, so that a sampler which follows the score ends elsewhere than in the product of the data's laws; `corrected` weighs
    its particles so that they have that law. With a model `m`, a condition, and `Without` or `Conditioned` to fix one:

    - guidance along a class, ``p(x | c)^w p(x)^(1 − w)``: ``Product([(m, w), (Without(m), 1 - w)])``;
    - guidance away from another condition: ``Product([(m, w), (Without(m, label=3), 1 - w)])``;
    - guidance away from a weaker model: ``Product({m: w, weak: 1 - w})``;
    - tempering, ``p^β``: ``Product({m: beta})``;
    - `n` observations of one datum, ``∏ p(x | y_i) p(x)^(1 − n)``: ``Product([*((Without(m, y=y), 1.0) for y in ys),
      (prior, 1.0 - n)])``;
    - another prior, ``p(x | y) q(x) / p(x)``: ``Product([(m, 1.0), (other, 1.0), (prior, -1.0)])``.

    The powers need not sum to one. Where they do not, a state without signal tells nothing of the product's data, and the clean
    state is 0 there.

    Parameters
    ----------
    models
        A dict of score models and their powers, or pairs of these. All get the conditions of a call.

    Raises
    ------
    TypeError
        If a process is not linear, or a member is no score model with a number.
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
    def __init__(self, models: Members) -> None:
        pairs = read_powers("models", models, ScoreModel, "a score model")
        super().__init__(pairs[0][0])
        require_clean_means(self)
        self.powers = tuple(power for _, power in pairs)
        self.others = tuple(model for model, _ in pairs[1:])
        self._modules_of_others = nn.ModuleList(m for m in self.others if isinstance(m, nn.Module))
        if not self.power > 0:
            raise ValueError(
                f"the powers sum to {self.power:.6g}, and the product of laws of noise, where no signal is left, has no "
                "finite integral; give powers of positive sum."
            )
        for other in self.others:
            check_same_process(self.model, other, "a member")

    @property
    def members(self) -> tuple[ScoreModel, ...]:
        """The score models of the `p_i`."""
        return self.model, *self.others

    @property
    def models(self) -> list[tuple[ScoreModel, float]]:
        """The members with their powers."""
        return list(zip(self.members, self.powers, strict=True))

    @property
    def power(self) -> float:
        """The sum of the powers."""
        return sum(self.powers)

    @property
    def conditions(self) -> Conditions:
        """The conditions that all members take, as all get them."""
        taken = self.model.conditions
        for other in self.others:
            taken = taken.both(other.conditions)
        return taken

    def with_rows(self, cond: dict[str, Any], x: Tensor, n: int) -> list[str]:
        """Name the conditions with a row for each of `n` samples, as any of the members says."""
        return sorted({name for model in self.members for name in model.with_rows(cond, x, n)})

    def part(self, rows: slice | Tensor, x: Tensor, n: int) -> ScoreModel:
        """Return the product of the members for some of the `n` samples of a run."""
        first, *others = (model.part(rows, x, n) for model in self.members)
        if first is self.model and all(a is b for a, b in zip(others, self.others, strict=True)):
            return self
        return self._around({"model": first, "others": tuple(others)})

    def examine(self, x: Tensor, /, **cond: Any) -> None:
        """Check nothing: what a member would expect of its own is not what a product's are."""

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments of the product of the Gaussians that have the members' moments under the conditions; None where a
        member's are not known, or that product has no finite integral.
        """
        known = [model.conditional_moments(**cond) for model in self.members]
        if any(moments is None or moments.mean.shape != moments.event_shape for moments in known):
            return None
        laws = [gaussian(moments) for moments in known if moments is not None]
        found = multiply_components([(law, power) for law, power in zip(laws, self.powers, strict=True)])
        return None if found is None else found.law.moments()

    def member_estimates(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return clean states and noises of all members, ``(m, B, *)`` each, by one evaluation of each."""
        both = [model._estimated(x, t, **cond) for model in self.members]
        x_0, eps = (torch.stack(values) for values in zip(*both, strict=True))
        return x_0, eps

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the noise ``Σ β_i eps_i``, and the clean state that the state has with it."""
        x_0, eps = (self.combine(values) for values in self.member_estimates(x, t, **cond))
        if self.power == 1:
            return x_0, eps
        return x_0 + inverse(self._marginal(t).Phi)(x) * (1 - self.power), eps

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score ``Σ β_i s_i``."""
        return self.combine(torch.stack([model.score(x, t, **cond) for model in self.members]))

    def combine(self, values: Tensor) -> Tensor:
        """Return the sum of the members' `values`, ``(m, B, *)``, times their powers."""
        return torch.tensordot(torch.tensor(self.powers, dtype=values.dtype, device=values.device), values, 1)
