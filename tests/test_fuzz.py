"""Nonsense is refused in a sentence: all public callables, one argument replaced at a time.

All calls with numbers out of their bounds, and with tensors of other shapes or numbers, are made by default, and sixty others,
new ones every day; all of them by ``pytest tests/test_fuzz.py -m slow``. `fuzz` by itself prints how many ended in which
verdict.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import inspect
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import (
    ALLOWED,
    CALLS,
    EXCEPTIONS,
    TARGETS,
    Case,
    arguments,
    call,
    cases_of,
    fresh,
    function_of,
    is_called,
    verdict,
)
from test_docstrings import PUBLIC
from tqdm import tqdm

import sdegen

DRAWN = 60
FAULTS = ("silent", "bare", "hang", "unnamed")


def drawn() -> list[Case]:
    """Sixty cases in an order that looks random and is the same everywhere; the next sixty tomorrow."""
    cases = sorted(
        (case for name in TARGETS for case in cases_of(name)),
        key=lambda case: hashlib.sha256(str(case).encode()).digest(),
    )
    first = DRAWN * datetime.date.today().toordinal() % len(cases)
    return (cases + cases)[first : first + DRAWN]


@pytest.fixture(autouse=True)
def same_state() -> Any:
    """Calls seed what they draw; what they leave behind is put back."""
    with torch.random.fork_rng(devices=[]):
        yield


def check_calls(cases: list[Case]) -> None:
    found = [(case, *verdict(case)) for case in cases]
    faults = [f"{what}: {case}: {said}" for case, what, said in found if what in FAULTS]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("case", drawn(), ids=str)
def test_nonsense_is_refused_in_a_sentence(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(case.name)  # as it should be made
    check_calls([case])


@pytest.mark.turns("minus")
@pytest.mark.parametrize("nonsense", ["minus", "zero", "half", "nan", "inf"])
def test_numbers_out_of_their_bounds_are_refused_in_a_sentence(nonsense: str) -> None:
    """Some 500 calls each, which end at the door."""
    check_calls([case for name in TARGETS for case in cases_of(name) if case.nonsense == nonsense])


@pytest.mark.parametrize(
    "nonsense", ["with NaN", "with infinity", "without rows", "another column", "another axis", "flat", "of integers"]
)
def test_tensors_of_other_shapes_or_numbers_are_refused_in_a_sentence(nonsense: str) -> None:
    """Some 130 calls each, which end at the door."""
    check_calls([case for name in TARGETS for case in cases_of(name) if case.nonsense == nonsense])


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_all_nonsense_is_refused_in_a_sentence(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(name)
    check_calls(cases_of(name))


KINDS = {
    "int": [np.int64, np.int32, np.array, torch.tensor],
    "float": [np.float64, np.array, lambda v: torch.tensor(v, dtype=torch.float64)],
}


def numbers() -> list[Any]:
    """A number of every callable that takes one, in the form of another library."""
    found = []
    for name in TARGETS:
        for a in arguments(name, function_of(name), TARGETS[name][1]):
            valid = fresh(a.valid)
            for kind, forms in KINDS.items():
                if kind in a.kinds and type(valid).__name__ == kind:
                    form = hashlib.sha256(f"{name}({a.name})".encode()).digest()[0] % len(forms)
                    found.append(pytest.param(name, a.name, forms[form], id=f"{name}({a.name}, {form})"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argument", "form"), numbers())
def test_numbers_of_every_library_are_numbers(name: str, argument: str, form: Any) -> None:
    """NumPy's integers and scalars, and tensors of no axes, are taken wherever a number of Python is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(name, Case(name, argument, "form"), form)


@pytest.mark.parametrize(("name", "argument", "form"), numbers()[:: len(numbers()) // 30])
def test_some_numbers_of_every_library_are_numbers(name: str, argument: str, form: Any) -> None:
    test_numbers_of_every_library_are_numbers(name, argument, form)


# What is computed in float64 from numbers of any dtype. The other callables answer in the dtype of the states, or keep what
# they are given.
IN_FLOAT64 = (
    "GaussianMixture", "moments_of", "processes.grids.Given", "samplers.BrownianNoise", "laws.tilt_law",
    "guidance.annealed_smc", "guidance.decoupled_annealing", "guidance.split_gibbs",
    "guidance.measurements.mixture_posterior", "guidance.measurements.posterior_moments",
    "metrics.KernelDensity", "metrics.crps", "metrics.effective_share", "metrics.find_coverage", "metrics.find_ranks",
    "metrics.find_tarp_coverage", "metrics.kl_from_log_ratio", "metrics.knn_kl", "metrics.mmd", "metrics.mode_shares",
    "metrics.predictive_check", "inference.LinearGuess", "laws.coordinates.Whitening", "processes.AngleTable",
)  # fmt: skip


def numbers_within(value: Any, place: str = "") -> dict[str, Any]:
    """Real numbers and tensors of an answer by their places: of its parts and attributes, as far as they are the library's."""
    if isinstance(value, (float, torch.Tensor)):
        real = isinstance(value, float) or value.is_floating_point()
        return (
            {place: torch.as_tensor(value, dtype=torch.float64) if isinstance(value, float) else value} if real else {}
        )
    if isinstance(value, (list, tuple)):
        parts = {f"{place}[{i}]": part for i, part in enumerate(value)}
    elif type(value).__module__.startswith("sdegen") and hasattr(value, "__dict__"):
        parts = {f"{place}.{name}": part for name, part in vars(value).items()}
    else:
        return {}
    return {k: v for name, part in parts.items() for k, v in numbers_within(part, name).items()}


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_numbers_of_float32_are_the_same_numbers_in_float64(name: str) -> None:
    function, found = function_of(name), []
    for dtype in (torch.float32, torch.float64):
        positional, keyword = [], {}
        for a in arguments(name, function, TARGETS[name][1]):
            given = fresh(a.valid)
            if isinstance(given, torch.Tensor) and given.is_floating_point():
                given = given.float().to(dtype)
            if a.name == "generator":
                given = torch.Generator().manual_seed(3)
            if a.keyword:
                keyword[a.name] = given
            else:
                positional.append(given)
        torch.manual_seed(0)
        found.append(numbers_within(function(*positional, **keyword)))
    coarse, fine = found
    assert coarse.keys() == fine.keys() and fine
    for place, value in fine.items():
        torch.testing.assert_close(coarse[place], value, rtol=1e-10, atol=1e-12, equal_nan=True, msg=place)


# These keep times that may be parameters, and tables are known in advance.
KEEP_DERIVATIVES = ("processes.grids.Given", "samplers.BrownianNoise", "processes.AngleTable")


@pytest.mark.parametrize("name", [*(name for name in IN_FLOAT64 if name not in KEEP_DERIVATIVES), "principal_axes"])
def test_what_is_computed_in_float64_has_no_derivative_by_what_is_given(name: str) -> None:
    """A graph that nobody asked for would hold all data in memory: there is none, or the call is refused and says so."""
    function = sdegen.laws.bases.principal_axes if name == "principal_axes" else function_of(name)
    known = {"covariance": torch.eye(2)} if name == "principal_axes" else TARGETS[name][1]
    positional, keyword = [], {}
    for a in arguments(name, function, known):
        value = fresh(a.valid)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value = value.clone().requires_grad_()
        if a.name == "generator":
            value = torch.Generator().manual_seed(3)
        if a.keyword:
            keyword[a.name] = value
        else:
            positional.append(value)
    try:
        found = numbers_within(function(*positional, **keyword))
    except ValueError as refused:
        assert re.search(r"derivatives are asked for, .* give \w+\.detach\(\)\.$", str(refused))  # noqa: PT017
        return
    assert found and not [place for place, value in found.items() if value.requires_grad]


def test_every_public_callable_is_tried_or_excepted_with_a_reason() -> None:
    names = {name.removeprefix("sdegen."): value for name, value in PUBLIC.items()}
    called = {name for name, value in names.items() if is_called(value)}
    assert called == (TARGETS.keys() | EXCEPTIONS.keys()) & names.keys()
    assert all(EXCEPTIONS.values()) and EXCEPTIONS.keys() <= names.keys() - TARGETS.keys()
    assert not {name for name in CALLS if isinstance(CALLS[name], dict)} - names.keys()


def test_what_is_allowed_is_an_argument_of_a_name() -> None:
    known = {(name, a.name) for name in TARGETS for a in arguments(name, function_of(name), TARGETS[name][1])}
    every = {argument for _, argument in known} | {f"{name}({argument})" for name, argument in known}
    assert ALLOWED.keys() <= every


def takes_anything(width: Any = 8) -> Any:
    return width


def divides(width: int = 8) -> float:
    return 1 / width


def waits(width: int = 8) -> None:
    while width:
        pass


@pytest.mark.parametrize(
    ("function", "nonsense", "expected"),
    [
        (takes_anything, "class", "silent"),
        (divides, "zero", "bare"),
        (divides, "word", "bare"),
        (waits, "half", "hang"),
    ],
)
def test_the_fuzzer_sees_what_it_looks_for(
    function: Any, nonsense: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS, "made up", (function, {}))
    monkeypatch.setattr("fuzz.LIMIT", 0.3)
    assert verdict(Case("made up", "width", nonsense))[0] == expected
    assert verdict(Case("VP", "beta_min", "word"))[0] == "sentence" and isinstance(call("VP")[0], sdegen.VP)


# --- generators -------------------------------------------------------------------------------------------------------

LABELS = {"label": torch.arange(8) % 2}
GIVEN: dict[str, dict[str, Any]] = {  # arguments of methods, where names and kinds do not tell them
    "guidance.NoisyClassifier.loss": LABELS,
    "baselines.LatentClassifier.loss": LABELS,
    "data.Dequantisation.__call__": {"u": torch.arange(9, dtype=torch.uint8)},
}


def draws(function: Any) -> bool:
    """Tell whether a function is given a source of randomness."""
    try:
        parameter = inspect.signature(function).parameters.get("generator")
    except (TypeError, ValueError):
        return False
    return parameter is not None and "Generator" in str(parameter.annotation)


def with_a_generator(name: str, function: Any, given: dict[str, Any]) -> Any:
    """Make a valid call, ready to be done, with a source of randomness of its own."""
    positional, keyword = [], {}
    for a in arguments(name, function, given):
        value = fresh(a.valid)
        if draws(function) and a.name in ("generator", "seed"):
            value = torch.Generator().manual_seed(3) if a.name == "generator" else None
        if a.keyword:
            keyword[a.name] = value
        else:
            positional.append(value)
    return functools.partial(function, *positional, **keyword)


def test_what_is_given_a_generator_draws_from_it_alone() -> None:
    """Functions, and methods of objects of every class: whatever takes a generator leaves torch's own as it is."""
    called, elsewhere = set(), set()
    for name, (_, given) in TARGETS.items():
        function = function_of(name)
        found = {name: (lambda f=function: f, given)} if draws(function) else {}
        if inspect.isclass(function):
            make = with_a_generator(name, function, given)
            for method in (m for m in dir(function) if not m.startswith("_") or m == "__call__"):
                if draws(getattr(function, method, None)):
                    own = f"{name}.{method}"
                    found[own] = (lambda make=make, method=method: getattr(make(), method), GIVEN.get(own, {}))
        for place, (made, known) in found.items():
            with contextlib.suppress(Exception):  # a method asked for what is none of its own
                ready = with_a_generator(place, made(), known)
                before = torch.get_rng_state()
                ready()
                called.add(place)
                if not torch.equal(before, torch.get_rng_state()):
                    elsewhere.add(place)
    assert not elsewhere
    assert len(called) > 100 and {*GIVEN, "training.losses.Denoising.__call__", "sample"} <= called


def test_data_of_one_row_are_taken_or_refused_in_a_sentence() -> None:
    """All tensors of a call are cut to their first row."""

    def first(value: Any) -> Any:
        return value[:1] if isinstance(value, torch.Tensor) and value.ndim else value

    taken, bare = 0, []
    for name in (n for n in TARGETS if n.startswith(("laws.", "guidance.", "metrics.", "likelihood.", "processes."))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call(name, Case(name, "", "one row"), first, used=False)
                taken += 1
            except (TypeError, ValueError) as refused:
                bare += [f"{name}: {refused!r}"] if not str(refused).endswith(".") else []
    assert not bare, bare
    assert taken > 80


def test_every_progress_bar_is_shown_where_asked_for_and_ends_at_its_total(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int | None]] = []
    close = tqdm.close

    def watched(bar: Any) -> None:
        if not bar.disable:
            shown.append((bar.n, bar.total))
        close(bar)

    monkeypatch.setattr(tqdm, "close", watched)
    asked = [
        name
        for name in TARGETS
        if any(a.name == "progress" for a in arguments(name, function_of(name), TARGETS[name][1]))
    ]
    asked = [name for name in asked if not name.startswith("samplers.")]  # some of which take long
    bars = {}
    for name in asked:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(name, Case(name, "progress", "true"), lambda _: True, used=False)
        bars[name] = shown.copy()
        shown.clear()
    assert all(n and total in (n, None) for some in bars.values() for n, total in some), bars
    assert [name for name, some in bars.items() if not some] == [
        "inference.draw_pairs"
    ]  # whose simulator takes all at once
