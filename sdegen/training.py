"""`fit`: optimiser, schedule, averaged weights, and a record of what was done. It knows a model only by its loss."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .data import Source
from .losses import NonFiniteLoss


class Step(NamedTuple):
    """What a callback is told after every step."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    seconds: float
    model: nn.Module


@dataclass
class Run:
    """The record of a training run.

    Attributes
    ----------
    steps, seconds
        Steps taken, and wall-clock time.
    loss, grad_norm, lr
        One value a step.
    settings
        The arguments `fit` was called with.
    """

    steps: int = 0
    seconds: float = 0.0
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


class PowerEMA:
    """An average of weights over the last part of a run, whatever its length.

    ``average ← average + (1 − (1 − 1/n)^(gamma+1)) (weights − average)`` at step n: the weight of step m grows as
    ``m^gamma``, a profile of relative width `width`. T. Karras et al., *Analyzing and improving the training dynamics of
    diffusion models*, 2023, arXiv:2312.02696.

    Parameters
    ----------
    parameters
        What to average.
    width
        Standard deviation of the profile as a fraction of the run, at most 0.28 (a plain average); 0 keeps the last.
    """

    def __init__(self, parameters: Iterable[Tensor], width: float = 0.05) -> None:
        if not 0 <= width <= 0.28:
            raise ValueError(f"ema = {width}; the relative width of the average lies between 0 and 0.28.")
        self.parameters = [p for p in parameters if p.is_floating_point()]
        self.average = [p.detach().clone() for p in self.parameters]
        self.width, self.n = width, 0
        self.gamma = math.inf
        if width:
            # width² = (gamma + 1) / ((gamma + 2)² (gamma + 3)), decreasing in gamma
            low, high = 0.0, 1e6
            for _ in range(100):
                middle = 0.5 * (low + high)
                wider = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > width**2
                low, high = (middle, high) if wider else (low, middle)
            self.gamma = low

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of one more step."""
        self.n += 1
        keep = 0.0 if self.n == 1 or not self.width else (1 - 1 / self.n) ** (self.gamma + 1)
        torch._foreach_lerp_(self.average, self.parameters, 1 - keep)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Put the average in place of the weights."""
        torch._foreach_copy_(self.parameters, self.average)


def fit(
    model: Any,
    data: Any,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    batch_size: int = 512,
    lr: float = 4e-3,
    warmup: int = 100,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float = 1.0,
    ema: float = 0.05,
    loss: Callable[..., Tensor] | None = None,
    seed: int | None = None,
    callbacks: Iterable[Callable[[Step], Any]] = (),
    progress: bool | None = None,
) -> Run:
    """Train a model in place by AdamW with linear warm-up, cosine decay to zero, clipping and averaged weights.

    Parameters
    ----------
    model
        An ``nn.Module`` whose ``loss(x, generator=, **cond)`` returns one value per datum. Its ``moments`` are set to those of
        the data before the first step.
    data
        Anything `data.Source` takes: a law, a tensor, ``(x, cond)``, a `Dataset`. Conditions reach the network as keywords;
        a single tensor of conditions as ``label``. The null condition is the label -1.
    steps, seconds
        Length of the run: steps (4,000 by default), or wall-clock seconds; the first limit that is reached ends it.
    batch_size, lr, warmup, weight_decay, betas, clip
        Optimiser settings; `clip` bounds the norm of the gradient.
    ema
        Relative width of the average of the weights that the model ends up with (`PowerEMA`).
    loss
        Called as ``loss(model, x, generator=, **cond)`` in place of the model's own.
    seed
        Of data order, times and noise; a fresh one by default, recorded in the run's settings.
    callbacks
        Each called with a `Step` after every step.
    progress
        Show a bar; by default where standard error is a terminal.

    Returns
    -------
    Run
        What was done.

    Raises
    ------
    NonFiniteLoss
        If a loss or gradient is not finite. The model keeps the weights of the last good step.
    ValueError, TypeError
        If an argument or the data is unusable.

    Examples
    --------
    >>> import sdegen
    >>> model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP())
    >>> fit(model, sdegen.data.gaussian_ring(), steps=5, batch_size=32, seed=0).steps
    5
    """
    for name, value in (("steps", steps), ("seconds", seconds), ("batch_size", batch_size), ("lr", lr), ("clip", clip)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} = {value}; it must be positive.")
    for name, value in (("steps", steps), ("batch_size", batch_size), ("warmup", warmup)):
        if value is not None and (not isinstance(value, int) or value < 0):
            raise ValueError(f"{name} = {value}; it must be a whole number, at least 0.")
    trainable = isinstance(model, nn.Module)
    if not trainable:
        raise TypeError(
            f"model is {type(model).__name__}, which has nothing to train; give an nn.Module such as Model(net, sde)."
        )
    if steps is None and seconds is None:
        steps = 4000
    seed = int(torch.randint(2**31 - 1, ())) if seed is None else seed
    settings = {
        "steps": steps, "seconds": seconds, "batch_size": batch_size, "lr": lr, "warmup": warmup, "betas": betas,
        "weight_decay": weight_decay, "clip": clip, "ema": ema, "loss": loss, "seed": seed,
    }  # fmt: skip
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameters to train.")
    generator = torch.Generator().manual_seed(seed)
    source = Source(data, parameters[0].dtype, parameters[0].device)
    model.moments = source.moments(generator)
    objective = type(model).loss if loss is None else loss
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    average = PowerEMA(parameters, ema)
    run = Run(settings=settings)
    show = sys.stderr.isatty() if progress is None else progress
    bar = tqdm(total=steps, disable=not show, desc="fit", leave=False)
    model.train()
    began = time.perf_counter()
    try:
        for batch in source.batches(batch_size, generator):
            elapsed = time.perf_counter() - began
            done = max(run.steps / steps if steps else 0.0, elapsed / seconds if seconds else 0.0)
            if done >= 1:
                break
            rate = lr * min(1.0, (run.steps + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * done))
            for group in optimiser.param_groups:
                group["lr"] = rate
            values = objective(model, batch.x, generator=generator, **batch.cond)
            mean = values.mean()
            optimiser.zero_grad()
            mean.backward()
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            if not (mean.isfinite() and norm.isfinite()):
                raise NonFiniteLoss(f"loss {mean.item():.3g}, gradient norm {norm.item():.3g}")
            optimiser.step()
            average.update()
            run.steps += 1
            run.loss.append(mean.item())
            run.grad_norm.append(norm.item())
            run.lr.append(rate)
            bar.update()
            if run.steps % 50 == 0:
                bar.set_postfix(loss=f"{sum(run.loss[-50:]) / 50:.4g}")
            for callback in callbacks:
                callback(Step(run.steps, run.loss[-1], run.grad_norm[-1], rate, elapsed, model))
    except NonFiniteLoss as error:
        raise NonFiniteLoss(
            f"training stopped in step {run.steps + 1}: {error}. The model keeps the weights of step {run.steps}; lower lr, "
            "check the data, or choose another weighting."
        ) from None
    finally:
        bar.close()
        model.eval()
        run.seconds = time.perf_counter() - began
    average.copy_to_model()
    return run
