"""The laws of a parametrisation: its four coefficients turn the network's right answer into the true velocity."""

from __future__ import annotations

__all__ = [
    "LAWS",
    "Parametrized",
    "STD",
    "check_parametrization",
    "coefficients_are_finite_at_both_ends",
    "coefficients_invert_the_target",
    "input_has_unit_variance",
    "network_can_change_the_data",
    "noise_level_rises_with_time",
    "parametrization_cases",
    "rows_do_not_mix",
    "silence_is_right_on_gaussian_data",
]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..data import gaussian_ring
from ..laws.mixtures import GaussianMixture
from ..laws.operators import Operator
from ..models.exact import Exact
from ..models.parametrizations import Coefficients, Parametrization
from ..processes.linear import LinearSDE
from .laws.probes import generator, times
from .report import Law, Report, Violation, cases, check, close

STD = 1.3  # standard deviation of the data for which coefficients are computed


@dataclass(frozen=True)
class Parametrized:
    """A parametrisation with the process on which its laws are checked."""

    parametrization: Parametrization
    sde: LinearSDE

    @property
    def is_a_residual(self) -> bool:
        """Whether the network predicts the residual of a closed form, by `coefficients` of its own in place of `target`."""
        return type(self.parametrization).coefficients is not Parametrization.coefficients

    def coefficients(self, t: Tensor) -> Coefficients:
        """Return the coefficients at times ``(B,)``, for data of standard deviation `STD`."""
        return self.parametrization.coefficients(self.sde, self.sde.marginal(t), STD)

    def states(self, data: GaussianMixture, t: Tensor) -> Tensor:
        """Return a noised datum at each of the times ``(B,)``."""
        return self.sde.perturb(data.sample(len(t), generator()), t, generator=generator()).x


def coefficients_invert_the_target(case: Parametrized) -> None:
    """``c_skip x + c_out F`` with ``F = a E[x_0 | x] + b E[z | x]`` of the true posterior means is the true velocity."""
    if case.is_a_residual:
        return
    t = times(case.sde)
    model, x = Exact(case.sde, gaussian_ring()), case.states(gaussian_ring(), t)
    a, b = case.parametrization.target(case.sde.marginal(t))
    c = case.coefficients(t)
    x_0, z = model.estimate(x, t)
    got, want = c.c_skip(x) + c.c_out(a(x_0) + b(z)), model.velocity(x, t)
    close("c_skip x + c_out F", got, want, 1e-7, 1 + want.abs().max())


def silence_is_right_on_gaussian_data(case: Parametrized) -> None:
    """If the network predicts a residual, the output 0 is right on Gaussian data: there ``c_skip x`` is the velocity."""
    if not case.is_a_residual:
        return
    data = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.tensor([STD**2], dtype=torch.float64))
    t = times(case.sde)
    x = case.states(data, t)
    c = case.coefficients(t)
    want = Exact(case.sde, data).velocity(x, t)
    close("c_skip x", c.c_skip(x), want, 1e-7, 1 + want.abs().max())


def network_can_change_the_data(case: Parametrized) -> None:
    """At every time inside, the network's output changes the estimate of the data: ``c_out`` has an effect on it."""
    t = times(case.sde)
    c, at = case.coefficients(t), case.sde.marginal(t)
    e = case.sde.embed(torch.ones(len(t), 1, dtype=torch.float64))
    moved = case.sde.project(at.denoise(torch.zeros_like(e), c.c_out(e)))
    if not (moved.abs() > 1e-12).all():
        raise Violation(f"an answer of one moves the data by {moved.abs().min().item():.2g} at some time")


def input_has_unit_variance(case: Parametrized) -> None:
    """``c_in x`` has covariance 1 for data of the given standard deviation."""
    t = times(case.sde)
    at = case.sde.marginal(t)
    covariance = at.Phi @ (case.sde.datum * STD**2) @ at.Phi.T + at.covariance
    c_in = case.coefficients(t).c_in
    white = (c_in @ covariance @ c_in.T).matrix()
    close("covariance of c_in x", white, torch.eye(white.shape[-1]).double().expand(white.shape), 1e-6, 1.0)


def _numbers(c: Coefficients) -> dict[str, Operator | Tensor]:
    """Return the four coefficients by name, without the other fields of `Coefficients`."""
    return {"c_skip": c.c_skip, "c_out": c.c_out, "c_in": c.c_in, "c_noise": c.c_noise}


def coefficients_are_finite_at_both_ends(case: Parametrized) -> None:
    """All four are finite at 0 and at T, where a process may be without noise or without signal."""
    for t in (0.0, case.sde.T):
        c = case.coefficients(torch.tensor([t]))
        for name, value in _numbers(c).items():
            numbers = value.matrix() if isinstance(value, Operator) else value
            if not numbers.isfinite().all():
                raise Violation(f"{name} is not finite at t = {t:g}")


def noise_level_rises_with_time(case: Parametrized) -> None:
    """``c_noise`` rises, so that the network can tell the levels apart, and has the shape of the times."""
    t = case.sde.T * torch.linspace(0.0, 1.0, 33, dtype=torch.float64)
    level = case.parametrization.level(case.sde, case.sde.marginal(t))
    if level.shape != t.shape:
        raise Violation(f"c_noise has shape {tuple(level.shape)} for times {tuple(t.shape)}")
    if not (level.diff() > 0).all():
        raise Violation(f"c_noise falls by {-level.diff().min().item():.2g} between two times")


def rows_do_not_mix(case: Parametrized) -> None:
    """The coefficients at a time do not depend on the other times of a call."""
    t = times(case.sde)
    together = case.coefficients(t)
    for i in range(len(t)):
        alone = case.coefficients(t[i : i + 1])
        for name, value in _numbers(alone).items():
            other = getattr(together, name)
            one, of_many = (v.matrix() if isinstance(v, Operator) else v for v in (value, other))
            want = of_many if isinstance(other, Operator) and of_many.ndim == 2 else of_many[i : i + 1]
            close(name, one.expand(want.shape), want, 1e-8, 1 + want.abs())


LAWS: list[Law] = [
    coefficients_invert_the_target,
    silence_is_right_on_gaussian_data,
    network_can_change_the_data,
    input_has_unit_variance,
    coefficients_are_finite_at_both_ends,
    noise_level_rises_with_time,
    rows_do_not_mix,
]


@check_arguments
def check_parametrization(
    parametrization: Parametrization, sde: LinearSDE, expected: dict[str, str] | None = None
) -> Report:
    """Check a parametrisation, of the library or your own, against its laws on a linear SDE, and return a `Report`.

    Subclass `Parametrization` with ``target(at)``, which returns the operators of ``F = a x_0 + b z``; or, for a network that
    predicts the residual of a closed form, with ``coefficients(sde, at, std)``, which returns all four coefficients. Refuse in
    ``check(sde)`` a process on which the network's answer does not determine the data.

    Parameters
    ----------
    parametrization
        The parametrisation, of the library or your own.
    sde
        A linear SDE.
    expected
        Laws that are expected to fail, by name, each with its reason.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    TypeError
        If the process is not linear.
    ValueError
        If the parametrisation refuses the process, or `expected` names a law that is not among them.

    Examples
    --------
    >>> import sdegen
    >>> from sdegen.models.parametrizations import VelocityParametrization
    >>> check_parametrization(VelocityParametrization(), sdegen.Cosine()).passed
    True
    """
    case = _case(parametrization, sde)
    report = check(case, LAWS, expected)
    report.subject = f"{type(parametrization).__name__} on {type(sde).__name__}"
    return report


@check_arguments
def parametrization_cases(parametrization: Parametrization, sde: LinearSDE) -> list[Any]:
    """Return the laws of a parametrisation as pytest parameters; see `report.cases`.

    Parameters
    ----------
    parametrization, sde
        As for `check_parametrization`.
    """
    return cases(_case(parametrization, sde), LAWS)


def _case(parametrization: Parametrization, sde: LinearSDE) -> Parametrized:
    """Let the parametrisation accept or refuse the process, and return the case on which the laws are checked."""
    parametrization.check(sde)
    return Parametrized(parametrization, sde)
