"""The laws of an SDE by numbers, the same for all coordinates or one for each: ``f, g`` and ``alpha, sigma`` are one process, to
the last digits.
"""

from __future__ import annotations

__all__ = [
    "ELEMENTWISE",
    "closed_form_matches_coefficients",
    "derivatives_reach_the_schedule",
    "schedule_keeps_its_digits",
]

from typing import Any

import torch
from torch import Tensor

from ...laws.products import value_and_slope
from ...processes.elementwise import ElementwiseSDE
from ...processes.panels import Panels
from ..report import QUADRATURE, Law, close, derivative
from .probes import difference_steps, times


def derivatives_reach_the_schedule(sde: ElementwiseSDE) -> None:
    """Forward-mode derivatives of `alpha` and `sigma` equal finite differences: no ``float(t)``, no branch on `t`."""
    t = times(sde)
    h = difference_steps(sde, t)
    for name in ("alpha", "sigma"):
        schedule = getattr(sde, name)

        def lifted(u: Tensor, schedule: Any = schedule) -> Tensor:
            return torch.as_tensor(schedule(u), dtype=torch.float64).expand((*u.shape, *sde.coefficient_shape))

        value, slope = value_and_slope(lifted, t, torch.ones_like(t))
        close(f"derivative of {name}", slope, derivative(lifted, t, h), QUADRATURE, value.abs() / sde.T + slope.abs())


def schedule_keeps_its_digits(sde: ElementwiseSDE) -> None:
    """At small times `sigma` has the digits of float64: it follows its coefficients down to ``t = 1e-9 T``.

    Held against quadrature of `f` and `g`; a schedule that gives only `alpha` and `sigma` must be smooth there instead.
    """
    t = (sde.piece or sde.T) * torch.logspace(-9, -2, 36, dtype=torch.float64)  # among so many, some round badly
    start = torch.zeros_like(t)
    try:
        log_alpha, log_variance = _moments(sde, start, t)
    except ValueError:
        log_alpha, log_variance = _moments(sde, start + 1e-3 * t, t)
        start = 1e-3 * t
    before = sde.sigma(start).square() if (start > 0).any() else torch.tensor(sde.sigma_0**2, dtype=torch.float64)
    want = ((2 * log_alpha).exp() * before + log_variance.exp()).sqrt()
    close("sigma at small times", sde.sigma(t), want, 1e-9)


def closed_form_matches_coefficients(sde: ElementwiseSDE) -> None:
    """`alpha` and `sigma` equal the quadrature of `f` and `g` over ``[s, t]``, wherever those are finite."""
    t = times(sde)
    s = 0.2 * t if sde.piece is None else t - 0.4 * sde.piece
    log_alpha, log_variance = _moments(sde, s, t)
    close("alpha(t), from alpha(s)", sde.alpha(t), sde.alpha(s) * log_alpha.exp(), QUADRATURE)
    want = ((2 * log_alpha).exp() * sde.sigma(s).square() + log_variance.exp()).sqrt()
    close("sigma(t)", sde.sigma(t), want, QUADRATURE)


def _moments(sde: ElementwiseSDE, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``log alpha`` and the log-variance of ``x_t`` given ``x_s``, by quadrature of `f` and `g` over each interval."""
    shape = sde.coefficient_shape
    pairs = [Panels(sde.f, sde.g, a.item(), b.item(), number=16, shape=shape)(b) for a, b in zip(s, t, strict=True)]
    log_alpha, log_variance = (torch.stack(values) for values in zip(*pairs, strict=True))
    return log_alpha, log_variance


ELEMENTWISE: list[Law] = [derivatives_reach_the_schedule, schedule_keeps_its_digits, closed_form_matches_coefficients]
