"""Files that were damaged or made up: each is refused in one sentence, and builds nothing but what the library knows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import sdegen
from sdegen import fit, load, models, nets, save, storage
from sdegen.construction import _Bounded
from sdegen.training.averages import Snapshots
from sdegen.training.checkpoints import Folder

RING = sdegen.data.gaussian_ring()


def small() -> sdegen.Model:
    torch.manual_seed(0)
    return sdegen.Model(
        nets.MLP(2, width=8, depth=1),
        sdegen.DDPM(sdegen.processes.cosine_betas(20)),
        models.VelocityParametrization(std=1.5),
    )


def refused(call: Callable[[], Any]) -> str:
    """Make a call that must be refused in one sentence, and return the sentence."""
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        call()
    message = str(caught.value)
    assert is_sentence(message), message
    return message


def is_sentence(message: str) -> bool:
    return "\n" not in message and message.endswith(".") and len(message) < 420


def parts(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


# --- the size of what is made -----------------------------------------------------------------------------------------

FIFTY: dict[str, Callable[[], torch.Tensor]] = {
    "a size by name": lambda: torch.zeros(size=(50,)),
    "a size by name, filled": lambda: torch.full(size=(5, 10), fill_value=2.0, dtype=torch.float64),
    "an end by name": lambda: torch.arange(end=50),
    "steps by name": lambda: torch.linspace(0, 1, steps=50),
    "a generator": lambda: torch.randn(50, generator=torch.Generator().manual_seed(0)),
    "a generator of integers": lambda: torch.randint(high=3, size=(50,), generator=torch.Generator()),
    "a permutation": lambda: torch.randperm(n=50, generator=torch.Generator(), dtype=torch.int32),
    "a place": lambda: torch.ones(50, out=torch.empty(0)),
    "no pinning": lambda: torch.empty(50, pin_memory=False),
}


@pytest.mark.parametrize("how", FIFTY)
def test_numbers_count_however_they_are_asked_for(how: str) -> None:
    with _Bounded(149):
        assert FIFTY[how]().numel() == FIFTY[how]().numel() == 50
        with pytest.raises(ValueError, match="larger than the file"):
            FIFTY[how]()


# --- any byte ---------------------------------------------------------------------------------------------------------


def run_in(folder: Path) -> Any:
    model = sdegen.Model(nets.MLP(2, width=4, depth=1), sdegen.VP(), models.VelocityParametrization())
    return fit(model, RING, steps=4, batch_size=8, seed=0, checkpoint=folder, every=2, snapshots=2, progress=False)


def model_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    save(small(), folder / "model")
    return folder / "model", lambda: load(folder / "model")


def checkpoint_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    run_in(folder)
    return Folder(folder).files()[-1], lambda: run_in(folder)


def average_file(folder: Path) -> tuple[Path, Callable[[], Any]]:
    run_in(folder)
    model = sdegen.Model(nets.MLP(2, width=4, depth=1), sdegen.VP(), models.VelocityParametrization())
    snapshots = Snapshots(dict(model.named_parameters()), folder)
    snapshots.averages[0].n = 4
    return folder / "average-00000002.safetensors", lambda: snapshots.average(0.1)


FILES = {"model": model_file, "checkpoint": checkpoint_file, "average": average_file}


@pytest.mark.parametrize("kind", FILES)
def test_any_byte_that_is_lost_or_changed_is_seen(kind: str, tmp_path: Path) -> None:
    path, read = FILES[kind](tmp_path)
    raw, draw = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(raw[:8], "little")
    for trial in range(60):
        place = draw.randrange(header) if trial % 2 else draw.randrange(header, len(raw))
        changed = bytearray(raw)
        if trial % 3:
            changed[place] ^= 1 << draw.randrange(8)
            if json_of(changed[8:header]) == json_of(raw[8:header]) and place < header:
                continue  # the same header, with another escape or space
        else:
            changed = changed[:place]
        path.write_bytes(changed)
        assert path.name in refused(read)
    path.write_bytes(raw)
    read()


def json_of(raw: bytes | bytearray) -> Any:
    try:
        return json.loads(bytes(raw))
    except ValueError:
        return raw


# --- headers made up --------------------------------------------------------------------------------------------------

NONSENSE = [
    None, True, -1, 0.5, float("nan"), 10**30, "", "x", "processes.VP", "os.system", [], [[]], [1, 2], {}, {"class": 3},
    {"class": ["a"]}, {"class": "processes.SDE", "arguments": {}}, {"class": "processes.VP"},
    {"class": "processes.VP", "arguments": []}, {"class": "processes.VP", "arguments": {"beta_min": "x"}},
    {"class": "processes.VP", "arguments": {"": 1}}, {"class": "processes.VP", "arguments": {"beta_min": -1}},
    {"class": "Trap", "arguments": {}}, {"class": "os.system", "arguments": {"command": "true"}},
    {"class": "nets.MLP", "arguments": {"dim": 10**9}}, {"class": "nets.MLP", "arguments": {"dim": 2, "width": 10**7}},
    {"class": "nets.MLP", "arguments": {"dim": 2, "depth": 10**7}}, {"class": "nn.Linear", "arguments": {}},
    {"tensor": "none"}, {"tensor": 3}, {"tensor": None}, {"array": "x"}, {"pairs": 3}, {"pairs": [1]}, {"pairs": [[[], 1]]},
    {"tuple": 4}, {"tuple": {}}, {"dtype": "load"}, {"dtype": 5}, {"unknown": 1},
    {"class": "processes.VP", "arguments": {}, "also": {"T": 5}}, {"class": "processes.VP", "arguments": {}, "also": 5},
]  # fmt: skip


class Trap:
    """A class that no file may build unless it is given."""

    def __init__(self) -> None:
        raise AssertionError("built")


def places(described: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all entries in a description."""
    entries = described.items() if isinstance(described, dict) else enumerate(described)
    return [
        place
        for key, value in entries
        for place in (
            [(*here, key), *places(value, (*here, key))] if isinstance(value, (dict, list)) else [(*here, key)]
        )
    ]


def put(described: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The description with another value at a place; at the empty place, the value."""
    if not place:
        return value
    changed = json.loads(json.dumps(described))
    owner = changed
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = value
    return changed


def loaded(path: Path) -> tuple[Any, str]:
    """The model in a file, or what is said against it."""
    try:
        return load(path), ""
    except ValueError as error:
        return None, str(error)


def test_made_up_descriptions_are_refused_or_give_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(small(), path)
    header, tensors = parts(path)
    described = json.loads(header["model"])
    draw = random.Random(1)
    state = torch.get_rng_state()
    untouched = put(described, ("class",), described["class"])
    for place, values in [
        ((), [untouched]),
        *((place, draw.sample(NONSENSE, 2)) for place in [(), *places(described)]),
    ]:
        for value in values:
            storage.write_whole(tensors, header | {"model": json.dumps(put(described, place, value))}, path)
            model, said = loaded(path)
            assert model is not None or value is not untouched
            if model is None:
                assert is_sentence(said), (place, value, said)
            else:
                assert isinstance(model, sdegen.Model)
                assert type(model.net) is nets.MLP and isinstance(model.sde, sdegen.ScalarSDE), (place, value)
    assert torch.equal(torch.get_rng_state(), state)


HEADERS: dict[str, Callable[[dict[str, str]], dict[str, str] | None]] = {
    "no description": lambda h: {k: v for k, v in h.items() if k != "model"},
    "no JSON": lambda h: h | {"model": "{"},
    "deep JSON": lambda h: h | {"model": "[" * 100_000},
    "a number": lambda h: h | {"model": "5"},
    "no dtype": lambda h: {k: v for k, v in h.items() if k != "dtype"},
    "a function for a dtype": lambda h: h | {"dtype": "load"},
    "an integer dtype": lambda h: h | {"dtype": "int8"},
    "another format": lambda h: h | {"format": "sdegen-99"},
    "no header": lambda h: None,
}


@pytest.mark.parametrize("what", HEADERS)
def test_made_up_headers_are_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(small(), path)
    header, tensors = parts(path)
    changed = HEADERS[what](header)
    if changed is None:
        save_file(tensors, path)
    else:
        storage.write_whole(tensors, changed, path)
    assert str(path) in refused(lambda: load(path))


WEIGHT = "weight:net.first.weight"
TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "a weight is missing": lambda t: {k: v for k, v in t.items() if k != WEIGHT},
    "an argument is missing": lambda t: {k: v for k, v in t.items() if not k.startswith("argument")},
    "a weight more": lambda t: t | {"weight:more": torch.zeros(3)},
    "a wrong shape": lambda t: t | {WEIGHT: torch.zeros(3, 3)},
    "no axes": lambda t: t | {WEIGHT: torch.zeros(())},
    "integers": lambda t: t | {WEIGHT: t[WEIGHT].long()},
    "complex numbers": lambda t: t | {WEIGHT: t[WEIGHT] * 1j},
    "an argument of another shape": lambda t: t | {"argument:model.sde.betas": torch.zeros(3, 3)},
    "moments of two sizes": lambda t: t | {"moments:mean": torch.zeros(2), "moments:covariance": torch.zeros(3)},
    "units of two shapes": lambda t: t | {"weight:units.mean": torch.zeros(2), "weight:units.std": torch.ones(3)},
    "units that are none": lambda t: (
        t | {"weight:units.mean": torch.zeros(2), "weight:units.std": torch.full((2,), -1.0)}
    ),
    "a mean alone": lambda t: t | {"moments:mean": torch.zeros(2)},
    "a mean of another size": lambda t: (
        t | {"weight:moments.mean": torch.zeros(3), "weight:moments.covariance": torch.eye(2)}
    ),
}


@pytest.mark.parametrize("what", TENSORS)
def test_made_up_tensors_are_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(small(), path)
    header, tensors = parts(path)
    storage.write_whole(TENSORS[what](tensors), header, path)
    assert str(path) in refused(lambda: load(path))


def test_checkpoints_with_something_missing_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    run_in(tmp_path)
    path = Folder(tmp_path).files()[-1]
    header, tensors = parts(path)
    last = {name.split(":")[0] + name.split(".")[-1][:3] * name.startswith("opt"): name for name in sorted(tensors)}
    for name in last.values():
        value = tensors[name]
        for changed in (
            None,
            torch.zeros(3, 3, 3),
            value.double() + 1 if value.dtype != torch.float64 else value.float(),
        ):
            storage.write_whole(
                {k: v for k, v in tensors.items() if k != name} | ({} if changed is None else {name: changed}),
                header,
                path,
            )
            if changed is None and name == "threads":
                continue  # is found again
            assert path.name in refused(lambda: run_in(tmp_path)), name
    for name in ("step", "seconds", "about"):
        for text in ("{", "[1]", "true"):
            storage.write_whole(tensors, header | {name: text}, path)
            assert path.name in refused(lambda: run_in(tmp_path)), (name, text)


# --- files that are none ----------------------------------------------------------------------------------------------


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "no" / "such", "", ".", "\0", None, 5, b"x", ["a"]):
        refused(lambda path=path: load(path))
    for path in (tmp_path, tmp_path / "no" / "such", "", ".", None, 5, b"x"):
        refused(lambda path=path: save(small(), path))
    for model in (None, 5, "x", sdegen.Model, sdegen.VP(), {"a": 1}, torch.zeros(2)):
        refused(lambda model=model: save(model, tmp_path / "model"))
    save(small(), tmp_path / "model")
    for kwargs in (
        {"classes": 5},
        {"classes": ["Own"]},
        {"classes": [small()]},
        {"dtype": "float32"},
        {"dtype": torch.int8},
    ):
        refused(lambda kwargs=kwargs: load(tmp_path / "model", **kwargs))
    assert not list(tmp_path.glob(".*"))
