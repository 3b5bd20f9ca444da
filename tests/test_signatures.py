"""Functions and methods of the user that cannot be called as the library calls them are refused where they enter it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import fuzz
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import nets
from sdegen.arguments import check_law
from sdegen.guidance.measurements import Measurement, NoiseLaw
from sdegen.laws.coordinates import Coordinates
from sdegen.laws.derivatives import Divergence
from sdegen.laws.mixtures import Distribution
from sdegen.models.parametrizations import Parametrization
from sdegen.processes.grids import Grid
from sdegen.processes.times import TimeLaw
from sdegen.samplers.references import Reference
from sdegen.signatures import check_call
from sdegen.training import Listener
from sdegen.training.weightings import Weighting

BASES = [
    sdegen.SDE, sdegen.ScalarSDE, sdegen.ScheduleSDE, sdegen.MatrixSDE, sdegen.processes.KnownSDE, sdegen.ScoreModel,
    sdegen.samplers.Sampler, Grid, Weighting, Parametrization, Measurement, Divergence, Listener, Coordinates, Reference,
    TimeLaw, Distribution, NoiseLaw,
]  # fmt: skip
FINAL = ("lift", "project", "complete", "velocity")  # which no class may override


def methods() -> list[tuple[type, str]]:
    """All public methods of the classes that users derive from."""
    found = []
    for base in BASES:
        for name in dir(base):
            method = inspect.getattr_static(base, name)
            if isinstance(method, FunctionType) and not name.startswith("_") and name not in FINAL:
                found.append((base, name))
    return found


def defined(source: str) -> Any:
    scope: dict[str, Any] = {}
    exec(f"def method({source}): ...", scope)
    return scope["method"]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_methods_that_take_other_arguments_are_refused(base: type) -> None:
    drawn = [name for owner, name in methods() if owner is base]
    assert drawn
    for name in drawn:
        parameters = list(inspect.signature(getattr(base, name)).parameters.values())
        places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        words = [f"{p.name}=None" for p in parameters if p.kind is p.KEYWORD_ONLY]
        rest = [f"**{p.name}" for p in parameters if p.kind is p.VAR_KEYWORD]
        star = ["*", *words] if words else []
        for right in (["self", *(f"a{i}" for i in range(len(places) - 1)), *star, *rest], ["*args", *words, "**more"]):
            type("Right", (base,), {name: defined(", ".join(right))})
        others = [[*star, *rest], [*places, "another", *star] if not rest else [*places[:-1], *star, *rest]]
        if words:
            others.append(places)
        for other in others:
            with pytest.raises(
                TypeError, match=rf"^Other\.{name} takes \(.*\), and is called as {name}\(.*\); define it"
            ):
                type("Other", (base,), {name: defined(", ".join(other))})


def test_one_of_a_base_of_the_user_is_held_to_the_librarys() -> None:
    class Mine(sdegen.SDE):
        """In the middle."""

    with pytest.raises(
        TypeError, match=r"Less\.drift takes \(self, x\), and is called as drift\(self, x, t\); define it"
    ):

        class Less(Mine):
            def drift(self, x: Tensor) -> Tensor:  # type: ignore[override]
                return -x


BY_NAME = {  # of functions that are given conditions too, by names that nobody knows before
    fuzz.Case("guidance.ClassifierGuidance", "classifier", "takes nine"),
    fuzz.Case("models.foreign.TwoTimes", "net", "takes nine"),
}


def functions() -> list[fuzz.Case]:
    """Every argument of a public name that is a function."""
    return [case for name in fuzz.TARGETS for case in fuzz.cases_of(name) if case.nonsense.startswith("takes")]


@pytest.mark.parametrize("case", functions(), ids=str)
def test_functions_that_take_other_arguments_are_refused(case: fuzz.Case) -> None:
    found, said = fuzz.verdict(case)
    assert found == ("allowed" if case in BY_NAME else "sentence"), said


class Single(nn.Module):
    """A network of the state alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Labelled(nn.Module):
    """A network that needs a condition."""

    def forward(self, x: Tensor, level: Tensor, label: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("make", [sdegen.Model, sdegen.DirectModel], ids=lambda make: make.__name__)
def test_networks_take_a_state_and_a_level(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"net takes \(x\), and is called as net\(x, level\); give a function"):
        make(Single(), sdegen.VP())
    for net in (Labelled(), nets.MLP(2, width=4), torch.compile(nets.MLP(2, width=4))):
        make(net, sdegen.VP())


class Draws:
    """A law without a generator."""

    def sample(self, n: int) -> Tensor:
        return torch.zeros(n, 2)

    def log_prob(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros(len(x))


def test_laws_take_a_number_and_a_generator() -> None:
    with pytest.raises(TypeError, match=r"law\.sample takes \(n\), and is called as law\.sample\(n, generator\); give"):
        check_law("law", Draws())
    with pytest.raises(TypeError, match=r"law\.log_prob takes \(x, y\), and is called as law\.log_prob\(x\); give"):
        check_law("law", Draws(), "log_prob")
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    calls: list[Callable[[], Any]] = [
        lambda: sdegen.fit(sdegen.Model(nets.MLP(2, width=4), sdegen.VP()), Draws(), steps=1),
        lambda: sdegen.log_prob(model, torch.zeros(1, 2), prior=Draws()),
        lambda: sdegen.metrics.kl(Draws(), sdegen.data.gaussian_ring(), n=10),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"takes \(.*\), and is called as .*; give a function that takes that"):
            call()
    for law in (torch.distributions.Normal(torch.zeros(2), 1.0), sdegen.data.gaussian_ring()):
        check_law("law", law, "sample", "log_prob")


def test_what_does_not_tell_passes() -> None:
    for function in (torch.sin, max, print, lambda *a: 0, lambda a, b=1, *c, **d: 0):
        assert check_call("f", function, ["x"]) is function
    with pytest.raises(TypeError, match=r"callback takes \(\), and is called as callback\(step\); give a function"):
        sdegen.fit(sdegen.Model(nets.MLP(2, width=4), sdegen.VP()), torch.randn(9, 2), steps=1, callbacks=[lambda: 1])


MADE: dict[str, tuple[Callable[[], object], str]] = {
    "sampler": (
        lambda: sdegen.testing.check_sampler(sdegen.samplers.Heun(10), sdegen.VP()),
        r"^make is a Heun; .* class Heun",
    ),
    "another sampler": (
        lambda: sdegen.testing.check_sampler(sdegen.samplers.DDIM(), sdegen.VP()),
        r"^make is a DDIM; give a function of \(int\) that returns a Sampler: the class DDIM itself, or a lambda\.$",
    ),
    "number": (lambda: sdegen.testing.check_sampler(10, sdegen.VP()), r"^make is an int; .* returns a Sampler\.$"),
    "product": (lambda: sdegen.guidance.Product(MODEL), r"^models is an Exact; give a dict \{ScoreModel: float\}"),
    "mixed": (lambda: sdegen.guidance.Mixed(MODEL), r"^models is an Exact; give a dict \{ScoreModel: float\}"),
    "table": (
        lambda: sdegen.data.Table(sdegen.data.NumberColumn()),
        r"^columns is a NumberColumn; give a dict \{str: Column\}",
    ),
}
MODEL = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())


@pytest.mark.parametrize("case", MADE)
def test_a_thing_given_for_what_makes_or_holds_it_is_told_what_to_give(case: str) -> None:
    call, told = MADE[case]
    with pytest.raises(TypeError, match=told):
        call()


CALLED: dict[str, tuple[Callable[[], Any], str]] = {
    "another name": (lambda: sdegen.OU(theta=1.0), r"^OU has no argument 'theta'; it takes rate, T\.$"),
    "a name like it": (
        lambda: sdegen.VP(beta_mix=1.0),
        r"^VP has no argument 'beta_mix'; did you mean beta_m(in|ax)\?$",
    ),
    "more by place": (
        lambda: sdegen.sample(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), 3, 10),
        r"^sample takes 2 arguments by place, and is given 3; give others by name: x_T, steps, sampler, ",
    ),
    "more than one by place": (
        lambda: sdegen.guidance.Mixed([], []),
        r"^Mixed takes 1 argument by place, and is given 2\.$",
    ),
    "more of a constructor": (lambda: sdegen.OU(1.0, 2.0, 3.0), r"^OU takes 2 arguments by place, and is given 3\.$"),
}


@pytest.mark.parametrize("case", CALLED)
def test_a_call_is_told_which_arguments_there_are(case: str) -> None:
    call, told = CALLED[case]
    with pytest.raises(TypeError, match=told):
        call()


LABELS = torch.zeros(4, dtype=torch.long)
DATA: dict[str, tuple[Any, str]] = {
    "dict": (
        {"label": LABELS, "x": torch.zeros(4, 2)},
        r"^data is a dict; .*\(d\['x'\], \{'label': d\['label'\]\}\)\.$",
    ),
    "items": ([{"image": torch.zeros(2)}], r"^data is a list; .* torch\.stack makes .*, or iter\(data\)"),
    "batch": (iter([{"y": LABELS, "x": torch.zeros(4, 2)}]), r"^batch 1 of the data is a dict; .*\(d\['x'\], \{'y': d"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_by_name_and_in_lists_are_told_what_to_give(case: str) -> None:
    data, told = DATA[case]
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1), sdegen.VP())
    with pytest.raises(TypeError, match=told):
        sdegen.fit(model, data, steps=1, progress=False)


def test_a_tensor_beside_data_of_another_condition_is_said_to_be_the_label() -> None:
    net = sdegen.nets.MLP(2, width=4, depth=1, conditions={"theta": nets.Vector(3)})
    with pytest.raises(TypeError, match=r"the condition 'label', .* give a dict, \(x, \{'theta': tensor\}\)\), or"):
        sdegen.fit(sdegen.Model(net, sdegen.VP()), (torch.zeros(4, 2), torch.zeros(4, 3)), steps=1, progress=False)


READINGS = ["score", "noise", "denoise", "velocity", "estimate"]
STATES: dict[str, tuple[Any, str]] = {
    "array": (np.zeros((3, 2)), r"^x is an ndarray; give a tensor: torch\.from_numpy\(x\)\.$"),
    "list": ([[0.0, 1.0]], r"^x is a list; give a tensor\.$"),
    "number": (1.0, r"^x is a float; give a tensor\.$"),
    "nothing": (None, r"^x is None; give a tensor\.$"),
    "whole numbers": (torch.ones(3, 2, dtype=torch.long), r"^x has dtype torch\.int64; "),
    "truth values": (torch.ones(3, 2, dtype=torch.bool), r"^x has dtype torch\.bool; "),
    "complex numbers": (torch.ones(3, 2, dtype=torch.complex64), r"^x has dtype torch\.complex64; "),
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("state", STATES)
def test_states_that_are_no_tensors_are_refused_by_every_reading_of_a_model(state: str, reading: str) -> None:
    given, told = STATES[state]
    net = nets.MLP(2, width=4, depth=1)
    models: list[sdegen.ScoreModel] = [MODEL, sdegen.Model(net, sdegen.VP()), sdegen.Model(net, sdegen.EDM())]
    models += [sdegen.DirectModel(net, sdegen.VP()), sdegen.guidance.Product({MODEL: 2.0}), sdegen.Conditioned(MODEL)]
    models += [sdegen.guidance.PiGDM(MODEL, sdegen.measurements.Linear(torch.eye(2), 0.5))]
    for model in models:
        with pytest.raises(TypeError, match=told):
            getattr(model, reading)(given, 0.5, **({"y": torch.zeros(2)} if "y" in model.conditions.names else {}))
