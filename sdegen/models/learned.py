"""A score model whose network predicts the variance of reversed steps too: `LearnedVariance`."""

from __future__ import annotations

__all__ = ["LearnedVariance"]

from typing import Any

from torch import Tensor, nn

from ..answers import check_answer
from ..arguments import check_arguments
from ..laws.kernels import posterior
from ..laws.operators import rows
from ..processes.linear import LinearSDE
from ..processes.scalar import as_scalar
from .network import Model
from .parametrizations import Coefficients, Parametrization
from .reversal import LearnedReversal, ReversedStep
from .score import check_dtype


class LearnedVariance(Model, LearnedReversal):
    """A score model whose network also predicts the variance of each reversed step, between DDPM's lower and upper bound.

    ``log variance = u log beta + (1 − u) log beta_tilde`` with ``u = sigmoid`` of the second half of the network's channels.
    A. Nichol and P. Dhariwal, 2021, arXiv:2102.09672. Train it with `losses.Hybrid`; sample with
    ``Ancestral(variance=learned_variance)``.

    Parameters
    ----------
    net
        Returns twice the channels it is given, along dimension 1.
    sde, parametrization, end
        As for `Model`; scalar processes only.

    Raises
    ------
    TypeError
        If the SDE is not scalar.
    ValueError
        As for `Model`.
    """

    @check_arguments
    def __init__(
        self, net: nn.Module, sde: LinearSDE, parametrization: Parametrization | None = None, end: float | None = None
    ) -> None:
        super().__init__(net, sde, parametrization, end)
        as_scalar(sde, ", and learned variances are numbers; use Model(net, sde).")

    @property
    def reversal(self) -> LearnedVariance:
        """The model itself, as a `LearnedReversal`."""
        return self

    def _both(self, x: Tensor, c: Coefficients, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the two halves of the network's channels."""
        out, shape = self._call(x, c, **cond), (len(x), 2 * x.shape[1], *x.shape[2:])
        must = "twice the channels of the state along dimension 1, for learned variances"
        first, second = check_answer("net", out, shape, x, must).chunk(2, 1)
        return first, second

    def _network(self, x: Tensor, c: Coefficients, /, **cond: Any) -> Tensor:
        """Return the half of the network's answer that makes the velocity."""
        return self._both(x, c, **cond)[0]

    def _log_variance(self, u: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Return the log-variance of the step from `t` to `s`, at the place between its bounds that the channels `u` give."""
        s_to_t = self.sde.transition(s, t)
        law = posterior(self.sde.marginal(s), self.sde.marginal(t), s_to_t)
        small, large = (rows(v.matrix()[..., 0, 0].log(), u) for v in (law.covariance, s_to_t.covariance))
        u = u.sigmoid()
        return u * large + (1 - u) * small

    def reverse_log_variance(self, x: Tensor, s: Tensor, t: Tensor, /, **cond: Any) -> Tensor:
        """Return the logarithm of the learned variance of the step from `t` to `s`."""
        c = self._coefficients(self._marginal(t), check_dtype(self, x))
        return self._log_variance(self._both(x, c, **cond)[1], s, t)

    def reverse_estimate(self, x: Tensor, s: Tensor, t: Tensor, /, **cond: Any) -> ReversedStep:
        """Return clean state, noise and learned variance of the step from `t` to `s`, by one evaluation of the network."""
        at = self.sde.marginal(t)
        c = self._coefficients(at, check_dtype(self, x))
        first, u = self._both(x, c, **cond)
        y, v = at.normalise(x), c.c_skip(x) + c.c_out(first)
        return ReversedStep(at.denoise(y, v), at.noise(y, v), self._log_variance(u, s, t))

    def reverse_step(self, x: Tensor, question: Any, s: Tensor, t: Tensor, z: Tensor, /, **cond: Any) -> Tensor:
        """Take the step from `t` to `s`, with the mean that the question asks for and noise `z` of the learned variance,
        by one evaluation.
        """
        first, u = self._both(x, question, **cond)
        mean: Tensor = question.join(x, first)
        return mean + (0.5 * self._log_variance(u, s, t)).exp() * z
