"""The reversed process of a Gaussian law of the data on a process whose matrices do not commute: `ReversedGaussian`.

The reversed process is linear: it takes a deviation from the mean at `t` to ``Psi_s Psi_t⁻¹`` times that deviation at `s`, with

    dPsi/dt = (F + ½ (1 + eta²) G Gᵀ V⁻¹) Psi,    V = Phi C Phiᵀ + Sigma,

where `C` is the covariance of the data and `V` that of the states. At ``eta = 1`` `Psi` is ``V Phi⁻ᵀ``. For a point mass at
``eta = 0`` it is the root of the marginal. Otherwise it is a table (`quadrature.RootTable`).
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

LARGEST = 256  # numbers of a state: a table holds some hundred matrices over them
PANELS = 16  # of a table, to begin with: an e-fold of time each
FIRST = 1e-8  # of T: where a table begins


class ReversedGaussian(Fixed):
    """The reversed process, at a noise level, of a Gaussian law of the data or a point mass.

    For a law of one variance in all coordinates maps are as the process has them; for any other they are matrices over all
    numbers of a state.

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
        The number of numbers in a state if maps are matrices over all of them, and else 0.
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
        """Return a map of states in the form that this law needs."""
        return Matrix(full_matrix(A, self.numbers).reshape(-1, self.numbers, self.numbers)) if self.numbers else A

    def covariance(self, at: Marginal) -> Operator:
        """Return `V` at the times of marginals."""
        Phi, Sigma = self.whole(at.Phi), self.whole(at.covariance)
        return Sigma if self.point else Phi @ self.C @ Phi.T + Sigma

    def Psi(self, at: Marginal) -> Operator:
        """Return `Psi` at the times of marginals."""
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
