"""Continuous normalizing flows (FFJORD): an ordinary differential equation maps data to noise, trained by maximum likelihood."""

from __future__ import annotations

__all__ = ["ContinuousFlow", "Trajectory"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..answers import check_answer
from ..arguments import check_arguments
from ..laws.derivatives import exact_divergence, hutchinson_divergence
from ..laws.draws import rademacher_like
from ..precision import dtype_of, widened
from .flow import Bijection, NormalizingFlow


class Trajectory(Bijection):
    """A bijection that follows ``dx/dt = v(x, t)`` from data at time 0 to noise at time 1.

    The log-determinant is the integral of ``d log|det ∂x_t/∂x_0| / dt = div v``.

    Parameters
    ----------
    velocity
        ``v(x, t)``, a network of states ``(B, *)`` and times ``(B,)``.
    tolerance
        Tolerance of the adaptive solver, Dormand–Prince of order five, relative and absolute.
    """

    def __init__(self, velocity: nn.Module, tolerance: float) -> None:
        super().__init__()
        self.velocity, self.tolerance = velocity, tolerance

    def forward(self, x: Tensor, probe: Tensor | None = None, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Follow data to noise, and return the noise with the log-determinant: ``(z, log_det)``.

        Parameters
        ----------
        x
            Data, ``(B, *)``.
        probe
            Signs of the shape of `x`, for Hutchinson's estimate of the divergence; None for the exact divergence.
        steps
            Number of steps of the Runge–Kutta method of order four; None for the adaptive solver.
        """

        def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            def field(at: Tensor) -> Tensor:
                return self._velocity_at(at, t)

            if probe is None:
                return exact_divergence(field, state[0])
            return hutchinson_divergence(field, state[0], probe=probe)

        start = widened(x)
        z, log_det = self._solve(slope, (start, start.new_zeros(len(x))), (0.0, 1.0), steps)
        return z, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Follow noise `z` back to data, and return the data."""

        def slope(t: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
            return (self._velocity_at(state[0], t),)

        return self._solve(slope, (widened(z),), (1.0, 0.0), None)[0].to(z.dtype)

    def _velocity_at(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity at one time, from a network that is called in its own dtype."""
        v = self.velocity(x.to(dtype_of(self.velocity, x)), t.expand(len(x)))
        return check_answer("velocity", v, x.shape, x)

    def _solve(self, slope, start, ends, steps):  # type: ignore[no-untyped-def] # torchdiffeq has no types
        """Solve from the first to the second of the two times `ends`, and return the state there, a tuple like `start`."""
        from torchdiffeq import odeint  # loads on use

        times = torch.tensor(ends, dtype=start[0].dtype, device=start[0].device)
        how = {"method": "dopri5"} if steps is None else {"method": "rk4", "options": {"step_size": 1 / steps}}
        half = dtype_of(self.velocity, start[0]).itemsize <= 2  # whose answers have three digits
        tolerance = max(self.tolerance, 1e-3) if half else self.tolerance
        try:
            path = odeint(slope, start, times, rtol=tolerance, atol=tolerance, **how)
        except AssertionError as failure:  # torchdiffeq asserts that steps have a length and that states stay finite
            raise ValueError(
                "the flow cannot be followed: its velocity is not finite or too steep; look at the network's answers, or give a "
                "larger tolerance."
            ) from failure
        return tuple(part[-1] for part in path)


class ContinuousFlow(NormalizingFlow):
    """A continuous normalizing flow with a network for the velocity `v` of ``dx/dt = v(x, t)``: ``log p(x_0) = log N(x_1;
    0, I) + ∫_0^1 div v(x_t, t) dt``.

    W. Grathwohl, R. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud, *FFJORD: free-form continuous dynamics for scalable
    reversible generative models*, 2018, arXiv:1810.01367. The divergence is exact; in training it may be Hutchinson's
    estimate, with one probe for each datum along its whole trajectory, which leaves the gradient unbiased.

    Parameters
    ----------
    velocity
        The network, ``velocity(x, t)`` with t in [0, 1], such as ``nets.MLP(2)``.
    shape
        The shape of a datum.
    steps
        Number of equal steps of the solver in training. Densities and samples come from an adaptive solver.
    probes
        Whether training takes Hutchinson's estimate of the divergence.
    tolerance
        Tolerance of the adaptive solver.

    Raises
    ------
    ValueError
        If `steps` or `tolerance` is not positive.
    """

    @check_arguments
    def __init__(
        self,
        velocity: nn.Module,
        shape: Sequence[int],
        steps: int = 8,
        probes: bool = False,
        tolerance: float = 1e-6,
    ) -> None:
        if steps < 1 or not tolerance > 0:
            raise ValueError(f"steps = {steps}, tolerance = {tolerance}; both must be positive.")
        super().__init__(Trajectory(velocity, tolerance), shape)
        self.steps, self.probes, self.tolerance = steps, probes, tolerance

    @property
    def velocity(self) -> Any:
        """The network `v` of ``dx/dt = v(x, t)``."""
        return self.net.velocity

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``−log p(x) / D`` by a solver with fixed steps, in nats per coordinate, ``(B,)``."""
        u = self.standardised(x)
        probe = rademacher_like(u, generator) if self.probes else None
        return (self.log_volume(x) - self._log_density(*self.net(u, probe, self.steps))) / self.dim
