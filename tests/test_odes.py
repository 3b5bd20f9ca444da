"""Every method that integrates the flow gives the right value with an error it knows, or is refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import samplers
from sdegen.laws.derivatives import Hutchinson
from sdegen.laws.odes import ADAPTIVE, TABLEAUS, integrate, integrate_in_steps

RING = sdegen.data.gaussian_ring()
PROCESSES = [sdegen.VP(), sdegen.Rectified()]
KNOWN = [*ADAPTIVE, *TABLEAUS]


def offered() -> list[str]:
    """All that torchdiffeq offers."""
    from torchdiffeq._impl.odeint import SOLVERS

    return list(SOLVERS)


@pytest.mark.parametrize("method", offered())
@pytest.mark.turns("adaptive_heun", "bosh3", "dopri8", "fehlberg2")
def test_a_method_alone_is_right_or_refused(method: str) -> None:
    sde = sdegen.VP()
    x = RING.sample(4, torch.Generator().manual_seed(0))
    model = sdegen.Exact(sde, RING)
    truth = sde.diffused(RING, 0.0).log_prob(x)

    def there_and_back() -> Tensor:
        grid = sdegen.grids.Angle(end=0.0)
        flow = samplers.ProbabilityFlow(method=method, grid=grid, rtol=1e-5, atol=1e-5)
        return samplers.decode(model, samplers.encode(model, x, sampler=flow), sampler=flow) - x

    for call in (
        lambda: sdegen.log_prob(model, x, method=method, prior=sde.diffused(RING, 1.0), tolerance=1e-5) - truth,
        there_and_back,
    ):
        if method in ADAPTIVE:
            assert call().abs().max() < 1e-2
        else:
            with pytest.raises(ValueError, match=rf"method = '{method}'.* give an\s+adaptive"):
                call()


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.turns("*-Rectified", "rk4-VP", "heun2-VP", "heun3-VP")
def test_fixed_steps_know_their_error_and_lose_it_at_their_order(method: str, sde: sdegen.LinearSDE) -> None:
    x = RING.sample(40, torch.Generator().manual_seed(1))
    model, end = sdegen.Exact(sde, RING), sde.diffused(RING, sde.T)
    truth = sde.diffused(RING, 0.0).log_prob(x)
    steps, errors = (16, 32), []
    for n in steps:
        found = sdegen.estimate_log_prob(model, x, method=method, steps=n, prior=end)
        error = (found.value - truth).abs()
        # near the roots of the difference the estimate is too small
        assert (error <= 1.5 * found.stderr + 1e-9).float().mean() > 0.8
        assert found.evaluations == (n + n // 2) * len(TABLEAUS[method].c)
        errors.append(error.square().mean().sqrt())
        # half as many steps err by up to 2^order as much, and by no more than the first of them to no order
        assert found.stderr.square().mean().sqrt() < 2.0 ** (TABLEAUS[method].order + 2) * errors[-1] + 1e-9
    order = (errors[0] / errors[1]).log2()
    assert order > TABLEAUS[method].order - 0.5
    u, found = sdegen.sample_with_log_prob(model, 6, method=method, steps=32, prior=end, seed=0)
    off = (found.value - sde.diffused(RING, 0.0).log_prob(u)).abs()
    assert (off < 3 * errors[0] + 10 * found.stderr).all()


@pytest.mark.parametrize("method", KNOWN)
def test_methods_solve_an_equation_whose_solution_is_known(method: str) -> None:
    y = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    slope = lambda u, y: -2 * u * y
    if method in ADAPTIVE:
        end, allowed = integrate(slope, y, method, 1e-6, 1e-6), 1e-3
    else:
        end, allowed = integrate_in_steps(slope, y, method, 50), 2.0 * 25 ** -TABLEAUS[method].order
    assert (end - y / torch.e).abs().max() < allowed


@pytest.mark.parametrize("method", TABLEAUS)
def test_methods_of_fixed_steps_are_those_of_torchdiffeq_by_its_names(method: str) -> None:
    """On a slope that every stage's time and weights enter: a method's order alone leaves many of its numbers free."""
    from torchdiffeq import odeint
    from torchdiffeq._impl.odeint import SOLVERS

    assert TABLEAUS[method].order == SOLVERS[method].order

    y = torch.tensor([[1.0, -0.4], [0.5, 0.3]], dtype=torch.float64)
    slope = lambda u, y: torch.sin(3 * y + 5 * u) + u * y.flip(1)
    for steps in (1, 3):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        want = odeint(slope, y, times, method=method)[-1]
        assert (integrate_in_steps(slope, y, method, steps) - want).abs().max() < 1e-12


def test_steps_go_with_methods_of_fixed_steps_alone() -> None:
    model, x = sdegen.Exact(sdegen.VP(), RING), RING.sample(2)
    for how, match in (
        ({"steps": 5}, "with an adaptive method, which chooses its own"),
        ({"steps": 5, "method": "dopri5"}, "with an adaptive method, which chooses its own"),
        ({"steps": 1, "method": "rk4"}, "at least two"),
        ({"method": "rk45"}, "method = 'rk45'; give an adaptive one, dopri8, "),
    ):
        with pytest.raises(ValueError, match=match):
            sdegen.log_prob(model, x, **how)
        with pytest.raises(ValueError, match=match):
            sdegen.sample_with_log_prob(model, 2, **how)


class Torn(nn.Module):
    """A network that is not a number, or infinite, at levels on one side of a given one."""

    def __init__(self, above: bool, level: float, value: float) -> None:
        super().__init__()
        self.above, self.level, self.value = above, level, value
        self.inner = nn.Linear(2, 2)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        torn = (level > self.level) == self.above
        return self.inner(x) + torch.where(torn, self.value, 0.0)[:, None]


TIME = r"at t = |beyond t = |from t = "
DOORS = {
    "log_prob": lambda m, x: sdegen.log_prob(m, x),
    **{f"log_prob, {v}": lambda m, x, v=v: sdegen.log_prob(m, x, method=v) for v in ADAPTIVE},
    **{f"log_prob, {v}": lambda m, x, v=v: sdegen.log_prob(m, x, method=v, steps=8) for v in TABLEAUS},
    "Hutchinson": lambda m, x: sdegen.log_prob(m, x, divergence=Hutchinson(2)),
    "sample_with_log_prob": lambda m, x: sdegen.sample_with_log_prob(m, 3, seed=0),
    "elbo": lambda m, x: sdegen.elbo(m, x),
    "discrete_elbo": lambda m, x: sdegen.discrete_elbo(m, x),
    "encode": lambda m, x: samplers.encode(m, x),
    "encode, steps": lambda m, x: samplers.encode(m, x, steps=9),
    "encode_with_error": lambda m, x: samplers.encode_with_error(m, x),
    "decode": lambda m, x: samplers.decode(m, x),
    "decode, steps": lambda m, x: samplers.decode(m, x, steps=9),
    "interpolate": lambda m, x: samplers.interpolate(m, x[:1], x[1:2], torch.tensor([0.5])),
    **{
        f"flow, {v}": lambda m, x, v=v: sdegen.sample(m, 3, sampler=samplers.ProbabilityFlow(9, method=v))
        for v in KNOWN
    },
    "sample": lambda m, x: sdegen.sample(m, 3),
    "diagnose": lambda m, x: sdegen.diagnose(m, RING, n=64),
    "density": lambda m, x: sdegen.Density(m).log_prob(x),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.turns("log_prob, adaptive_heun")
def test_a_network_that_is_no_number_at_some_level_is_named_with_the_time(door: str) -> None:
    x = RING.sample(3, torch.Generator().manual_seed(0)).float()
    for above, level, value in ((True, 0.0, torch.nan), (False, -0.4, torch.inf)):
        torch.manual_seed(0)
        model = sdegen.Model(Torn(above, level, value), sdegen.VP())
        model.moments = RING.moments()
        with pytest.raises(ValueError, match=TIME):
            DOORS[door](model, x)


def test_a_slope_that_no_step_follows_is_told_from_one_that_is_no_number() -> None:
    y = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(ArithmeticError, match=r"asks for steps|took more than"):
        integrate(lambda u, y: 1e3 * y.square().square(), y, "dopri5", 1e-6, 1e-6)
    for method in ADAPTIVE:
        with pytest.raises(ArithmeticError, match="is not finite"):
            integrate(lambda u, y: y * (torch.nan if u > 0.3 else 1.0), y, method, 1e-3, 1e-3)
