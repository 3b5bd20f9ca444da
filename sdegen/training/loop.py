"""`fit`: optimiser, schedule, averaged weights, and a record of what was done. It knows a model only by its loss.

`gradients` are those of a mean loss, `averages` those of weights, `run` what is known of a run, `checkpoints` how it is kept
and `workers` its processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data import Source
from ..models.network import Trainable
from ..progress import shown
from .averages import PowerEMA, Snapshots
from .checkpoints import Folder, State, described
from .dropping import Drop, check_taken
from .gradients import Gradient
from .losses import Denoising, NonFiniteLoss
from .run import Readings, Run, Step
from .workers import Processes


def cosine_decay(done: float) -> float:
    """Return ``½ (1 + cos(pi done))``, which falls from one to zero over the run."""
    return 0.5 * (1 + math.cos(math.pi * done))


def constant_rate(done: float) -> float:
    """Return one, whatever part of the run is `done`.

    Such a run can be made longer afterwards, and averaged over any width (`Run.averaged`) instead of annealed.
    """
    return 1.0


def fit(
    model: Any,
    data: Any,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    batch_size: int = 512,
    lr: float = 4e-3,
    lr_factors: dict[str, float] | None = None,
    warmup: int = 100,
    schedule: Callable[[float], float] = cosine_decay,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    clip: float = 1.0,
    ema: float = 0.05,
    loss: Callable[..., Tensor] | None = None,
    p_uncond: float = 0.0,
    null: dict[str, Any] | None = None,
    accumulate: int = 1,
    autocast: torch.dtype | None = None,
    snapshots: int | None = None,
    checkpoint: str | Path | None = None,
    every: int = 1000,
    seed: int | None = None,
    callbacks: Iterable[Callable[[Step], Any]] = (),
    progress: bool | None = None,
) -> Run:
    """Train a model in place by AdamW with linear warm-up, cosine decay to zero, clipping and averaged weights.

    Under ``accelerate launch --multi_gpu --num_processes 2`` the processes share every batch, with the result of one: call it in
    each with the same model and data, on ``accelerate.PartialState().device``; on CPUs that is ``PartialState(cpu=True)``. The
    main one alone writes, calls back and shows a bar.

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
    lr_factors
        Of parameters whose names begin with a key, such as ``{"net.critic.": 4.0}``: what their rate is multiplied by.
    schedule
        The factor on `lr`, given the part of the run that is done: `cosine_decay`, `constant_rate`, or a function of yours.
    ema
        Relative width of the average of the weights that the model ends up with (`ema.PowerEMA`).
    loss
        Called as ``loss(model, x, generator=, **cond)`` in place of the model's own.
    p_uncond, null
        Each datum loses its conditions with probability `p_uncond`, all at once and independently of the others, so that the
        model learns the law without them too: for `guidance.ClassifierFree` (J. Ho and T. Salimans, *Classifier-free
        diffusion guidance*, 2022, arXiv:2207.12598). A lost condition becomes its value in `null`, by default
        ``{"label": -1}``; a condition that `null` does not name is never lost.
    accumulate
        Parts in which a batch goes through the network, for less memory and the same result (`gradients.Gradient`).
    autocast
        ``torch.bfloat16`` lets the network compute in it where it can; weights, losses and averages keep their precision.
    snapshots
        Steps between two snapshots of averages, from which `Run.averaged` forms any other; none by default.
    checkpoint, every
        A folder, and the steps between two checkpoints there. The same call again goes on where the last one ended,
        however it ended, towards the same weights to the last bit where `steps` alone end it; of a finished run it gives the
        result. A run of `constant_rate` goes on to a new limit. The states of torch's own generators come back with it.
    seed
        Of data order, times and noise; a fresh one by default, recorded in the run's settings.
    callbacks
        Each called with a `Step` after every step, for a grid of samples now and then, say.
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
        If an argument or the data is unusable, or the checkpoint is of another run.
    OSError
        If a checkpoint cannot be written. The one before is whole.

    Examples
    --------
    >>> import sdegen
    >>> model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP())
    >>> def look(step):
    ...     if step.step % 4 == 0:
    ...         with step.averaged() as model:
    ...             print(step.step, sdegen.sample(model, 9, steps=3, seed=0).shape)
    >>> fit(model, sdegen.data.gaussian_ring(), steps=9, batch_size=32, seed=0, callbacks=[look]).steps
    4 torch.Size([9, 2])
    8 torch.Size([9, 2])
    9
    """
    if steps is None and seconds is None:
        steps = 4000
    settings = {
        "steps": steps, "seconds": seconds, "batch_size": batch_size, "lr": lr, "lr_factors": lr_factors,
        "warmup": warmup, "schedule": schedule,
        "betas": betas, "weight_decay": weight_decay, "clip": clip, "ema": ema, "loss": loss, "p_uncond": p_uncond,
        "null": null, "accumulate": accumulate, "autocast": autocast, "snapshots": snapshots,
    }  # fmt: skip
    _check(model, settings | {"every": every})
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not named:
        raise ValueError("the model has no parameters to train.")
    parameters = list(named.values())
    device = parameters[0].device
    processes = Processes(device)
    if batch_size < accumulate * processes.number:
        raise ValueError(
            f"batch_size = {batch_size} cannot be split in {accumulate * processes.number}; take fewer parts."
        )

    folder = None if checkpoint is None else Folder(checkpoint)
    if folder is not None and processes.main:
        folder.prepare()
    processes.wait()  # for the main one, which may still be writing what is to be read here
    kept = None if folder is None else folder.newest()
    if seed is None:
        seed = int(processes.agree(int(torch.randint(2**31 - 1, ())))) if kept is None else kept.about["seed"]
    run = Run(settings=settings | {"seed": seed}, model=model)
    generator = torch.Generator().manual_seed(seed)
    source = Source(data, parameters[0].dtype, device)
    drop = Drop(p_uncond, null, source.cond)
    moments = source.moments(generator)
    processes.share(model)
    objective = objective_of(model) if loss is None else loss
    check_taken(objective, model, source.cond)
    gradient = Gradient(model, objective, parameters, generator, processes, accumulate, autocast)
    groups = by_factor(named, lr_factors)
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
    average = PowerEMA(parameters, ema)
    averages = [average]
    if snapshots is not None:
        run.snapshots = Snapshots(named, None if folder is None else folder.path)
        averages += run.snapshots.averages
    state = State(model, optimiser, averages, generator, source, run, processes)
    about = {}
    if folder is not None:
        # Where a run of constant rate ends has no say in how it goes.
        ends = {"steps": None, "seconds": None} if schedule is constant_rate else {}
        about = described({"schedule": schedule} | run.settings | ends | {"model": model})
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        about |= {"frozen": frozen} if frozen else {}
    if kept is not None:
        kept.check(about, model, moments)
    model.moments = moments  # only now: a model that is refused stays as it was
    if kept is not None:
        state.restore(kept)
    if run.snapshots is not None and processes.main:
        run.snapshots.forget_later()
    processes.check_same("step", run.steps)

    def keep(end: bool = False) -> None:
        """A snapshot and a checkpoint where they are due: at their steps, and at the end if they were not just before."""
        if snapshots and (run.steps % snapshots == 0) != end:
            readings.read()
            if folder is None or processes.main:
                run.snapshots.keep()  # type: ignore[union-attr]
        # What was written within a run of so many seconds does not say that they are over.
        if folder is not None and ((run.steps % every == 0) != end or (end and seconds is not None)):
            readings.read()
            tensors = state.tensors()
            if processes.main:
                folder.write(run.steps, run.seconds, about, tensors)

    readings = Readings(run, device)
    if readings.bad is not None:
        optimiser.found_inf = readings.bad  # type: ignore[attr-defined] # the fused optimiser then leaves the weights as they are
    show = shown(progress) and processes.main
    bar = tqdm(total=steps, initial=run.steps, disable=not show, desc="fit", leave=False)
    batches = source.batches(batch_size, generator)
    model.train()
    first, began = run.steps, time.perf_counter() - run.seconds
    try:
        while True:
            run.seconds = time.perf_counter() - began
            elapsed = run.seconds if seconds is None else processes.agree(run.seconds)
            done = max(run.steps / steps if steps else 0.0, elapsed / seconds if seconds else 0.0)
            if done >= 1:
                break
            rate = lr * min(1.0, (run.steps + 1) / max(warmup, 1)) * schedule(done)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            optimiser.zero_grad()
            mean = gradient(drop(next(batches), generator))
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            readings.add(mean, norm)
            optimiser.step()
            for one in averages:
                one.update()
            run.steps += 1
            run.lr.append(rate)
            bar.update()
            if run.steps % 50 == 0:
                bar.set_postfix(loss=f"{sum(run.loss[-50:]) / 50:.4g}")
            if processes.main:
                for callback in callbacks:
                    callback(Step(run.steps, rate, elapsed, model, run, mean, norm, average))
            keep()
        readings.read()
        if run.steps > first:
            keep(end=True)
    except NonFiniteLoss as error:
        good = len(run.loss)
        run.steps, run.lr = good, run.lr[:good]
        raise NonFiniteLoss(
            f"training stopped in step {good + 1}: {gradient.reason or error}. The model keeps the weights of step {good}; "
            "lower lr, check the data, or choose another weighting."
        ) from None
    finally:
        bar.close()
        model.eval()
        run.seconds = time.perf_counter() - began
    average.copy_to_model()
    return run


def objective_of(model: nn.Module) -> Callable[..., Tensor]:
    """Return what `fit` lowers where no loss is named: the model's own ``loss``, or for score models `losses.Denoising`.

    Raises
    ------
    TypeError
        If the model has no loss and is no score model with weights of its own.
    """
    own = getattr(type(model), "loss", None)
    if own is not None:
        return own
    if isinstance(model, Trainable):
        return Denoising()
    raise TypeError(f"{type(model).__name__} has no loss; give one, loss=, or a model such as Model(net, sde).")


def by_factor(named: dict[str, Tensor], factors: dict[str, float] | None) -> list[dict[str, Any]]:
    """Parameters in groups of one factor on the learning rate, 1 where no name begins with a key.

    Raises
    ------
    ValueError
        If a name begins with two keys, no name with one of them, or a factor is not positive.
    """
    found: dict[float, list[Tensor]] = {}
    used = set()
    for name, p in named.items():
        keys = [key for key in factors or {} if name.startswith(key)]
        if len(keys) > 1:
            raise ValueError(
                f"lr_factors: {name} begins with {keys[0]!r} and with {keys[1]!r}; give one factor for each."
            )
        used |= set(keys)
        found.setdefault(factors[keys[0]] if factors and keys else 1.0, []).append(p)
    for key, factor in (factors or {}).items():
        if key not in used:
            raise ValueError(
                f"lr_factors: no parameter begins with {key!r}; there are {', '.join(list(named)[:3])}, ..."
            )
        if not factor > 0:
            raise ValueError(f"lr_factors[{key!r}] = {factor}; it must be positive: freeze with requires_grad_(False).")
    return [{"params": params, "factor": factor} for factor, params in found.items()]


def _check(model: Any, settings: dict[str, Any]) -> None:
    """Refuse what no run could be made with."""
    for name in ("steps", "seconds", "batch_size", "lr", "clip"):
        value = settings[name]
        if value is not None and not value > 0:
            raise ValueError(f"{name} = {value}; it must be positive.")
    for name, least in {
        "steps": 1, "batch_size": 1, "warmup": 0, "accumulate": 1, "snapshots": 1, "every": 1
    }.items():  # fmt: skip
        value = settings[name]
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name} = {value}; it must be a whole number, at least {least}.")
    if settings["autocast"] not in (None, torch.bfloat16):
        raise ValueError(
            f"autocast = {settings['autocast']}; give torch.bfloat16, which needs no scaling of losses, or None."
        )
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is {type(model).__name__}, which has nothing to train; give an nn.Module such as Model(net, sde)."
        )
