"""What a model is made of comes back as it was, or the model is not saved: for values of every kind."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sdegen
from sdegen import load, save
from sdegen.storage import write_whole


class Holding(nn.Module):
    """A network of the user's that keeps any value."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value, self.line = value, nn.Linear(2, 2)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.line(x)


class Pair(NamedTuple):
    first: int
    second: float


class Kind(enum.Enum):
    ONE = 1


def model(value: Any) -> sdegen.Model:
    return sdegen.Model(Holding(value), sdegen.VP())


def returned(value: Any, folder: Path) -> Any:
    state = torch.get_rng_state()
    made = model(value)
    torch.set_rng_state(state)
    save(made, folder / "model")
    again = load(folder / "model", classes=[Holding, Pair])
    assert torch.equal(torch.get_rng_state(), state)  # neither draws
    return again.net.value


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal in kind and content."""
    if isinstance(a, np.generic):
        a = a.item()
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.floats(width=32).map(np.float32), st.floats().map(np.float64), st.floats(width=16).map(np.float16),
    st.integers(-128, 127).map(np.int8), st.integers(0, 2**40).map(np.int64), st.booleans().map(np.bool_),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64]),
    st.sampled_from(["float32", "int64", "bool"]).map(lambda name: torch.arange(3).to(getattr(torch, name))),
    st.sampled_from(["float32", "int16", "bool"]).map(lambda name: np.arange(3).astype(name)),
)  # fmt: skip
KEYS = st.one_of(st.text(max_size=4), st.integers(-9, 9), st.tuples(st.integers(0, 3), st.text(max_size=2)))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.builds(Pair, st.integers(), st.floats(allow_nan=False)),
    ),
    max_leaves=6,
)


@given(value=VALUES)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_values_of_any_kind_come_back(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert same(value, returned(value, tmp_path_factory.mktemp("value")))


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Halved(nn.Module):
    """A network that keeps another number than it was made with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.line = width // 2, nn.Linear(2, 2)


class Rounded:
    """An object that turns its argument into something else."""

    def __init__(self, value: Any) -> None:
        self.value = (value, 1)


class Stretched:
    """An object that keeps multiples of the tensors of a list."""

    def __init__(self, values: list[Tensor]) -> None:
        self.values = [2 * value for value in values]


class Turned:
    """An object that keeps the tensors of a list in another dtype."""

    def __init__(self, values: list[Tensor]) -> None:
        self.values = [value.float() if value.dtype == torch.float64 else value.double() for value in values]


class Moody:
    """An object that cannot be made of what it keeps."""

    def __init__(self, value: Any) -> None:
        if isinstance(value, str):
            raise RuntimeError("once only")
        self.value = "kept"


REFUSED: dict[str, Callable[[], Any]] = {
    "a function": lambda: torch.tanh,
    "a lambda": lambda: lambda x: x,
    "a method": lambda: nn.Linear(2, 2).forward,
    "a partial": lambda: functools.partial(torch.add, alpha=2),
    "a class": lambda: nn.SiLU,
    "a set": lambda: {1, 2},
    "a complex number": lambda: 1 + 2j,
    "bytes": lambda: b"x",
    "a path": lambda: Path("x"),
    "an enumeration": lambda: Kind.ONE,
    "a generator": lambda: torch.Generator(),
    "a device": lambda: torch.device("cpu"),
    "a range": lambda: range(3),
    "words in an array": lambda: np.array(["a"]),
    "objects in an array": lambda: np.array([None, 1], dtype=object),
    "a date": lambda: np.datetime64("2020-01-01"),
    "a circle": circle,
    "a sparse tensor": lambda: torch.eye(2).to_sparse(),
    "a tensor without content": lambda: torch.empty(2, device="meta"),
    "a list of functions": lambda: [1, torch.tanh],
    "an argument that grows": lambda: Rounded(1),
    "an object that cannot be made": lambda: Moody(1),
    "tensors that grow": lambda: Stretched([torch.ones(2)]),
    "tensors that turn into another dtype": lambda: Turned([torch.ones(2)]),
    "a changed width": lambda: Halved(8),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_not_come_back_is_not_saved(kind: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        save(model(REFUSED[kind]()), tmp_path / "model")
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 300, message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "what"), [("a sparse tensor", "sparse"), ("a tensor without content", "no numbers")])
def test_a_tensor_that_no_file_can_hold_is_refused_by_its_kind(kind: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"^the tensor kept is .*{what}.*; give "):
        write_whole({"kept": REFUSED[kind]()}, {}, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_class_of_the_library_that_files_do_not_know_is_refused(tmp_path: Path) -> None:
    class Odd(sdegen.VP):
        pass

    Odd.__module__ = "sdegen.processes.odd"
    with pytest.raises(
        TypeError, match=r"the model is made of a processes\.Odd, which no file gives back; save the model"
    ):
        save(sdegen.Model(Holding(1), Odd()), tmp_path / "model")
    namesake = type("Holding", (Holding,), {})
    with pytest.raises(TypeError, match=r"is of one of two classes named Holding; rename one"):
        save(model([Holding(1), namesake(2)]), tmp_path / "model")


def test_a_compiled_network_is_saved_as_the_one_inside(tmp_path: Path) -> None:
    inside = sdegen.nets.MLP(2, width=8, depth=1)
    for compiled in (
        sdegen.Model(torch.compile(inside, backend="eager"), sdegen.VP()),
        torch.compile(sdegen.Model(inside, sdegen.VP()), backend="eager"),
    ):
        save(compiled, tmp_path / "model")
        again = load(tmp_path / "model")
        assert type(again) is sdegen.Model and type(again.net) is sdegen.nets.MLP
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), inside.parameters(), strict=True))


def test_weights_of_several_dtypes_keep_their_own(tmp_path: Path) -> None:
    made = model(1)
    made.net.line.weight.data = made.net.line.weight.data.to(torch.bfloat16)
    made.net.line.bias.data = torch.tensor([1 / 3, 1e-9])
    save(made, tmp_path / "model")
    again = load(tmp_path / "model", classes=[Holding])
    assert again.net.line.weight.dtype == torch.bfloat16 and again.net.line.bias.dtype == torch.float32
    assert torch.equal(again.net.line.bias, made.net.line.bias)


def test_what_was_set_on_a_process_beside_its_arguments_comes_back(tmp_path: Path) -> None:
    well = sdegen.DoubleWell()
    well.lag = 0.125
    save(sdegen.DirectModel(sdegen.nets.MLP(2, width=8), well), tmp_path / "model")
    assert load(tmp_path / "model").sde.lag == 0.125
    assert load(tmp_path / "model").sde.perturb(torch.zeros(3, 2), 0.5).x.shape == (3, 2)


class OwnRates(sdegen.ScalarSDE):
    """A process as a user writes it, whose derived times are remembered once they have been asked for."""

    def f(self, t: torch.Tensor) -> torch.Tensor:
        return -5 * t

    def g(self, t: torch.Tensor) -> torch.Tensor:
        return (10 * t).sqrt()


def test_what_a_process_of_a_user_remembers_is_none_of_its_settings(tmp_path: Path) -> None:
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), OwnRates())
    model.moments = sdegen.data.gaussian_ring().moments()
    asked = model.sde.t_min, model.sde.t_max
    assert {"t_min", "t_max"} <= vars(model.sde).keys()
    sdegen.save(model, tmp_path / "model.safetensors")
    again = sdegen.load(tmp_path / "model.safetensors", classes=[OwnRates])
    assert (again.sde.t_min, again.sde.t_max) == asked
