"""Linear SDEs on states that a matrix makes of the data, `m` numbers of a datum into `k` of a state: `LiftedSDE`."""

from __future__ import annotations

__all__ = ["LiftedSDE"]


import torch
from torch import Tensor

from ..dense import with_all_digits
from ..fixed import kept_property
from ..laws.embedding import Embedding, Lift, Wide
from ..laws.kernels import Kernel
from ..laws.matrices import Matrix
from .matrix import CoupledSDE
from .quadrature import psd_cholesky


class LiftedSDE(CoupledSDE):
    """The base class of linear SDEs on states ``u = E x`` of `k` numbers for `m` numbers of the data,
    ``du = F(t) u dt + G(t) dw``, with ``(k, k)`` matrices on dimension 1 of states ``(B, k, *)``, for data ``(B, m, *)``.

    Examples are positions and their common momentum, sensors that see sums of sources, and data with hidden neighbours. A
    subclass gives `E`, `F` and `G`, and `Sigma_0` if there is noise at 0. Moments and the root follow as for `MatrixSDE`, whose
    states are channels of each number by itself, and `CorrelatedSDE`, whose states are the data.

    Attributes
    ----------
    E
        The lift, float64 ``(k, m)`` of rank `m`; a subclass gives it.
    Sigma_0
        Covariance of the state at ``t = 0`` given clean data, ``(k, k)``; by default there is none.

    Raises
    ------
    ValueError
        When the process is first used, if the rank of `E` is less than its number of columns.

    Examples
    --------
    >>> class Hidden(LiftedSDE):
    ...     E = torch.eye(3, 2, dtype=torch.float64)
    ...     def F(self, t): return torch.tensor([[-1.0, 0.0, 0.5], [0.0, -1.0, 0.5], [-0.5, -0.5, -1.0]])
    ...     def G(self, t): return torch.eye(3, dtype=torch.float64)
    >>> Hidden().lift(torch.ones(4, 2)).shape
    torch.Size([4, 3])
    """

    E: Tensor

    @kept_property
    def Sigma_0(self) -> Tensor:  # an attribute of the same name takes its place
        """No noise at 0."""
        return torch.zeros(len(self.E), len(self.E), dtype=torch.float64)

    @property
    def _E(self) -> Tensor:
        """The lift, float64."""
        E = with_all_digits(self.E)
        E = E if E.is_complex() else E.double()
        if E.is_complex() or E.ndim != 2 or torch.linalg.matrix_rank(E) < E.shape[1]:
            raise ValueError(
                f"{type(self).__name__}.E of shape {tuple(E.shape)} is no lift: two data would have one state; give a matrix "
                "(k, m) of real numbers whose columns are independent."
            )
        return E

    @property
    def _across(self) -> Tensor:
        """The directions across the lift, ``(k, k − m)``."""
        return torch.linalg.svd(self._E).U[:, self._E.shape[1] :]

    @property
    def event_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of a datum, if it is a vector."""
        return (self._E.shape[1],)

    @property
    def embedding(self) -> Embedding:  # type: ignore[override]
        """The lift."""
        return Lift(self._E)

    def embed(self, x: Tensor) -> Tensor:
        """Return the mean state at time 0, ``E x``."""
        return Wide(self._E)(x)

    def extract(self, u: Tensor) -> Tensor:
        """Return the data in a state, by the inverse of `E` on its columns."""
        return Wide(torch.linalg.pinv(self._E))(u)

    def fill(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return states at 0 whose data part is `x`, the rest across `E` drawn with noise `z` ``(B, k, *)``, and by how much the
        log-density of the data is less than that of the state: the log-density of the rest, less the log-volume of the lift.
        """
        across = self._across
        volume = 0.5 * torch.linalg.slogdet(self._E.T @ self._E).logabsdet.item() * x[0].numel() / self._E.shape[1]
        if not across.numel():
            return self.embed(x), x.new_full((len(x),), -volume)
        noise = Wide(across.T)(z)
        law = Kernel(torch.zeros_like(noise), Matrix(psd_cholesky(across.T @ self.Sigma_0 @ across)))
        rest = law.sample(noise)
        return self.embed(x) + Wide(across)(rest), law.log_prob(rest) - volume
