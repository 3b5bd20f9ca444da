"""Five failures that Python's and torch's own messages do not explain, put in a sentence: `explain`, and the same for a ``with``
block, `Explained`.
"""

from __future__ import annotations

__all__ = ["Explained", "explain"]

import traceback
from pathlib import Path
from typing import Any

import torch


def explain(who: str, failure: Exception) -> None:
    """Raise an error that says what was wrong in place of a failure, where that is known; return otherwise.

    The failures are:

    - a ``StopIteration`` of code from outside, which would end the iteration of a caller without a word, or come out of a
      generator as another error;
    - a tensor that was made under ``torch.inference_mode()``, which has no derivatives;
    - numbers that are looked at or drawn, which ``torch.func.vmap`` does not follow;
    - adaptive steps of torchdiffeq, which no transformation of ``torch.func`` follows;
    - torch's default device meta, on which new tensors hold no numbers.

    Parameters
    ----------
    who
        The function that was called, as an error names it.
    failure
        The exception that came out of it.

    Raises
    ------
    RuntimeError
        In place of the failure.

    Examples
    --------
    >>> explain("sample", StopIteration())
    Traceback (most recent call last):
    RuntimeError: sample ended in a StopIteration, as of an iterator that is used up; to end a run raise another exception.
    """
    if str(failure) == "generator raised StopIteration" and isinstance(failure.__cause__, StopIteration):
        failure = failure.__cause__
    said = str(failure)
    if isinstance(failure, StopIteration):
        raise RuntimeError(
            f"{who} ended in a StopIteration{_place(failure)}, as of an iterator that is used up; to end a run raise another "
            "exception."
        ) from failure
    if said.startswith("Inference tensors cannot be saved for backward"):
        raise RuntimeError(
            f"{who} needs derivatives, and comes upon a tensor that was made under torch.inference_mode(), which has none; make "
            "networks and data outside of that, or copy them there: copy.deepcopy(model), x.clone()."
        ) from failure
    if said.startswith("vmap:"):
        raise RuntimeError(
            f"{who} looks at numbers or draws some, which torch.func.vmap does not follow; call it once, with all rows in a "
            "batch, and take derivatives by torch.autograd.grad, or torch.func.jacrev(..., chunk_size=1)."
        ) from failure
    if said.startswith("In order to use an autograd.Function with functorch"):
        raise RuntimeError(
            f"{who} takes adaptive steps, which torch.func does not follow; take derivatives by torch.autograd.grad, or give a "
            "sampler or a method of fixed steps."
        ) from failure
    if torch.get_default_device().type == "meta" and "default device" not in said:
        raise RuntimeError(
            f"{who} was called where torch's default device is meta, on which new tensors hold no numbers; call it outside of "
            'torch.device("meta"), or after torch.set_default_device("cpu").'
        ) from failure


class Explained:
    """A context whose failures `explain` explains.

    It is a class, since a context of ``contextlib``, which is a generator, lets a ``StopIteration`` pass.

    Parameters
    ----------
    who
        The function that was called, as an error names it.
    """

    def __init__(self, who: str) -> None:
        self.who = who

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, failure: BaseException | None, trace: Any) -> None:
        if isinstance(failure, (StopIteration, RuntimeError)):
            explain(self.who, failure)


def _place(failure: StopIteration) -> str:
    """Tell in which function a failure was raised, where that is known."""
    frames = traceback.extract_tb(failure.__traceback__)
    return f" of {frames[-1].name}, line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
