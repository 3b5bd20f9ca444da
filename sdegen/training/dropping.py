"""Conditions in training: `Drop`, which removes them at random so that one network learns the law with and without them, and
checks that data, loss and network agree on which there are.
"""

from __future__ import annotations

__all__ = ["TAKE_CONDITIONS", "Drop", "check_dropped", "check_taken", "note_conditions"]

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..conditions import Condition
from ..data import Batch, Source, Stream
from ..data.rows import Rows
from ..dense import check_held
from ..guidance.annealed import annealed_smc
from ..guidance.annealing import anneal_product
from ..guidance.feynman_kac import corrected
from ..guidance.reward import tilted_smc
from ..guidance.split import decoupled_annealing, split_gibbs
from ..guidance.twisted import twisted_smc
from ..likelihood.bits import bits_per_dim, discrete_bits_per_dim
from ..likelihood.density import Density
from ..likelihood.elbo import discrete_elbo, elbo
from ..likelihood.flow import estimate_log_prob, sample_with_log_prob
from ..likelihood.noised import noised_bits_per_dim
from ..models.named import keywords_of
from ..models.network import Trainable
from ..models.score import ScoreModel
from ..samplers.edit import edit
from ..samplers.encode import decode, encode, encode_with_error
from ..samplers.fitting import fit_solver
from ..samplers.interpolation import interpolate
from ..samplers.profiles import measure_profile
from ..samplers.rollout import log_prob_of_steps
from ..samplers.run import sample
from .score_loss import ScoreLoss

# Functions that take a model's conditions by keyword beside arguments of their own, so that none may have one of those names.
TAKE_CONDITIONS = (
    sample, edit, encode, encode_with_error, decode, interpolate, fit_solver, estimate_log_prob, sample_with_log_prob, Density,
    elbo, discrete_elbo, bits_per_dim, discrete_bits_per_dim, noised_bits_per_dim, twisted_smc, tilted_smc, measure_profile,
    corrected, anneal_product, log_prob_of_steps, annealed_smc, decoupled_annealing, split_gibbs,
)  # fmt: skip


class Drop:
    """Condition dropout for classifier-free guidance: all conditions of a row are dropped together with probability `p`, and each
    condition that a network declares with a probability of its own, independently.

    J. Ho and T. Salimans, *Classifier-free diffusion guidance*, 2022, arXiv:2207.12598.

    Parameters
    ----------
    p
        The probability that all conditions of `null` are dropped together for a datum.
    null
        The value of a dropped condition, by name: a number, or a tensor of the shape of one row. Conditions that it does not name
        are not dropped together. By default the nulls of all declared conditions that may be dropped, and ``{"label": -1}`` if
        the network declares none.
    cond
        The conditions of the data, one row a datum.
    kinds
        The conditions that the network declares, by name; None for none.

    Raises
    ------
    ValueError
        If `p` is not a probability, or `null` names a condition that the data do not have or that is never dropped, or has a
        value that a condition cannot take.
    """

    def __init__(
        self,
        p: float,
        null: dict[str, Any] | None,
        cond: dict[str, Tensor],
        kinds: Mapping[str, Condition] | None = None,
    ) -> None:
        kinds = kinds or {}
        if not 0 <= p <= 1:
            raise ValueError(f"p_uncond = {p}; it must be a probability.")
        nulls = {name: kind.null for name, kind in kinds.items() if not kind.needed}
        together = (nulls if kinds else {"label": -1}) if null is None else null
        if p:
            _check_together(p, together, cond, kinds)
        own = [({name: value}, kinds[name].dropout or 0.0) for name, value in nulls.items() if name in cond]
        self.chances = [(names, chance) for names, chance in ((together, p), *own) if chance]
        for names, _ in self.chances:
            for name, value in names.items():
                _check_null(name, torch.as_tensor(value), cond[name])

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Drop conditions of a batch at random, and return it."""
        cond = dict(batch.cond)
        for names, chance in self.chances:
            dropped = torch.rand(len(batch.x), dtype=torch.float64, generator=generator) < chance
            cond |= {name: _without(cond[name], null, dropped) for name, null in names.items()}
        return Batch(batch.x, cond)


def _check_together(p: float, null: dict[str, Any], cond: dict[str, Tensor], kinds: Mapping[str, Condition]) -> None:
    """Refuse to drop conditions together that the data do not have or that are never dropped, or an empty list of them."""
    for name in null:
        if name in kinds and kinds[name].needed:
            raise ValueError(
                f"p_uncond = {p}, but the network declares {name} as never dropped; declare it with dropout=None, or with a "
                "probability of its own."
            )
    missing = sorted(null.keys() - cond.keys())
    if missing or not null:
        raise ValueError(
            f"p_uncond = {p}, but the data has no condition {missing[0]!r}, only {sorted(cond)}; name those to drop and "
            "their null values: null={name: value}."
            if missing
            else f"p_uncond = {p}, but null is empty; name the conditions to drop: null={{name: value}}."
        )


def _without(value: Tensor, null: Any, dropped: Tensor) -> Tensor:
    """Return a condition with its null in the rows `dropped`."""
    rows, null = dropped.to(value.device, non_blocking=True).reshape(-1, *[1] * (value.ndim - 1)), torch.as_tensor(null)
    if null.isnan().any():  # a vector or a mask of whole numbers, which have no NaN
        value = value if value.is_floating_point() else value.double()
    return torch.where(rows, null.to(value, non_blocking=True), value)


def note_conditions(model: nn.Module, objective: Callable[..., Tensor], source: Source | Stream, drop: Drop) -> None:
    """Tell a score model which conditions it will be trained with, and which of them are dropped (`Trainable.note_conditions`).

    If not all data are at hand, any condition counts as dropped in some. The user's own loss may have conditions from elsewhere,
    and nothing is noted for it.

    Parameters
    ----------
    model, objective
        The trained model, and its loss.
    source, drop
        The data, and the dropout of their conditions.
    """
    if not isinstance(model, Trainable) or not isinstance(objective, ScoreLoss):
        return
    cond, kinds = objective.conditions(source.cond), model.conditions.kinds
    of_data = cond is source.cond
    here = not of_data or (not isinstance(source, Stream) and not isinstance(source.x, Rows))
    dropped = {name for names, _ in drop.chances for name in names if of_data}
    dropped |= {name for name, value in cond.items() if not here or (name in kinds and kinds[name].has_dropped(value))}
    model.note_conditions(cond, dropped)


def check_dropped(objective: Callable[..., Tensor], p: float, cond: dict[str, Tensor]) -> None:
    """Refuse ``p_uncond`` for a loss that asks the model under conditions of its own, since it does not use those of the data.

    Raises
    ------
    ValueError
        If the loss has conditions of its own, and `p` is not 0.
    """
    if p and isinstance(objective, ScoreLoss) and objective.conditions(cond) is not cond:
        raise ValueError(
            f"p_uncond = {p}, and {type(objective).__name__} has conditions of its own, of which none would be dropped; leave "
            "p_uncond out, and give those their nulls in some rows."
        )


def check_taken(objective: Callable[..., Tensor], model: nn.Module, cond: dict[str, Tensor]) -> None:
    """Refuse conditions that the loss does not take as arguments, or that a score model could not be trained or sampled with.

    Raises
    ------
    TypeError
        If there is such a condition; the message names the first.
    ValueError
        If a condition has the name of an argument of a function that samples or evaluates a score model.
    """
    if isinstance(model, ScoreModel):
        _check_names(objective, model, cond)
        _check_declared(objective, model, cond)
    parameters = inspect.signature(objective).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    for name in cond.keys() - {p.name for p in parameters}:
        raise TypeError(
            f"the data has the condition {name!r}, which the loss of {type(model).__name__} does not take; give the data "
            "alone: images.without_labels(), or x of (x, conditions)."
        )


def _check_names(objective: Callable[..., Tensor], model: ScoreModel, cond: dict[str, Tensor]) -> None:
    """Refuse names of conditions that a score model does not take, or that are arguments of functions that sample it."""
    for name in cond:
        caller = next((caller for caller in TAKE_CONDITIONS if name in keywords_of(caller)), None)
        if caller is not None:
            raise ValueError(
                f"the data has the condition {name!r}, which is an argument of {caller.__name__} and could not be given there; "
                f"give it another name, such as '{name}_of'."
            )
        if isinstance(objective, ScoreLoss) and not model.conditions.takes(name):
            own = model.conditions
            taken = ", ".join(sorted(own.names)) or "none"
            why = "whose own arguments have that name" if name in own.never else f"which takes {taken}"
            named = (
                f" (a tensor beside the data is 'label': give a dict, (x, {{{min(own.names)!r}: tensor}}))"
                if own.names
                else ""
            )
            raise TypeError(
                f"the data has the condition {name!r}, and {type(model).__name__} hands it to its network, {why}; rename it"
                f"{named if name == 'label' else ''}, or let the network's forward take it by keyword."
            )


def _check_declared(objective: Callable[..., Tensor], model: ScoreModel, cond: dict[str, Tensor]) -> None:
    """Refuse data without a condition that the network is never without, and values that do not fit what it declares."""
    kinds = model.conditions.kinds
    for name, kind in kinds.items():
        if name in cond:
            value = kind.read(name, cond[name])
            kind.has_rows(name, value, len(value))
            if value.ndim == kind.ndim:
                raise ValueError(
                    f"the condition {name!r} of the data has shape {tuple(value.shape)}; give {kind.what}, one for each datum."
                )
        elif kind.needed and isinstance(objective, ScoreLoss):  # another loss may have it from elsewhere
            raise TypeError(
                f"the data has no condition {name!r}, which the network is never without; give it in (x, {{{name!r}: ...}}), or "
                "declare it with a dropout."
            )


def _check_null(name: str, null: Tensor, value: Tensor) -> None:
    """Refuse a null value that a condition cannot take, since it would be rounded, or spread over several rows."""
    check_held(f"null[{name!r}]", null)
    if null.shape not in ((), value.shape[1:]):
        raise ValueError(
            f"null[{name!r}] has shape {tuple(null.shape)}, a row of the condition {tuple(value.shape[1:])}; give a number, or "
            "a tensor of the shape of one row."
        )
    if (
        not value.is_floating_point()
        and not null.isnan().any()
        and not torch.equal(null.to(value.dtype).to(null.dtype), null)
    ):
        raise ValueError(
            f"null[{name!r}] = {null.tolist()} is no {value.dtype}, which the condition is; convert the condition to a dtype "
            "that holds it, such as torch.long."
        )
