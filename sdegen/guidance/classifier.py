"""Classifier guidance, by a trained classifier of noised data or by the exact classifier of known laws."""

from __future__ import annotations

__all__ = ["ClassifierGuidance", "ExactClassifier", "NoisyClassifier", "check_logits"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..answers import check_answer, check_each
from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_function
from ..conditions import Conditions, check_labels
from ..fixed import Fixed
from ..laws.described import Described
from ..laws.followed import Followed
from ..laws.mixtures import GaussianMixture, Moments
from ..laws.products import pull_back
from ..mixing import check_unmixed
from ..models.parametrizations import EDMParametrization
from ..models.score import ScoreModel
from ..precision import dtype_of
from ..processes.linear import LinearSDE
from ..processes.times import AngleTimes, TimeLaw
from ..show import show_call
from ..signatures import check_call
from .base import Tilted, check_same_process, check_units, require_clean_means
from .near import data_near


class ClassifierGuidance(Tilted):
    """A score model guided by a classifier of its noised states: ``∇ log p(x) + scale ∇ log p(label | x)``.

    With scale 1, a true score and a true classifier it is the conditional score, by Bayes' rule. A larger scale pushes states to
    where the classifier is sure. P. Dhariwal and A. Nichol, *Diffusion models beat GANs on image synthesis*, 2021,
    arXiv:2105.05233.

    Parameters
    ----------
    model
        A score model of a linear process.
    classifier
        Called as ``classifier(x, t)`` for states ``(B, *)``; returns logits ``(B, K)``, differentiable in `x`. `NoisyClassifier`
        can be trained, `ExactClassifier` is exact for known laws.
    scale, interval
        As for `Tilted`.
    conditional
        Whether the model is given the label too.

    Raises
    ------
    TypeError
        If the process is not linear.
    ValueError
        If the scale is not finite, or the interval out of order; at a call, if there is no label, a label is not a class, or the
        classifier's process has the data in other units; in a run, if the classifier returns probabilities, or mixes rows.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        classifier: Any,
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
        conditional: bool = False,
    ) -> None:
        super().__init__(model, scale, interval)
        self.classifier = check_function("classifier", classifier, "what is called as classifier(x, t)")
        check_call("classifier", classifier, ["x", "t"], conditions=True)
        self.conditional = conditional

    @property
    def conditions(self) -> Conditions:
        """The conditions of the model inside, and the label."""
        return self.model.conditions.plus("label")

    def passed_on(self, /, **cond: Any) -> dict[str, Any]:
        """Return the conditions without the label, unless the model takes it."""
        return cond if self.conditional else {k: v for k, v in cond.items() if k != "label"}

    def check_run(self, /, **cond: Any) -> None:
        """Refuse a run that the model inside refuses, and a classifier that belongs to another process."""
        classifier: Any = self.classifier
        if getattr(classifier, "sde", None) is not None:
            check_same_process(self.model, classifier, "the classifier")
        if self.model.moments is not None:
            self._check_answers(data_near(self.model.moments))
        super().check_run(**cond)

    def _check_answers(self, data: Tensor) -> None:
        """Raise a ValueError if the classifier returns probabilities, or its answer for a datum depends on the others."""
        sde = require_clean_means(self)
        t = torch.tensor(sde.T / 2, dtype=torch.float64)
        x = self.model.cast_states(sde.marginal(t).Phi(sde.lift(data)))

        def answer(x: Tensor) -> Tensor:  # as a run asks it, which differentiates it
            return pull_back(lambda x: (self._logits(x, t), ()), x)[0]

        with torch.no_grad():
            p = answer(x)
        if (p >= 0).all() and (p.sum(1) - 1).abs().max() < 1e-3:
            raise ValueError(
                "classifier returned probabilities, rows of sum one; it must return logits, such as their logarithms."
            )
        check_unmixed("classifier", answer, x)

    def _logits(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return the logits of states by the classifier, ``(B, K)``; a network is asked in the dtype of its weights."""
        return check_logits("classifier", self.classifier(x.to(dtype_of(self.classifier, x)), t), x)

    def tilted(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the model's clean state and noise, and ``∇ log p(label | x)``."""
        if "label" not in cond:
            raise ValueError("a classifier guides to a class: pass label=..., a number or one for each sample.")
        check_units(self.sde, getattr(self.classifier, "sde", self.sde), "the classifier")

        def chosen(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            logits = self._logits(x, t)
            label = check_labels(cond["label"], len(x), logits.shape[1]).to(x.device).expand(len(x))
            return logits.log_softmax(1).gather(1, label[:, None]).sum(), ()

        value, _, back = pull_back(chosen, x)
        return *self.model.estimate(x, t, **self.passed_on(**cond)), back(torch.ones_like(value))


def check_logits(who: str, logits: Any, x: Tensor) -> Tensor:
    """Return logits ``(B, K)`` of states `x`, of two classes or more; refuse anything else, as `answers.check_answer` does.

    Parameters
    ----------
    who
        The name of the function that returned them.
    logits
        The returned value.
    x
        The states, ``(B, *)``.
    """
    some = isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1
    must = "logits (B, K), one for each of two classes or more"
    return check_answer(who, logits, (len(x), logits.shape[1] if some else 2), x, must)


class ExactClassifier(OfTensors, Fixed):
    """The exact classifier of noised data for known class distributions: ``p(k | x_t) ∝ weights_k p_t(x_t | k)``.

    Parameters
    ----------
    sde
        Any linear SDE.
    laws
        The law of the data of each class.
    weights
        Probabilities of the classes, ``(K,)``; equal by default.

    Raises
    ------
    ValueError
        If there is not a positive weight for every law.

    Examples
    --------
    >>> import sdegen
    >>> left, right = (GaussianMixture(torch.ones(1), torch.tensor([[m]]), torch.ones(1)) for m in (-2.0, 2.0))
    >>> ExactClassifier(sdegen.VP(), [left, right])(torch.zeros(1, 1), 0.1).softmax(1).tolist()
    [[0.5, 0.5]]
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, sde: LinearSDE, laws: Sequence[GaussianMixture], weights: Tensor | None = None) -> None:
        weights = torch.ones(len(laws), dtype=torch.float64) if weights is None else weights.double()
        if weights.shape != (len(laws),):
            raise ValueError(f"weights has shape {tuple(weights.shape)}; give one for each of the {len(laws)} laws.")
        if not (weights > 0).all():
            raise ValueError(f"weights = {weights.tolist()}; give the classes' probabilities, positive numbers.")
        self.sde, self.laws, self.weights = sde, tuple(laws), weights
        self._laws = [Followed(GaussianMixture.in_units, law, sde.units) for law in laws]

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return ``log weights_k + log p_t(x | k)``, up to a constant that all classes share, ``(B, K)``."""
        seen = self.sde.observe(x, t)
        logs = torch.stack([law().observed_log_prob(seen.y, seen.by.C, seen.by.S) for law in self._laws], 1)
        return logs + self.weights.log().to(x)


class NoisyClassifier(OfTensors, Described):
    """A classifier of noised states, which `sdegen.fit` trains by the cross-entropy at every noise level.

    Parameters
    ----------
    net
        Called as ``net(x, level)`` for states in units of their own spread and levels ``(B,)``, such as a `nets.MLP` with an
        output for each class; returns logits ``(B, K)``, or a tensor that is flattened to logits.
    sde
        A linear process: for guidance that of the model, ``model.sde``, so that states are in its units.
    times
        The law of the times of training; `weightings.AngleTimes` by default. Its importance weights are left out.

    Raises
    ------
    ValueError
        In training, if data come without a label.
    """

    @check_arguments
    def __init__(self, net: nn.Module, sde: LinearSDE, times: TimeLaw | None = None) -> None:
        super().__init__()
        self.net, self.sde = net, sde
        self.times = AngleTimes() if times is None else times
        self.std: Tensor
        self.register_buffer("std", torch.ones((), dtype=torch.float64))

    def asked(self) -> dict[str, Any]:
        """Return the process, and the coordinates and units of the states that the network is given."""
        return {"sde": self.sde, "coordinates": self.sde.coordinates, "units": self.sde.units}

    @property
    def moments(self) -> None:
        """The moments of the data; only their standard deviation, `std`, is kept."""
        return None

    @moments.setter
    def moments(self, moments: Moments) -> None:
        """Set the standard deviation of a coordinate in the units of the process, as `fit` measures it."""
        self.std.copy_(moments.in_units(self.sde.units).variance().sqrt())

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return logits ``(B, K)`` of states `x` at times `t`."""
        c = EDMParametrization().coefficients(self.sde, self.sde.marginal(t), float(self.std))
        given, level = c._replace(dtype=dtype_of(self.net, x)).inputs(x)
        out = check_each("net", self.net(given, level.expand(len(x))), len(x), x, "logits (B, K)")
        return check_logits("net", out.reshape(len(x), -1), x)

    def loss(self, x: Tensor, /, *, generator: torch.Generator | None = None, **cond: Any) -> Tensor:
        """Return ``−log p(label | x_t)`` in nats at a time drawn for each datum, ``(B,)``."""
        if "label" not in cond:
            raise ValueError("a classifier learns from labels: fit it on (data, label).")
        t, _ = self.times.draw(self.sde, len(x), generator)
        noised = self.sde.perturb(x, t, generator=generator).x
        logits = self(noised, t)
        label = check_labels(cond["label"], len(x), logits.shape[1]).to(x.device).expand(len(x))
        return functional.cross_entropy(logits, label, reduction="none")
