"""Posteriors of the package sbi, asked as ours are: what its trainers learn in given seconds of a core, with its own defaults.

Install it with ``pip install -c constraints.txt ".[peers]"``; rows that need it are left out where it is missing.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributions

from sdegen.inference import Pairs

METHODS = ("NPE", "NPSE", "FMPE")  # of a flow, of a score model, and of flow matching


def installed() -> bool:
    """Tell whether sbi can be imported."""
    return importlib.util.find_spec("sbi") is not None


class Theirs:
    """A posterior of sbi."""

    def __init__(self, posterior: Any) -> None:
        self.posterior = posterior

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
    """A tracker that keeps nothing: the default one writes a folder."""

    log_dir: Path | None = None

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    log_metric = log_metrics = log_params = add_figure = flush = ignore


def learn(method: str, prior: distributions.Distribution, pairs: Pairs, seconds: float, seed: int) -> Theirs:
    """Train by a method of sbi until it ends by its own rule, or the seconds of a core are spent, which two epochs foretell.

    Parameters
    ----------
    method
        One of `METHODS`.
    prior, pairs
        Of the parameters, and simulations.
    seconds
        Of cores, for the training.
    seed
        Of initial weights and batches.
    """
    from sbi import inference  # loads on use

    torch.manual_seed(seed)
    trainer = getattr(inference, method)(prior, show_progress_bars=False, tracker=Silent())
    trainer.append_simulations(pairs.theta, pairs.x)
    began = time.process_time()
    trainer.train(max_num_epochs=1)  # of which the first is number 0
    each = (time.process_time() - began) / 2
    if (epochs := int(seconds / each)) > 2:
        trainer.train(max_num_epochs=epochs - 1, resume_training=True)
    return Theirs(trainer.build_posterior())
