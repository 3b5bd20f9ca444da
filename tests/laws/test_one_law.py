"""Every fault of the tables of wrong processes, held to the one law that must name it; and every check of a law names a fault.

The tables' own tests hold a fault to all laws, to see that no other breaks. That takes a second or more, and many take turns;
here these meet their law in every run.
"""

from __future__ import annotations

import ast
import importlib
import traceback
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import CLD, OU, Scale
from sdegen.laws.kernels import Kernel
from sdegen.laws.matrices import Matrix
from sdegen.laws.operators import Operator
from sdegen.testing import sde_cases
from sdegen.testing.report import Violation

LAWS = Path(sdegen.testing.__file__).parent / "laws"
TABLES = ("coordinate_sdes", "functions", "linear_sdes", "matrix_sdes", "nonlinear_sdes", "schedules", "state_noise")


# --- faults that the tables have not ----------------------------------------------------------------------------------


class DriftWithoutAValue(sdegen.DoubleWell):
    """The drift is NaN in the second half."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) * torch.where(t < 0.5 * self.T, 1.0, torch.nan).amin()


class OperatorOfColumns(sdegen.DoubleWell):
    """``diffusion`` returns the operator of ``(B, 1)`` numbers."""

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:  # type: ignore[override]
        return Scale((self.g + 0 * t.expand(len(x)))[:, None])


class WidensNoise(sdegen.DoubleWell):
    """The operator of the noise answers in float64."""

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:  # type: ignore[override]
        class Wide(Scale):
            def __call__(self, y: Tensor) -> Tensor:
                return super().__call__(y).double()

        return Wide(torch.tensor(self.g))


class OtherWhitening(OU):
    """`whiten` does not undo `sample`."""

    def kernel(self, x: Tensor, s: Tensor | float, t: Tensor | float) -> Kernel:
        class Other(Kernel):
            def whiten(self, y: Tensor) -> Tensor:
                return 1.001 * super().whiten(y)

        law = super().kernel(x, s, t)
        return Other(law.mean, law.R)


class KernelsOfAnotherMean(OU):
    """Kernels whose mean is too far by a tenth."""

    def kernel(self, x: Tensor, s: Tensor | float, t: Tensor | float) -> Kernel:
        law = super().kernel(x, s, t)
        return Kernel(law.mean + 0.1 * x, law.R)


class KernelsOfAnotherSpread(OU):
    """Kernels whose noise is half as large again."""

    def kernel(self, x: Tensor, s: Tensor | float, t: Tensor | float) -> Kernel:
        law = super().kernel(x, s, t)
        return Kernel(law.mean, Scale(1.5 * law.R.matrix().flatten()[0]))


class LateByLogarithms(OU):
    """The time of a logarithmic ratio is a thousandth late; that of a ratio is right."""

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        return 1.001 * super().time_of_log_snr(log_snr)

    def time(self, snr: Tensor | float) -> Tensor:
        return super().time_of_log_snr(torch.as_tensor(snr, dtype=torch.float64).log())


class WideRoot(CLD):
    """A root too large by a tenth."""

    def _marginal(self, t: Tensor) -> tuple[Operator, Operator]:
        Phi, R = super()._marginal(t)
        return Phi, Matrix(1.1 * R.matrix())


class CompletesOtherData(CLD):
    """`complete` moves the data by a hundredth."""

    def fill(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return super().fill(1.01 * x, z)


REST: list[tuple[Callable[[], sdegen.SDE], str]] = [
    (DriftWithoutAValue, "coefficients_are_real"),
    (OperatorOfColumns, "diffusion_acts_on_every_state"),
    (WidensNoise, "diffusion_acts_on_every_state"),
    (OtherWhitening, "kernel_score_is_its_gradient"),
    (KernelsOfAnotherMean, "simulation_follows_the_kernel"),
    (KernelsOfAnotherSpread, "simulation_follows_the_kernel"),
    (LateByLogarithms, "clock_inverts_the_snr"),
    (WideRoot, "root_solves_its_equation"),
    (CompletesOtherData, "completion_follows_Sigma_0"),
]
MODULES = [importlib.import_module(f"test_wrong_{table}") for table in TABLES]
FAULTS = [*(fault.values[:2] for module in MODULES for fault in module.FAULTS), *REST]


def taking_turns() -> list[Any]:
    """The faults that meet all laws in some runs alone, and their laws."""
    found = []
    for module in MODULES:
        (patterns,) = [mark.args for mark in module.test_fault_is_named.pytestmark if mark.name == "turns"]
        for fault in module.FAULTS:
            if any(fnmatchcase(fault.id, pattern) for pattern in patterns):
                make, law, _ = fault.values
                found.append(pytest.param(make, law, id=f"{make.__name__}-{law}"))
    return found


# --- each by its law --------------------------------------------------------------------------------------------------


def broken_by(make: Callable[[], sdegen.SDE], law: str) -> Exception:
    """What one law raises of a process."""
    (case,) = [case for case in sde_cases(make()) if case.id == law]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        case.values[0]()
    return caught.value


@pytest.mark.turns("*-prior_is_the_law_at_T")  # half a second and more
@pytest.mark.parametrize(("make", "law"), taking_turns())
def test_a_fault_breaks_its_law(make: Callable[[], sdegen.SDE], law: str) -> None:
    broken_by(make, law)


def checks() -> dict[str, set[tuple[str, int]]]:
    """By law the file and first line of each of its checks: calls that compare, and errors, of its own or of a part."""
    found: dict[str, set[tuple[str, int]]] = {}
    for path in sorted(LAWS.glob("*.py")):
        functions = {f.name: f for f in ast.parse(path.read_text()).body if isinstance(f, ast.FunctionDef)}
        for law, function in functions.items():
            names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
            for part in (function, *(functions[name] for name in names & functions.keys())):
                for node in ast.walk(part):
                    match node:
                        case ast.Expr(ast.Call(ast.Name("close" | "same_law"))) | ast.Raise(exc=ast.expr()):
                            found.setdefault(law, set()).add((path.name, node.lineno))
    return {law: lines for law, lines in found.items() if not law.startswith("_")}


CHECKS = checks()


@pytest.mark.turns("prior_is_the_law_at_T", "derivatives_reach_the_schedule")  # as above
@pytest.mark.parametrize("law", CHECKS)
def test_every_check_of_a_law_names_a_fault(law: str) -> None:
    """A line of a law that no wrong process breaks might as well not be there."""
    rest = CHECKS[law].copy()
    for make, of in reversed(FAULTS):
        if of == law and rest:
            error = broken_by(make, law)
            if isinstance(error, Violation):
                (*_, last) = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == LAWS]
                rest.discard((Path(last.filename).name, last.lineno))
    assert not rest
