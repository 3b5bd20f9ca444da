"""Linear SDEs whose coefficients are matrices ``F, G``: over the numbers of the data (`CorrelatedSDE`), or over channels that
each number of a datum is lifted to (`MatrixSDE`).

``Phi``, ``Sigma`` and the root `R` are derived from them.
"""

from __future__ import annotations

__all__ = ["CorrelatedSDE", "CoupledSDE", "MatrixFlow", "MatrixSDE"]

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..answers import ask_score
from ..fixed import is_followed, isolated_for, kept_property, remembered, weights_of
from ..laws.embedding import Embedding, IntoChannels
from ..laws.kernels import Kernel, Transition
from ..laws.matrices import Matrix
from ..laws.operators import Operator
from ..laws.products import Field
from .base import Flow, HasVelocity
from .dynamics import as_ordered_times, as_time, at_times, coefficient
from .inverse import Tabulated
from .linear import find_t_min
from .matrix_panels import MatrixPanels
from .quadrature import RootTable, psd_cholesky


class CoupledSDE(Tabulated):
    """The base class of linear SDEs with matrix coefficients, ``du = F(t) u dt + G(t) dw``: what `MatrixSDE` and `CorrelatedSDE`
    share.

    Give `F` and `G`; the moments follow by quadrature (see `matrix_panels.MatrixPanels`) and the root from its ODE (see
    `quadrature.RootTable`).

    Attributes
    ----------
    Sigma_0
        Covariance of the state at ``t = 0`` given clean data, ``(k, k)``.
    """

    @remembered
    def t_min(self) -> float:
        """Return a thousandth of T, which assumes nothing of the noise: it may begin like any power of the time."""
        return 1e-3 * self.T

    @property
    @abstractmethod
    def _E(self) -> Tensor:
        """The matrix that makes a state of the `m` numbers of a datum that move together, ``(k, m)``."""

    @abstractmethod
    def F(self, t: Tensor) -> Tensor:
        """Return the drift matrix, ``(*t.shape, k, k)`` or ``(k, k)``, float64."""

    @abstractmethod
    def G(self, t: Tensor) -> Tensor:
        """Return the diffusion matrix, ``(*t.shape, k, k)`` or ``(k, k)``, float64."""

    def _checked_F(self, t: Tensor) -> Tensor:
        """Return `F`, checked for its shape."""
        return coefficient(f"{type(self).__name__}.F", at_times(self, "F", t), t, self.Sigma_0.shape)

    def _checked_G(self, t: Tensor) -> Tensor:
        """Return `G`, checked for its shape."""
        return coefficient(f"{type(self).__name__}.G", at_times(self, "G", t), t, self.Sigma_0.shape)

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``Phi`` and the covariance of ``u_t`` given ``u_s``, ``(*t.shape, k, k)``; override it if a closed form
        is known.
        """
        return self._known_panels()(s, t)

    def _known_panels(self) -> MatrixPanels:
        """Return the panels of the coefficients."""
        state = weights_of(self), is_followed(self)
        return self._kept_panels(state, lambda: MatrixPanels(self._checked_F, self._checked_G, 0.0, self.T))

    @kept_property
    def datum(self) -> Matrix:
        """``E Eᵀ``, with a little variance added in all channels, as some may start at one point."""
        return Matrix(self._E @ self._E.T + 1e-12 * torch.eye(len(self.Sigma_0), dtype=torch.float64))

    def _covariance(self, t: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the covariance of the state at `t` if the covariance at 0 is `start`; by default `Sigma_0`, that of one
        datum.
        """
        Phi, Sigma = self.moments(torch.zeros_like(t), t)
        return Phi @ (self.Sigma_0 if start is None else start) @ Phi.mT + Sigma

    @property
    def _root(self) -> RootTable:
        """The table of the root; a table that carries gradients is made anew each time, as its graph is used up."""
        return self._root_table(self._covariance) if self._learns else self._known_root

    @property
    def _unit_root(self) -> RootTable:
        """The table of the root for data of unit variance."""
        return self._root_table(self._unit_covariance) if self._learns else self._known_unit_root

    @property
    def _learns(self) -> bool:
        """Whether derivatives by parameters or attributes of the process are asked for."""
        return is_followed(self)

    @remembered
    def _known_root(self) -> RootTable:
        return self._root_table(self._covariance)

    @remembered
    def _known_unit_root(self) -> RootTable:
        return self._root_table(self._unit_covariance)

    def _root_table(self, covariance: Callable[[Tensor], Tensor]) -> RootTable:
        with isolated_for(self):  # as of panels
            return RootTable(self._checked_F, self._checked_G, covariance, self.T)

    def _unit_covariance(self, t: Tensor) -> Tensor:
        """Return the covariance of the state at `t` if data have unit variance."""
        return self._covariance(t, self.Sigma_0 + self.datum.matrix())

    def drift_operator(self, t: Tensor | float) -> Matrix:
        """Return ``F(t)``."""
        return Matrix(self._checked_F(as_time(t, self.T)))

    def diffusion_operator(self, t: Tensor | float) -> Matrix:
        """Return ``G(t)``."""
        return Matrix(self._checked_G(as_time(t, self.T)))

    def _log_snr_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log snr`` and its derivative, by ``d log(1 + snr) / dt = −tr(Gᵀ C⁻¹ P Pᵀ Sigma⁻¹ G) / m`` with ``P = Phi E``
        of `m` columns and ``C = P Pᵀ + Sigma``.
        """
        at = self.marginal(t)
        P, R_inv, G = at.Phi.matrix() @ self._E, at.R.inv().matrix(), self._checked_G(t)
        seen = P.mT @ torch.linalg.solve(P @ P.mT + at.covariance.matrix(), G.expand(P.shape[:-2] + G.shape[-2:]))
        told = P.mT @ R_inv.mT @ R_inv @ G
        return at.log_snr, -(seen * told).sum((-2, -1)) / P.shape[-1] * (1 + 1 / at.snr)

    def flow(self, model: HasVelocity) -> MatrixFlow:
        """Return the probability flow, which is regular at 0 too."""
        return MatrixFlow(self, model)

    def _marginal(self, t: Tensor) -> tuple[Operator, Operator]:
        """Return ``Phi``, and the root of the covariance that deterministic samplers need."""
        Phi, _ = self.moments(torch.zeros_like(t), t)
        return Matrix(Phi), Matrix(self._root(t))

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        """Return the law of ``u_t`` given ``u_s``, with the Cholesky factor of its covariance."""
        first, last = torch.broadcast_tensors(*as_ordered_times(s, t, self.T))
        Phi, Sigma = self.moments(first, last)
        return Transition(Matrix(Phi), Matrix(psd_cholesky(Sigma)))


class MatrixSDE(CoupledSDE):
    """The base class of linear SDEs with matrix coefficients: ``du = F(t) u dt + G(t) dw``, ``(k, k)`` matrices on the
    channels of states ``(B, k, *)``.

    Give `F` and `G`; the moments follow by quadrature and the root from its ODE. By default the data are the first channel and
    the others start as given by `Sigma_0`.

    Attributes
    ----------
    Sigma_0
        Covariance of the state at ``t = 0`` given clean data, ``(k, k)``; a subclass gives it.

    Raises
    ------
    NotImplementedError
        When the process is first used, if a subclass gives no `Sigma_0`.
    """

    @kept_property
    def Sigma_0(self) -> Tensor:  # an attribute of the same name takes its place
        """Refuse to be read, since a subclass has to give `Sigma_0`."""
        raise NotImplementedError(
            f"{type(self).__name__} gives no Sigma_0, the covariance of the state at t = 0 given clean data; set it in "
            "__init__ to a float64 tensor (k, k), torch.zeros(k, k, dtype=torch.float64) if the state starts without noise."
        )

    def embed(self, x: Tensor) -> Tensor:
        """Return the mean state at time 0: the data are the first channel, the others are 0."""
        return torch.stack([x] + [torch.zeros_like(x)] * (len(self.Sigma_0) - 1), 1)

    def extract(self, u: Tensor) -> Tensor:
        """Return the data in a state, its first channel."""
        return u[:, 0]

    def fill(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return states at 0 whose data part is `x`, the rest drawn with noise `z` ``(B, k, *)``, and the rest's
        log-density.
        """
        rest = Matrix(psd_cholesky(self.Sigma_0[1:, 1:]))
        law = Kernel(torch.zeros_like(z[:, 1:]), rest)
        v = law.sample(z[:, 1:])
        return self.embed(x) + torch.cat([torch.zeros_like(x[:, None]), v], 1), law.log_prob(v)

    @kept_property
    def embedding(self) -> Embedding:
        """The map of a datum of 1 to the state that `embed` makes of it."""
        return IntoChannels(self.embed(torch.ones(1, 1, dtype=torch.float64))[0, :, 0])

    @property
    def _E(self) -> Tensor:
        """The matrix that makes a state of a number of the datum, ``(k, 1)``; each number moves by itself."""
        return self.embedding.matrix(1)


class CorrelatedSDE(CoupledSDE):
    """The base class of linear SDEs that couple the numbers of the data, ``dx = F(t) x dt + G(t) dw``: ``(d, d)`` matrices on
    data ``(B, d)``, or on dimension 1 of data ``(B, d, *)``.

    Examples are noise that is correlated across the data, coupled oscillators, and Ornstein–Uhlenbeck processes in several
    dimensions. The state is the datum. A subclass gives `F` and `G`; the moments and the root follow as for `MatrixSDE`. A table
    of the root takes time and memory as ``d³`` and ``d²``, for up to some dozens of numbers; for more use `CoordinateSDE` in a
    basis.

    Attributes
    ----------
    Sigma_0
        Covariance of the state at ``t = 0`` given clean data, ``(d, d)``; by default there is none.

    Examples
    --------
    >>> class Coloured(CorrelatedSDE):
    ...     def F(self, t): return -torch.eye(2, dtype=torch.float64)
    ...     def G(self, t): return torch.tensor([[1.0, 0.0], [1.2, 0.5]], dtype=torch.float64)
    >>> law = Coloured().marginal(1.0)
    >>> (law.covariance.M / law.covariance.M[0, 0]).round(decimals=9).tolist()
    [[1.0, 1.2], [1.2, 1.69]]
    """

    @kept_property
    def Sigma_0(self) -> Tensor:  # an attribute of the same name takes its place
        """No noise at 0."""
        F = torch.as_tensor(self.F(torch.zeros((), dtype=torch.float64)))
        if F.ndim != 2 or F.shape[0] != F.shape[1]:
            raise ValueError(
                f"{type(self).__name__}.F returned shape {tuple(F.shape)} at one time; give a matrix (d, d), which acts on data "
                "(B, d)."
            )
        return torch.zeros(F.shape, dtype=torch.float64)

    @property
    def event_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of a datum, if it is a vector."""
        return (len(self.Sigma_0),)

    @property
    def _E(self) -> Tensor:
        """The identity: states are the data."""
        return torch.eye(len(self.Sigma_0), dtype=torch.float64)

    t_min = remembered(find_t_min)


class MatrixFlow(Flow):
    """The probability flow of a matrix process, in `t` and the rescaled state ``y = R⁻¹ u``, with `R` a root of the covariance
    `C` of states whose data have unit variance.

    ``C = Phi (E Eᵀ + Sigma_0) Phiᵀ + Sigma``, and ``dR/dt = (F + ½ G Gᵀ C⁻¹) R`` (see `quadrature.RootTable`), so that only the
    model's own part is left: ``dy/dt = −½ R⁻¹ G Gᵀ (score(u, t) + C⁻¹ u)``. At 0 the slope is taken by its limit, at ``1e-8 T``.
    Where the state starts without noise in some direction, a network's answer for the noise there means nothing; but the pull
    ``G Gᵀ score`` has a limit if the network's own part vanishes with the noise (``EDMParametrization(detail=...)``).
    """

    sde: CoupledSDE

    def r(self, t: Tensor) -> Matrix:
        """Return the matrix `R`, which maps `y` to the state."""
        return Matrix(self.sde._unit_root(t))

    def field(self, tau: Tensor) -> Field:
        """Return ``dy/dt`` at one time, as a function of the state."""
        R, question = self._root_and_maps(tau)
        return lambda y: self.slope(R(y), question)

    def ask(self, tau: Tensor) -> list[Any]:
        """Return, for each of the times, the time and the two maps, of the score and of the state, whose sum is ``dy/dt``."""
        return [self._root_and_maps(t)[1] for t in tau]

    def slope(self, x: Tensor, question: Any) -> Tensor:
        """Return ``dy/dt`` at the state `x`, from the maps that `ask` has prepared."""
        t, pull, back = question
        return pull(ask_score(self.model, x, t)) + back(x)

    def _root_and_maps(self, tau: Tensor) -> tuple[Matrix, tuple[Tensor, Matrix, Matrix]]:
        """Return `R`, and the time with the maps of the score and of the state."""
        t = tau.clamp_min(1e-8 * self.sde.T)
        R, G = self.r(t), self.sde.diffusion_operator(t)
        R_inv = R.inv()
        pull = R_inv @ G @ G.T * -0.5
        return R, (t, pull, pull @ R_inv.T @ R_inv)
