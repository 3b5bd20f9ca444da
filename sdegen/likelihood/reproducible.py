"""Evaluations of a network that are the same to the last digit when they are made again, and what they depend on."""

from __future__ import annotations

__all__ = ["reproducible", "surroundings"]

import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version

import numpy as np
import torch

from ..models.score import ScoreModel

CODER = "constriction"  # whose arithmetic turns probabilities into bits


@contextmanager
def reproducible() -> Iterator[None]:
    """Evaluate networks within a ``with`` block on one thread, by deterministic algorithms, in full precision and without
    derivatives; restore all settings afterwards.

    The number of threads decides in which order sums are taken, and so their last digit. Full precision is that of the network's
    weights: no autocast around the block, and no TensorFloat-32 in products or convolutions.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    strict, timed = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    short = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.no_grad(), ExitStack() as plain:
            for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                plain.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_deterministic_debug_mode(strict)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = timed, short


def surroundings(model: ScoreModel) -> list[str]:
    """Return what the last digit of a network's answers and the digest of its code depend on besides its input: versions, and the
    device.

    Parameters
    ----------
    model
        Whose device it is.
    """
    library = sys.modules[__name__.partition(".")[0]]
    device = torch.device("cpu") if model.like is None else model.like.device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    versions = {
        "Python": platform.python_version(),
        "sdegen": library.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        CODER: version(CODER),
    }
    return [*(f"{package} {number}" for package, number in versions.items()), f"{device.type} {name}"]
