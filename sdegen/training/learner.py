"""The interface of models that `fit` can train: `Learner`, checked in one place."""

from __future__ import annotations

__all__ = ["Learner", "learnable", "objective_of"]

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from ..dense import check_dense
from ..laws.mixtures import Moments
from ..models.network import Trainable
from ..processes.times import LogTimes, SharedTimes
from ..samplers.flow_map import FlowMap
from .losses import Denoising
from .map_losses import Lagrangian, Semigroup


class Learner(Protocol):
    """The interface of models that `fit` can train: weights, and a loss for each datum.

    It is an ``nn.Module`` with weights that require a gradient, and has

    - ``loss(x, generator=, **cond)``, one value per datum ``(B,)``, whose mean `fit` lowers. Score models without this method
    learn
      by `losses.Denoising`; other models need ``fit(..., loss=)``.
    - ``moments``, an attribute or a property with a setter: `fit` writes those of the data there before the first step, and never
      reads them. A `laws.calibrated.Calibrated` gets them before the first training by ``measure``; it also gets data in a finer
      dtype than its weights, so that it can take them in units of their spread.
    - ``net``, the network as a module of its own: `accumulate`, `autocast` and several workers change how it is called, and are
      refused without it.

    Conditions of the data are passed to the loss as keywords; if a loss neither names a condition nor takes ``**cond``, data with
    this condition are refused. Averages, checkpoints and the optimiser use ``named_parameters()`` and ``state_dict()``.
    """

    moments: Moments | None

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the loss of each datum, ``(B,)``, for data ``(B, *)``; all random numbers come from the generator."""


def learnable(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable weights of a model by name; refuse a model that `fit` cannot train (`Learner`).

    Raises
    ------
    TypeError
        If it is not a module, the data's moments cannot be written to it, or a weight is complex or holds no numbers.
    ValueError
        If no weight requires a gradient, or a weight that does was made under ``torch.inference_mode()``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is {type(model).__name__}, which has nothing to train; give an nn.Module such as Model(net, sde)."
        )
    kept = getattr(type(model), "moments", None)
    if callable(kept) or (isinstance(kept, property) and kept.fset is None):
        raise TypeError(
            f"{type(model).__name__}.moments cannot be written, and fit sets model.moments to those of the data; give the "
            "attribute another name, or the property a setter."
        )
    named: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("the model has no parameters to train.")
    for name, weight in named.items():
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"the weight {name} has no shape yet, as of a lazy layer; call the network once on a state and a noise level."
            )
        check_dense(f"the weight {name}", weight)
        if weight.is_inference():
            raise ValueError(
                f"the weight {name} was made under torch.inference_mode() and has no derivatives; make the network outside of "
                "that, or copy it there: copy.deepcopy(model)."
            )
        if weight.is_complex():
            raise TypeError(
                f"the weight {name} is {weight.dtype}; give a network of real numbers, as model.float() makes it."
            )
    return named


def objective_of(model: nn.Module) -> Callable[..., Tensor]:
    """Return the loss that `fit` minimises if none is given: the model's own ``loss``, or `losses.Denoising` for score models.

    On a nonlinear process, whose noise grows from 0 at an unknown rate, times are uniform in their logarithm. If its law is not
    known, a batch has 16 times, so that rows that share a time pool their targets, and opposite noise cancels what is left of the
    variance of a short kernel.

    Raises
    ------
    TypeError
        If the model has no loss, and is not a score model with weights of its own.
    """
    own = getattr(type(model), "loss", None)
    if own is not None:
        return own
    if isinstance(model, FlowMap):
        return Lagrangian() if model.sde.is_scalar else Semigroup()
    if isinstance(model, Trainable):
        if model.sde.is_linear:
            return Denoising()
        if model.sde.is_known:
            return Denoising(times=LogTimes())
        return Denoising(times=SharedTimes(LogTimes()), antithetic=True)
    raise TypeError(f"{type(model).__name__} has no loss; give one, loss=, or a model such as Model(net, sde).")
