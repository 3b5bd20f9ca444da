"""Sample paths of any dynamics, forward or reversed, through torchsde.

This is for forward simulation, trajectories and checks; samplers have their own steps. A forward process runs up in time, its
reversal down. The strong order is that of the chosen torchsde method; nothing is promised at times where a coefficient is
infinite.
"""

from __future__ import annotations

__all__ = ["simulate"]

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..arguments import check_arguments
from ..checks import check_choice, check_count, check_tensor
from ..laws.domains import check_domain
from ..laws.operators import Operator, rows
from ..laws.reflected import fold_into
from ..precision import uncast
from .dynamics import Dynamics, as_time, diffusion_at, drift_at
from .state_noise import Dependence, dependence_of_noise

Solve = Callable[[Tensor, Tensor], Tensor]
UNIT = 1.0  # in coordinates without bounds: for a longer step it is checked whether the coefficients change on the way


class _Clocked(torch.nn.Module):
    """Dynamics on a clock ``u`` in [0, 1], ``t = t_0 + u (t_1 − t_0)``, one clock per row: torchsde's interface."""

    sde_type = "ito"

    def __init__(self, dynamics: Any, t_0: Tensor, t_1: Tensor, shape: torch.Size, noise_type: str) -> None:
        super().__init__()
        self.dynamics, self.t_0, self.span, self.shape = dynamics, t_0, t_1 - t_0, shape
        self.noise_type = noise_type

    def _time(self, u: Tensor) -> Tensor:
        return self.t_0 + u.double().cpu() * self.span

    def _noise(self, u: Tensor, x: Tensor) -> Operator:
        return diffusion_at(self.dynamics, x.reshape(-1, *self.shape), self._time(u)) * self.span.abs().sqrt()

    def f(self, u: Tensor, x: Tensor) -> Tensor:
        state = x.reshape(-1, *self.shape)
        drift = drift_at(self.dynamics, state, self._time(u))
        return (drift * rows(self.span, state)).reshape(x.shape)

    def g(self, u: Tensor, x: Tensor) -> Tensor:
        M = self._noise(u, x).matrix().to(x)  # (..., k, k)
        coordinates = x.shape[1] // M.shape[-1]
        full = torch.einsum("...ij,ab->...iajb", M, torch.eye(coordinates).to(x)).flatten(-4, -3).flatten(-2, -1)
        return full.expand(len(x), *full.shape[-2:])


class _ClockedDiagonal(_Clocked):
    """Dynamics on a clock with noise of each coordinate by itself, for which no matrix is built."""

    def g(self, u: Tensor, x: Tensor) -> Tensor:
        return self._noise(u, x)(torch.ones(len(x), *self.shape).to(x)).reshape(x.shape)


class _ClockedFree(_ClockedDiagonal):
    """Dynamics on a clock in coordinates ``y = phi(x)`` without bounds, by Itô's formula."""

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        phi, x = self.dynamics.free, self.dynamics.free.inverse(y)
        return phi.slope(x) * (super().f(u, x) + 0.5 * phi.bend(x) * super().g(u, x).square())

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        x = self.dynamics.free.inverse(y)
        return self.dynamics.free.slope(x) * super().g(u, x)

    def steep(self, u: Tensor, y: Tensor, h: float, f: Tensor, g: Tensor) -> Tensor:
        """Tell for which numbers a step of length `h` is too long for its coefficients `f` and `g`: it goes farther than a unit,
        and the coefficients change so much over a unit that it would go another unit farther. Such a number is near an end of the
        domain, which coordinates without bounds put infinitely far away.
        """
        far = (f.abs() * h > UNIT) | (g.square() * h > UNIT)
        if not far.any():
            return far
        up, down = ((self.f(u, v), self.g(u, v).square()) for v in (y + 0.5, y - 0.5))
        changes = [(a - b).abs() * h > UNIT for a, b in zip(up, down, strict=True)]
        return far & (changes[0] | changes[1])

    def step_inside(self, u: Tensor, y: Tensor, h: float, dw: Tensor) -> Tensor:
        """Take a step of Euler's method in the state itself, reflect it at an end that it passes, and return the coordinates."""
        free, domain = self.dynamics.free, self.dynamics.domain
        x = free.inverse(y)
        x = x + super().f(u, x) * h + super().g(u, x) * dw
        low, high = getattr(domain, "lower_bound", -torch.inf), getattr(domain, "upper_bound", torch.inf)
        state = fold_into(x.reshape(-1, *self.shape), low, high)
        return free(free.inverse(free(state.reshape(x.shape))))  # off an end, where coordinates are infinite


def _for_torchsde(dynamics: Dynamics, x: Tensor, t_0: Tensor, t_1: Tensor, method: str) -> _Clocked:
    """Return dynamics as torchsde takes them, by how their noise depends on the state.

    Raises
    ------
    ValueError
        If the method has no order for noise that depends on the state in this way.
    """
    start = t_0.reshape(-1)[0]
    elementwise = diffusion_at(dynamics, x[:1], start).along(None) is not None
    dependence = dependence_of_noise(
        f"{type(dynamics).__name__}.diffusion", partial(diffusion_at, dynamics), x[:1], start
    )
    shape = x.shape[1:]
    if dynamics.free is not None:
        if not elementwise or dependence is Dependence.ANY:
            raise ValueError(
                f"{type(dynamics).__name__} has bounds and noise that couples its coordinates; give it in coordinates without "
                "bounds, processes.Transformed(sde, coordinates)."
            )
        return _ClockedFree(dynamics, t_0, t_1, shape, "diagonal")
    if dependence is Dependence.ALONE or (dependence is Dependence.NONE and elementwise):
        return _ClockedDiagonal(dynamics, t_0, t_1, shape, "diagonal")
    if dependence is Dependence.NONE:
        return _Clocked(dynamics, t_0, t_1, shape, "additive")
    if method != "euler":
        raise ValueError(
            f"method = {method!r} with noise that couples the coordinates of {type(dynamics).__name__}: its order needs Lévy "
            'areas, which are not drawn; take method="euler".'
        )
    return _Clocked(dynamics, t_0, t_1, shape, "general")


def _check_direction(dynamics: Dynamics, t_0: Tensor, t_1: Tensor) -> None:
    """Refuse, by a ValueError, times that run against the direction in which the equation holds."""
    against = dynamics.direction * (t_1 - t_0)
    if (against >= 0).all():
        return
    name = type(dynamics).__name__
    remedy = (
        "back in time its law is kept by sde.reverse(model)"
        if dynamics.direction > 0
        else "up in time it is the process that was reversed, or sde.reverse(model, eta=0), which goes both ways"
    )
    way = "down" if dynamics.direction > 0 else "up"
    raise ValueError(f"{name} is run {way} in time, where its equation does not hold: {remedy}; or swap t_0 and t_1.")


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
    """Simulate ``dx = f dt + G dw`` from `t_0` to `t_1`, and return the states there.

    With noise an equation holds in one direction of time: a forward process, such as ``VP()``, goes up, and what goes down with
    the same laws is ``sde.reverse(model)``. The probability flow, ``sde.reverse(model, eta=0)``, goes both ways, and so do other
    dynamics, unless they say otherwise (`Dynamics.direction`): down in time they are ``dx = f dt + G dw`` with ``E dw² = |dt|``.

    Parameters
    ----------
    dynamics
        Anything with ``drift(x, t)`` and ``diffusion(x, t)``.
    x
        States at `t_0`, ``(B, *)``.
    t_0, t_1
        Times of shape ``()`` or ``(B,)`` in ``[0, T]``: every row may run over its own interval.
    steps
        Number of equal steps.
    method
        A torchsde method for Itô dynamics: ``"euler"``, of strong order 1/2 where the noise depends on the state and 1 where it
        does not; ``"milstein"``, of order 1; ``"srk"``, of order 3/2. The last two need noise of which each coordinate depends on
        its own number alone.
    generator
        Source of randomness.
    return_path
        Return all ``steps + 1`` states, ``(steps + 1, B, *)``, instead of the last.

    Raises
    ------
    ValueError
        If `steps` is not positive, the method does not suit the noise, or times lie outside of ``[0, T]`` or run against the
        direction in which the equation holds.
    """
    import torchsde  # loads on use

    check_count("steps", steps), check_choice("method", method, ("euler", "milstein", "srk"))
    check_tensor("x", x)
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; give states (B, *), one at least.")
    t_0, t_1 = as_time(t_0, dynamics.T, "t_0"), as_time(t_1, dynamics.T, "t_1")
    for name, t in (("t_0", t_0), ("t_1", t_1)):
        if t.ndim and len(t) not in (1, len(x)):
            raise ValueError(f"{name} has shape {tuple(t.shape)}; give one time, or one for each of {len(x)} states.")
    _check_direction(dynamics, t_0, t_1)
    flat = x.reshape(len(x), -1)
    clocked = _for_torchsde(dynamics, x, t_0, t_1, method)
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
    free = dynamics.free
    check_domain(dynamics.domain, x)
    start = flat if free is None else free(flat)
    solve = partial(torchsde.sdeint, clocked, bm=brownian, method=method, dt=1.0 / steps)
    with uncast(x):
        if isinstance(clocked, _ClockedFree):
            within = partial(_step_within, clocked, None if method == "euler" else solve, brownian)
            path = _by_steps(within, start, steps, return_path)
        elif dynamics.domain is not constraints.real:  # whose boundary is met at every step
            path = _by_steps(partial(_step_and_enter, dynamics, solve, x.shape), start, steps, return_path)
        else:
            path = solve(start, clock)
    path = (path if free is None else free.inverse(path)).reshape(len(path), *x.shape)
    return path if return_path else path[-1]


def _by_steps(step: Solve, y: Tensor, steps: int, return_path: bool) -> Tensor:
    """Take single steps, each by a function of a state and of the clock at both ends, and return the states: the whole path, or
    the last state alone, ``(1, *)``.
    """
    clock = torch.linspace(0.0, 1.0, steps + 1, dtype=y.dtype, device=y.device)
    path = [y]
    for i in range(steps):
        y = step(y, clock[i : i + 2])
        if not return_path:
            path.clear()
        path.append(y)
    return torch.stack(path)


def _step_and_enter(dynamics: Dynamics, solve: Solve, shape: torch.Size, y: Tensor, ends: Tensor) -> Tensor:
    """Take a step, and return its state, brought back by the boundary's rule where it lies outside of the domain."""
    return dynamics.enter(solve(y, ends)[-1].reshape(shape)).reshape(y.shape)


def _step_within(clocked: _ClockedFree, solve: Solve | None, brownian: Any, y: Tensor, ends: Tensor) -> Tensor:
    """Take a step in coordinates without bounds, by `solve` or else by Euler's method, and return them; coordinates for which the
    step is too long (`steep`) take it in the state itself.
    """
    u, h, dw = ends[0], (ends[1] - ends[0]).item(), brownian(*ends)
    f, g = clocked.f(u, y), clocked.g(u, y)
    moved = y + f * h + g * dw if solve is None else solve(y, ends)[-1]
    steep = clocked.steep(u, y, h, f, g)
    return torch.where(steep, clocked.step_inside(u, y, h, dw), moved) if steep.any() else moved
