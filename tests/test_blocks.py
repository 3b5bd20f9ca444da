"""Building blocks called by hand: what is no tensor is refused in a sentence, and so is one that they cannot compute with."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fuzz import TARGETS, call, is_raised_here
from torch import Tensor

import sdegen
from sdegen.blocks import OfTensors

FIRST = torch.Generator().manual_seed(0)
X = torch.randn(8, 2, generator=FIRST)
# One of these is valid for most methods.
VALID = [
    X,
    X.abs() / 8 + 0.1,
    X[:, :1],
    torch.rand(8, 1, 8, 8, generator=FIRST),
    torch.ones(8, 3) / 3,
    torch.randn(8, 4, generator=FIRST),
    torch.randn(8, 16, 2, generator=FIRST),
]
VALID += [torch.rand(8, generator=FIRST), torch.tensor(0.5)]
VALID += [torch.randn(shape, generator=FIRST) for shape in ((2,), (8, 5), (8, 16))] + [
    torch.rand(6, 64, generator=FIRST)
]
OTHERS = {"t": torch.tensor(0.5).double(), "n": 4, "level": torch.rand(8, generator=FIRST)}
NONSENSE: dict[str, Callable[[Tensor], Any]] = {
    "array": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "number": lambda x: 0.5,
    "word": lambda x: "x",
    "none": lambda x: None,
    "of integers": lambda x: (10 * x).long(),
    "another column": lambda x: torch.cat([x, x[..., :1]], -1) if x.ndim else x.expand(3),
}
OWNERS: list[str] = [
    name for name, (kind, _) in sorted(TARGETS.items()) if inspect.isclass(kind) and issubclass(kind, OfTensors)
]
# An interface, and traces of derivatives, whose first argument is no tensor.
UNTRIED = ("baselines.Bijection", "laws.derivatives.HutchPlusPlus", "laws.derivatives.Hutchinson")


def methods(kind: type) -> Iterator[str]:
    for name in dir(kind):
        owner = next(c for c in kind.__mro__ if name in vars(c))
        public = name == "__call__" or not name.startswith("_")
        if public and issubclass(owner, OfTensors) and inspect.isfunction(vars(owner)[name]):
            yield name


def valid_call(method: Any) -> tuple[list[Any], list[inspect.Parameter]] | None:
    """Arguments that a method takes, and its parameters; None where its first is no tensor, or no likely one will do."""
    places = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty and p.kind <= 1]
    if not places or places[0].annotation != "Tensor" or len(places) > 3:
        return None
    for x in [*VALID, *(x.double() for x in VALID)]:
        given = [x, *(OTHERS.get(p.name, x) for p in places[1:])]
        try:
            with torch.no_grad():
                method(*given)
        except Exception:
            continue
        return given, places
    return None


@pytest.mark.parametrize("name", OWNERS)
def test_a_block_takes_tensors_alone(name: str) -> None:
    draw, owner, tried = random.Random(name), call(name, used=False), 0
    for each in methods(type(owner)):
        method = getattr(owner, each)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = valid_call(method)
            if found is None:
                continue
            given, places = found
            tried += 1
            k = draw.choice([i for i, p in enumerate(places) if p.annotation == "Tensor"])
            for tag in draw.sample([*NONSENSE], 4):
                wrong: list[Any] = [*given]
                wrong[k] = NONSENSE[tag](given[k])
                failure = None
                try:
                    with torch.no_grad():
                        method(*wrong)
                except Exception as error:
                    failure = error
                what = f"{each}({places[k].name}, {tag}): {failure}"
                if failure is None:
                    assert isinstance(wrong[k], Tensor), what
                else:
                    assert is_raised_here(failure), what
                    assert str(failure).endswith("."), what
    assert tried or name in UNTRIED, "no method took any of the valid arguments"


def test_failures_that_are_not_of_kinds_and_shapes_are_left_as_they_are() -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("the instrument is off")

    seen = sdegen.measurements.Nonlinear(fails, 0.5)
    with pytest.raises(RuntimeError, match=r"^the instrument is off$"):
        seen(X)


def test_a_call_without_its_arguments_fails_as_python_says() -> None:
    for call_without, missing in (
        (lambda: sdegen.measurements.Grey(0.5)(), "'x'"),  # type: ignore[call-arg]
        (lambda: sdegen.nets.MLP(dim=2)(X), "'level'"),
    ):
        with pytest.raises(TypeError, match=f"missing 1 required positional argument: {missing}$"):
            call_without()


def test_what_code_says_itself_is_not_put_into_another_sentence() -> None:
    with pytest.raises(ValueError, match=r"^x has shape .* with sides divisible by 2\.$"):
        sdegen.measurements.Downsample(2, 0.5)(torch.ones(1, 1, 5, 5))

    def refuses(x: Tensor) -> Tensor:
        raise ValueError("lenses must match")

    with pytest.raises(ValueError, match=r"^lenses must match$"):
        sdegen.measurements.Nonlinear(refuses, 0.5)(X)
    seen = sdegen.measurements.Nonlinear(lambda x: x @ torch.ones(2, 3), 0.5)
    with pytest.raises(ValueError, match=r"^Nonlinear.__call__ was given x of shape \(8, 5\)") as failure:
        seen.log_prob(torch.ones(8, 3), torch.ones(8, 5))
    assert str(failure.value).count("was given") == 1


def test_the_advice_about_whole_numbers_works() -> None:
    net, x = sdegen.nets.MLP(dim=2), X.long()
    with pytest.raises(TypeError, match=r"^x has dtype torch.int64; give floating-point numbers: x\.float\(\)\.$"):
        net(x, torch.ones(1))
    assert net(x.float(), torch.ones(1)).shape == x.shape
