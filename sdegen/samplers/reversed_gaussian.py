"""The reversed process of a Gaussian law of the data on a process whose matrices do not commute: `ReversedGaussian`.

It is linear. With the covariance `C` of the data, what is left of a deviation from its mean is ``Psi_s Psi_t⁻¹`` of it, with

    dPsi/dt = (F + ½ (1 + eta²) G Gᵀ V⁻¹) Psi,    V = Phi C Phiᵀ + Sigma,

`V` the covariance of its states. `Psi` is ``V Phi⁻ᵀ`` at ``eta = 1``; elsewhere it is a table (`quadrature.RootTable`), but for a
point mass at ``eta = 0``, where it is the root of the marginal.
"""

from __future__ import annotations

__all__ = ["ReversedGaussian"]

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from ..fixed import Fixed
from ..laws.marginals import Marginal
from ..laws.matrices import Matrix, full_matrix
from ..laws.operators import Operator
from ..processes.linear import LinearSDE
from ..processes.quadrature import RootTable
from .references import ReferenceLaw

LARGEST = 256  # numbers of a state, whose squares a table holds some hundred times
PANELS = 16  # of a table, to begin with: an e-fold of time each
FIRST = 1e-8  # of T: where a table begins


class ReversedGaussian(Fixed):
    """The reversed process, at a noise level, of a Gaussian law of the data or a point mass.

    A law of one variance in all coordinates takes maps as the process has them; any other takes them as matrices over all numbers
    of a state.

    Parameters
    ----------
    sde
        A linear process.
    law
        The law.
    eta
        The noise level.

    Attributes
    ----------
    numbers
        Of a state, where maps are over all of them; 0 elsewhere.
    point
        Whether the law is a point mass.
    C
        The covariance of clean states.

    Raises
    ------
    ValueError
        If states have too many numbers for matrices over them.
    """

    def __init__(self, sde: LinearSDE, law: ReferenceLaw, eta: float) -> None:
        self.sde, self.eta, self.numbers = sde, eta, 0
        self.point = law.covariance.ndim == 0 and not law.covariance
        if law.covariance.ndim:
            C = law.covariance if law.covariance.ndim == 2 else law.covariance.diag()
            E = sde.embedding.matrix(len(C))
            if len(E) > LARGEST:
                raise ValueError(
                    f"a reference of its own variance in each coordinate takes matrices of {len(E)} numbers on "
                    f"{type(sde).__name__}, {LARGEST} at most; choose the reference PointMass() or Normal()."
                )
            self.numbers = len(E)
        self.C: Operator = Matrix(E @ C @ E.T) if self.numbers else sde.datum * law.covariance

    def whole(self, A: Operator) -> Operator:
        """Return a map of states in the form that this law takes."""
        return Matrix(full_matrix(A, self.numbers).reshape(-1, self.numbers, self.numbers)) if self.numbers else A

    def covariance(self, at: Marginal) -> Operator:
        """Return `V` at the times of laws."""
        Phi, Sigma = self.whole(at.Phi), self.whole(at.covariance)
        return Sigma if self.point else Phi @ self.C @ Phi.T + Sigma

    def Psi(self, at: Marginal) -> Operator:
        """Return `Psi` at the times of laws."""
        if self.eta == 1:
            return self.covariance(at) @ self.whole(at.Phi).T.inv()
        return at.R if self.point and not self.eta else Matrix(self._table(at.t))

    @cached_property
    def _table(self) -> RootTable:
        def values(name: str) -> Callable[[Tensor], Tensor]:
            return lambda t: self.whole(getattr(self.sde, name)(t)).matrix()

        def V(t: Tensor) -> Tensor:
            return self.covariance(self.sde.marginal(t)).matrix()

        F, G = values("drift_operator"), values("diffusion_operator")
        return RootTable(F, G, V, self.sde.T, PANELS, FIRST, self.eta)
