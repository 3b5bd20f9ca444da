"""Posteriors of the package sbi with its own defaults, trained for given seconds of a core, or until they stop by their own rule.

Install it with ``pip install -c constraints.txt ".[peers]"``; rows that need it are left out where it is missing.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributions

from sdegen.inference import Pairs

METHODS = ("NPE", "NPSE", "FMPE")  # by a normalising flow, a score model, and flow matching
LEAST = 2  # epochs: after fewer sbi cannot be told to put back the best weights


def installed() -> bool:
    """Tell whether sbi can be imported."""
    return importlib.util.find_spec("sbi") is not None


class Theirs:
    """A posterior of sbi, and how it was trained.

    Attributes
    ----------
    posterior
        The posterior that sbi builds.
    seconds
        Seconds of cores that the training has taken.
    epochs
        How often the training has gone through the simulations that sbi does not hold out.
    stopped
        Whether the training was stopped by sbi's own rule, before the seconds were spent.
    """

    def __init__(self, posterior: Any, seconds: float, epochs: int, stopped: bool) -> None:
        self.posterior, self.seconds, self.epochs, self.stopped = posterior, seconds, epochs, stopped

    def sample(self, n: int, x: Tensor) -> Tensor:
        """Draw parameters given one datum."""
        return self.posterior.sample((n,), x=x, show_progress_bars=False)

    def sample_each(self, n: int, x: Tensor) -> Tensor:
        """Draw parameters given each of several data."""
        return self.posterior.sample_batched((n,), x=x, show_progress_bars=False).transpose(0, 1)

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return the log-density of parameters given one datum."""
        return self.posterior.log_prob(theta, x=x)


class Silent:
    """A tracker for sbi that keeps nothing, as the default one writes a folder."""

    log_dir: Path | None = None

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    log_metric = log_metrics = log_params = add_figure = flush = ignore


class Spent(Exception):
    """Raised inside a training when its seconds are spent."""


def ones_until(end: float, trainer: Any) -> Callable[[Tensor], Tensor]:
    """Return a function that weighs all simulations alike, as sbi itself does, and ends the training when an epoch begins after
    a time of this process.
    """
    seen = 0

    def weigh(x: Tensor) -> Tensor:
        nonlocal seen
        begins, seen = trainer.epoch > seen, trainer.epoch
        if begins and seen >= LEAST and time.process_time() >= end:
            raise Spent
        return torch.ones(len(x))

    return weigh


def learn(method: str, prior: distributions.Distribution, pairs: Pairs, seconds: float, seed: int) -> Theirs:
    """Train by a method of sbi until seconds of a core are spent, or until it stops by its own rule, and return its posterior.

    The epoch in which the last second falls is finished, and there are two epochs at least. What stops the training before is
    sbi's default: it holds out a tenth of the simulations, and stops when their loss has not been the least so far (NPE), or
    has been far above it (NPSE and FMPE), for twenty epochs. Either way its weights are those of the least such loss.

    Parameters
    ----------
    method
        One of `METHODS`.
    prior, pairs
        The prior of the parameters, and the simulations.
    seconds
        Seconds of cores for the training.
    seed
        The seed of initial weights and batches.
    """
    from sbi import inference  # loads on use

    torch.manual_seed(seed)
    began = time.process_time()
    trainer = getattr(inference, method)(prior, show_progress_bars=False, tracker=Silent())
    trainer.append_simulations(pairs.theta, pairs.x)
    stopped = True
    try:
        trainer.train(calibration_kernel=ones_until(began + seconds, trainer))
    except Spent:
        stopped = False
        trainer.train(max_num_epochs=LEAST - 1, resume_training=True)  # no further epoch, but its end: the best weights
    return Theirs(trainer.build_posterior(), time.process_time() - began, trainer.epoch, stopped)
