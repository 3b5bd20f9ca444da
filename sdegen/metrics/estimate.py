"""`Estimate`, a value with its standard error, and checks of samples and seeds that all metrics share.

A standard error measures the spread of the value over fresh samples. It does not measure bias: where a metric is biased
by the number of samples, its own docstring says so.
"""

from __future__ import annotations

__all__ = [
    "SPREAD",
    "Estimate",
    "as_generator",
    "as_pair",
    "as_points",
    "check_equal_counts",
    "check_samples",
    "share_error",
]

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_tensor
from ..dense import with_all_digits
from ..show import show_call

SPREAD = ": a standard error is made of the spread of draws"  # why one is too few


class Estimate(NamedTuple):
    """A value and its standard error.

    Attributes
    ----------
    value
        The estimate.
    stderr
        Its standard error: 0 for an exact value, NaN where the error is not known.

    Examples
    --------
    >>> print(Estimate(0.012345, 0.000432))
    0.0123 ± 0.0004
    >>> print(Estimate(1.234e-8, 5.6e-10))
    1.23e-08 ± 6e-10
    """

    value: float
    stderr: float

    def __repr__(self) -> str:
        return show_call(self)

    @classmethod
    def of(cls, values: Tensor | Sequence[float]) -> Estimate:
        """Return the mean of independent values ``(N,)`` and its standard error, ``sd / √N``.

        Parameters
        ----------
        values
            At least two numbers.

        Raises
        ------
        ValueError
            If there are fewer than two values, or they are not in one dimension.

        Examples
        --------
        >>> print(Estimate.of([1.0, 2.0, 3.0]))
        2.0 ± 0.6
        """
        values = with_all_digits(values).detach().cpu().double()
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(
                f"values has shape {tuple(values.shape)}; a standard error is made of the spread of values: give (N,), N at "
                "least 2."
            )
        return cls(values.mean().item(), values.std().item() / math.sqrt(len(values)))

    def __str__(self) -> str:
        value, stderr = self
        if not (math.isfinite(value) and math.isfinite(stderr)) or stderr == 0:
            return f"{value:.6g} ± {stderr:.1g}"
        place = int(f"{stderr:.0e}".split("e")[1])  # of the one digit of the error that is shown
        if place < -6:
            size = int(f"{value:.0e}".split("e")[1])
            return f"{value:.{max(0, size - place)}e} ± {stderr:.0e}"
        return f"{value:.{max(0, -place)}f} ± {stderr:.{max(0, -place)}f}"


def share_error(count: float, n: int) -> float:
    """Return the binomial standard error of the share `count` of `n`, taken at ``(count + 1) / (n + 2)``, so that 0 of n, and n
    of n, do not count as exact.
    """
    p = (count + 1) / (n + 2)
    return math.sqrt(p * (1 - p) / n)


def check_samples(x: Tensor, name: str) -> None:
    """Refuse anything but a batch of finite floating-point samples ``(B, *)``.

    Raises
    ------
    TypeError
        If the dtype is not floating point.
    ValueError
        If the batch is empty, or holds NaN or infinite values.
    """
    if not isinstance(x, Tensor):
        check_tensor(name, x)
    if x.dtype == torch.uint8:
        raise TypeError(f"{name} holds bytes; metrics of images take numbers in [0, 1]: {name} / 255.")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; convert it to a floating-point dtype first: {name}.double().")
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected (B, *) with at least one value.")
    bad = ~x.isfinite().reshape(len(x), -1).all(1)
    if bad.any():
        raise ValueError(
            f"{name} holds NaN or infinite values in {int(bad.sum())} of {len(x)} rows; mend the sampler that made "
            "them, or drop the rows and say so beside the number."
        )


def as_points(x: Tensor, name: str) -> Tensor:
    """Check samples ``(B, *)``, and return them as float64 points ``(B, d)`` on their own device."""
    check_samples(x, name)
    x = x.detach()
    if x.device.type == "mps":  # it has no float64
        x = x.cpu()
    return x.double().reshape(len(x), -1)


def as_pair(generated: Tensor, real: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Check two sets of samples, and return them as points of one space, with at least `least` points each.

    Raises
    ------
    ValueError
        If their dimensions differ, or there are too few points.
    """
    a, b = as_points(generated, "generated"), as_points(real, "real")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"generated has shape {tuple(generated.shape)}, {a.shape[1]} values per point, and real "
            f"{tuple(real.shape)}, {b.shape[1]}; pass samples of one and the same space."
        )
    for name, points in (("generated", a), ("real", b)):
        if len(points) < least:
            raise ValueError(f"{name} has {len(points)} points; this metric needs at least {least}: draw more.")
    return a, b.to(a.device)


def check_equal_counts(x: Tensor, y: Tensor, why: str) -> None:
    """Refuse samples of unequal number; `why`, the reason, stands in the error."""
    if len(x) != len(y):
        n = min(len(x), len(y))
        raise ValueError(f"generated has {len(x)} points and real {len(y)}; {why}: pass the first {n} of both.")


def as_generator(generator: torch.Generator | None, seed: int | None) -> torch.Generator | None:
    """Return the source of randomness: `generator`, or a fresh one from `seed`, or None for torch's global one if neither is
    given.

    Raises
    ------
    ValueError
        If both are given.
    """
    if seed is None:
        return generator
    if generator is not None:
        raise ValueError(f"both generator and seed = {seed} are given; pass one of them.")
    return torch.Generator().manual_seed(seed)
