"""`Training`, the whole state of a training run between two steps, new or from a checkpoint."""

from __future__ import annotations

__all__ = ["Training"]

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checks import check_count, check_kind
from ..conditions import NONE
from ..data import Batch
from ..data.fingerprint import tolerance
from ..data.source import Source
from ..data.stream import Stream, source_of
from ..identity import identify
from ..laws.calibrated import Calibrated
from ..laws.mixtures import Moments
from ..metrics.estimate import Estimate
from ..models.network import Trainable
from ..models.score import ScoreModel
from ..nets.conditioning import measure_conditions
from ..processes.scalar import is_scalar
from ..samplers.defaults import choose_end, draws_images
from ..samplers.profiles import affordable, measure_profile
from .averages import PowerEMA, Snapshots
from .buffers import Buffers
from .checkpoints import Checkpoint, Folder
from .copies import FloatCopies
from .dropping import Drop, check_dropped, check_taken, note_conditions
from .finite import NonFiniteLoss
from .gradients import Gradient
from .learner import Learner, learnable, objective_of
from .run import PendingLosses, Run
from .settings import Settings
from .threads import Threads
from .workers import Workers

SHARE = 0.01  # of the evaluations of a training, that its profile may cost
_CURVES = ("loss", "grad_norm", "lr")  # of the record: one number a step


class Training:
    """The whole state of a training run, set up anew or from the checkpoint in a folder, for `train` to run.

    Parameters
    ----------
    model
        What is trained, in place: a `learner.Learner`.
    data
        As for `fit`.
    settings
        All options that the trained weights depend on; the default ones if none are given.
    checkpoint
        The folder of the run, if it has one. Nothing is written there by the training itself (`listeners.Checkpoints`).
    threads
        How many torch is given; by default as many as the first steps are fastest with (`threads.Threads`).

    Attributes
    ----------
    run
        The record so far.
    like
        A weight of the model, whose dtype and device data are brought to.
    parameters, optimiser, average
        The weights that learn, those of half precision as `FloatCopies`, what moves them, and their average.

    Raises
    ------
    TypeError, ValueError
        If the model, the data or the settings are unusable or do not fit together, or the checkpoint is of another run.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        settings: Settings | None = None,
        checkpoint: str | Path | None = None,
        threads: int | None = None,
    ) -> None:
        settings = Settings.of(settings, {})
        if checkpoint is not None:
            check_kind("checkpoint", checkpoint, (str, Path), "the path of a folder")
        if threads is not None:
            threads = check_count("threads", threads)
        named = learnable(model)
        self.model, copies = model, FloatCopies(named)
        self.copies = copies if copies.copies else None
        self.parameters, self.like = list(copies.named.values()), (like := next(iter(named.values())))
        self.workers = Workers(like.device)
        settings.check_parts(settings.accumulate * self.workers.number)
        self.folder = None if checkpoint is None else Folder(checkpoint)
        kept = self._kept()
        if settings.seed is None:
            settings = replace(settings, seed=self._fresh_seed() if kept is None else kept.about["seed"])
        self.settings, self.run = settings, Run(settings=settings, model=model)
        self.generator = torch.Generator().manual_seed(settings.seed or 0)
        self.source = self.batches_of(data)
        kinds = (model.conditions if isinstance(model, ScoreModel) else NONE).kinds
        self.drop = Drop(settings.p_uncond, settings.null, self.source.cond, kinds)
        raw = self.source.moments(self.generator)
        self.moments = self._in_coordinates(raw)
        self.workers.share(model)
        objective = objective_of(model) if settings.loss is None else settings.loss
        self._check_data(objective)
        self.gradient = Gradient(
            model, objective, self.parameters, self.generator, self.workers, settings.accumulate, settings.autocast,
            self.copies,
        )  # fmt: skip
        self.optimiser = torch.optim.AdamW(
            _rate_groups(copies.named, settings.lr_factors),
            lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True,
        )  # fmt: skip
        self.pending = PendingLosses(self.run, like.device)
        if self.pending.bad is not None:
            # The fused optimiser then leaves the weights as they are.
            self.optimiser.found_inf = self.pending.bad  # type: ignore[attr-defined]
        self._make_averages(named, self.gradient.objective)
        # What a continued run must share with its checkpoint: only a run with a folder has one.
        self.about, self.known = ({}, {}) if self.folder is None else (self._about(), self.source.fingerprint(raw))
        if kept is not None:
            kept.check(self.about, model, self.moments)
            kept.check_data(self.known, tolerance(raw, like.dtype))
            kept.check_whole(self.tensors(), [p for group in self.optimiser.param_groups for p in group["params"]])
            self._restore(kept)
        if kept is None:
            self._measure(objective)  # only now: a model that is refused stays as it was
        cast(Learner, model).moments = self.moments
        self.workers.check_same("step", self.run.steps)
        self.threads = Threads(like.device, self.run.threads if threads is None else threads)

    def _check_data(self, objective: Callable[..., Tensor]) -> None:
        """Refuse data that do not suit the objective or the settings."""
        self.settings.check_own_size(self.source.own_size)
        check_taken(objective, self.model, self.source.cond)
        check_dropped(objective, self.settings.p_uncond, self.source.cond)

    def _measure(self, objective: Callable[..., Tensor]) -> None:
        """Give the model the units of data and conditions, and tell it which conditions it will learn with and without."""
        if isinstance(self.model, Calibrated):
            self.model.measure(self.moments)
        note_conditions(self.model, objective, self.source, self.drop)
        measure_conditions(self.model, self.source.few)

    def _in_coordinates(self, moments: Moments) -> Moments:
        """Return the moments of the data, or of their coordinates where the process takes data in others than their own."""
        coordinates = self.model.sde.measured_in if isinstance(self.model, Trainable) else None
        return moments if coordinates is None else self.source.moments(self.generator, coordinates)

    def batches_of(self, data: Any) -> Source | Stream:
        """Return the source of batches of any data for this model. A model that takes data in units of their spread gets them in
        their own dtype, which may be finer than its weights, as rounding before the mean is subtracted would lose digits.
        """
        return source_of(
            data, self.like.dtype, self.like.device, cast=not isinstance(self.model, (ScoreModel, Calibrated))
        )

    def _make_averages(self, named: dict[str, Tensor], objective: Callable[..., Tensor]) -> None:
        """Make the averages of the weights, whose buffers are recomputed where they are used."""
        settings = self.settings
        self.average = PowerEMA(named.values(), settings.ema)
        buffers = Buffers(objective, partial(self.source.few, settings.batch_size))
        self.average.attach(self.model, buffers)
        self.averages = [self.average]
        if settings.snapshots is not None:
            self.run.snapshots = Snapshots(named, None if self.folder is None else self.folder.path)
            self.run.snapshots.buffers = buffers
            self.averages += self.run.snapshots.averages

    def _kept(self) -> Checkpoint | None:
        """Return the newest checkpoint, after the main process has made the folder."""
        if self.folder is not None and self.workers.main:
            self.folder.prepare()
        self.workers.wait()  # for the main one, which may still be writing what is to be read here
        return None if self.folder is None else self.folder.newest()

    def _fresh_seed(self) -> int:
        return int(self.workers.agree(int(torch.randint(2**31 - 1, (), device="cpu"))))

    def step(self, batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
        """Take one optimiser step and update the averages; return the mean loss and the norm of the gradient.

        Raises
        ------
        NonFiniteLoss
            If either is not finite, and is known already. The weights have not moved.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad()
        try:
            loss = self.gradient(batch)
        except NonFiniteLoss as error:
            raise self.pending.stopped(str(error)) from None
        clip = math.inf if self.settings.clip is None else self.settings.clip
        norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        self.pending.reason = self.gradient.reason
        self.pending.add(loss, norm)
        self.optimiser.step()
        if self.copies is not None:
            self.copies.give_back()
        for average in self.averages:
            average.update()
        return loss, norm

    def read(self) -> None:
        """Bring losses that are still on the accelerator into the run's record.

        Raises
        ------
        NonFiniteLoss
            If one is not finite.
        """
        self.pending.read()

    def _about(self) -> dict[str, Any]:
        """Return the settings and the model as JSON, which a continued run must share with the original one."""
        about = identify(self.settings.compared() | {"model": self.model}, self.model.parameters())
        about["model"].get("sde", {}).pop("units", None)  # they are part of the state, as weights are
        frozen = [name for name, p in self.model.named_parameters() if not p.requires_grad]
        return about | ({"frozen": frozen} if frozen else {})

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that changes from step to step as tensors by name, gathered over the processes."""
        device = self.workers.device
        tensors = {f"weight:{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"moments:{name}": value for name, value in self.moments._asdict().items()}
        tensors |= {f"data:{name}": value for name, value in self.known.items()}
        tensors |= {f"record:{name}": _column(getattr(self.run, name)) for name in _CURVES}
        measured = [[step, *estimate] for step, estimate in self.run.validation.items()]
        tensors["validation"] = _column(measured).reshape(-1, 3)
        tensors |= {
            f"average:{i}.{j}": value
            for i, average in enumerate(self.averages)
            for j, value in enumerate(average.average)
        }
        tensors |= {
            f"optimiser:{i}.{name}": value
            for i, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }
        tensors |= {} if self.copies is None else {f"copy:{i}": v for i, v in enumerate(self.copies.copies)}
        tensors |= {"generator": self.generator.get_state()} | self.source.state() | self.gradient.state()
        tensors |= {} if self.run.threads is None else {"threads": torch.tensor(self.run.threads)}
        tensors["torch:cpu"] = self.workers.gather(torch.get_rng_state())
        if device.type == "cuda":
            tensors["torch:cuda"] = self.workers.gather(torch.cuda.get_rng_state(device))
        return tensors

    def _restore_generators(self, kept: Checkpoint) -> None:
        self.generator.set_state(kept.tensors["generator"])
        rank, device = self.workers.rank, self.workers.device
        own = {name: states[rank].clone() for name, states in kept.part("torch").items() if rank < len(states)}
        if "cpu" in own:
            torch.set_rng_state(own["cpu"])
        if "cuda" in own and device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], device)

    def take_profile(self) -> None:
        """Measure the profile of the trained model (`samplers.measure_profile`), where its default sampler asks for that and it
        costs no more than a hundredth of the training.
        """
        if not isinstance(self.model, Trainable) or not is_scalar(self.model.sde) or draws_images(self.model):
            return
        # a gradient costs two evaluations more
        draws, tried, stops = affordable(int(SHARE * 3 * self.run.steps * self.settings.batch_size))
        self.model.profile = None
        if draws:
            x, cond = next(iter(self.source.few(draws)))
            some, end = {name: value[:draws] for name, value in cond.items()}, choose_end(self.model)
            self.model.profile = measure_profile(self.model, x[:draws], end=end, steps=tried, stops=stops, **some)

    @torch.no_grad()
    def _restore(self, kept: Checkpoint) -> None:
        """Go back to a checkpoint that fits (`Checkpoint.check`)."""
        try:
            self._restore_generators(kept)
        except RuntimeError as error:
            raise ValueError(
                f"{kept.path} holds no state of a random generator ({error}); delete it, and the run goes on from the one before."
            ) from None
        self.source.restore(kept.tensors)
        self.gradient.restore(kept)
        self.run.steps, self.run.seconds = kept.step, kept.seconds
        for name, value in kept.part("record").items():
            setattr(self.run, name, value.tolist())
        if "validation" in kept.tensors:
            measured = kept.tensors["validation"].tolist()
            self.run.validation = {int(step): Estimate(value, stderr) for step, value, stderr in measured}
        if "threads" in kept.tensors:
            self.run.threads = int(kept.tensors["threads"])
        try:
            self.model.load_state_dict(kept.part("weight"))
        except (RuntimeError, ValueError) as error:
            said = str(error).splitlines()[-1].strip()
            raise ValueError(
                f"{kept.path} holds weights that the model does not take ({said}); delete it, and the run goes on from the one "
                "before."
            ) from None
        if self.copies is not None:
            kept_copies = kept.part("copy")
            torch._foreach_copy_(self.copies.copies, [kept_copies[str(i)] for i in range(len(kept_copies))])
        averages = kept.part("average")
        for i, average in enumerate(self.averages):
            average.n = kept.step
            torch._foreach_copy_(average.average, [averages[f"{i}.{j}"] for j in range(len(average.average))])
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in kept.part("optimiser").items():
            index, what = name.split(".")
            states.setdefault(int(index), {})[what] = value
        self.optimiser.load_state_dict({"state": states, "param_groups": self.optimiser.state_dict()["param_groups"]})


def _column(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _rate_groups(named: dict[str, Tensor], factors: dict[str, float] | None) -> list[dict[str, Any]]:
    """Return the optimiser's groups of parameters, one for each factor on the learning rate: that of the key which a parameter's
    name begins with, else 1.

    Raises
    ------
    ValueError
        If a name begins with two keys, or no name with one of them.
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
    for key in factors or {}:
        if key not in used:
            raise ValueError(
                f"lr_factors: no parameter begins with {key!r}; there are {', '.join(list(named)[:3])}, ..."
            )
    return [{"params": params, "factor": factor} for factor, params in found.items()]
