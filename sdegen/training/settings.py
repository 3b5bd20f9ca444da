"""`Settings`, all options of a training run that affect the weights, checked when the object is made."""

from __future__ import annotations

__all__ = ["Settings", "constant_rate", "cosine_decay"]

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_seed
from ..checks import check_count, check_function, check_kind, check_number
from ..show import show_call
from ..signatures import check_call
from .averages import exponent

STEPS = 4000  # of a run for which neither steps nor seconds are given
# What other libraries have as a setting, and what to do here.
ELSEWHERE = {
    "epochs": "give steps, of which an epoch has len(data) / batch_size.",
    "device": "move the model first, model.to(device): training happens where its weights are.",
    "optimizer": "fit takes AdamW; with another, write the loop around sdegen.losses.Denoising()(model, x).mean().",
}
OPTIONAL = ("steps", "seconds", "clip", "snapshots", "seed")  # may be None: switched off, or chosen by the run


def cosine_decay(done: float) -> float:
    """Return ``½ (1 + cos(pi done))``, the factor of a learning rate that falls from one to zero over the run."""
    return 0.5 * (1 + math.cos(math.pi * done))


def constant_rate(done: float) -> float:
    """Return one, the factor of a constant learning rate, for any finished fraction `done` of the run.

    Such a run can be made longer afterwards, and averaged over any width (`Run.averaged`) instead of annealed.
    """
    return 1.0


@dataclass(frozen=True, eq=False)
class Settings:
    """The options of a training run that affect the weights, besides the model and the data.

    Parameters
    ----------
    steps, seconds
        Length of the run: steps (4,000 by default), or wall-clock seconds; the first limit that is reached ends it.
    batch_size, lr, warmup, weight_decay, betas, clip
        Settings of AdamW; `warmup` steps raise the rate to `lr`, and `clip` bounds the norm of the gradient, None not at all.
        Batches that the user makes keep their own size, and another `batch_size` beside them is refused.
    lr_factors
        Factors on the rate of parameters whose names begin with a key, such as ``{"net.critic.": 4.0}``.
    schedule
        The factor on `lr`, given the finished part of the run: `cosine_decay`, `constant_rate`, or a function of the user.
    ema
        Relative width of the average of the weights (`averages.PowerEMA`), which the model has after the run, with the buffers
        that belong to it (`buffers.Buffers`).
    loss
        Called as ``loss(model, x, generator=, **cond)`` in place of the model's own.
    p_uncond, null
        The conditions of a datum are dropped with probability `p_uncond`, all at once and independently of other data, so that
        the model learns the law without them too, for `guidance.ClassifierFree` (J. Ho and T. Salimans, *Classifier-free
        diffusion guidance*, 2022, arXiv:2207.12598). A dropped condition gets its value in `null`; a condition that `null` does
        not name is never dropped in this way. By default `null` has all conditions that the network declares and that may be
        dropped (`nets.Label` and the like, each of which can have a probability of its own), or ``{"label": -1}`` if it declares
        none.
    accumulate
        The number of parts in which a batch goes through the network, for less memory and the same result (`gradients.Gradient`).
    autocast
        ``torch.bfloat16`` lets the network compute in this dtype where it can; weights, losses and averages keep their precision.
    snapshots
        Steps between two snapshots of averages, from which `Run.averaged` forms any other average; none by default.
    seed
        The seed of data order, times and noise; a fresh one by default, which the record keeps.

    Raises
    ------
    TypeError
        If a setting has the wrong type.
    ValueError
        If a setting has a value that no run can have.

    Examples
    --------
    >>> Settings(steps=100, lr=1e-3).rate(step=49, done=0.5)
    0.00025
    >>> Settings(lr=-1.0)
    Traceback (most recent call last):
    ValueError: lr = -1.0; it must be positive and finite.
    """

    steps: int | None = None
    seconds: float | None = None
    batch_size: int = 512
    lr: float = 4e-3
    lr_factors: dict[str, float] | None = None
    warmup: int = 100
    schedule: Callable[[float], float] = cosine_decay
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = 1.0
    ema: float = 0.05
    loss: Callable[..., Tensor] | None = None
    p_uncond: float = 0.0
    null: dict[str, Any] | None = None
    accumulate: int = 1
    autocast: torch.dtype | None = None
    snapshots: int | None = None
    seed: int | None = None

    __repr__ = show_call

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("warmup", 0),
            ("accumulate", 1),
            ("snapshots", 1),
        ):
            self._keep(name, check_count, at_least=least)
        self._keep("seed", check_seed)
        for name in ("seconds", "lr", "clip"):
            self._keep(name, check_number, above=0)
        self._keep("weight_decay", check_number, at_least=0)
        self._keep("p_uncond", check_number, at_least=0, at_most=1, hint=", a probability")
        example = "a function of the finished part of the run, such as cosine_decay"
        check_call("schedule", check_function("schedule", self.schedule, example), ["done"])
        if self.loss is not None:
            example = "a function that is called as loss(model, x, generator=generator)"
            loss = check_function("loss", self.loss, example)
            check_call("loss", loss, ["model", "x"], ["generator"], conditions=True)
        for name in ("lr_factors", "null"):
            check_kind(name, getattr(self, name), (dict, type(None)), "a dict, or None")
        if self.autocast not in (None, torch.bfloat16):
            raise ValueError(
                f"autocast = {self.autocast}; give torch.bfloat16, which needs no scaling of losses, or None."
            )
        check_kind("betas", self.betas, (tuple, list), "two numbers from 0 to below 1, such as (0.9, 0.99)")
        object.__setattr__(self, "betas", tuple(check_number("betas", v, at_least=0, below=1) for v in self.betas))
        if len(self.betas) != 2:
            raise ValueError(f"betas = {self.betas}; give two numbers from 0 to below 1.")
        for key, factor in (self.lr_factors or {}).items():
            check_number(f"lr_factors[{key!r}]", factor, above=0, hint=": freeze with requires_grad_(False)")
        object.__setattr__(self, "ema", check_number("ema", self.ema))
        exponent(self.ema, "ema")

    def _keep(self, name: str, check: Callable[..., Any], **bounds: Any) -> None:
        """Check a number, and keep it as a plain int or float; None is kept for settings that may be None."""
        value = getattr(self, name)
        if value is not None or name not in OPTIONAL:
            object.__setattr__(self, name, check(name, value, **bounds))

    @classmethod
    def of(cls, settings: Settings | None, changes: dict[str, Any], beside: Sequence[str] = ()) -> Settings:
        """Return settings, by default the default ones, with some fields changed; `beside` has names of the caller's own
        arguments.

        Raises
        ------
        TypeError
            If there is no setting of a name, or `settings` is not a `Settings`.
        ValueError
            If a setting has a value that no run can have.
        """
        if not (settings is None or isinstance(settings, Settings)):
            raise TypeError(
                f"settings = {settings!r}; give an object Settings(steps=...), or settings by their names: "
                "fit(model, data, steps=...)."
            )
        names = [field.name for field in fields(cls)]
        for name in changes.keys() - set(names):
            near = difflib.get_close_matches(name, [*names, *beside], 1)
            known = f"training.Settings has {', '.join(names)}" + (f"; fit takes {', '.join(beside)}" if beside else "")
            instead = ELSEWHERE.get(name) or (f"did you mean {near[0]}?" if near else f"{known}.")
            raise TypeError(f"there is no setting {name!r}; {instead}")
        return cls(**changes) if settings is None else replace(settings, **changes)

    @cached_property
    def last(self) -> int | None:
        """The number of the last step; None if only `seconds` limit the run."""
        return STEPS if self.steps is None and self.seconds is None else self.steps

    def done(self, steps: int, seconds: float) -> float:
        """Return the finished fraction of the run after so many steps and seconds; at least 1 when it is over."""
        last = self.last
        return max(steps / last if last else 0.0, seconds / self.seconds if self.seconds else 0.0)

    def check_parts(self, parts: int) -> None:
        """Refuse to split a batch into more parts than it has rows."""
        if self.batch_size < parts:
            raise ValueError(f"batch_size = {self.batch_size} cannot be split in {parts}; take fewer parts.")

    def check_own_size(self, own: int | None) -> None:
        """Refuse a batch size that differs from the size `own` of batches that the user makes, which they keep."""
        if own is not None and self.batch_size not in (own, Settings.batch_size):
            raise ValueError(
                f"batch_size = {self.batch_size}, and batches of data have {own} rows, a size that they keep; give batch_size to "
                "what makes them, such as a DataLoader."
            )

    def rate(self, step: int, done: float) -> float:
        """Return the learning rate at a step, from the finished fraction `done` of the run."""
        factor = self.schedule(done)
        if not (isinstance(factor, float) and 0 <= factor < math.inf):  # without the call of a check, in every step
            hint = ", what schedule returns, the factor on the learning rate"
            factor = check_number(f"schedule({done:.6g})", factor, at_least=0, hint=hint)
        return self.lr * min(1.0, (step + 1) / max(self.warmup, 1)) * factor

    def compared(self) -> dict[str, Any]:
        """Return the settings that a continued run must share with the original one, by name."""
        own = {"schedule": self.schedule} | {field.name: getattr(self, field.name) for field in fields(self)}
        # A run of constant rate is the same wherever it ends.
        ends = {"steps": None, "seconds": None} if self.schedule is constant_rate else {"steps": self.last}
        return own | ends
