"""Matrix processes at the edge, drawn at random: coefficients that jump, pause, spike or oscillate, at any scale of time. Each is
right, or refused in one sentence.

All are ``F = beta A`` and ``G Gᵀ = beta Q`` on pieces of constant `A` and `Q`, with a `beta` whose integral is elementary, so
that laws are products of matrix exponentials.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from copy import copy

import numpy as np
import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.processes.matrix_panels import MatrixPanels
from sdegen.processes.quadrature import van_loan

KINDS = ("jumps", "same", "gap", "late", "spike", "waves", "stiff")
DRAWS = [(kind, seed) for kind in KINDS for seed in range(3)]


class Drawn(sdegen.MatrixSDE):
    """A process of one of the `KINDS`: on piece ``i`` between `starts`, ``beta = level + wave sin(omega (t − start))``."""

    def __init__(self, kind: str, seed: int) -> None:
        rng = np.random.default_rng([KINDS.index(kind), seed])
        self.T = 10.0 ** rng.uniform(-6, 6)
        pieces, k = {"waves": 1, "stiff": 2, "late": 2}.get(kind, 3), int(rng.integers(2, 4))
        inner = np.sort(rng.uniform(0.05, 0.95, pieces - 1))
        if kind == "spike":
            inner[1] = inner[0] + 10.0 ** rng.uniform(-4, -2)
        width = np.diff([0.0, *inner, 1.0])
        level = 10.0 ** rng.uniform(-0.3, 0.7, pieces)
        if kind in ("gap", "late"):
            level[{"gap": 1, "late": 0}[kind]] = 0.0
        elif kind == "spike":
            level[1] = rng.uniform(1, 3) / width[1]
        elif kind == "stiff":
            level[1] = 1e3
        self.wave = level * (kind == "waves") * rng.uniform(0.5, 1.0)
        self.omega = rng.uniform(10, 300)
        turn, root = rng.standard_normal((2, pieces, k, k))
        A = turn - turn.swapaxes(1, 2) - np.eye(k) * rng.uniform(0.5, 1.5, (pieces, 1, k))
        if kind == "same":
            A[:], root[:] = A[:1], root[:1]
        self.starts = torch.from_numpy(np.concatenate([[0.0], inner])) * self.T
        self.A, self.spread = torch.from_numpy(A), torch.from_numpy(root)
        self.level, self.wave = (torch.from_numpy(np.asarray(v)) / self.T for v in (level, self.wave))
        self.Sigma_0 = torch.diag(torch.from_numpy(rng.uniform(0.01, 0.2, k)))

    def piece(self, t: Tensor) -> Tensor:
        return torch.searchsorted(self.starts, t.detach().contiguous(), right=True) - 1

    def beta(self, t: Tensor) -> Tensor:
        i = self.piece(t)
        return self.level[i] + self.wave[i] * (self.omega / self.T * (t - self.starts[i])).sin()

    def F(self, t: Tensor) -> Tensor:
        return self.beta(t)[..., None, None] * self.A[self.piece(t)]

    def G(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()[..., None, None] * self.spread[self.piece(t)]

    def truth(self, s: float, t: float) -> tuple[Tensor, Tensor]:
        """``Phi`` and ``Sigma``, from the pieces between two times."""
        Phi, Sigma = torch.eye(len(self.Sigma_0)).double(), torch.zeros_like(self.Sigma_0)
        for i, first in enumerate(self.starts.tolist()):
            last = self.starts[i + 1].item() if i + 1 < len(self.starts) else self.T
            low, high = max(s, first), min(t, last)
            if high > low:
                omega = self.omega / self.T
                half = 0.5 * omega * (high + low - 2 * first), 0.5 * omega * (high - low)
                B = self.level[i] * (high - low) + self.wave[i] / omega * 2 * math.sin(half[0]) * math.sin(half[1])
                for part in [B / math.ceil(B + 1)] * math.ceil(B + 1):  # Van Loan's formula grows like exp(B)
                    P, S = van_loan(self.A[i], self.spread[i] @ self.spread[i].T, part)
                    Phi, Sigma = P @ Phi, P @ Sigma @ P.T + S
        return Phi, Sigma


def times(sde: Drawn, seed: int) -> Tensor:
    """Times anywhere, and at and around the jumps."""
    anywhere = torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * sde.T
    return torch.cat([anywhere, sde.starts, sde.starts[1:] * (1 - 1e-9), sde.starts[1:] * (1 + 1e-9)]).sort().values


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("kind", "seed"), DRAWS)
@pytest.mark.turns("stiff-[12]")
def test_laws_are_products_of_those_of_the_pieces(kind: str, seed: int) -> None:
    sde = Drawn(kind, seed)
    t = times(sde, seed)
    zero = torch.zeros_like(t)
    largest = sde.truth(0.0, sde.T)[1].abs().max().item()
    for s in (zero, torch.cat([zero[:1], t[:-1]]), t.minimum(t.flip(0)), 0.999 * t):
        Phi, Sigma = sde.moments(s, t)
        for i in range(len(t)):
            want = sde.truth(s[i].item(), t[i].item())
            for found, value in zip((Phi[i], Sigma[i]), want, strict=True):
                torch.testing.assert_close(
                    found, value, rtol=0.0, atol=1e-9 * value.abs().max().item() + 1e-11 * largest
                )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.turns("3")
def test_roots_follow_their_equation_over_jumps(seed: int) -> None:
    """In the clock ``B = ∫ beta`` of a process of one `A` and `Q`, the equation of the root does not see the jumps of `beta`."""
    sde = Drawn("same", seed)
    A, Q = sde.A[0], sde.spread[0] @ sde.spread[0].T
    ends = torch.cat([sde.starts, torch.tensor([sde.T]).double()])
    B = torch.cat([torch.zeros(1).double(), (sde.level * ends.diff()).cumsum(0)])

    def slope(b: float, R: Tensor) -> Tensor:
        Phi, Sigma = van_loan(A, Q, torch.tensor(b, dtype=torch.float64))
        return (A + 0.5 * Q @ torch.linalg.inv(Phi @ sde.Sigma_0 @ Phi.T + Sigma)) @ R

    t = sde.T * torch.tensor([0.97, 0.5, 0.2, 0.02]).double()
    i = sde.piece(t)
    clock = [B[-1].item(), *(B[i] + sde.level[i] * (t - sde.starts[i])).tolist()]
    R, n = sde._root(torch.tensor(sde.T).double()), 400
    for k, found in enumerate(sde._root(t)):
        h = (clock[k + 1] - clock[k]) / n
        for j in range(n):
            b = clock[k] + j * h
            first = slope(b, R)
            second = slope(b + h / 2, R + h / 2 * first)
            third = slope(b + h / 2, R + h / 2 * second)
            R = R + h / 6 * (first + 2 * second + 2 * third + slope(b + h, R + h * third))
        torch.testing.assert_close(found, R, rtol=0.0, atol=1e-6 * R.abs().max().item())


class Jumping(sdegen.MatrixSDE):
    """`CLD` at a rate that jumps."""

    Sigma_0 = sdegen.CLD().Sigma_0

    def __init__(self, jump: float, before: float, after: float) -> None:
        self.jump, self.before, self.after = jump, before, after

    def beta(self, t: Tensor) -> Tensor:
        return torch.where(t < self.jump, self.before, self.after)[..., None, None].double()

    def F(self, t: Tensor) -> Tensor:
        return self.beta(t) * sdegen.CLD(1.0)._F

    def G(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt() * sdegen.CLD(1.0)._G


LAW = sdegen.data.gaussian_ring(radius=2.0)


@pytest.mark.turns("0.05*")
@pytest.mark.parametrize(
    ("jump", "before", "after", "steps"), [(0.3127, 2.0, 11.0, 20), (0.05, 100.0, 3.2, 12), (0.6, 0.5, 20.0, 40)]
)
@pytest.mark.turns("0.6-*")
def test_samplers_do_not_see_a_jump_of_the_clock(jump: float, before: float, after: float, steps: int) -> None:
    """At times at which as much has happened, states are those of the process whose rate is constant."""
    jumping, steady = Jumping(jump, before, after), sdegen.CLD(before * jump + after * (1 - jump))
    times = sdegen.grids.Angle()(steady, steps)
    B = steady.beta * times
    own = torch.where(before * jump > B, B / before, jump + (B - before * jump) / after).clamp_max(1.0)
    x_T = steady.prior(LAW.moments()).sample(50, torch.Generator().manual_seed(0))
    usual = sdegen.samplers.default(sdegen.Exact(steady, LAW), steps)
    for sampler in (usual, sdegen.samplers.DDIM(steps)):
        x, y = (
            sdegen.sample(sdegen.Exact(sde, LAW), x_T=x_T, sampler=with_grid(sampler, sdegen.grids.Given(t)))
            for sde, t in ((jumping, own), (steady, times))
        )
        torch.testing.assert_close(x, y, rtol=0.0, atol=1e-5)


def with_grid(sampler: sdegen.samplers.Sampler, grid: sdegen.grids.Grid) -> sdegen.samplers.Sampler:
    other = copy(sampler)
    vars(other)["grid"] = grid
    return other


@pytest.mark.slow
def test_the_default_sampler_draws_from_the_law_over_a_jump() -> None:
    x = sdegen.sample(sdegen.Exact(Jumping(0.3127, 2.0, 11.0), LAW), 4000, seed=0)
    assert (x.mean(0).abs() < 0.1).all()
    assert (x.var(0) / LAW.moments().covariance.diagonal() - 1).abs().max() < 0.06


@pytest.mark.slow
def test_likelihoods_are_right_over_a_jump() -> None:
    model = sdegen.Exact(Jumping(0.3127, 2.0, 11.0), LAW)
    x = LAW.sample(3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sdegen.log_prob(model, x), LAW.log_prob(x), rtol=0.0, atol=2e-3)


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    "F",
    [
        lambda t: -1 / (1 - t),
        lambda t: -torch.sin(1e7 * t),
        lambda t: -torch.rand(t.shape, dtype=t.dtype),  # no function
        lambda t: -1e7 + 0 * t,
    ],
    ids=["diverges", "too fast", "noise", "too stiff"],
)
@pytest.mark.parametrize("noise", [False, True], ids=["F", "G"])
def test_quadrature_that_is_not_sure_says_so(F: Callable[[Tensor], Tensor], noise: bool) -> None:
    one, zero = torch.eye(2).double(), torch.zeros(2, 2).double()
    wild = lambda t: F(t)[..., None, None] * one
    panels = MatrixPanels(*((lambda t: zero, wild) if noise else (wild, lambda t: one)), 0.0, 1.0)
    if noise and F(torch.ones(1).double() / 2).item() == -1e7:  # which is no trouble
        assert panels(torch.zeros(()).double(), torch.ones(()).double())[1][0, 0].item() == pytest.approx(1e14)
        return
    with pytest.raises(
        ValueError, match=r"quadrature of F and G is not accurate enough: at t = .* an estimated relative error of"
    ) as caught:
        panels(torch.zeros(2).double(), torch.tensor([0.3, 1.0]).double())
    if F(torch.ones(1).double()).isinf():  # in the end alone
        told, worst = (float(v) for v in re.findall(r"t = (\S+) ", str(caught.value)))
        assert told == 1 >= worst > 0.99


def test_what_is_not_finite_or_singular_is_refused_where_it_is() -> None:
    class Late(Jumping):
        Sigma_0 = torch.zeros(2, 2).double()

        def G(self, t: Tensor) -> Tensor:
            return torch.where(t < self.jump, 0.0, 1.0)[..., None, None].double() * torch.eye(2).double()

    with pytest.raises(ValueError, match=r"singular at t = .*, where it has no root"):
        Late(0.4, 1.0, 2.0).marginal(0.7)
    infinite = lambda t: (1 / (t - t.detach()[0]))[..., None, None] * torch.eye(2).double()
    with pytest.raises(ValueError, match=r"F.t. is not finite at t = "):
        MatrixPanels(infinite, lambda t: torch.eye(2).double(), 0.0, 1.0)
