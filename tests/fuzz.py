"""Calls of the public names with one argument replaced by nonsense, and a verdict on what comes of each.

A valid call of every public name is made up from its signature: the annotation says what kind of thing an argument is, `VALID`
holds a small one of every kind, and `CALLS` what a name needs besides. `NONSENSE` says what is no such thing. Run by itself,
``PYTHONPATH=.:tests python tests/fuzz.py`` makes all calls, and prints those with a fault and how many ended in which verdict.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import math
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_calls
import torch
from fuzz_calls import ALLOWED, CALLS, EXCEPTIONS, VALID, Lazy, Method, use
from test_docstrings import PUBLIC
from torch import Tensor

import sdegen

ROOT = str(Path(sdegen.__file__).parent)
FUNCTIONS = ("density", "classifier", "net", "embedding", "weighting", "neutral", "unet")  # where no annotation says so
OTHER_NAMES = ("x", "y", "u", "n", "data", "times", "start", "loss")  # that an argument has further inside
CALLS_FILE = fuzz_calls.flat.__code__.co_filename
LIMIT = 5.0  # seconds after which a call hangs


# --- nonsense ---------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "none": None,
    "nan": math.nan,
    "inf": math.inf,
    "minus": -1,
    "zero": 0,
    "half": 2.5,
    "true": True,
    "word": "x",
    "class": int,
    "list": [1.5, "x"],
    "no items": [],
    "complex": 1j,
    "vector": torch.tensor([1.0, 2.0]),
    "object": object(),
    "takes nothing": lambda: 1.0,
    "takes nine": lambda a, b, c, d, e, f, g, h, i: 1.0,
}
CHANGES: dict[str, Callable[[Tensor], Any]] = {  # of a valid tensor
    "without rows": lambda x: x[:0],
    "another column": lambda x: torch.cat([x, x[..., :1]], -1),
    "another axis": lambda x: x[None, None],
    "flat": lambda x: x.reshape(-1)[0],
    "with NaN": lambda x: hole(x, math.nan),
    "with infinity": lambda x: hole(x, math.inf),
    "of integers": lambda x: (10 * x).long(),
    "of truth values": lambda x: x > 0,
    "complex numbers": lambda x: x.to(torch.complex64),
    "an array": lambda x: x.detach().numpy(),
    "its list": lambda x: x.tolist(),
}
WRONG = "none half word class list object"
NONSENSE: dict[str, str] = {
    "int": "none nan inf minus zero half true word class list complex vector object",
    "float": "none nan inf minus zero true word class list complex vector object",
    "bool": "none half word class list object",
    "str": WRONG,
    "Tensor": WRONG,
    "Callable": "none half word list object;takes nothing;takes nine",
    "Sequence": "none half word class list object",
    "tuple": "none half word class list object",
    "Path": "none half class list object",
    "Any": "none half class object",
    "object": WRONG + " itself",
}


def hole(x: Tensor, value: float) -> Tensor:
    x = (x.detach() if x.is_floating_point() else x.double()).clone(memory_format=torch.contiguous_format)
    x.view(-1)[0] = value
    return x


# --- valid calls -----------------------------------------------------------------------------------------------------


class Argument(NamedTuple):
    """A parameter of a public name, and a valid value of it."""

    name: str
    kinds: tuple[str, ...]  # of which it may be, None among them
    valid: Any
    keyword: bool


ALIASES = {
    "Iterable": "Sequence",
    "torch.Generator": "object",
    "inspect._empty": "Any",
    "_empty": "Any",
} | dict.fromkeys(
    ("Extractor", "NoiseSource", "Callback", "Clock", "Variance", "Wrap", "Lambda", "Field", "Map"), "Callable"
)


def kinds_of(annotation: Any) -> tuple[str, ...]:
    """Split an annotation at the bars outside of brackets, and strip what is in brackets."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "Any")
    text = text.replace("'", "")
    while "[" in text:
        text = re.sub(r"\[[^\[\]]*\]", "", text)
    return tuple(ALIASES.get(part.strip(), part.strip()) for part in text.split("|"))


def arguments(name: str, function: Any, given: dict[str, Any]) -> Iterator[Argument]:
    """Find a valid value for every parameter: what is given, the default, or one of its name or kind."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or parameter.name.startswith("_"):
            continue
        if parameter.name in given:
            valid = given[parameter.name]
        elif parameter.default is not parameter.empty:
            valid = parameter.default
        else:
            valid = next(
                (VALID[key] for key in (parameter.name, *kinds_of(parameter.annotation)) if key in VALID), None
            )
        kinds = kinds_of(parameter.annotation)
        if parameter.name in FUNCTIONS:
            kinds = tuple("Callable" if kind != "None" else kind for kind in kinds)
        if kinds == ("Any",) and isinstance(valid, Tensor):
            kinds = ("Tensor",)
        yield Argument(parameter.name, kinds, valid, parameter.kind is parameter.KEYWORD_ONLY)
    known = inspect.signature(function).parameters
    for key in (key for key in given if key not in known):  # of **cond
        yield Argument(
            key,
            (type(given[key]).__name__ if isinstance(given[key], (Tensor, int, float)) else "Any",),
            given[key],
            True,
        )


class Case(NamedTuple):
    """One call: a public name, the argument that is nonsense, and which."""

    name: str
    argument: str
    nonsense: str

    def __str__(self) -> str:
        return f"{self.name}({self.argument}: {self.nonsense})"


def is_called(value: Any) -> bool:
    """Tell whether a public name is one to call: no abstract class, protocol, error, or tuple that is a result."""
    abstract = inspect.isabstract(value) or getattr(value, "_is_protocol", False)
    return not (
        abstract or (inspect.isclass(value) and (issubclass(value, BaseException) or hasattr(value, "_fields")))
    )


def targets() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every callable by its name with the arguments given by hand: public names, and methods of `CALLS`."""
    found = {}
    for name, value in PUBLIC.items():
        short = name.removeprefix("sdegen.")
        if is_called(value) and short not in EXCEPTIONS:
            found[short] = (value, CALLS.get(short, {}))
    for name, given in CALLS.items():
        if not isinstance(given, dict):
            found[name] = tuple(given)
    return found


TARGETS = targets()


def fresh(value: Any) -> Any:
    """Make a value that is made anew for every call, and copy a tensor; leave others as they are."""
    if isinstance(value, Lazy):
        return value.make()
    return value.clone() if type(value) is Tensor else value


def function_of(name: str) -> Any:
    """Find what is called: a public name, or a method of an object that is made anew."""
    owner = TARGETS[name][0]
    return getattr(fresh(owner), name.rsplit(".", 1)[1]) if isinstance(CALLS.get(name), Method) else owner


def cases_of(name: str) -> list[Case]:
    """All nonsense of all arguments of a callable."""
    found = []
    for argument in arguments(name, function_of(name), TARGETS[name][1]):
        found += [Case(name, argument.name, tag) for tag in tags(argument)]
    return found


def tags(argument: Argument) -> list[str]:
    """What is nonsense for an argument: for every kind that it may be of."""
    groups = []
    for kind in argument.kinds:
        if kind == "None":
            continue
        words, *more = NONSENSE.get(kind, NONSENSE["object"]).split(";")
        known = words.split() + more
        if isinstance(fresh(argument.valid), Tensor) and kind == "Tensor":
            known += CHANGES
        groups.append(known)
    if not groups:
        return []
    shared = [tag for tag in groups[0] if all(tag in group for group in groups[1:])]
    if "Tensor" in argument.kinds:
        shared += [tag for tag in CHANGES if tag in {t for g in groups for t in g} and tag not in shared]
    return [tag for tag in shared if not (tag == "none" and "None" in argument.kinds)]


def call(name: str, change: Case | None = None, value: Any = None, used: bool = True) -> Any:
    """Make the valid call of a name, or one with an argument changed, and use what it returns unless it is only to be made."""
    function, positional, keyword = function_of(name), [], {}
    torch.manual_seed(0)
    for a in arguments(name, function, TARGETS[name][1]):
        given = fresh(a.valid)
        if change is not None and change.argument in (a.name, ""):  # or every one
            given = nonsense(change.nonsense, given) if value is None else value(given)
        if a.keyword:
            keyword[a.name] = given
        else:
            positional.append(given)
    result = function(*positional, **keyword)
    return use(name, result) if used else result


def nonsense(tag: str, valid: Any) -> Any:
    if tag == "itself":
        return type(valid) if valid is not None else dict
    return CHANGES[tag](valid) if tag in CHANGES else VALUES[tag]


# --- verdicts ---------------------------------------------------------------------------------------------------------


class Hang(BaseException):
    """The time of a call is over."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_raised_in(error: BaseException, file: str) -> bool:
    """Tell whether an error went through the lines of a file."""
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == file:
            return True
        at = at.tb_next
    return False


def is_raised_here(error: BaseException) -> bool:
    """Tell whether an error comes from a ``raise`` in the library's own lines, not from an operation inside them."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None or not at.tb_frame.f_code.co_filename.startswith(ROOT):
        return False
    codes = {i.offset: i.opname for i in dis.get_instructions(at.tb_frame.f_code)}
    return codes.get(at.tb_lasti, "").startswith("RAISE")


def verdict(case: Case) -> tuple[str, str]:
    """Make the call of a case; return what came of it, and in which words."""
    if is_allowed(case):
        return "allowed", ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with limited(LIMIT):
                result = call(case.name, case)
        except Hang:
            return "hang", f"more than {LIMIT:g} s"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if is_raised_in(error, CALLS_FILE):  # by what the user gave
                return "allowed", said
            if not is_raised_here(error):
                return "bare", said
            names = [a.name for a in arguments(case.name, function_of(case.name), TARGETS[case.name][1])]
            named = re.search(rf"\b({'|'.join([*names, *OTHER_NAMES])})\b", str(error), re.IGNORECASE) is not None
            full = len(str(error)) >= 20 and re.search(r"[.…)]$", str(error)) is not None and "\n" not in str(error)
            return ("sentence" if full and named else "unnamed" if full else "bare"), said
    if case.nonsense in ("with NaN", "with infinity") and not is_finite(result):
        return "allowed", ""
    if isinstance(result, sdegen.testing.Report) and not result.passed:  # which says what is wrong
        return "sentence", ""
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        return "silent", repr(result)[:100]
    return "silent", type(result).__name__


def is_finite(result: Any) -> bool:
    """Tell whether all numbers of a result are finite: a value that is not, and is handed on as such, is not hidden."""
    if isinstance(result, Tensor):
        return bool(result.isfinite().all())
    if isinstance(result, float):
        return math.isfinite(result)
    return not isinstance(result, (tuple, list)) or all(map(is_finite, result))


def is_allowed(case: Case) -> bool:
    """Tell whether a value is one that the documentation allows there: for the call, or for all arguments of the name."""
    keys = (f"{case.name}({case.argument})", case.argument)
    return any(case.nonsense in ALLOWED.get(key, "").split(", ") for key in keys)


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    counts: Counter[str] = Counter()
    for name in TARGETS:
        if not re.search(wanted, name):
            continue
        try:
            with warnings.catch_warnings(), limited(30):
                warnings.simplefilter("ignore")
                call(name)
        except (Exception, Hang) as error:
            print(f"INVALID {name}: {type(error).__name__} {error}"[:300], flush=True)
            continue
        for case in cases_of(name):
            found, said = verdict(case)
            counts[found] += 1
            if found not in ("sentence", "allowed"):
                print(f"{found:9}{case}: {said}"[:260].replace("\n", " "), flush=True)
    print(dict(counts), sum(counts.values()))


if __name__ == "__main__":
    main()
