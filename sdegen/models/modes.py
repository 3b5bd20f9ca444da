"""Modes of models: training, in which networks may draw dropout or keep averages, and evaluation, in which runs ask them."""

from __future__ import annotations

__all__ = ["evaluating"]

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .score import ScoreModel


@contextmanager
def evaluating(model: ScoreModel) -> Iterator[None]:
    """Put the model in evaluation mode within a ``with`` block, and restore the mode of every module afterwards.

    The methods ``train`` and ``eval`` are called if they do more than set the flag, such as folding weights into others;
    otherwise the flag is set.

    Raises
    ------
    ValueError
        If a part normalises by the batch in evaluation mode too, so that a sample would depend on the others in the batch.
    """
    parts = _parts_of(model) if isinstance(model, nn.Module) else []
    for part in parts:
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise ValueError(
                f"the network has a {type(part).__name__} without running statistics, whose answers depend on the batch in eval "
                "mode too; make it with track_running_stats=True, or take nn.GroupNorm or nn.LayerNorm."
            )
    if not isinstance(model, nn.Module) or not any(module.training for module in parts):
        yield
        return
    modes, plain = [(module, module.training) for module in parts], (nn.Module.train, nn.Module.eval)
    changed = [pair for pair in modes if pair[1]]
    told = [pair for pair in modes if (type(pair[0]).train, type(pair[0]).eval) != plain]
    if told:
        model.eval()
        changed = modes
    else:
        for module, _ in changed:  # only those in training mode: there may be many more in evaluation mode
            module.training = False
    try:
        yield
    finally:
        for module, mode in told:  # a module before its parts
            module.train(mode)
        for module, mode in changed:  # each as it was: one model of a wrapper may be in training mode, and another not
            module.training = mode


def _parts_of(model: nn.Module) -> list[nn.Module]:
    """Return a module and all its parts, each once and after a part that holds it.

    ``model.modules()`` yields the same parts, but takes three times as long, by generators that are nested like the modules.
    """
    parts, known = [model], {model}
    for module in parts:  # the list grows on the way
        for part in module._modules.values():
            if part is not None and part not in known:
                known.add(part)
                parts.append(part)
    return parts
