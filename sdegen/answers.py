"""Checks of what code from outside answers: networks, laws, measurements, losses, samplers and sources of noise.

An answer is checked once, where it enters the library. A tensor of another shape would often broadcast, and what comes of it
looks like a result. Nothing here but `check_reading` reads values, for which a step would wait on an accelerator: whether they
are finite is asked at the end of a run, and of the loss.
"""

from __future__ import annotations

__all__ = [
    "FAILURES",
    "as_numbers",
    "ask",
    "ask_draws",
    "ask_log_prob",
    "ask_numbers",
    "ask_score",
    "check_answer",
    "check_pair",
    "check_each",
    "check_reading",
    "check_unchanged",
    "versions",
]

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .show import with_article

# What a network raises that was written for other shapes, or for tensors where numbers are given.
FAILURES = RuntimeError, ValueError, IndexError, TypeError


def as_numbers(answer: Any) -> Tensor | None:
    """Return real numbers of Python or NumPy as a new float64 tensor, a tensor as it is, and None for anything else.

    Examples
    --------
    >>> import numpy
    >>> as_numbers(numpy.float32(0.5)), as_numbers("0.5"), as_numbers(True)
    (tensor(0.5000, dtype=torch.float64), None, None)
    """
    if isinstance(answer, Tensor):
        return answer
    real = answer.dtype.kind in "iuf" if isinstance(answer, (np.ndarray, np.generic)) else isinstance(answer, Real)
    if not real or isinstance(answer, bool):
        return None
    return torch.tensor(np.array(answer, dtype=np.float64, order="C"))  # an array may be filled anew by its owner


def check_answer(
    who: str, answer: Any, shape: Sequence[int], like: Tensor | None = None, must: str = "the shape of the state"
) -> Tensor:
    """Return an answer that is a floating-point tensor of a given shape, in the dtype of `like`; refuse anything else.

    Parameters
    ----------
    who
        Whose answer it is, the first word of an error.
    answer
        What was returned.
    shape
        The shape that it must have.
    like
        A tensor of the dtype that it is brought to, and on the device that it must be on; None for any.
    must
        What the shape stands for, as an error says it.

    Raises
    ------
    TypeError
        If `answer` is no tensor, or not of floating-point numbers.
    ValueError
        If `answer` has another shape, or is on another device.

    Examples
    --------
    >>> import torch
    >>> check_answer("net", torch.zeros(5, 1), (5, 2))
    Traceback (most recent call last):
    ValueError: net returned shape (5, 1), where (5, 2) was expected; it must return the shape of the state.
    """
    if not isinstance(answer, Tensor):
        raise TypeError(f"{who} returned {_describe(answer)}; it must return one tensor, {must}{_remedy(answer)}.")
    if answer.shape != shape:
        asked = f", where {tuple(shape)} was expected" if like is None else f" for a state of shape {tuple(like.shape)}"
        raise ValueError(f"{who} returned shape {tuple(answer.shape)}{asked}; it must return {must}.")
    if not answer.is_floating_point():
        raise TypeError(f"{who} returned dtype {answer.dtype}; it must return floating-point numbers, as of float32.")
    if like is None or (answer.dtype == like.dtype and answer.device == like.device):
        return answer
    if answer.device != like.device:
        raise ValueError(f"{who} returned a tensor on {answer.device} for one on {like.device}; keep it there.")
    return answer.to(like.dtype)


def check_each(who: str, answer: Any, n: int, like: Tensor | None = None, must: str = "a row for each") -> Tensor:
    """Return an answer that has `n` rows of any shape, ``(n, *)``; refuse anything else, as `check_answer` does.

    Parameters
    ----------
    who, like, must
        As for `check_answer`.
    answer
        What was returned.
    n
        The number of rows.
    """
    shape = (n, *answer.shape[1:]) if isinstance(answer, Tensor) else (n,)
    return check_answer(who, answer, shape, like, must)


def check_pair(who: str, answer: Any, what: str) -> tuple[Any, Any]:
    """Return an answer that is a pair; refuse anything else.

    Parameters
    ----------
    who
        Whose answer it is.
    answer
        What was returned.
    what
        What the two are, as an error says it.

    Raises
    ------
    TypeError
        If `answer` is no tuple of two.
    """
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"{who} returned {_describe(answer)}; it must return a pair, {what}.")
    first, second = answer
    return first, second


def versions(*given: Any) -> list[int]:
    """Return how often each tensor among arguments has been changed in place; tensors of inference, which keep no count of it,
    are left out.

    Examples
    --------
    >>> x = torch.zeros(3)
    >>> versions(x, "x"), versions(x.add_(1))
    ([0], [1])
    """
    if torch.compiler.is_compiling():
        return []
    return [value._version for value in given if isinstance(value, Tensor) and not value.is_inference()]


def check_unchanged(who: str, before: list[int], *given: Any) -> None:
    """Refuse code from outside that has changed one of its arguments in place, which goes on to be used.

    Parameters
    ----------
    who
        Whose code it is.
    before
        The `versions` of the arguments before the call.
    given
        The arguments.

    Raises
    ------
    ValueError
        If an argument was changed.
    """
    if versions(*given) != before:
        raise ValueError(
            f"{who} changed what it was given in place, and others use it, too; let it work on a copy, x.clone()."
        )


def ask(who: str, question: Callable[..., Any], /, *given: Any, **cond: Any) -> Any:
    """Call code from outside, and return its answer; refuse that the call changes its arguments in place (`check_unchanged`).

    Examples
    --------
    >>> ask("drift", lambda x, t: x.mul_(-t), torch.ones(3, 2), torch.tensor(0.5))
    Traceback (most recent call last):
    ValueError: drift changed what it was given in place, and others use it, too; let it work on a copy, x.clone().
    """
    before = versions(*given, *cond.values())
    answer = question(*given, **cond)
    check_unchanged(who, before, *given, *cond.values())
    return answer


def ask_log_prob(law: Any, x: Tensor) -> Tensor:
    """Return the log-densities of a law at points, ``(B,)``; refuse, as `check_answer` does, what would broadcast.

    Parameters
    ----------
    law
        Anything with ``log_prob(x)``.
    x
        Points, ``(B, *)``.
    """
    who = f"{type(law).__name__}.log_prob"
    values = ask(who, law.log_prob, x)
    parts = isinstance(values, Tensor) and values.ndim > 1 and values.shape == x.shape
    hint = ", as torch.distributions.Independent(law, 1) does for a law of torch" if parts else ""
    return check_answer(who, values, x.shape[:1], must=f"one number for each point{hint}")


def ask_numbers(who: str, function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """Return the number that a function from outside has for each point, ``(B,)``; refuse, as `check_answer` does, what would
    broadcast, and a function that changes the points.

    Parameters
    ----------
    who
        Whose answer it is.
    function
        A function from points to numbers.
    x
        Points, ``(B, *)``.
    """
    return check_answer(who, ask(who, function, x), x.shape[:1], must="one number for each point")


def ask_draws(law: Any, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Return `n` draws of a law, ``(n, *)``; refuse, as `check_answer` does, anything else.

    Parameters
    ----------
    law
        Anything with ``sample(n, generator)``.
    n
        The number of draws.
    generator
        Randomness of the draws.
    """
    x = law.sample(n, generator)
    if isinstance(x, Tensor) and x.shape[:1] == (n,) and x.is_floating_point():
        return x
    return check_each(f"{type(law).__name__}.sample", x, n, must="as many points as are asked for, (n, *)")


def ask_score(scored: Any, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
    """Return a model's score at states, ``(B, *)``; refuse, as `check_answer` does, what would broadcast.

    Parameters
    ----------
    scored
        Anything with ``score(x, t, **cond)``.
    x
        States, ``(B, *)``.
    t
        Times, ``()`` or ``(B,)``.
    cond
        Conditions.
    """
    who = f"{type(scored).__name__}.score"
    return check_answer(who, ask(who, scored.score, x, t, **cond), x.shape, x)


def _describe(answer: Any) -> str:
    if answer is None:
        return "None"
    many = f" of {len(answer)}" if isinstance(answer, (tuple, list, dict)) else ""
    return f"{with_article(type(answer).__name__)}{many}"


def _remedy(answer: Any) -> str:
    """Tell how a tensor comes out of an answer that holds one."""
    if answer is None:
        return " (is a return missing?)"
    if isinstance(answer, (tuple, list)) and any(isinstance(part, Tensor) for part in answer):
        return ": wrap it to return the entry that is meant"
    if isinstance(getattr(answer, "sample", None), Tensor) or (isinstance(answer, dict) and "sample" in answer):
        return ": a network of diffusers goes in by sdegen.from_diffusers(unet, scheduler)"
    if isinstance(answer, dict):
        return ": wrap it to return the value that is meant"
    return ""


def check_reading(name: str, values: Tensor, t: Tensor) -> Tensor:
    """Return the values of a reading of a model, or of what follows from it, if all are finite; refuse them otherwise.

    Parameters
    ----------
    name, values, t
        The name of the reading in an error; its values, ``(B, *)``; the times, ``()`` or ``(B,)``.

    Raises
    ------
    ValueError
        If a value is NaN or infinite; the message names the first time.
    """
    bad = ~values.isfinite().reshape(len(values), -1).all(1).cpu()
    if bad.any():
        at = t.expand(len(values))[bad]
        raise ValueError(
            f"the model's {name} is not finite at t = {at[0].item():.6g} ({len(at)} of {len(values)} rows); look at the model at "
            "that time."
        )
    return values
