"""Sample paths of any dynamics, forward or reversed, through torchsde.

For forward simulation, trajectories and checks; samplers have their own steps. Times may run in either direction.
It promises the strong order of the chosen torchsde method for state-independent noise, and nothing at times where a
coefficient is infinite.
"""

from __future__ import annotations

__all__ = ["simulate"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_choice, check_count, check_tensor
from ..laws.operators import Scale, rows
from .dynamics import Dynamics, diffusion_at, drift_at


class _Clocked(torch.nn.Module):
    """Dynamics on a clock ``u`` in [0, 1], ``t = t_0 + u (t_1 − t_0)``, one clock per row: torchsde's interface."""

    sde_type = "ito"
    noise_type = "additive"

    def __init__(self, dynamics: Any, t_0: Tensor, t_1: Tensor, shape: torch.Size) -> None:
        super().__init__()
        self.dynamics, self.t_0, self.span, self.shape = dynamics, t_0, t_1 - t_0, shape

    def _time(self, u: Tensor) -> Tensor:
        return self.t_0 + u.double().cpu() * self.span

    def f(self, u: Tensor, x: Tensor) -> Tensor:
        state = x.reshape(-1, *self.shape)
        drift = drift_at(self.dynamics, state, self._time(u))
        return (drift * rows(self.span, state)).reshape(x.shape)

    def g(self, u: Tensor, x: Tensor) -> Tensor:
        G = diffusion_at(self.dynamics, x.reshape(-1, *self.shape), self._time(u)) * self.span.abs().sqrt()
        M = G.matrix().to(x)  # (..., k, k)
        coordinates = x.shape[1] // M.shape[-1]
        full = torch.einsum("...ij,ab->...iajb", M, torch.eye(coordinates).to(x)).flatten(-4, -3).flatten(-2, -1)
        return full.expand(len(x), *full.shape[-2:])


class _ClockedScale(_Clocked):
    """The same where the noise of every coordinate has one size: no matrix is built."""

    noise_type = "diagonal"

    def g(self, u: Tensor, x: Tensor) -> Tensor:
        G = diffusion_at(self.dynamics, x.reshape(-1, *self.shape), self._time(u)) * self.span.abs().sqrt()
        return G(torch.ones_like(x))

    def g_prod_and_gdg_prod(self, u: Tensor, x: Tensor, v1: Tensor, v2: Tensor) -> tuple[Tensor, Any]:
        # G does not depend on x (dynamics that do are refused), so torchsde need not differentiate it.
        return self.g(u, x) * v1, 0.0


@check_arguments
def simulate(
    dynamics: Dynamics,
    x: Tensor,
    t_0: Tensor | float,
    t_1: Tensor | float,
    *,
    steps: int = 200,
    method: str = "euler",
    generator: torch.Generator | None = None,
    return_path: bool = False,
) -> Tensor:
    """Simulate ``dx = f dt + G dw`` from `t_0` to `t_1`, which may lie before it (a reversed process), and return the states
    there.

    Parameters
    ----------
    dynamics
        Anything with ``drift(x, t)`` and ``diffusion(x, t)``.
    x
        States at `t_0`, ``(B, *)``.
    t_0, t_1
        Times of shape ``()`` or ``(B,)``: every row may run over its own interval.
    steps
        Number of equal steps.
    method
        A torchsde method for Itô dynamics with additive noise: ``"euler"``, ``"srk"``...
    generator
        Source of randomness.
    return_path
        Return all ``steps + 1`` states, ``(steps + 1, B, *)``, instead of the last.

    Raises
    ------
    ValueError
        If `steps` is not positive.
    """
    import torchsde  # loads on use

    check_count("steps", steps), check_choice("method", method, ("euler", "milstein", "srk"))
    check_tensor("x", x)
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; give states (B, *), one at least.")
    t_0, t_1 = (torch.as_tensor(v, dtype=torch.float64).cpu() for v in (t_0, t_1))
    flat = x.reshape(len(x), -1)
    scalar = isinstance(diffusion_at(dynamics, x[:1], t_0.reshape(-1)[0]), Scale)
    clocked = (_ClockedScale if scalar else _Clocked)(dynamics, t_0, t_1, x.shape[1:])
    entropy = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device if generator else None))
    # An explicit dt makes the Brownian interval a plain list of increments: torchsde's default is 90 times slower.
    brownian = torchsde.BrownianInterval(
        0.0,
        1.0,
        size=flat.shape,
        dtype=x.dtype,
        device=x.device,
        entropy=entropy,
        dt=1.0 / steps,
        levy_area_approximation="space-time" if method == "srk" else "none",
    )
    clock = torch.linspace(0.0, 1.0, steps + 1 if return_path else 2, dtype=x.dtype, device=x.device)
    path = torchsde.sdeint(clocked, flat, clock, bm=brownian, method=method, dt=1.0 / steps)
    path = path.reshape(len(path), *x.shape)
    return path if return_path else path[-1]
