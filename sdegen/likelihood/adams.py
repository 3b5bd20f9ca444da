"""An adaptive Adams predictor–corrector, an ODE solver for smooth right-hand sides that are expensive to evaluate.

A step from ``s`` to ``t`` predicts the state by the integral of the polynomial through the last slopes ``k_i``, and evaluates the
slope ``k`` there. Then it corrects the state by the integral of the polynomial that passes through the new slope too:

``p = y_s + ∫_s^t Σ_i l_i(u) k_i du``,  ``k = slope(t, p)``,  ``y_t = y_s + ∫_s^t (Σ_i l~_i(u) k_i + l~(u) k) du``.

This is one evaluation a step, where a Runge–Kutta method of the same order has six. The error of a step is estimated by the
change of the second integral when the oldest slope is left out. The first step has one slope, the next two, and so on.
E. Hairer, S. Nørsett, G. Wanner, *Solving ordinary differential equations I*, 1993, chapter III.
"""

from __future__ import annotations

__all__ = ["ORDER", "adams", "after"]

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..laws.interpolation import gauss, lagrange

ORDER = 5  # slopes the prediction sees: with six or more only much shorter steps are stable
FIRST = 1e-3  # of the way: the first step has one slope alone, is of order one, and so has to be short
LONGEST = 0.1  # times the sixth root of the tolerance: features narrower than a step are not seen by its error
SHORTEST = 1e-10  # of the way: a flow that asks for less is not smooth, and no step would do
# Quadrature that is exact for the polynomials that a step integrates.
GAUSS = gauss((ORDER + 2) // 2)


def adams(slope: Callable[[float, Tensor], Tensor], y: Tensor, tolerance: float, parts: Sequence[int]) -> Tensor:
    """Integrate ``dy/du = slope(u, y)`` from 0 to 1, and return the state there.

    Parameters
    ----------
    slope
        The derivative ``(B, d)`` at a place `u` in [0, 1].
    y
        The state at 0, ``(B, d)``.
    tolerance
        Relative and absolute error of a step: the root mean square over each of the `parts` of a row, in the worst row. Errors of
        some hundred steps add up to a few times as much.
    parts
        Sizes of the parts of a row, together `d`.

    Raises
    ------
    ArithmeticError
        If no step, however short, keeps the tolerance, or slopes are not finite.
    """
    places, slopes = [0.0], [slope(0.0, y)]
    h, longest = FIRST, LONGEST * tolerance ** (1 / (ORDER + 1))
    while (s := places[-1]) < 1:
        h = min(h, longest, 1 - s)
        if h < 1 - s < 2 * h:
            h = (1 - s) / 2  # two equal steps at the end, none that is tiny
        t = 1.0 if h == 1 - s else s + h
        moved = partial(after, y, s, t)
        new = slope(t, moved(places, slopes))
        end = moved([*places, t], [*slopes, new])
        # The corrected state without the oldest slope is of one order less: the difference estimates the error.
        lower = moved([*places[1:], t], [*slopes[1:], new])
        share = ((end - lower) / (tolerance * (1 + torch.maximum(end.abs(), y.abs())))).split(list(parts), 1)
        error = torch.stack([v.square().mean(1).max() for v in share]).max().sqrt().item()
        factor = 0.9 * error ** (-1 / (len(slopes) + 1)) if error > 0 else math.inf
        if not error <= 1:  # NaN too
            h *= min(max(factor, 0.2), 0.8) if math.isfinite(error) else 0.2
            # At its beginning the flow may bend as a square root does; later, shorter steps are lost in the state's rounding.
            shortest = max(SHORTEST, s * torch.finfo(y.dtype).eps)
            if h < shortest:
                finite = math.isfinite(error)
                raise ArithmeticError(
                    f"asks for steps shorter than {shortest:.3g} of the way" if finite else "is not finite"
                )
            continue
        y = end
        h *= min(factor, 2.0)
        places, slopes = [*places, t][-ORDER:], [*slopes, new][-ORDER:]
    return y


def after(y: Tensor, s: float, t: float, places: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Return ``y + ∫_s^t`` of the polynomial that interpolates `slopes` at the times `places`."""
    z, w = GAUSS
    nodes = (torch.tensor(places, dtype=torch.float64) - s) / (0.5 * (t - s)) - 1
    weights = 0.5 * (t - s) * (lagrange(nodes, z) @ w)
    for weight, k in zip(weights.tolist(), slopes, strict=True):
        y = y + weight * k
    return y
