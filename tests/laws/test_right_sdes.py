"""Right processes pass every law; the report of a check, declared failures, and cases of pytest."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faults import ShrunkData, TooShort
from quiet import quietly
from torch import Tensor
from torch.distributions import constraints

import sdegen
from sdegen import CLD, DDPM, EDM, OU, VE, VP, Cosine, DoubleWell, Rectified, SubVP
from sdegen.laws.mixtures import Moments
from sdegen.processes.double_well import Stationary
from sdegen.processes.tables import constant_betas, cosine_betas, sigmoid_betas
from sdegen.testing import Report, check_sde, laws, sde_cases
from sdegen.testing.laws import probes
from sdegen.testing.sde import laws_of, left_out

# --- what is right passes -----------------------------------------------------------------------------------------


class TwoMethods(sdegen.ScalarSDE):
    """A user's process: two methods, nothing else."""

    def f(self, t: Tensor) -> Tensor:
        return -10 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t).sqrt()


class CubicWithNumbers(sdegen.SDE):
    """A user's nonlinear process, whose diffusion is a plain number."""

    T = 8.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x - x**3

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 1.0

    def prior(self, moments: Moments) -> Stationary:
        return Stationary(1.0, 1.0, moments.mean.shape)


RIGHT = {
    "VP": VP,
    "SubVP": SubVP,
    "VE": VE,
    "OU": OU,
    "EDM": EDM,
    "Cosine": Cosine,
    "Rectified": Rectified,
    "DDPM": DDPM,
    "DDPM-cosine": lambda: DDPM(cosine_betas()),
    "DDPM-sigmoid": lambda: DDPM(sigmoid_betas()),
    "DDPM-constant": lambda: DDPM(constant_betas()),
    "CLD": CLD,
    "DoubleWell": DoubleWell,
    "TwoMethods": TwoMethods,
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT.keys())
@pytest.mark.turns("DDPM-sigmoid", "DDPM-cosine", "DDPM-constant")
def test_right_process_passes(make: Callable[[], sdegen.SDE]) -> None:
    report = quietly(check_sde, make())
    assert report.passed, report
    assert report.failures == []


@pytest.mark.thinned(2)
@pytest.mark.parametrize("mean", [0.7, -3.0])
@pytest.mark.parametrize("make", [VP, VE, Cosine, CLD, DoubleWell], ids=lambda make: make.__name__)
@pytest.mark.turns("Cosine", "DoubleWell")
def test_right_process_passes_in_other_units(make: Callable[[], sdegen.SDE], mean: float) -> None:
    report = check_sde(make().in_units(sdegen.laws.Units(mean, 1.7)))
    assert report.passed, report


BOUNDED: dict[str, Callable[[], sdegen.SDE]] = {
    "CIR": sdegen.CIR,
    "SquaredBessel": lambda: sdegen.SquaredBessel(6.0),
    "SquaredBessel, as near to 0 as may be": lambda: sdegen.SquaredBessel(2.0),
    "CIR, as near to 0 as may be": lambda: sdegen.CIR(theta=0.5),
    "GeometricBrownianMotion": lambda: sdegen.GeometricBrownianMotion(0.0, 1.0),
    "Jacobi": sdegen.Jacobi,
    "circle": sdegen.CircularBrownianMotion,
    "box": sdegen.ReflectedBrownianMotion,
}


@pytest.mark.parametrize("kind", BOUNDED)
@pytest.mark.parametrize("units", [(0.0, 1.0), (0.7, 1.7), (-3.0, 0.1)], ids=str)
@pytest.mark.turns("*CIR", "*Jacobi", "*box", "*may be", "(0.0*", "(0.7*Squared*", "(-3*circle", "(-3*Geometric*")
def test_right_processes_with_bounds_pass_in_all_units(kind: str, units: tuple[float, float]) -> None:
    report = check_sde(BOUNDED[kind]().in_units(sdegen.laws.Units(*units)))
    assert report.passed, report


@pytest.mark.parametrize("kind", ["VP", "CLD", "CIR", "Jacobi"])
def test_right_processes_pass_in_units_of_each_coordinate(kind: str) -> None:
    sde = {"VP": VP, "CLD": CLD, **BOUNDED}[kind]()
    units = sdegen.laws.Units(torch.tensor([0.5, -2.0]), torch.tensor([0.1, 3.0]))
    report = check_sde(sde.in_units(units))
    assert report.passed, report


def test_nonlinear_process_with_a_number_for_its_noise_passes() -> None:
    report = quietly(check_sde, CubicWithNumbers())
    assert report.passed, report


class Stock(sdegen.SDE):
    """A user's process on the half-line, in two methods."""

    T, domain, free = 5.0, torch.distributions.constraints.positive, sdegen.coordinates.Log()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x * x.log()

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.8 * x

    def prior(self, moments: Moments) -> Any:
        return torch.distributions.LogNormal(torch.full(moments.mean.shape, -0.32, dtype=torch.float64), 0.32**0.5)


def test_a_process_of_ones_own_on_the_half_line_passes() -> None:
    report = quietly(check_sde, Stock())
    assert report.passed, report
    assert "check Transformed(sde, sde.free)" in str(report)


ZOO = {
    "half-line, two methods": Stock,
    **RIGHT,
    "CIR": sdegen.CIR,
    "Jacobi": lambda: sdegen.Jacobi(2.0, 2.0),
    "circle": sdegen.CircularBrownianMotion,
    "box": sdegen.ReflectedBrownianMotion,
    "in other coordinates": lambda: sdegen.Transformed(sdegen.CIR(), sdegen.coordinates.Log()),
    "nonlinear in other coordinates": lambda: sdegen.Transformed(DoubleWell(), sdegen.coordinates.Log()),
    "data in coordinates": lambda: VP().in_coordinates(sdegen.coordinates.Log()),
    "learned": sdegen.LearnedSDE,
    "two methods, nonlinear": CubicWithNumbers,
}


def test_a_drift_that_does_not_depend_on_the_state_has_no_slope() -> None:
    class Walk(sdegen.SDE):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.full_like(x, 0.3)

        def diffusion(self, x: Tensor, t: Tensor) -> float:
            return 1.0

    laws.nonlinear.derivatives_reach_the_drift(Walk())


def test_moves_whose_order_matters_compose() -> None:
    class Turned(sdegen.MatrixSDE):
        """Two channels, whose drift turns with the time: its matrices do not commute."""

        Sigma_0 = torch.eye(2, dtype=torch.float64)

        def F(self, t: Tensor) -> Tensor:
            one, other = torch.tensor([[[-1.0, 2.0], [0.0, -1.0]], [[0.0, 0.0], [3.0, 0.0]]], dtype=torch.float64)
            return one + other * t[..., None, None]

        def G(self, t: Tensor) -> Tensor:
            return torch.eye(2, dtype=torch.float64).expand(*t.shape, 2, 2)

    laws.linear.marginals_compose(Turned())


def test_every_law_applies_or_has_a_reason_why_not() -> None:
    everything = {
        name
        for module in pkgutil.iter_modules(laws.__path__)
        if module.name != "probes"
        for name in laws_in(module.name)
    }
    for name, make in ZOO.items():
        sde = make()
        run, out = [law.__name__ for law in laws_of(sde)], left_out(sde)
        skipped = [name for names in out.values() for name in names]
        assert len(run) == len(set(run)) and not set(run) & set(skipped), name
        assert set(run) | set(skipped) == everything, name


def laws_in(module: str) -> set[str]:
    """The names of the laws that a module of the library lists."""
    known = importlib.import_module(f"sdegen.testing.laws.{module}")
    return {law.__name__ for name in known.__all__ if name.isupper() for law in getattr(known, name)}


def test_the_report_says_which_laws_do_not_apply_and_why() -> None:
    said = str(check_sde(OU())).splitlines()
    (matrix,) = [line for line in said if "MatrixSDE" in line]
    assert "completion_follows_Sigma_0" in matrix and matrix.endswith("left out, since it is no MatrixSDE")
    (walls,) = [line for line in said if "networks_see_what_the_boundary_keeps" in line]
    assert walls.endswith("since networks are shown its states as they are")


# --- the report, declared failures, and pytest cases --------------------------------------------------------------


def test_declared_failure_passes_with_its_reason() -> None:
    report = check_sde(TooShort(), expected={"prior_is_the_law_at_T": "a short process, on purpose"})
    assert report.passed, report
    assert "a short process, on purpose" in str(report)


def test_declared_failure_that_holds_is_a_failure() -> None:
    report = check_sde(OU(), expected={"prior_is_the_law_at_T": "thought to be too short"})
    assert report.failures == ["prior_is_the_law_at_T"], report
    assert "thought to be too short" in str(report)


def test_declared_failure_hides_no_other() -> None:
    report = check_sde(ShrunkData(), expected={"prior_is_the_law_at_T": "not at fault"})
    assert set(report.failures) == {"prior_is_the_law_at_T", "marginal_starts_at_the_data"}, report


class WithoutStart(sdegen.MatrixSDE):
    """Two channels, and no word of how the second starts."""

    def F(self, t: Tensor) -> Tensor:
        return torch.zeros(2, 2, dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        return torch.eye(2, dtype=torch.float64)


def test_a_matrix_process_without_Sigma_0_says_what_it_lacks() -> None:
    with pytest.raises(NotImplementedError, match=r"^WithoutStart gives no Sigma_0.*set it in __init__"):
        WithoutStart().marginal(0.5)
    report = check_sde(WithoutStart())
    said = [r.detail for r in report.results if not r.passed]
    assert said and all("WithoutStart gives no Sigma_0" in detail for detail in said), report


@pytest.mark.parametrize("sde", [None, 3.0, OU])
def test_what_is_no_process_is_refused(sde: Any) -> None:
    with pytest.raises(TypeError, match=r"^sde is .*; give an SDE, such as VP"):
        check_sde(sde)


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError, AttributeError])
def test_whatever_a_process_raises_is_a_broken_law_with_a_sentence(error: type[Exception]) -> None:
    class Raises(DoubleWell):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            raise error

    (found,) = {r.detail for r in check_sde(Raises(), shape=(2,)).results if r.law == "drift_takes_state_then_time"}
    assert found.startswith(f"it raised {error.__name__}: without a word; state of shape (5, 2);")


def test_a_process_that_is_not_a_number_anywhere_holds_no_law_about_its_coefficients() -> None:
    class NotANumber(DoubleWell):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return math.nan * x

    held = {r.law for r in check_sde(NotANumber()).results if r.passed}
    # what asks the noise, the shapes or the prior alone
    assert held == {
        "drift_takes_state_then_time",
        "noise_has_derivatives",
        "diffusion_acts_on_every_state",
        "training_times_lie_inside",
        "lift_and_project_agree",
    }


class Branches(sdegen.ScalarSDE):
    """A drift that decides by ``if``."""

    def f(self, t: Tensor) -> Any:
        return -0.2 if t < 0.5 else -1.0

    def g(self, t: Tensor) -> Any:
        return 1.0


class BranchesInBoth(sdegen.MatrixSDE):
    """Matrices that depend on the largest of two numbers of Python's."""

    Sigma_0 = torch.eye(2, dtype=torch.float64)

    def F(self, t: Tensor) -> Tensor:
        return -max(t, 0.5) * torch.eye(2, dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        return torch.eye(2, dtype=torch.float64)


@pytest.mark.parametrize("sde", [Branches(), BranchesInBoth()], ids=lambda s: type(s).__name__)
def test_a_coefficient_that_decides_by_if_is_told_once(sde: sdegen.LinearSDE) -> None:
    report = check_sde(sde)
    assert (
        len(report.results) == 1
        and f"{type(sde).__name__}.{'f' if isinstance(sde, Branches) else 'F'} answers for one"
        in report.results[0].detail
        and "torch.where" in report.results[0].detail
    )
    with pytest.raises(ValueError, match=r"answers for one time and not for several .* torch\.where"):
        sdegen.Exact(sde, sdegen.data.gaussian_ring())


class Lorenz(sdegen.SDE):
    """Three coordinates, each moved by the others: no other data have its shape."""

    T = 0.5

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        a, b, c = x.unbind(1)
        return 0.1 * torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 1.0


def test_laws_are_checked_on_data_of_a_shape() -> None:
    report = check_sde(Lorenz(), {"prior_is_the_law_at_T": "it declares none"}, shape=(3,))
    assert report.passed, report
    untold = check_sde(Lorenz())
    assert len(untold.failures) > 8  # of the shapes that are tried by default none is its own
    assert "; state of shape (5,); if it takes data of one shape, check_sde(sde, shape=(2,))" in str(untold)
    with pytest.raises(ValueError, match="data and shape were both given"):
        check_sde(Lorenz(), data=torch.randn(4, 3), shape=(3,))


DOMAINS = {
    "line": (constraints.real, lambda x: x),
    "half-line": (constraints.greater_than(-1.5), lambda x: -1.5 + (0.5 * x).exp()),
    "interval": (constraints.interval(2.0, 5.0), lambda x: 3.5 + 1.5 * (0.25 * x).tanh()),
}


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("units", [None, sdegen.laws.Units(0.7, 1.7)], ids=["plain", "in units"])
def test_made_up_data_lie_in_the_domain_in_any_units(domain: str, units: sdegen.laws.Units | None) -> None:
    within, want = DOMAINS[domain]
    with probes.on_data(None, within, units):
        x = probes.data(500, 3)
        given = torch.arange(6.0).reshape(2, 3)
        with probes.on_data(given):
            assert torch.equal(probes.data(3, 7), given[[0, 1, 0]].double()) and probes.shapes() == ((3,),)
        assert torch.equal(probes.data(500, 3), x) and probes.shapes() == probes.SHAPES
    normal = probes.data(500, 3)
    assert torch.equal(normal, torch.randn(500, 3, dtype=torch.float64, generator=probes.generator()))
    if units is not None and domain != "line":
        x = units.standardise(x)
    torch.testing.assert_close(x, want(normal), rtol=1e-12, atol=1e-12)


def test_unknown_law_is_refused() -> None:
    with pytest.raises(ValueError, match="no_such_law"):
        check_sde(OU(), expected={"no_such_law": "misspelt"})


def test_report_prints_every_law_and_the_numbers_of_broken_ones() -> None:
    report = check_sde(TooShort())
    assert isinstance(report, Report)
    lines = str(report).splitlines()
    names = [law.__name__ for law in laws_of(TooShort())]
    assert lines[0] == f"TooShort: {len(names) - 1} of {len(names)} laws hold"
    assert [line.split()[1].rstrip(":") for line in lines[1:] if "left out" not in line] == names
    (broken,) = [line for line in lines if "BROKEN" in line]
    assert "nats" in broken


@pytest.mark.parametrize("law", sde_cases(TwoMethods()))
def test_cases_of_a_right_process(law: Callable[[], None]) -> None:
    law()


def test_cases_name_the_laws_and_raise_what_breaks() -> None:
    cases = sde_cases(TooShort())
    assert [case.id for case in cases] == [law.__name__ for law in laws_of(TooShort())]
    broken = []
    for case in cases:
        try:
            case.values[0]()
        except AssertionError:
            broken.append(case.id)
    assert broken == ["prior_is_the_law_at_T"]


@pytest.mark.parametrize("name", [law.__name__ for law in laws_of(DoubleWell())])
def test_laws_need_no_other_law_before_them(name: str) -> None:
    (case,) = [case for case in sde_cases(DoubleWell()) if case.id == name]
    case.values[0]()
