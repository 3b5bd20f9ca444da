"""Tools for latent codes: traversals and interpolations, active units, a classifier on codes, and adversarial examples."""

from __future__ import annotations

__all__ = ["Coding", "LatentClassifier", "active_units", "fgsm", "robustness", "traversal", "walk_latents"]

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count, check_number, check_tensor
from ..conditions import check_labels
from ..laws.interpolation import slerp
from ..metrics.estimate import SPREAD, Estimate


@check_arguments
def traversal(decode: Callable[[Tensor], Tensor], z: Tensor, dim: int, values: Tensor) -> Tensor:
    """Decode latents along one coordinate `dim`, the others held fixed, and return the data: ``(len(values), *)``.

    I. Higgins et al., *beta-VAE*, 2017.

    Parameters
    ----------
    decode
        Latents ``(B, latent)`` to data, such as `VAE.decode`.
    z
        The latent, ``(latent,)``.
    dim
        The number of the coordinate.
    values
        The values that the coordinate takes, such as ``torch.linspace(-3, 3, 11)``.

    Raises
    ------
    ValueError
        If `z` is no vector, or has no such coordinate.
    """
    check_tensor("values", values, ndim=1), check_tensor("z", z)
    if z.ndim != 1:
        raise ValueError(f"z has shape {tuple(z.shape)}; give one latent vector, (latent,).")
    if len(values) == 0 or not -z.shape[-1] <= dim < z.shape[-1]:
        raise ValueError(
            f"dim = {dim}, {len(values)} values; give a place among {z.shape[-1]}, and one value at least."
        )
    points = z.expand(len(values), -1).clone()
    points[:, dim] = values.to(points)
    return decode(points)


@check_arguments
def walk_latents(decode: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, steps: int = 11) -> Tensor:
    """Decode latents along the great arc from `start` to `end`, both included, and return the data: ``(steps, *)``.

    The direction goes along the great circle, the length along the line (`laws.interpolation.slerp`). Straight lines
    lead through the middle, where a normal law of many dimensions has no mass: T. White, *Sampling generative
    networks*, 2016, arXiv:1609.04468.

    Parameters
    ----------
    decode
        Latents ``(B, latent)`` to data.
    start, end
        Latents, ``(latent,)``.
    steps
        Number of points on the arc.

    Raises
    ------
    ValueError
        If latents are opposite to each other, where there is no shortest arc, or zero.
    """
    check_tensor("start", start, ndim=1), check_tensor("end", end, shape=tuple(start.shape))
    check_count("steps", steps, 2)
    if not (start.any() and end.any()):
        raise ValueError("start or end is zero, and no arc joins it to the other; choose another.")
    arc = [slerp(start[None], end[None], u) for u in torch.linspace(0, 1, steps, dtype=torch.float64)]
    return decode(torch.cat(arc))


@check_arguments
def active_units(codes: Tensor, threshold: float = 0.01) -> Tensor:
    """Tell which coordinates of the codes are active: those whose mean has a variance above a threshold over the data,
    ``(latent,)``.

    That is ``Var_x E_q[z | x] > threshold``: Y. Burda et al., *Importance weighted autoencoders*, 2015, arXiv:1509.00519.

    Parameters
    ----------
    codes
        Means of ``q(z | x)`` over a set of data, ``(N, latent)``, such as ``VAE.codes(x)``.
    threshold
        The least variance of an active unit; the prior's variance is one.

    Raises
    ------
    ValueError
        If there are fewer than two rows.
    """
    check_tensor("codes", codes, ndim=2), check_number("threshold", threshold, at_least=0)
    if len(codes) < 2:
        raise ValueError(f"codes has {len(codes)} rows; give two at least, so that their variance can be measured.")
    return codes.var(0) > threshold


class Coding(Protocol):
    """A module that encodes data: ``codes(x)`` returns a latent code for each datum."""

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes ``(B, latent)`` of the data `x`."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether weights have gradients, as for every module."""

    def eval(self) -> Self:
        """Set evaluation mode, as for every module."""


class LatentClassifier(nn.Module):
    """A linear classifier on the codes of a frozen model, trained by `sdegen.fit` with labels (a linear probe).

    G. Alain and Y. Bengio, *Understanding intermediate layers using linear classifier probes*, 2016, arXiv:1610.01644.

    Parameters
    ----------
    model
        Anything with ``codes(x)``, ``(B, latent)``. It is frozen in place, and stays in evaluation mode.
    latent, classes
        The dimension of a code, and the number of classes.
    """

    @check_arguments
    def __init__(self, model: Coding, latent: int, classes: int) -> None:
        super().__init__()
        check_count("latent", latent), check_count("classes", classes)
        self.model, self.latent, self.classes = model.requires_grad_(False), latent, classes
        self.net = nn.Linear(latent, classes)
        self.moments: Any = None

    def train(self, mode: bool = True) -> LatentClassifier:
        """Set training mode for the head alone."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, classes)``, with derivatives by `x`."""
        return self.net(self.model.codes(x))

    def loss(self, x: Tensor, *, label: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return ``−log softmax(logits)[label]``, ``(B,)``."""
        label = check_labels(label, len(x), self.classes).to(x.device).expand(len(x))
        return F.cross_entropy(self(x), label, reduction="none")


@check_arguments
def fgsm(
    logits: Callable[[Tensor], Tensor], x: Tensor, label: Tensor, epsilon: float, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Return ``x + epsilon sign(∇_x loss)``, kept within [low, high]: the fast gradient sign method.

    I. Goodfellow, J. Shlens, C. Szegedy, *Explaining and harnessing adversarial examples*, 2014, arXiv:1412.6572.

    Parameters
    ----------
    logits
        A function of data that returns logits ``(B, classes)``.
    x, label
        Data and their classes.
    epsilon
        The change of every number.
    low, high
        The range of the data.

    Raises
    ------
    TypeError
        If labels are no whole numbers.
    ValueError
        If `epsilon` is negative, data lie outside of the range, or the gradient is not finite.
    """
    check_number("epsilon", epsilon, at_least=0), check_tensor("x", x)
    check_tensor("label", label, shape=x.shape[:1], floating=False)
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise TypeError(f"label has dtype {label.dtype}; give whole numbers, one class a datum.")
    if len(x) == 0:
        raise ValueError("x is empty; give one datum at least.")
    if x.min() < low or x.max() > high:
        raise ValueError(
            f"x has the range [{x.min():.4g}, {x.max():.4g}], beyond [{low:g}, {high:g}]; "
            "give the range of the data as low= and high=."
        )
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits(at), label, reduction="sum"), at)
    if not gradient.isfinite().all():  # the sign of NaN is 0, and the datum would stay as it is
        raise ValueError("the loss has no finite gradient by the data; look at the logits and their derivatives.")
    return (x + epsilon * gradient.sign()).clamp(low, high)


@check_arguments
def robustness(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    label: Tensor,
    epsilons: Sequence[float],
    low: float = 0.0,
    high: float = 1.0,
) -> list[Estimate]:
    """Measure the accuracy on data changed by `fgsm`, for each epsilon, and return the accuracies.

    I. Goodfellow, J. Shlens, C. Szegedy, 2014, arXiv:1412.6572.

    Parameters
    ----------
    logits, x, label, low, high
        As for `fgsm`.
    epsilons
        Changes of every number, one after the other; 0 for the accuracy on data as they are.

    Returns
    -------
    list[Estimate]
        The share of data that are classified right, with its standard error, for each epsilon.

    Raises
    ------
    ValueError
        As for `fgsm`, or if there are fewer than two data.
    """
    if check_tensor("x", x).ndim and len(x) < 2:
        raise ValueError(f"x has {len(x)} rows; give at least 2{SPREAD}.")
    found = []
    for epsilon in epsilons:
        with torch.no_grad():
            right = logits(fgsm(logits, x, label, epsilon, low, high)).argmax(1) == label
        found.append(Estimate.of(right.double()))
    return found
