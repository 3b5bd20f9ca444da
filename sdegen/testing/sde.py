"""`check_sde` holds a forward SDE, of the zoo or your own, against the laws of its kind; the laws are in `laws`."""

from __future__ import annotations

__all__ = ["attributes_are_those_of_a_process", "check_sde", "laws_of", "made_up", "on", "sde_cases"]

from collections.abc import Sequence
from functools import wraps
from typing import Any

from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..processes.base import SDE
from ..processes.linear import LinearSDE, is_linear
from ..processes.matrix import MatrixSDE
from ..processes.scalar import ScalarSDE
from ..processes.validity import check_process
from .laws import EVERY, LINEAR, MATRIX, NONLINEAR, SCALAR, SIMULATED, probes
from .laws.probes import on_data
from .report import Law, Report, cases, check

OF_KIND: dict[type, list[Law]] = {LinearSDE: LINEAR, ScalarSDE: SCALAR, MatrixSDE: MATRIX}


def laws_of(sde: SDE) -> list[Law]:
    """The laws that apply to a process: those of every SDE, then those of the classes it derives from, base first."""
    of_kind = [law for kind in reversed(type(sde).__mro__) for law in OF_KIND.get(kind, [])]
    if is_linear(sde):
        return [*EVERY, *of_kind]
    return [*EVERY, *of_kind, *([] if sde.is_known else SIMULATED), *NONLINEAR]


@check_arguments
def check_sde(
    sde: SDE,
    expected: dict[str, str] | None = None,
    data: Tensor | None = None,
    shape: Sequence[int] | None = None,
) -> Report:
    """Check a process against its laws, and return a `Report`.

    Parameters
    ----------
    sde
        Any SDE, of the library or your own.
    expected
        Laws that are expected to fail, by name, each with its reason.
    data
        Data ``(B, *)`` on which to check a process whose coefficients are made for one shape, as they are where they couple
        coordinates; made-up data of several shapes by default.
    shape
        The shape of a datum, in place of data: they are made up.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    TypeError
        If `sde` is no process, or a class of them.
    ValueError
        If `expected` names a law that is not among them, or data and a shape are both given.

    Examples
    --------
    >>> import sdegen
    >>> class Mine(sdegen.ScalarSDE):
    ...     def f(self, t): return -10 * t
    ...     def g(self, t): return (1 + 20 * t).sqrt()
    >>> check_sde(Mine()).passed
    True
    """
    if shape is not None:
        if data is not None:
            raise ValueError("data and shape were both given; give one of them.")
        data = made_up(sde, tuple(check_count("shape", side) for side in shape))
    attributes = check(sde, [attributes_are_those_of_a_process])
    if not attributes.passed:  # and every law would say so again
        return attributes
    return check(sde, [on(data, law) for law in laws_of(sde)], expected)


@check_arguments
def sde_cases(sde: SDE, data: Tensor | None = None) -> list[Any]:
    """The laws of a process as pytest parameters; see `report.cases`.

    Parameters
    ----------
    sde, data
        As for `check_sde`.
    """
    return cases(sde, [on(data, law) for law in laws_of(sde)])


def made_up(sde: SDE, shape: tuple[int, ...]) -> Tensor:
    """Return 256 made-up data of a shape, in the domain of a process."""
    with on_data(None, sde.data_domain):
        return probes.data(256, *shape)


def attributes_are_those_of_a_process(sde: SDE) -> None:
    """`T` is positive, `sigma_0` not negative, and `Sigma_0` a covariance."""
    check_process(sde)


def on(data: Tensor | None, law: Law) -> Law:
    """Return a law that is checked on the given data.

    Parameters
    ----------
    data
        As for `check_sde`.
    law
        Any of the laws.
    """

    @wraps(law)
    def checked(sde: SDE) -> None:
        with on_data(data, sde.data_domain):
            law(sde)

    return checked
