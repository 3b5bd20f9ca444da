"""Conditions: their names, their dtypes, and their rows, whatever part of a run goes through the model at a time."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wrappers import kinds
from torch import Tensor, nn

import sdegen
from sdegen import VP, Exact, ExactConditional, Model, fit, guidance, sample, samplers
from sdegen.conditions import Conditions, check_labels, conditions_of
from sdegen.guidance import free, measurements
from sdegen.laws.derivatives import Hutchinson
from sdegen.models import Conditioned, DirectModel, LongSeries, ScoreModel, Wrapper
from sdegen.models.named import keywords_of
from sdegen.models.transformed import TransformedModel
from sdegen.samplers import DDIM, Heun, decode, edit, encode, interpolate
from sdegen.samplers.picard import GuessingModel
from sdegen.training.dropping import TAKE_CONDITIONS

RING = sdegen.data.gaussian_ring()
N = 5
LABEL = torch.tensor([0, 1, 2, 2, 1])
NULL = torch.tensor([2, -1, 0, 1, -1])
SEEN = measurements.Mask(torch.tensor([True, False]), std=0.5)
Y = torch.linspace(-1, 1, N, dtype=torch.float64)[:, None]
X = RING.sample(N, torch.Generator().manual_seed(0))


def network() -> Model:
    """A small network that takes labels, with weights that answer."""
    torch.manual_seed(0)
    model = Model(sdegen.nets.MLP(2, width=8, depth=1, classes=3), VP()).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    model.moments = RING.moments()
    return model


MODEL = network()
CLASSIFIER = guidance.ExactClassifier(VP(), [RING] * 3)

# Every wrapper, with a value for each sample wherever it takes or holds one: the wrapper, and the conditions of a run.
WRAPPED: dict[type[Wrapper], tuple[Callable[[], ScoreModel], dict[str, Any]]] = {
    Conditioned: (lambda: Conditioned(MODEL, label=LABEL), {}),
    guidance.Without: (lambda: guidance.Without(MODEL, label=LABEL), {}),
    guidance.Autoguidance: (lambda: guidance.Autoguidance(MODEL, Conditioned(MODEL, label=NULL), 2.0), {}),
    guidance.APG: (lambda: guidance.APG(MODEL, 2.0, {"label": NULL}), {"label": LABEL}),
    guidance.CFGPlusPlus: (
        lambda: guidance.CFGPlusPlus(MODEL, 0.5, torch.tensor([1.0, 0.5]), {"label": NULL}),
        {"label": LABEL},
    ),
    guidance.CFGZeroStar: (lambda: guidance.CFGZeroStar(MODEL, 2.0, {"label": NULL}), {"label": LABEL}),
    guidance.ClassifierFree: (lambda: guidance.ClassifierFree(MODEL, 2.0, {"label": NULL}), {"label": LABEL}),
    guidance.ClassifierGuidance: (lambda: guidance.ClassifierGuidance(MODEL, CLASSIFIER), {"label": LABEL}),
    guidance.Clipped: (lambda: guidance.Clipped(MODEL, -1.0, 1.0), {"label": LABEL}),
    guidance.DPS: (lambda: guidance.DPS(MODEL, SEEN, 0.1), {"y": Y, "label": LABEL}),
    guidance.DynamicThreshold: (lambda: guidance.DynamicThreshold(MODEL, -1.0, 1.0), {"label": LABEL}),
    guidance.EpsilonScaling: (lambda: guidance.EpsilonScaling(Conditioned(MODEL, label=LABEL), 1.01), {}),
    guidance.KalmanUpdate: (lambda: guidance.KalmanUpdate(MODEL, SEEN), {"y": Y, "label": LABEL}),
    guidance.MomentMatching: (lambda: guidance.MomentMatching(MODEL, SEEN), {"y": Y, "label": LABEL}),
    guidance.PiGDM: (lambda: guidance.PiGDM(Conditioned(MODEL, label=LABEL), SEEN), {"y": Y}),
    guidance.Product: (
        lambda: guidance.Product([(MODEL, 2.0), (guidance.Without(MODEL, label=NULL), -1.0)]),
        {"label": LABEL},
    ),
    guidance.Replacement: (lambda: guidance.Replacement(MODEL, SEEN), {"y": Y, "label": LABEL}),
    guidance.Rescaled: (
        lambda: guidance.Rescaled(guidance.ClassifierFree(MODEL, 2.0, {"label": NULL})),
        {"label": LABEL},
    ),
    guidance.RescaledGuidance: (
        lambda: guidance.RescaledGuidance(MODEL, 2.0, null={"label": NULL}),
        {"label": LABEL},
    ),
}


def test_every_wrapper_is_among_them() -> None:
    between = {guidance.Guided, free.Extrapolated, free.AgainstNull, free.AffineExtrapolation}  # bases of others
    between |= {TransformedModel}  # of another process than that inside: see test_coordinates
    between |= {LongSeries}  # of longer states than those inside: see test_long_series
    between |= {guidance.Mixed}  # of members that know their densities, which this model does not: see test_annealing
    between |= {GuessingModel}  # made by a run alone, and asked by questions alone: see test_picard
    assert kinds(Wrapper) - between == set(WRAPPED)


def of_parts(model: ScoreModel, cond: dict[str, Any], batch: int | None) -> Tensor:
    """The samples of a run made by three processes."""
    parts = [sample(model, N, part=(r, 3), batch=batch, seed=0, sampler=DDIM(3, eta=1.0), **cond) for r in range(3)]
    return torch.cat(parts)


ONE_PROBE: dict[str, Any] = {"method": "midpoint", "steps": 2, "divergence": Hutchinson()}

# What is computed of N rows, a part of them at a time.
RUNS: dict[str, Callable[[ScoreModel, dict[str, Any], int | None], Tensor]] = {
    "sample": lambda m, c, b: sample(m, N, sampler=DDIM(3, eta=1.0), seed=0, batch=b, **c),
    "part": of_parts,
    "path": lambda m, c, b: sample(m, N, sampler=Heun(3), seed=0, batch=b, return_path=True, **c).transpose(0, 1),
    "encode": lambda m, c, b: encode(m, X, steps=3, batch=b, **c),
    "decode": lambda m, c, b: decode(m, X, steps=3, batch=b, **c),
    "edit": lambda m, c, b: edit(m, X, 0.5, steps=3, seed=0, batch=b, **c),
    "interpolate": lambda m, c, b: interpolate(m, X, X.flip(0), torch.tensor([0.3, 0.6]), steps=3, batch=b, **c),
    "elbo": lambda m, c, b: sdegen.elbo(m, X, draws=2, generator=seeded(), batch=b, **c).value,
    "discrete_elbo": lambda m, c, b: sdegen.discrete_elbo(m, X, 2, draws=2, generator=seeded(), batch=b, **c).value,
    "log_prob": lambda m, c, b: sdegen.log_prob(m, X, generator=seeded(), batch=b, **ONE_PROBE, **c),
}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.thinned(3)
@pytest.mark.turns("MomentMatching-encode")
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", WRAPPED, ids=lambda kind: kind.__name__)
def test_rows_do_not_depend_on_what_goes_through_the_model_with_them(kind: type[Wrapper], run: str) -> None:
    make, cond = WRAPPED[kind]
    whole = RUNS[run](make(), cond, None)
    assert whole.isfinite().all()
    for batch in (1, 3, N) if run == "sample" else (3,):
        torch.testing.assert_close(RUNS[run](make(), cond, batch), whole, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("fixed", [False, True], ids=["of the run", "fixed"])
def test_labels_that_are_no_labels_of_the_whole_are_none_of_a_chunk(run: str, fixed: bool) -> None:
    """Of labels as many as a chunk has rows, and not the run, every chunk would take all."""
    for batch in (2, 3, 4):
        cond = {"label": torch.zeros(batch, dtype=torch.long)}
        model = Conditioned(MODEL, **cond) if fixed else MODEL
        with pytest.raises(ValueError, match=r"label has shape"):
            RUNS[run](model, {} if fixed else cond, batch)


@pytest.mark.parametrize("value", [{"a": torch.zeros(5), "b": 1}, [torch.zeros(5)], ["cat"] * 5, (torch.zeros(5, 2),)])
def test_what_has_a_part_for_each_sample_and_cannot_be_cut_is_refused(value: Any) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, parts: Any = None) -> Tensor:
            return x

    model = sdegen.Model(Net(), VP())
    model.moments = RING.moments()
    assert sample(model, 5, steps=2, seed=0, parts=value).shape == (5, 2)
    with pytest.raises(
        TypeError, match=r"parts is a .* with something for each of 5 samples, which batch= .* cannot cut"
    ):
        sample(model, 5, steps=2, seed=0, parts=value, batch=2)


SAMPLERS: dict[str, samplers.Sampler] = {
    "DDIM": DDIM(3), "Ancestral": samplers.Ancestral(3), "Euler": samplers.EulerMaruyama(3), "Heun": Heun(3),
    "flow": samplers.ProbabilityFlow(3, method="rk4"), "multistep": samplers.Multistep(4, order=2),
    "singlestep": samplers.Singlestep(4), "exponential": samplers.ExponentialSDE(4), "secant": samplers.SecantSDE(4),
    "reverse": samplers.ReverseDiffusion(3), "Langevin": samplers.Langevin(3), "annealed": samplers.AnnealedLangevin(2),
    "corrected": samplers.PredictorCorrector(DDIM(3)), "churn": samplers.Churn(3),
    "restart": samplers.Restart(DDIM(4), [samplers.Interval(0.2, 2.0, 1, 2)]),
}  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_of_every_sampler_are_those_of_the_whole_run(sampler: str) -> None:
    model = guidance.ClassifierFree(MODEL, 2.0, {"label": NULL})
    runs = [sample(model, N, sampler=SAMPLERS[sampler], seed=0, batch=b, label=LABEL) for b in (None, 1, 3)]
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("wrapper", [guidance.PiGDM, guidance.DPS, guidance.Replacement])
@pytest.mark.parametrize("numbers", [1, 2])
def test_one_measurement_is_not_cut_where_it_is_as_long_as_the_run(wrapper: Any, numbers: int) -> None:
    """Of two numbers measured of one datum two samples get both, not one each."""
    A = measurements.Linear(torch.eye(2, dtype=torch.float64)[:numbers], 0.5)
    model, y = wrapper(Exact(VP(), RING), A), torch.linspace(1, 2, numbers, dtype=torch.float64)
    runs = [sample(model, numbers, x_T=None, sampler=DDIM(3), seed=0, batch=b, y=y) for b in (None, 1)]
    torch.testing.assert_close(runs[0], runs[1])
    each = sample(model, numbers, sampler=DDIM(3), seed=0, batch=1, y=y.expand(numbers, numbers))
    torch.testing.assert_close(runs[0], each)


def test_particles_share_what_is_conditioned_on() -> None:
    for model in (guidance.PiGDM(MODEL, SEEN), guidance.PiGDM(Conditioned(MODEL, label=LABEL), SEEN)):
        with pytest.raises(ValueError, match="has a row for each particle; give one"):
            guidance.twisted_smc(model, N, steps=2, y=Y if model.model is MODEL else Y[0])


# --- names -----------------------------------------------------------------------------------------------------------


def argument_names() -> list[str]:
    """The names of all arguments of all functions of the library that take conditions besides."""
    found = set()
    for file in Path(sdegen.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None:
                found |= {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    return sorted(found - {"self", "cls"})


NAMES = argument_names()


class Named(nn.Module):
    """A network that takes one condition, of any name, and adds it; it keeps the last."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.line, self.seen = name, nn.Linear(2, 2), None

    def forward(self, x_: Tensor, level_: Tensor, /, **cond: Any) -> Tensor:
        (self.seen,) = [cond.pop(self.name)]
        assert not cond
        return self.line(x_) + self.seen.to(x_)


def trained(name: str) -> Model | DirectModel | str:
    """A model trained for a step with a condition of this name, or why it was refused."""
    model = Model(Named(name), VP())
    try:
        fit(model, (X.float(), {name: torch.ones(N, 1)}), steps=1, batch_size=4, seed=0)
    except ValueError as refusal:
        return str(refusal)
    return model


@pytest.mark.parametrize("name", [*NAMES, "c", "t", "x", "batch", "label", "y", "text", "class_", "kwargs"])
def test_a_condition_can_be_trained_and_sampled_or_is_refused_at_fit(name: str) -> None:
    model = trained(name)
    if isinstance(model, str):
        assert any(name in keywords_of(caller) for caller in TAKE_CONDITIONS)
        assert model.startswith(f"the data has the condition {name!r}, which is an argument of ")
        assert model.endswith(".") and "\n" not in model
        return
    cond = {name: torch.full((N, 1), 0.5)}
    assert sample(model, N, steps=2, seed=0, batch=4, **cond).shape == (N, 2)
    assert model.net.seen.unique().tolist() == [0.5]
    assert sdegen.log_prob(model, X.float(), tolerance=0.1, **cond).shape == (N,)
    assert sdegen.elbo(model, X.float(), draws=2, **cond).value.isfinite().all()
    assert sample(Conditioned(model, **cond), N, steps=2, seed=0, batch=3).shape == (N, 2)


@settings(max_examples=40, deadline=None)
@given(name=st.from_regex(r"[a-z_][a-z_0-9]{0,8}", fullmatch=True))
def test_names_are_conditions_or_refused(name: str) -> None:
    model = trained(name)
    if not isinstance(model, str):
        assert sample(model, N, steps=1, seed=0, **{name: torch.ones(N, 1)}).isfinite().all()


def test_a_module_cannot_be_called_with_itself_by_name() -> None:
    with pytest.raises(TypeError, match=r"the data has the condition 'self', and Model .* rename it"):
        trained("self")


def test_a_condition_that_is_fixed_is_not_given_again() -> None:
    laws = [sdegen.data.gaussian_ring(modes) for modes in (2, 3)]
    fixed = Conditioned(ExactConditional(VP(), laws, laws[0]), label=1)
    both = guidance.Mixed([(fixed, 0.5), (fixed.model, 0.5)])
    for model in (fixed, both):
        for read in (model.score, model.denoise, model.noise, model.log_density):
            with pytest.raises(TypeError, match=r"^label is fixed in this model and was given again; leave it out"):
                read(torch.zeros(2, 2), 0.3, label=0)


def test_readings_of_a_model_without_conditions_say_that_it_takes_none() -> None:
    exact = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    for read in (exact.score, exact.denoise, exact.noise, exact.velocity, exact.estimate, exact.log_density):
        with pytest.raises(TypeError, match=r"takes no condition of that name: it takes none\.$"):
            read(torch.zeros(2, 2), 0.3, mood=1)


@pytest.mark.parametrize("name", ["x", "level"])
def test_an_input_of_the_network_is_no_condition(name: str) -> None:
    model = Conditioned.__init__  # any name may be fixed, but not that of a network's own input
    with pytest.raises(TypeError, match=f"no argument {name!r}, and Model takes no condition of that name"):
        Conditioned(MODEL, **{name: 1.0})
    assert "model" not in keywords_of(model)


def test_a_condition_that_the_network_does_not_take_is_refused_at_fit() -> None:
    data = (X.float(), {"mood": torch.ones(N, 1)})
    with pytest.raises(TypeError, match=r"the data has the condition 'mood', and Model .* takes label; rename it"):
        fit(Model(sdegen.nets.MLP(2, width=8, classes=2), VP()), data, steps=1, seed=0)


TAKING: dict[str, Callable[..., Tensor]] = {
    "none": lambda x, t: x,
    "label": lambda x, t, label=None: x,
    "height, label": lambda x, t, *, label=None, height=None: x,
}


@pytest.mark.parametrize("taken", TAKING)
def test_the_refusal_of_a_condition_says_which_are_taken(taken: str) -> None:
    class Network(nn.Linear):
        forward = staticmethod(TAKING[taken])

    data = (X.float(), {"mood": torch.ones(N, 1)})
    with pytest.raises(
        TypeError, match=f"the data has the condition 'mood', .* its network, which takes {taken}; rename it"
    ):
        fit(Model(Network(2, 2), VP()), data, steps=1, seed=0)


NAMED = st.frozensets(st.sampled_from("abc"))


@st.composite
def conditions(draw: st.DrawFn) -> Conditions:
    names, needed = draw(NAMED), draw(NAMED)
    nulls = {name: float(draw(st.integers(-1, 1))) for name in draw(NAMED)}
    return Conditions(names, draw(st.booleans()), names & needed, draw(NAMED), {}, nulls, draw(NAMED), draw(NAMED))


@settings(max_examples=200, deadline=None)
@given(one=conditions(), other=conditions(), some=NAMED)
def test_conditions_without_with_more_and_of_both_are_those_of_the_sets(
    one: Conditions, other: Conditions, some: frozenset[str]
) -> None:
    for name in "abcz":
        assert one.without(some).takes(name) == (one.takes(name) and name not in some)
        assert one.plus(*some).takes(name) == (one.takes(name) or name in some)
        assert one.both(other).takes(name) == (one.takes(name) and other.takes(name))
    assert one.without(some).needed == one.needed - some
    assert one.plus(*some).needed == one.needed
    both = one.both(other)
    assert both.needed == one.needed | other.needed
    # One that is dropped stands for none where it does for both: by the number of the first.
    assert both.nulls == {name: null for name, null in one.nulls.items() if name in other.nulls}
    assert (both.untaught, both.undropped) == (one.untaught | other.untaught, one.undropped | other.undropped)
    less = one.without(some)
    assert (less.untaught, less.undropped) == (one.untaught - some, one.undropped - some)
    assert less.nulls == {name: null for name, null in one.nulls.items() if name not in some}


def test_the_conditions_of_a_function_are_its_arguments_beyond_the_inputs() -> None:
    class Method:
        def call(self, x: Any, level: Any, /, a: Any, *, b: int = 1) -> None: ...

    def positional(x: Any, level: Any, a: Any = None, /, b: Any = 1) -> None: ...

    named = lambda x, level, a, b=1, *, c, d=2: None
    for function, inputs, names, needed, never, others in (
        (named, 2, "abcd", "ac", {"x", "level"}, False),
        (named, 3, "bcd", "c", {"x", "level", "a"}, False),
        (lambda x, level, /, a=1, **more: None, 2, "a", "", set(), True),
        (lambda x, *rest, a: None, 2, "a", "a", {"x"}, False),
        (Method().call, 2, "ab", "a", set(), False),
        (positional, 2, "b", "", set(), False),
        (print, 2, {"sep", "end", "file", "flush"}, "", set(), False),
    ):
        found = conditions_of(function, inputs)
        assert (found.names, found.needed, found.others) == (frozenset(names), frozenset(needed), others)
        assert found.never == never | {"self"}


def test_labels_of_an_accelerator_are_looked_at_where_that_is_asked_for_alone() -> None:
    """On a device whose numbers nobody can read, any look would be an error."""
    label = torch.zeros(3, dtype=torch.int64, device="meta")
    assert check_labels(label, 3, 4) is label
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        check_labels(label, 3, 4, look=True)


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "sample": (sample, (3,)), "encode": (encode, (X,)), "decode": (decode, (X,)),
    "encode_with_error": (samplers.encode_with_error, (X,)),
    "interpolate": (interpolate, (X, X.flip(0), torch.ones(1))), "edit": (edit, (X, 0.5)),
    "log_prob": (sdegen.log_prob, (X,)), "estimate_log_prob": (sdegen.estimate_log_prob, (X,)),
    "sample_with_log_prob": (sdegen.sample_with_log_prob, (3,)), "elbo": (sdegen.elbo, (X,)),
    "discrete_elbo": (sdegen.discrete_elbo, (X,)), "Density": (sdegen.Density, ()),
    "bits_per_dim": (sdegen.bits_per_dim, (torch.zeros(2, 2, dtype=torch.uint8),)),
    "noised_bits_per_dim": (sdegen.noised_bits_per_dim, (torch.zeros(2, 2, dtype=torch.uint8),)),
    "discrete_bits_per_dim": (sdegen.discrete_bits_per_dim, (torch.zeros(2, 2, dtype=torch.uint8),)),
    "fit_solver": (samplers.fit_solver, ()),
}  # fmt: skip
MODELS = {
    "exact": Exact(VP(), RING),
    "labelled": ExactConditional(VP(), [RING, RING], RING),
    "network": MODEL,
    "guided": guidance.Clipped(MODEL, -1, 1),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_keyword_is_refused_before_anything_is_run(call: str, model: str) -> None:
    function, given = CALLS[call]
    for name in ("nsteps", "divergance", "rtol", "labels", "bacth", "progres", "nonsense"):
        with pytest.raises(TypeError) as caught:
            function(MODELS[model], *given, **{name: 1})
        message = str(caught.value)
        assert f"no argument {name!r}" in message and message.endswith(".") and "\n" not in message


@settings(max_examples=60, deadline=None)
@given(data=st.data(), call=st.sampled_from(["sample", "encode", "elbo", "estimate_log_prob", "fit_solver"]))
def test_a_misspelt_keyword_is_told_the_right_one(data: st.DataObject, call: str) -> None:
    function, given = CALLS[call]
    name = data.draw(st.sampled_from([n for n in keywords_of(function) if len(n) > 4]))
    place = data.draw(st.integers(0, len(name) - 1))
    wrong = data.draw(st.sampled_from([name[:place] + name[place + 1 :], name[:place] + name[place] + name[place:]]))
    with pytest.raises(TypeError, match=rf"no argument '{wrong}', .*: perhaps '\w+' is meant\."):
        function(MODELS["exact"], *given, **{wrong: 1})


@pytest.mark.parametrize("door", [sdegen.log_prob, sdegen.estimate_log_prob])
@pytest.mark.parametrize("name", ["rtol", "atol", "tol", "reltol"])
def test_a_tolerance_by_another_name_is_told_its_own(door: Any, name: str) -> None:
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    with pytest.raises(
        TypeError, match=rf"^estimate_log_prob has no argument '{name}', .*: perhaps 'tolerance' is meant\.$"
    ):
        door(model, torch.zeros(1, 2), **{name: 1e-3})


def test_a_network_of_any_keywords_takes_any() -> None:
    class Any_(nn.Module):
        def forward(self, x: Tensor, level: Tensor, **cond: Any) -> Tensor:
            return 0.1 * x

    model = Model(Any_(), VP())
    assert sample(model, x_T=X, steps=2, style=3).shape == X.shape
    with pytest.raises(TypeError, match="no argument 'level', and Model takes no condition of that name"):
        sample(model, x_T=X, steps=2, level=3)


def test_a_condition_that_a_network_needs_is_asked_for() -> None:
    class Needs(nn.Module):
        def forward(self, x: Tensor, level: Tensor, style: Tensor) -> Tensor:
            return 0.1 * x + style

    model = Model(Needs(), VP())
    with pytest.raises(TypeError, match="Model needs the condition 'style'; pass style="):
        sample(model, x_T=X, steps=2)
    with pytest.raises(TypeError, match="style is dropped, and Model needs it; train it without"):
        guidance.ClassifierFree(model, 2.0)
    assert sample(Conditioned(model, style=0.5), x_T=X, steps=2).isfinite().all()


# --- labels ----------------------------------------------------------------------------------------------------------

WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.integers(-3, 5), min_size=4, max_size=4),
    dtype=st.sampled_from([*WHOLE, torch.float32, torch.float64, torch.bool]),
    kind=st.sampled_from(["tensor", "array", "list", "one"]),
    door=st.sampled_from(["network", "exact", "classifier"]),
)
def test_labels_are_taken_rightly_or_refused(values: list[int], dtype: torch.dtype, kind: str, door: str) -> None:
    label: Any = torch.tensor(values).to(dtype)
    meant = [int(v) for v in label.tolist()]
    label = {"tensor": label, "array": label.numpy(), "list": label.tolist(), "one": label[0].item()}[kind]
    least = 0 if door == "classifier" else -1
    model = {
        "network": MODEL,
        "exact": ExactConditional(VP(), [RING, RING, RING], RING),
        "classifier": guidance.ClassifierGuidance(MODEL, CLASSIFIER),
    }[door]
    x = X[:4]
    meant = meant[:1] if kind == "one" else meant
    if dtype in WHOLE and all(least <= v <= 2 for v in meant):
        want = sample(model, x_T=x, steps=2, label=torch.tensor(meant).expand(4))
        for batch in (None, 1, 3):
            torch.testing.assert_close(sample(model, x_T=x, steps=2, batch=batch, label=label), want)
    else:
        with pytest.raises((TypeError, ValueError), match=r"^label (has dtype|reaches) .*\.$"):
            sample(model, x_T=x, steps=2, label=label)


@pytest.mark.parametrize("label", ["three", ["a"], [[0, 1], [2]], object(), {"a": 1}])
def test_what_is_no_label_is_refused(label: Any) -> None:
    with pytest.raises(TypeError, match=r"^label is an? .*; give whole numbers from 0 to 2"):
        check_labels(label, 4, 3)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(-3, 8), min_size=1, max_size=5),
    classes=st.integers(1, 6),
    least=st.sampled_from([-1, 0]),
)
def test_a_label_out_of_range_is_named_with_the_range(values: list[int], classes: int, least: int) -> None:
    if all(least <= v < classes for v in values):
        assert check_labels(values, len(values), classes, least).tolist() == values
        return
    with pytest.raises(ValueError, match=r"^label reaches .*\.$") as caught:
        check_labels(values, len(values), classes, least)
    said = re.fullmatch(r"label reaches (-?\d+); labels run from 0 to (\d+)(, and -1 means none)?\.", str(caught.value))
    assert said is not None
    assert int(said[1]) in values and not least <= int(said[1]) < classes
    assert int(said[2]) == classes - 1 and (said[3] is not None) == (least < 0)


@pytest.mark.parametrize("dtype", WHOLE)
def test_labels_of_any_whole_dtype_are_trained_alike(dtype: torch.dtype) -> None:
    losses = []
    for label in (LABEL, LABEL.to(dtype)):
        torch.manual_seed(0)
        model = Model(sdegen.nets.MLP(2, width=8, classes=3), VP())
        losses.append(fit(model, (X.float(), label), steps=2, batch_size=4, seed=0).loss)
        classifier = guidance.NoisyClassifier(sdegen.nets.MLP(2, width=8, out=3), VP())
        losses[-1] += fit(classifier, (X.float(), label), steps=2, batch_size=4, seed=0).loss
    assert losses[0] == losses[1]


def test_signatures_leave_the_names_of_conditions_free() -> None:
    """Of a method that is handed conditions every other argument is positional alone."""
    methods = ("score", "estimate", "denoise", "noise", "velocity", "velocity_at", "answer")
    for kind in (ScoreModel, Exact, Model, DirectModel, *kinds(Wrapper)):
        for method in methods:
            assert not {"x", "t", "at", "question"} & set(keywords_of(getattr(kind, method))), (kind, method)


def test_the_doors_are_all_functions_that_take_conditions_of_a_model() -> None:
    """A new one has to be among those whose arguments `fit` knows."""
    public = [getattr(module, name) for module in (sdegen, samplers, guidance) for name in module.__all__]
    found = [f for f in public if inspect.isfunction(f) and "cond" in inspect.signature(f).parameters]
    assert set(found) <= set(TAKE_CONDITIONS)


def test_a_compiled_network_takes_what_is_compiled() -> None:
    model = Model(torch.compile(sdegen.nets.MLP(2, width=8, classes=3)), VP())
    assert model.conditions.takes("label") and not model.conditions.takes("labels")


@pytest.mark.parametrize("scale", [lambda t: None, lambda t: torch.ones(N), lambda t: "1", torch.ones(N)])
def test_a_scale_is_no_number_for_each_sample(scale: Any) -> None:
    """Such a row would be that of the first part of a run in all parts."""
    with pytest.raises((TypeError, ValueError), match=r"^scale (returned|= float).*\."):
        sample(guidance.EpsilonScaling(Exact(VP(), RING), scale), N, steps=2, seed=0)


class Shifted(torch.nn.Module):
    """A network that declares nothing of its condition."""

    def forward(self, x: Tensor, level: Tensor, y: Any = None) -> Tensor:
        return x if y is None else x + y


@pytest.mark.parametrize("y", [[1.0, 2.0], [[1.0, 2.0]] * 3, ((1, 2), (3, 4), (5, 6)), [[0.5], [1.5], [2.5]]], ids=str)
def test_lists_of_numbers_are_the_tensor_that_they_make(y: Any) -> None:
    model = sdegen.Model(Shifted(), sdegen.VP())
    model.moments = sdegen.data.gaussian_ring().moments()
    want = sdegen.sample(model, 3, steps=2, seed=0, y=torch.tensor(y, dtype=torch.float32))
    x_T = torch.ones(3, 2)
    assert torch.equal(
        sdegen.sample(model, x_T=x_T, steps=2, y=y), sdegen.sample(model, x_T=x_T, steps=2, y=torch.tensor(y).float())
    )
    assert want.shape == (3, 2)
