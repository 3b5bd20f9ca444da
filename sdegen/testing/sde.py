"""`check_sde` holds a forward SDE, of the zoo or your own, against the laws of its kind; the laws are in `laws`."""

from __future__ import annotations

__all__ = ["check_sde", "laws_of", "sde_cases"]

from typing import Any

from ..arguments import check_arguments
from ..processes.base import SDE
from ..processes.linear import LinearSDE, is_linear
from ..processes.matrix import MatrixSDE
from ..processes.scalar import ScalarSDE
from .laws import EVERY, LINEAR, MATRIX, NONLINEAR, SCALAR
from .report import Law, Report, cases, check

OF_KIND: dict[type, list[Law]] = {LinearSDE: LINEAR, ScalarSDE: SCALAR, MatrixSDE: MATRIX}


def laws_of(sde: SDE) -> list[Law]:
    """The laws that apply to a process: those of every SDE, then those of the classes it derives from, base first."""
    of_kind = [law for kind in reversed(type(sde).__mro__) for law in OF_KIND.get(kind, [])]
    return [*EVERY, *of_kind, *([] if is_linear(sde) else NONLINEAR)]


@check_arguments
def check_sde(sde: SDE, expected: dict[str, str] | None = None) -> Report:
    """Check a process against its laws, and return a `Report`.

    Parameters
    ----------
    sde
        Any SDE, of the library or your own.
    expected
        Laws that are expected to fail, by name, each with its reason.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    TypeError
        If `sde` is no process, or a class of them.
    ValueError
        If `expected` names a law that is not among them.

    Examples
    --------
    >>> import sdegen
    >>> class Mine(sdegen.ScalarSDE):
    ...     def f(self, t): return -10 * t
    ...     def g(self, t): return (1 + 20 * t).sqrt()
    >>> check_sde(Mine()).passed
    True
    """
    if isinstance(sde, type):
        raise TypeError(f"{sde.__name__} is a class; check a process of it: check_sde({sde.__name__}()).")
    if not isinstance(sde, SDE):
        raise TypeError(f"sde is a {type(sde).__name__} and no process; give one of a class derived from sdegen.SDE.")
    return check(sde, laws_of(sde), expected)


@check_arguments
def sde_cases(sde: SDE) -> list[Any]:
    """The laws of a process as pytest parameters; see `report.cases`.

    Parameters
    ----------
    sde
        As for `check_sde`.
    """
    return cases(sde, laws_of(sde))
