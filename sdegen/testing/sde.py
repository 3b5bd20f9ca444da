"""`check_sde`, which checks a forward SDE, of the zoo or the user's own, against the laws of its kind; the laws are in `laws`."""

from __future__ import annotations

__all__ = [
    "attributes_are_those_of_a_process",
    "check_sde",
    "groups_of",
    "laws_of",
    "left_out",
    "made_up",
    "on",
    "sde_cases",
]

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..processes.base import SDE
from ..processes.elementwise import ElementwiseSDE
from ..processes.linear import LinearSDE, is_linear
from ..processes.matrix import CoupledSDE, MatrixSDE
from ..processes.validity import check_process
from .laws import COUPLED, ELEMENTWISE, EVERY, KNOWN, LINEAR, MATRIX, NONLINEAR, SIMULATED, WAVES, probes
from .laws.every import perturbation_is_its_kernel
from .laws.nonlinear import perturb_follows_the_simulation
from .laws.probes import on_data
from .report import Law, Report, cases, check

OF_KIND: dict[type, list[Law]] = {
    LinearSDE: LINEAR,
    ElementwiseSDE: ELEMENTWISE,
    CoupledSDE: COUPLED,
    MatrixSDE: MATRIX,
}
# Laws of states that are noised in the process's own coordinates, as those of a process with bounds are not.
PERTURBED: list[Law] = [perturbation_is_its_kernel, perturb_follows_the_simulation]
Group = tuple[list[Law], str | None]  # laws, and the reason why they do not apply, None where they do


def groups_of(sde: SDE) -> list[Group]:
    """Return all laws of processes, in groups: each with the reason why it does not apply to this process, or None."""
    linear, known = is_linear(sde), not is_linear(sde) and sde.is_known
    # The kinds that the process derives from, base first, then the other kinds.
    of_kind = {kind: OF_KIND[kind] for kind in reversed(type(sde).__mro__) if kind in OF_KIND} | OF_KIND
    groups: list[Group] = [
        (EVERY, None),
        *((laws, None if isinstance(sde, kind) else f"it is no {kind.__name__}") for kind, laws in of_kind.items()),
        (SIMULATED, "its kernels are exact" if linear or known else None),
        (NONLINEAR, "they follow from the marginals of a linear process" if linear else None),
        (
            KNOWN,
            None
            if known
            else "its marginals are held to its coefficients"
            if linear
            else "its kernels are of short steps alone",
        ),
        (WAVES, None if sde.harmonics is not None else "networks are shown its states as they are"),
    ]
    if sde.free is None or sde.is_known:
        return groups
    others: list[Group] = [([law for law in laws if law not in PERTURBED], reason) for laws, reason in groups]
    return [
        *others,
        (PERTURBED, "its states are noised in coordinates without bounds; check Transformed(sde, sde.free)"),
    ]


def laws_of(sde: SDE) -> list[Law]:
    """Return the laws that apply to a process: those of every SDE, of the classes that it derives from, base first, and of its
    capabilities.
    """
    return [law for laws, reason in groups_of(sde) if reason is None for law in laws]


def left_out(sde: SDE) -> dict[str, list[str]]:
    """Return the names of the laws that do not apply to a process, for each reason why."""
    return {reason: [law.__name__ for law in laws] for laws, reason in groups_of(sde) if reason is not None}


@check_arguments
def check_sde(
    sde: SDE,
    expected: dict[str, str] | None = None,
    data: Tensor | None = None,
    shape: Sequence[int] | None = None,
) -> Report:
    """Check a process against the laws of its kind, and return a `Report`, which also says which laws do not apply, and why.

    Parameters
    ----------
    sde
        Any SDE, of the library or your own.
    expected
        Laws that are expected to fail, by name, each with its reason.
    data
        Data ``(B, *)`` on which to check a process whose coefficients are made for one shape, as if they couple coordinates. By
        default data are made up, in the shape that the process declares (`event_shape`), or in several shapes.
    shape
        The shape of a datum, in place of `data`, for made-up data.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    TypeError
        If `sde` is not a process, or is a class instead of an object.
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
    if not attributes.passed:  # every other law would report the same
        return attributes
    return check(sde, [on(_for(sde, data), law) for law in laws_of(sde)], expected, left_out(sde))


@check_arguments
def sde_cases(sde: SDE, data: Tensor | None = None) -> list[Any]:
    """Return the laws of a process as pytest parameters; see `report.cases`.

    Parameters
    ----------
    sde, data
        As for `check_sde`.
    """
    return cases(sde, [on(_for(sde, data), law) for law in laws_of(sde)])


def _for(sde: SDE, data: Tensor | None) -> Tensor | None:
    """Return the given data, or made-up data of the only shape that a process or its units take; None if it takes any shape."""
    shape = sde.event_shape if sde.event_shape is not None else tuple(sde.units.mean.shape) or None
    return made_up(sde, shape) if data is None and shape is not None else data


def _on_data(data: Tensor | None, sde: SDE) -> AbstractContextManager[None]:
    """Check laws, within a ``with`` block, on `data`, or on made-up data that lie in the domain of a process."""
    # The domain is that of standardised data; if coordinates are applied before the units, it is that of the data themselves.
    return on_data(data, sde.data_domain, sde.units if sde.coordinates is None else None)


def made_up(sde: SDE, shape: tuple[int, ...]) -> Tensor:
    """Return 256 made-up data of a shape, in the domain of a process."""
    with _on_data(None, sde):
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
        with _on_data(data, sde):
            law(sde)

    return checked
