"""The numerically exact score of a nonlinear process, from its Fokker–Planck equation on a grid: `FokkerPlanck`.

It covers processes that move every coordinate alone, started from a mixture whose components have independent
coordinates: the law at any time is then a mixture of products of one-dimensional densities, in any dimension.
"""

from __future__ import annotations

__all__ = ["FokkerPlanck"]

import math
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..conditions import NONE, Conditions
from ..fixed import Fixed
from ..laws.mixtures import GaussianMixture, Moments, moments_of
from ..laws.operators import Elementwise
from ..laws.outside import ClosedLaw, as_closed
from ..precision import at_least_single
from ..processes.base import SDE
from ..processes.dynamics import as_time, diffusion_at, drift_at
from .named import read_conditions
from .score import ScoreModel

DRAWS = 65_536  # that moments are taken of, where they have no closed form
FAINT = 1e-11  # of the peak: smaller densities are rounding errors, and are continued like a Gaussian's


class FokkerPlanck(Fixed, ScoreModel):
    """The score model of a nonlinear process started from a mixture, by its Fokker–Planck equation on a grid; coordinates
    must move independently.

    ``∂p/∂t = −∂(f p)/∂x + ½ ∂²(g² p)/∂x²`` for each coordinate of each component, by finite volumes of exponentially fitted
    fluxes (D. Scharfetter and H. Gummel, *Large-signal analysis of a silicon Read diode oscillator*, 1969), which conserve
    mass and keep a stationary law, and the trapezoidal rule in time, both of order two. Between cells and times it is read
    by cubics. It keeps ``cells × steps`` numbers for each coordinate of each component.

    Parameters
    ----------
    sde
        Any SDE whose drift and noise act on each coordinate by itself, on which both may depend; linear ones serve as a check.
        A process on a half-line or an interval goes in as `processes.Transformed`, which has no bounds.
    distribution
        The law of the data, in their own units, or of their coordinates where the process has some: a mixture whose components
        have diagonal covariances.
    cells, steps
        Of the grid in space, which is widened until it holds the law, and in time, finer towards 0.

    Raises
    ------
    ValueError
        If coordinates move each other, a cell has no noise, or the process runs away.

    Examples
    --------
    >>> import sdegen
    >>> pair = sdegen.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.04, 0.04]))
    >>> truth = FokkerPlanck(sdegen.OU(), pair)  # a process whose law is known
    >>> x, t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], 0.5
    >>> (truth.score(x, t) - sdegen.Exact(sdegen.OU(), pair).score(x, t)).abs().max().item() < 1e-3
    True
    """

    settable = ("moments", "end")

    @check_arguments
    @torch.no_grad()
    def __init__(
        self,
        sde: SDE,
        distribution: ClosedLaw,
        cells: int = 1000,
        steps: int = 800,
    ) -> None:
        if cells < 16 or steps < 3:
            raise ValueError(f"cells = {cells}, steps = {steps}; give at least 16 and 3.")
        self.sde, self.distribution = sde, as_closed(distribution)
        self.moments = self._moments()
        law: GaussianMixture = self.distribution.in_units(sde.units)
        means = law.means.reshape(len(law.weights), -1)
        covariances = law._full()
        variances = covariances.diagonal(dim1=1, dim2=2)
        if not torch.equal(covariances, torch.diag_embed(variances)):
            raise ValueError("a component has correlated coordinates; give components with diagonal covariances.")
        self.d = means.shape[1]
        self._check_alone()
        self.times = sde.T * torch.linspace(0, 1, steps + 1, dtype=torch.float64).square()
        reach = (means.abs() + 8 * variances.sqrt()).max().item()
        for _ in range(12):
            self._place(reach, cells)
            z = (self.x[:, None, None] - means.T) / variances.T.sqrt()
            first = (-0.5 * z.square()).exp() / (2 * math.pi * variances.T).sqrt()  # (cells, d, K)
            if self._solve(first):
                return
            reach *= 1.4
        raise ValueError(
            f"the law of {type(sde).__name__} does not fit between −{reach:.3g} and {reach:.3g}; "
            "the process diverges: give a smaller T, or a drift that confines it."
        )

    @property
    def conditions(self) -> Conditions:
        """None: the truth of one law."""
        return NONE

    def _check_alone(self) -> None:
        """Refuse coordinates that move each other."""
        x = torch.linspace(-1.3, 1.7, 5 * self.d, dtype=torch.float64).reshape(5, self.d)
        t = torch.tensor(0.5 * self.sde.T, dtype=torch.float64)
        for i in range(self.d):
            other = x.flip(0).clone()
            other[:, i] = x[:, i]
            for what, function in (("drift", self._drift), ("noise", self._half_square)):
                if not torch.equal(function(x, t)[:, i], function(other, t)[:, i]):
                    raise ValueError(
                        f"the {what} of {type(self.sde).__name__} moves coordinate {i} by the others; its law is no mixture of "
                        "products, for which alone this is made: simulate it."
                    )

    def _moments(self) -> Moments:
        """Return the moments that the process is to be told, of the data or of their coordinates."""
        if self.sde.coordinates is self.sde.measured_in or self.sde.coordinates is None:
            return self.distribution.moments()
        drawn = self.distribution.sample(DRAWS, torch.Generator().manual_seed(0))
        return moments_of(self.sde.coordinates.inverse(drawn))

    def _drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the drift at states ``(n, d)``."""
        return drift_at(self.sde, x.reshape(len(x), *self.distribution.event_shape), t).reshape(x.shape)

    def _half_square(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``½ g²`` of each coordinate at states ``(n, d)``.

        Raises
        ------
        ValueError
            If the noise is a matrix.
        """
        G = diffusion_at(self.sde, x.reshape(len(x), *self.distribution.event_shape), t)
        if not isinstance(G, Elementwise):
            raise ValueError(f"the noise of {type(self.sde).__name__} is a matrix; simulate it.")
        return 0.5 * G.gram()(torch.ones(len(x), *self.distribution.event_shape, dtype=x.dtype)).reshape(x.shape)

    def _place(self, reach: float, cells: int) -> None:
        """Lay the cells from ``−reach`` to `reach`."""
        self.width = 2 * reach / cells
        self.x = (torch.arange(cells, dtype=torch.float64) + 0.5) * self.width - reach

    def _generator(self, i: int, t: Tensor) -> Tensor:
        """Return the generator of coordinate `i` at `t`, its three diagonals ``(3, cells)`` as `solve_banded` has them."""

        def alone(x: Tensor) -> Tensor:
            return x[:, None] * torch.eye(self.d, dtype=x.dtype)[i]

        edges = 0.5 * (self.x[1:] + self.x[:-1])
        # The flux f p − ∂(D p)/∂x is (f − D') p − D ∂p/∂x.
        D, slope = (
            self._half_square(alone(edges), t)[:, i],
            self._half_square(alone(self.x), t)[:, i].diff() / self.width,
        )
        if not (D > 0).all():
            raise ValueError(
                f"{type(self.sde).__name__} has no noise at {edges[~(D > 0)][0].item():.6g}; give the process in coordinates in "
                "which it has, processes.Transformed(sde, coordinates)."
            )
        P = (self._drift(alone(edges), t)[:, i] - slope) * self.width / D
        up, down = (_bernoulli(sign * P) * D / self.width**2 for sign in (-1, 1))  # rates to the next cell, and back
        bands = torch.zeros(3, len(self.x), dtype=torch.float64)
        bands[0, 1:], bands[2, :-1] = down, up
        bands[1, :-1] -= up
        bands[1, 1:] -= down
        return bands

    def _step(self, p: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Advance densities ``(cells, d, K)`` from `t` to ``t + h``."""
        from scipy.linalg import solve_banded  # loads on use

        moved = []
        for i in range(self.d):
            bands = 0.5 * h * self._generator(i, t + 0.5 * h)
            q = p[:, i]
            right = q + bands[1, :, None] * q
            right[:-1] += bands[0, 1:, None] * q[1:]
            right[1:] += bands[2, :-1, None] * q[:-1]
            left = -bands
            left[1] += 1
            moved.append(torch.from_numpy(solve_banded((1, 1), left.numpy(), right.numpy())))
        return torch.stack(moved, 1)

    def _solve(self, p: Tensor) -> bool:
        """Solve for the log-densities at all times, and tell whether the grid holds them."""
        logs = [_log_with_tails(p)]
        for t, h in zip(self.times[:-1], self.times.diff(), strict=True):
            p = self._step(p, t, h)
            if p[[0, -1]].max() > FAINT * p.max():
                return False
            logs.append(_log_with_tails(p))
        self.logs = torch.stack(logs)  # (times, cells, d, K)
        return True

    def _read(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Interpolate log-density ``(B,)`` and score of states at one time, by cubics through four times and four cells."""
        t = as_time(t, self.sde.T)
        if t.ndim and not (t == t[0]).all():
            raise ValueError("the equation is read at one time for all states; pass a t of shape ().")
        t = t.reshape(-1)[0]
        k = int((torch.searchsorted(self.times, t) - 2).clamp(0, len(self.times) - 4))
        nodes = self.times[k : k + 4]
        factors = [((t - nodes) / (nodes[j] - nodes))[torch.arange(4) != j].prod() for j in range(4)]
        logs = (torch.stack(factors)[:, None, None, None] * self.logs[k : k + 4]).sum(0)
        place = (x.to(logs).reshape(len(x), -1) - self.x[0]) / self.width
        i = place.detach().floor().clamp(1, len(self.x) - 3)
        u, i, at = (place - i)[..., None], i.long(), torch.arange(self.d)
        a, b, c, e = (logs[i + shift, at] for shift in (-1, 0, 1, 2))  # (B, d, K)
        # The cubic through the four, by its differences, and its slope.
        d1, d2, d3 = b - a, 0.5 * (c - 2 * b + a), (e - 3 * c + 3 * b - a) / 6
        v = u + 1
        value = a + v * (d1 + (v - 1) * (d2 + (v - 2) * d3))
        slope = d1 + (2 * v - 1) * d2 + (3 * v * v - 6 * v + 2) * d3
        joint = value.sum(1) + self.distribution.weights.log()
        score = (joint.softmax(1)[:, None] * slope).sum(2) / self.width
        return joint.logsumexp(1).to(x.device, at_least_single(x.dtype)), score.reshape(x.shape).to(x)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``∇ log p_t(x)``, at one time `t` for all states."""
        read_conditions(self, cond, self.score)
        return self._read(x, t)[1]

    def log_density(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return ``log p_t(x)`` in nats, ``(B,)``, in float32 at least."""
        return self._read(x, t)[0]


def _bernoulli(z: Tensor) -> Tensor:
    """Return ``z / (e^z − 1)``."""
    small = z.abs() < 1e-4
    safe = torch.where(small, 1.0, z)
    return torch.where(small, 1 - 0.5 * z + z.square() / 12, safe / torch.expm1(safe))


def _log_with_tails(p: Tensor) -> Tensor:
    """Return logarithms of densities along dimension 0, continued by parabolas where they are too faint to be right."""
    clear = p > FAINT * p.amax(0)
    n = torch.arange(len(p))[:, None, None]
    first = torch.where(clear, n, len(p)).amin(0)
    last = torch.where(clear, n, -1).amax(0)
    logs = p.clamp_min(1e-300).log()
    for end, side, beyond in ((first, 1, n < first), (last, -1, n > last)):
        a, b, c = (logs.gather(0, (end + side * shift)[None])[0] for shift in (0, 4, 8))
        u = (n - end) * side / 4  # the parabola through three clear cells
        curve = a + u * (b - a) + 0.5 * u * (u - 1) * (c - 2 * b + a)
        logs = torch.where(beyond, curve, logs)
    return logs
