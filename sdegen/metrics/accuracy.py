"""Accuracy of class-conditional samples: how often a classifier finds the class that was asked for."""

from __future__ import annotations

__all__ = ["Accuracy", "accuracy"]

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_function, kind_of
from ..mixing import check_unmixed
from ..show import show_call
from ..signatures import check_call
from .estimate import Estimate, check_samples, share_error
from .extraction import FeatureEstimate, move_to_weights, name_and_hash, refuse_training_mode


class Accuracy(NamedTuple):
    """The share of class-conditional samples that a classifier assigns to the class they were drawn for.

    Attributes
    ----------
    overall
        The share over all samples.
    per_class
        The share for each class that was asked for.
    """

    overall: FeatureEstimate
    per_class: dict[int, Estimate]

    def __repr__(self) -> str:
        return show_call(self)

    def __str__(self) -> str:
        return f"{self.overall}: " + ", ".join(f"{c}: {e}" for c, e in self.per_class.items())


@check_arguments
def accuracy(samples: Tensor, labels: Tensor, net: Any, *, batch_size: int = 500) -> Accuracy:
    """Return the share of class-conditional samples that a classifier assigns to the class they were drawn for.

    The classifier errs too: the number to compare with is its accuracy on real images of the same classes. S. Ravuri
    and O. Vinyals, *Classification accuracy score for conditional generative models*, 2019, arXiv:1905.10887, go the
    other way and train on samples. Standard errors are binomial, taken at ``(k + 1) / (n + 2)`` so that n out of n is
    not printed as exact.

    Parameters
    ----------
    samples
        ``(B, *)``, in the range that `net` takes.
    labels
        Classes asked for, ``(B,)``, integers.
    net
        Classifier: ``net.logits(x)`` or, without that method, ``net(x)``, gives ``(B, classes)``.
    batch_size
        Samples that go through the network at a time.

    Raises
    ------
    TypeError
        If `samples` are not floating point, or `labels` not integers.
    ValueError
        If there are not as many labels as samples, labels are not classes, samples are not finite, or the network mixes the rows
        of a batch.

    Examples
    --------
    >>> import torch
    >>> from sdegen.metrics import features
    >>> blank = torch.zeros(4, 1, 28, 28)
    >>> 0 <= accuracy(blank, torch.tensor([0, 1, 2, 3]), features("mnist-cnn-v1")).overall.value <= 0.25
    True
    """
    logits_of = check_function("net", getattr(net, "logits", net), "a network with logits")
    check_call("net", logits_of, ["x"]), check_count("batch_size", batch_size)
    check_samples(samples, "samples")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels has dtype {labels.dtype}; expected integers, the classes asked for.")
    if labels.shape != samples.shape[:1]:
        raise ValueError(f"labels has shape {tuple(labels.shape)}; expected one class per sample, ({len(samples)},).")
    refuse_training_mode(net, "logits")
    found = []
    for x in samples.detach().split(batch_size):
        on = move_to_weights(x, net)
        with torch.no_grad():
            logits = logits_of(on)
        found.append(_check_logits(logits, len(x)).argmax(1).cpu())
        if len(found) == 1 and len(on) > 1:
            check_unmixed("net", logits_of, on[:2])
    labels, (name, hash) = labels.cpu(), name_and_hash(net)
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels are from {labels.min()} to {labels.max()}; {name} knows classes 0 to {logits.shape[1] - 1}; "
            "give labels of its classes."
        )
    right = torch.cat(found) == labels
    overall = FeatureEstimate(*_share(right), "accuracy", name, hash, (len(right),))
    return Accuracy(overall, {c: _share(right[labels == c]) for c in labels.unique().tolist()})


def _check_logits(logits: Any, n: int) -> Tensor:
    """Return what the network gave for `n` samples; refuse anything but logits, ``(n, classes)``."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n or logits.shape[1] < 2:
        found = f"has shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else kind_of(logits)
        raise ValueError(f"what net gives for {n} samples {found}; expected logits, ({n}, classes), of two or more.")
    if logits.isnan().any():
        raise ValueError("net gives logits that are NaN, of which none is the largest; check it, or the samples.")
    return logits


def _share(right: Tensor) -> Estimate:
    k, n = int(right.sum()), len(right)
    return Estimate(k / n, share_error(k, n))
