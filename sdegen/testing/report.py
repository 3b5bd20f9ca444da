"""Results of a conformance check: a printable list of laws, each satisfied or violated, and why."""

from __future__ import annotations

__all__ = [
    "EXACT",
    "Law",
    "QUADRATURE",
    "Report",
    "Result",
    "STATISTICAL",
    "Violation",
    "cases",
    "check",
    "close",
    "derivative",
    "same_law",
]

import html
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments

EXACT = 1e-10  # float64 arithmetic
QUADRATURE = 1e-6  # numerical integration and differentiation
STATISTICAL = 5.0  # standard errors, which the law computes itself


class Violation(AssertionError):
    """The error raised if a law is violated, with the numbers that show it."""


@dataclass
class Result:
    """The result of one law: satisfied or violated."""

    law: str
    passed: bool
    detail: str


@check_arguments
@dataclass
class Report:
    """The results of a conformance check, law by law.

    Attributes
    ----------
    subject
        What was checked.
    results
        One `Result` a law.
    left_out
        The names of laws that do not apply, for each reason why.
    """

    subject: str
    results: list[Result]
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every law holds."""
        return all(r.passed for r in self.results)

    @property
    def failures(self) -> list[str]:
        """Names of the broken laws."""
        return [r.law for r in self.results if not r.passed]

    def __repr__(self) -> str:
        return f"Report({self._heading()}{'; broken: ' + ', '.join(self.failures[:3]) if self.failures else ''})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def _heading(self) -> str:
        """Return what was checked, and how many of its laws hold."""
        return f"{self.subject}: {len(self.results) - len(self.failures)} of {len(self.results)} laws hold"

    def __str__(self) -> str:
        lines = [self._heading()]
        for r in self.results:
            lines.append(f"  {'ok    ' if r.passed else 'BROKEN'} {r.law}{': ' + r.detail if r.detail else ''}")
        lines += [f"  –      {', '.join(laws)}: left out, since {reason}" for reason, laws in self.left_out.items()]
        return "\n".join(lines)


Law = Callable[..., None]  # takes the subject, and raises a `Violation` if it does not hold


def check(
    subject: Any,
    laws: Iterable[Law],
    expected: dict[str, str] | None = None,
    left_out: dict[str, list[str]] | None = None,
) -> Report:
    """Check a subject against laws, and return a `Report`.

    Parameters
    ----------
    subject
        Passed to every law.
    laws
        Functions that raise `Violation`; any other exception breaks the law too.
    expected
        Laws that are expected to fail, by name, each with its reason; a law that holds nevertheless counts as broken.
    left_out
        Names of laws that do not apply to the subject, for each reason why.

    Raises
    ------
    ValueError
        If `expected` names a law that is not among them.
    """
    laws = list(laws)
    expected = expected or {}
    unknown = set(expected) - {law.__name__ for law in laws}
    if unknown:
        raise ValueError(
            f"expected names {sorted(unknown)}, which is no law; the laws are {[f.__name__ for f in laws]}."
        )
    results = []
    for law in laws:
        reason = expected.get(law.__name__)
        try:
            law(subject)
            passed, detail = reason is None, "" if reason is None else f"held, though declared to fail: {reason}"
        except Exception as error:  # a law broken by an exception is a broken law, reported with the others
            passed = reason is not None
            detail = f"fails as declared: {reason}" if passed else _sentence(error)
        results.append(Result(law.__name__, passed, detail))
    return Report(type(subject).__name__, results, left_out or {})


def _sentence(error: Exception) -> str:
    """Return on one line what broke a law, with the type and notes of the exception unless it is a `Violation`."""
    text = " ".join(str(error).split())
    if isinstance(error, Violation):
        return text
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    return f"it raised {type(error).__name__}: {text or 'without a word'}{notes}"


def cases(subject: Any, laws: Iterable[Law]) -> list[Any]:
    """Return the laws as parameters of a test of pytest, each a call without arguments.

    ::

        @pytest.mark.parametrize("law", sdegen.testing.sde_cases(MySDE()))
        def test_my_sde(law):
            law()
    """
    import pytest  # an optional dependency of this one function

    return [pytest.param(partial(law, subject), id=law.__name__) for law in laws]


def close(name: str, got: Tensor, want: Tensor, tolerance: float, scale: Tensor | float | None = None) -> None:
    """Raise a `Violation` unless ``|got − want| <= tolerance · scale``; the scale is the size of `want` by default."""
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    if got.shape != want.shape:
        raise Violation(f"{name} has shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    size = want.abs() if scale is None else torch.as_tensor(scale, dtype=torch.float64)
    error = (got - want).abs() / size.expand(want.shape).clamp_min(1e-300)
    error = torch.where(got == want, 0.0, error)  # zeros and infinities that agree
    if not (error <= tolerance).all():
        worst = error.nan_to_num(nan=torch.inf).reshape(-1).argmax()
        raise Violation(
            f"{name} is {got.reshape(-1)[worst].item():.9g}, expected {want.reshape(-1)[worst].item():.9g} "
            f"(off by {error.reshape(-1)[worst].item():.2g} of its scale, {tolerance:g} allowed)"
        )


def same_law(name: str, y: Tensor, x: Tensor) -> None:
    """Raise a `Violation` unless two samples of one size look like draws of one law in every coordinate, by the
    Kolmogorov–Smirnov test and by four moments, to five standard errors.
    """
    n = len(x)
    for a, b in zip(x.reshape(n, -1).double().T, y.reshape(n, -1).double().T, strict=True):
        both = torch.cat([a, b]).sort().values
        gap = (torch.searchsorted(a.sort().values, both) - torch.searchsorted(b.sort().values, both)).abs().max() / n
        if not gap <= 2.2 * (2 / n) ** 0.5:  # draws of one law exceed it once in 8,000
            raise Violation(f"{name} differs by {gap.item():.3g} in distribution function")
        for p in (1, 2, 3, 4):
            u, v = a**p, b**p
            error = ((u.var() + v.var()) / n).sqrt()
            if not (u.mean() - v.mean()).abs() <= STATISTICAL * error + 0.01 * u.abs().mean():  # 1 %: Euler's own bias
                raise Violation(
                    f"{name} has E x^{p} = {v.mean().item():.4g}, expected {u.mean().item():.4g} ± {error.item():.2g}"
                )


def derivative(function: Callable[[Tensor], Tensor], t: Tensor, h: Tensor) -> Tensor:
    """Return the derivative of a function of times ``(n,)``, by the central difference of order six with steps `h` ``(n,)``."""
    weights = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
    parts = [w * (function(t + k * h) - function(t - k * h)) for k, w in weights.items()]
    total = parts[0] + parts[1] + parts[2]
    return total / h.reshape(-1, *[1] * (total.ndim - 1))
