"""The local classifier two-sample test: whether a classifier can tell draws of a posterior from the truth at one observation.

Coverage is an average over all observations, in which errors at different ones may cancel. Here a classifier of pairs ``(theta,
x)`` is trained on true pairs and on pairs whose parameters the posterior drew, and then asked at the observation alone.
"""

from __future__ import annotations

__all__ = ["Classifier", "LocalTest", "QuadraticClassifier", "find_local_error"]

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count, check_number, check_tensor
from ..show import show_call
from .estimate import Estimate, as_generator
from .posteriors import ConditionalSampler, draw_for_each, draw_for_pairs

STEPS = 50  # of Newton's method, which needs about ten


class LocalTest(NamedTuple):
    """The result of a local classifier two-sample test at one observation.

    Attributes
    ----------
    error
        The mean square over the posterior's draws of the classifier's probability less ½: 0 if it sees no difference, ¼ at most.
    p_value
        The share of classifiers trained on shuffled labels, which have no difference to see, whose error is at least as large.
    shuffled
        The errors of these classifiers, ``(shuffles,)``.
    """

    error: Estimate
    p_value: float
    shuffled: Tensor

    def __repr__(self) -> str:
        return show_call(self)


class Classifier(Protocol):
    """The interface of a classifier of two kinds of points."""

    def fit(self, points: Tensor, labels: Tensor, /) -> object:
        """Train on points ``(n, d)`` with labels 0 and 1, ``(n,)``, and forget earlier training."""

    def predict(self, points: Tensor, /) -> Tensor:
        """Return the probability of label 1 for points ``(n, d)``, ``(n,)``."""


class QuadraticClassifier(OfTensors):
    """Logistic regression on the numbers of a point and all their products, which tells any two Gaussian laws apart as well as
    can be.

    Parameters
    ----------
    ridge
        The number that is added to the curvature of the mean loss, in units of standardised features.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, ridge: float = 1e-3) -> None:
        self.ridge = check_number("ridge", ridge, above=0)

    def fit(self, points: Tensor, labels: Tensor) -> QuadraticClassifier:
        """Train on points ``(n, d)`` with labels 0 and 1, ``(n,)``, by Newton's method.

        Parameters
        ----------
        points, labels
            The training set.
        """
        self.centre, self.scale = points.mean(0), points.std(0).clamp_min(1e-12)
        features, y = self._features(points), labels.to(points)
        self.w = features.new_zeros(features.shape[1])
        penalty = self.ridge * torch.eye(len(self.w), dtype=self.w.dtype, device=self.w.device)
        for _ in range(STEPS):
            p = (features @ self.w).sigmoid()
            slope = features.T @ (p - y) / len(y) + self.ridge * self.w
            curvature = (features.T * (p * (1 - p))) @ features / len(y) + penalty
            step = torch.linalg.solve(curvature, slope)
            self.w = self.w - step / max(1.0, step.norm().item())  # shortened to 1: at first it may overshoot
            if step.norm() < 1e-8:
                break
        return self

    def predict(self, points: Tensor) -> Tensor:
        """Return the probability of label 1 for points ``(n, d)``, ``(n,)``.

        Parameters
        ----------
        points
            The points.
        """
        return (self._features(points) @ self.w).sigmoid()

    def _features(self, points: Tensor) -> Tensor:
        z = (points - self.centre) / self.scale
        i, j = torch.triu_indices(z.shape[1], z.shape[1])
        return torch.cat([torch.ones_like(z[:, :1]), z, (z[:, i] * z[:, j] - (i == j).to(z)) / math.sqrt(2)], 1)


@check_arguments
def find_local_error(
    posterior: ConditionalSampler,
    theta: Tensor,
    x: Tensor,
    observed: Tensor,
    draws: int = 1000,
    *,
    classifier: Classifier | None = None,
    shuffles: int = 100,
    seed: int | None = None,
) -> LocalTest:
    """Measure how wrong a posterior is at one observation, by a classifier trained on all pairs, and return the `LocalTest`.

    J. Linhart, A. Gramfort and P. Rodrigues, *L-C2ST: local diagnostics for posterior approximations in simulation-based
    inference*, 2023, arXiv:2306.03580. What the classifier cannot see is not found.

    Parameters
    ----------
    posterior
        An object with ``sample(n, x)``.
    theta, x
        Pairs from the joint law, prior and simulator, that the posterior has not been trained on: ``(K, *)`` both.
    observed
        The observation, ``(*)``.
    draws
        Number of draws from the posterior at the observation.
    classifier
        A classifier of parameters and data, flattened and side by side; by default a `QuadraticClassifier`.
    shuffles
        Number of classifiers trained on shuffled labels, from which the p-value comes.
    seed
        Seed of the shuffles; the draws from the posterior have their own randomness.

    Raises
    ------
    TypeError
        If parameters or data are not floating point.
    ValueError
        If shapes do not fit, or the classifier's answers are no probabilities.

    Examples
    --------
    >>> import torch
    >>> class TooNarrow:  # of theta ~ N(0, 1) and x ~ N(theta, 1), by half
    ...     def sample(self, n, x): return 0.5 * x + 0.35 * torch.randn(n, 1)
    >>> _ = torch.manual_seed(0)
    >>> theta = torch.randn(500, 1)
    >>> find_local_error(TooNarrow(), theta, theta + torch.randn(500, 1), torch.ones(1), shuffles=20).p_value < 0.1
    True
    """
    check_tensor("observed", observed)
    check_count("draws", draws, at_least=2), check_count("shuffles", shuffles)
    own = draw_for_pairs(posterior, theta, x, 1)[:, 0]
    if observed.shape != x.shape[1:]:
        raise ValueError(
            f"observed has shape {tuple(observed.shape)}; give one observation, {tuple(x.shape[1:])} as one of x."
        )
    classifier = QuadraticClassifier() if classifier is None else classifier
    points = torch.cat([_join(theta, x), _join(own, x)])
    labels = torch.arange(len(points)) < len(theta)
    there = draw_for_each(posterior, observed[None], draws)[0]
    asked = _join(there, observed.expand(draws, *observed.shape))
    found = Estimate.of(_errors(classifier, points, labels, asked))
    generator, seen = as_generator(None, seed), []
    for _ in range(shuffles):
        swapped = torch.rand(len(theta), generator=generator) < 0.5  # within each pair: both have the same data
        shuffled = torch.cat([~swapped, swapped])
        seen.append(_errors(classifier, points, shuffled, asked).mean().item())
    errors = torch.tensor(seen, dtype=torch.float64)
    return LocalTest(found, (int((errors >= found.value).sum()) + 1) / (shuffles + 1), errors)


def _join(theta: Tensor, x: Tensor) -> Tensor:
    """Return parameters and data side by side, ``(n, d)``."""
    return torch.cat([v.detach().cpu().double().unsqueeze(-1).flatten(1) for v in (theta, x)], 1)


def _errors(classifier: Classifier, points: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
    """Train the classifier, and return the square of its probability less ½ at the points asked, ``(n,)``."""
    classifier.fit(points, labels)
    p = classifier.predict(asked)
    if p.shape != (len(asked),) or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"classifier.predict gives no probabilities of ({len(asked)},) points; they must lie in [0, 1]."
        )
    return (p - 0.5).square()
