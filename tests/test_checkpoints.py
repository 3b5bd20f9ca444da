"""A file gives back the model that was saved, is whole or absent, and runs no code."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import sdegen
from sdegen import baselines, files, guidance, load, models, nets, save, storage
from sdegen.files import FORMAT
from sdegen.models import foreign
from sdegen.upgrades import upgrade


class Drifting(sdegen.ScalarSDE):
    """An SDE of the user's."""

    def __init__(self, pull: float, sizes: torch.Tensor) -> None:
        self.pull, self.sizes = pull, torch.as_tensor(sizes, dtype=torch.float64)

    def f(self, t):
        return -self.pull * t

    def g(self, t):
        return self.sizes.sum() * (1 + t).sqrt()


class Tied(nn.Module):
    """A network of the user's, one matrix used twice under two names."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.there = nn.Linear(dim, dim, bias=False)
        self.back = nn.Linear(dim, dim, bias=False)
        self.back.weight = self.there.weight

    def forward(self, x, level):
        return self.back(self.there(x).tanh())


class Own(nn.Module):
    """A network of the user's."""

    def __init__(self, dim: int, gains: list[float]) -> None:
        super().__init__()
        self.dim, self.gains = dim, gains
        self.line = nn.Linear(dim, dim)

    def forward(self, x, level):
        return self.gains[0] * self.line(x).tanh() + self.gains[1] * level[:, None]


SDES = {
    "VP": lambda: sdegen.VP(0.2, 15.0),
    "SubVP": lambda: sdegen.SubVP(0.2, 15.0),
    "VE": lambda: sdegen.VE(0.02, 30.0),
    "OU": lambda: sdegen.OU(0.7, 4.0),
    "DDPM": lambda: sdegen.DDPM(sdegen.processes.cosine_betas(50)),
    "Cosine": lambda: sdegen.Cosine(),
    "EDM": lambda: sdegen.EDM(0.01, 40.0),
    "Rectified": lambda: sdegen.Rectified(),
    "CLD": lambda: sdegen.CLD(beta=5.0, gamma=0.1),
    "user's": lambda: Drifting(3.0, torch.tensor([0.5, 1.0])),
}
PARAMETRIZATIONS = {
    "default": lambda: None,
    "EDM": lambda: models.EDMParametrization(std=1.3, delta=1e-2, detail=0.1),
    "velocity": lambda: models.VelocityParametrization(std=0.8),
    "data": lambda: models.DataParametrization(delta=2e-3),
    "noise": lambda: models.NoiseParametrization(),
    "score": lambda: models.ScoreParametrization(std=1.1),
}
NETS = {
    "mlp": lambda: nets.MLP(2, width=12, depth=2),
    "plain mlp": lambda: nets.MLP(2, width=12, depth=1, residual=False, embedding=nets.Sinusoidal(8, 0.5, 4.0)),
    "fourier": lambda: nets.MLP(2, width=12, depth=1, embedding=nets.Fourier(8, scale=0.5)),
    "classes": lambda: nets.MLP(2, width=12, depth=1, classes=4),
    "hyper": lambda: nets.HyperMLP(2, width=8, depth=2, rank=3),
    "transformer": lambda: nets.CoordinateTransformer(2, width=8, depth=1, heads=2),
    "user's": lambda: Own(2, [0.5, -1.5]),
}
MOMENTS = sdegen.data.random_mixture(2).moments()


def ready(model, device, dtype):
    """The model with weights that matter and known moments."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    model.moments = MOMENTS
    return model.to(device, dtype).eval()


def outputs(model, device, dtype, **cond):
    generator = torch.Generator().manual_seed(2)
    x_0 = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    t = model.sde.T * torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    x = model.sde.perturb(x_0, t, generator=generator).x.to(device, dtype)
    with torch.no_grad():
        return model.score(x, t, **cond)


def check(model, path, device, dtype, classes=(), **cond):
    model = ready(model, device, dtype)
    save(model, path)
    again = load(path, classes=classes).to(device)
    assert type(again) is type(model) and type(again.sde) is type(model.sde) and type(again.net) is type(model.net)
    assert torch.equal(outputs(again, device, dtype, **cond), outputs(model, device, dtype, **cond))
    assert next(again.parameters()).dtype == dtype and not again.training
    for kept, was in zip(again.moments, model.moments, strict=True):
        assert torch.equal(kept, was) and kept.dtype == torch.float64
    return again


# --- round trips ------------------------------------------------------------------------------------------------------

PAIRS = [
    (s, p)
    for s in SDES
    for p in PARAMETRIZATIONS
    if not (s in ("Cosine", "Rectified") and p in ("noise", "score"))  # singular there
]


@pytest.mark.thinned(5)
@pytest.mark.parametrize(("sde", "parametrization"), PAIRS)
def test_process_and_parametrisation_come_back(sde, parametrization, tmp_path, device, dtype):
    dim = 4 if sde == "CLD" else 2  # positions and velocities
    model = sdegen.Model(nets.MLP(dim, width=8, depth=1), SDES[sde](), PARAMETRIZATIONS[parametrization]())
    again = check(model, tmp_path / "model", device, dtype, classes=[Drifting])
    assert type(again.parametrization) is type(model.parametrization) and again.std == model.std


@pytest.mark.parametrize("net", NETS)
def test_networks_come_back(net, tmp_path, device, dtype):
    cond = {"label": torch.tensor([0, 3, -1, 2, 1], device=device)} if net == "classes" else {}
    model = sdegen.Model(NETS[net](), sdegen.OU(), models.VelocityParametrization())
    check(model, tmp_path / "model", device, dtype, classes=[Own], **cond)


def test_learned_variances_come_back(tmp_path, device, dtype):
    model = sdegen.LearnedVariance(nets.MLP(2, width=8, depth=1, out=4), sdegen.VP(), models.VelocityParametrization())
    again = check(model, tmp_path / "model", device, dtype)
    sampler = sdegen.samplers.Ancestral(4, variance=sdegen.samplers.learned_variance)
    one, two = (sdegen.sample(m, 6, sampler=sampler, seed=0) for m in (model, again))
    assert torch.equal(one, two)


def test_a_direct_model_of_a_nonlinear_process_comes_back(tmp_path, device, dtype):
    well = sdegen.DoubleWell(2.0, 0.7, T=1.0)
    base = well.prior(sdegen.data.gaussian_ring().moments())
    model = sdegen.DirectModel(nets.MLP(2, width=8, depth=1), well, scale=1.5, base=base)
    model.sde.lag = 0.1
    model = ready(model, device, dtype)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model").to(device)
    x = torch.randn(4, 2, dtype=dtype, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        assert torch.equal(again.score(x, 0.4), model.score(x, 0.4))
    assert torch.equal(again.sde.drift(x, torch.tensor(0.4)), model.sde.drift(x, torch.tensor(0.4)))


def test_the_discrete_schedule_comes_back_to_the_last_bit(tmp_path, device, dtype):
    betas = sdegen.processes.sigmoid_betas(37)
    again = check(
        sdegen.Model(nets.MLP(2, width=8, depth=1), sdegen.DDPM(betas), models.NoiseParametrization()),
        tmp_path / "m",
        device,
        dtype,
    )
    assert torch.equal(again.sde.betas, betas)


def test_a_trained_model_samples_the_same_after_loading(tmp_path, device, dtype):
    torch.manual_seed(0)
    model = sdegen.Model(nets.MLP(2, width=8, depth=1), sdegen.VP(), models.VelocityParametrization()).to(device, dtype)
    sdegen.fit(model, sdegen.data.gaussian_ring(), steps=5, batch_size=16, seed=0)
    save(model, tmp_path / "model")
    one, two = (sdegen.sample(m, 8, steps=4, seed=0) for m in (model, load(tmp_path / "model").to(device)))
    assert torch.equal(one, two)


def test_a_model_without_moments_has_none_after_loading(tmp_path):
    save(sdegen.Model(nets.MLP(2, width=8, depth=1), sdegen.VP(), models.VelocityParametrization()), tmp_path / "model")
    assert load(tmp_path / "model").moments is None


def test_weights_used_twice_come_back(tmp_path, device, dtype):
    check(
        sdegen.Model(Tied(2), sdegen.OU(), models.VelocityParametrization()),
        tmp_path / "model",
        device,
        dtype,
        classes=[Tied],
    )


class Table(Own):
    """A network of the user's with a table among its arguments."""

    def __init__(self, dim: int, table: dict) -> None:
        super().__init__(dim, table["gains"])
        self.table = table


def test_tables_come_back(tmp_path, device, dtype):
    table = {"gains": [0.5, -1.5], 3: {"shift": torch.arange(3.0)}, "none": {}}
    model = sdegen.Model(Table(2, table), sdegen.VP(), models.VelocityParametrization())
    again = check(model, tmp_path / "model", device, dtype, classes=[Table]).net.table
    assert torch.equal(again[3].pop("shift"), torch.arange(3.0))
    assert again == {"gains": [0.5, -1.5], 3: {}, "none": {}}


@pytest.mark.parametrize(
    "law", [sdegen.data.gaussian_ring(), sdegen.Empirical(torch.randn(5, 2))], ids=lambda law: type(law).__name__
)
def test_an_exact_model_comes_back(law, tmp_path):
    model = sdegen.Exact(sdegen.VP(), law)
    save(model, tmp_path / "model")
    again, x = load(tmp_path / "model"), torch.randn(4, 2, dtype=torch.float64)
    assert torch.equal(again.score(x, 0.3), model.score(x, 0.3))


# --- a file is whole or absent ----------------------------------------------------------------------------------------


@pytest.fixture
def small():
    torch.manual_seed(0)
    return sdegen.Model(nets.MLP(2, width=8, depth=1), sdegen.VP(), models.VelocityParametrization())


@pytest.mark.parametrize("stage", ["writing", "replacing"])
@pytest.mark.parametrize("before", [True, False], ids=["over a file", "anew"])
def test_a_failed_save_leaves_the_folder_as_it_was(small, tmp_path, monkeypatch, stage, before):
    path = tmp_path / "model.safetensors"
    if before:
        save(small, path)
    old = path.read_bytes() if before else None

    def torn(tensors, file, metadata=None):
        save_file(tensors, file, metadata=metadata)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        raise OSError("no space left")

    def refused(*args):
        raise OSError("no space left")

    if stage == "writing":
        monkeypatch.setattr(storage, "save_file", torn)
    else:
        monkeypatch.setattr(storage.os, "replace", refused)
    with torch.no_grad():
        next(small.parameters()).add_(1.0)
    with pytest.raises(OSError, match="no space left"):
        save(small, path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"model.safetensors": old} if before else {})


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_saved_model_may_be_read_like_any_new_file(small, tmp_path):
    (tmp_path / "other").touch()
    save(small, tmp_path / "model")
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_save_replaces_the_file_that_was_there(small, tmp_path):
    path = tmp_path / "model"
    save(small, path)
    with torch.no_grad():
        next(small.parameters()).add_(1.0)
    save(small, str(path))
    assert torch.equal(next(load(str(path)).parameters()), next(small.parameters()))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# --- and runs no code -------------------------------------------------------------------------------------------------


def test_a_file_is_safetensors_with_plain_text_for_the_rest(small, tmp_path):
    path = tmp_path / "model"
    save(small, path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    described = json.loads(header["__metadata__"]["model"])
    assert described["class"].endswith("Model")
    assert described["arguments"]["sde"]["arguments"] == {"beta_min": 0.1, "beta_max": 20.0}
    with safe_open(path, framework="pt") as file:
        stored = {k.removeprefix("weight:") for k in file.keys() if k.startswith("weight:")}  # noqa: SIM118
    assert stored == small.state_dict().keys()


def test_a_file_names_classes_by_chapter_wherever_they_are_written(tmp_path):
    """A file outlives the modules that its classes are written in: it names the chapters that offer them."""
    for model, names in (
        (sdegen.Model(nets.MLP(2, width=8, depth=1), sdegen.EDM()), {"models.EDMParametrization", "processes.EDM"}),
        (sdegen.DirectModel(nets.MLP(2, width=8, depth=1), sdegen.DoubleWell()), {"processes.DoubleWell"}),
    ):
        save(model, tmp_path / "model")
        with safe_open(tmp_path / "model", framework="pt") as file:
            described = json.loads(file.metadata()["model"])
        arguments = described["arguments"].values()
        assert names <= {a["class"] for a in arguments if isinstance(a, dict)}
        assert type(load(tmp_path / "model")) is type(model)


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


@pytest.mark.parametrize("write", [lambda o, p: p.write_bytes(pickle.dumps(o)), torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_unopened(write, tmp_path):
    path, mark = tmp_path / "model", tmp_path / "mark"
    write(Trap(mark), path)
    with pytest.raises(ValueError, match=r"model is no whole safetensors file \(.*\); save the model again\."):
        load(path)
    assert not mark.exists()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(small, tmp_path, part):
    path = tmp_path / "model"
    save(small, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(ValueError, match=r"is no whole safetensors file \(.*\); save the model again\."):
        load(path)


def test_a_safetensors_file_of_another_kind_is_refused(tmp_path):
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, tmp_path / "other", metadata=metadata)
        with pytest.raises(
            ValueError,
            match=r"other has format .*, expected 'sdegen-4' or .* or 'sdegen-1'; it is not a saved sdegen model\.",
        ):
            load(tmp_path / "other")


@pytest.mark.parametrize("which", ["SDE", "network"])
def test_a_class_that_is_not_given_is_asked_for_by_name(tmp_path, which):
    net = Own(2, [1.0, 1.0]) if which == "network" else nets.MLP(2, width=8, depth=1)
    sde = Drifting(1.0, torch.ones(1)) if which == "SDE" else sdegen.VP()
    missing = "Own" if which == "network" else "Drifting"
    save(sdegen.Model(net, sde, models.VelocityParametrization()), tmp_path / "model")
    with pytest.raises(
        ValueError, match=rf"uses the class '{missing}'; pass it: load\(path, classes=\[{missing}\]\)\."
    ):
        load(tmp_path / "model")


def rewritten(path, edit):
    """The file with its description edited, as a stranger could."""
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    described = json.loads(header["model"])
    edit(described, tensors)
    storage.write_whole(tensors, header | {"model": json.dumps(described)}, path)


def test_weights_of_another_architecture_are_refused(small, tmp_path):
    path = tmp_path / "model"
    save(small, path)
    rewritten(path, lambda described, tensors: described["arguments"]["net"]["arguments"].update(width=9))
    with pytest.raises(ValueError, match=r"holds weights of another architecture: .*size mismatch"):
        load(path)


def test_weights_that_parts_share_are_needed_once(tmp_path):
    """As files of the first format have those of guidance without a class, whose weaker model was no module."""
    path = tmp_path / "model"
    guided = sdegen.guidance.ClassifierFree(sdegen.Model(nets.MLP(2, width=8, depth=1, classes=3), sdegen.VP()), 1.5)
    save(guided, path)
    rewritten(path, lambda _, tensors: [tensors.pop(k) for k in list(tensors) if k.startswith("weight:weak.")])
    x = torch.ones(1, 2)
    assert torch.equal(load(path).score(x, 0.5, label=1), guided.score(x, 0.5, label=1))


def test_weights_that_are_too_few_or_too_many_are_named(small, tmp_path):
    path = tmp_path / "model"
    save(small, path)
    rewritten(path, lambda _, tensors: tensors.update({"weight:net.more": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"another architecture: only the file has net\.more\."):
        load(path)
    save(small, path)
    rewritten(path, lambda _, tensors: tensors.pop("weight:net.first.weight"))
    with pytest.raises(ValueError, match=r"another architecture: only the model has net\.first\.weight\."):
        load(path)


@pytest.mark.parametrize("name", ["PchipInterpolator", "Tensor", "Any", "ABC"])
def test_only_the_library_s_own_classes_are_constructed(small, tmp_path, name):
    path = tmp_path / "model"
    save(small, path)
    rewritten(path, lambda described, tensors: described["arguments"].update(sde={"class": name, "arguments": {}}))
    with pytest.raises(ValueError, match=rf"uses the class '{name}'"):
        load(path)


class Forgetful(sdegen.ScalarSDE):
    def __init__(self, rate: float) -> None:
        self._rate = rate

    def f(self, t):
        return -self._rate + 0 * t

    def g(self, t):
        return 1 + 0 * t


class Greedy(Own):
    def __init__(self, *args) -> None:
        super().__init__(*args)


class Renamed(torch.nn.Module):
    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(layer, 2)


class Around(torch.nn.Module):
    def __init__(self, inside: torch.nn.Module) -> None:
        super().__init__()
        self.inside = inside


class Bent(Own):
    def __init__(self, dim: int, act) -> None:
        super().__init__(dim, [1.0, 1.0])
        self.act = act


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: sdegen.Model(nets.MLP(2, width=8), Forgetful(1.0)),
            r"Forgetful does not keep its argument 'rate'; set self\.rate in its constructor",
        ),
        (
            lambda: sdegen.Model(Greedy(2, [1.0, 2.0]), sdegen.VP()),
            r"model\.net is a Greedy, which takes arguments of any name .*\(\*args\).*; name them in its constructor",
        ),
        (
            lambda: sdegen.Model(Renamed(2), sdegen.VP()),
            r"model\.net\.layer is a Linear, .*; let the constructor of model\.net make it .* another name .*, as 'layer' is\.$",
        ),
        (
            lambda: sdegen.Model(Around(torch.nn.Sequential(torch.nn.Linear(2, 2))), sdegen.VP()),
            r"model\.net\.inside is a Sequential, which takes arguments of any .*; let the constructor of model\.net make it",
        ),
        (
            lambda: sdegen.Model(Bent(2, torch.tanh), sdegen.VP()),
            r"model\.net\.act is a function, and no code is saved; give an object of a class",
        ),
    ],
    ids=["forgotten", "unnamed", "renamed", "around", "function"],
)
def test_what_could_not_be_loaded_is_not_saved(model, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        save(model(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_weights_kept_in_half_leave_what_is_computed_whole(tmp_path):
    model = sdegen.Model(sdegen.nets.UNet(1, (32,)), sdegen.VP())
    exact = model.net.condition.embedding.frequencies.clone()
    save(model.half(), tmp_path / "model")
    again = load(tmp_path / "model", dtype=torch.float32)
    assert {p.dtype for p in again.parameters()} == {torch.float32} and not again.training
    assert torch.equal(again.net.condition.embedding.frequencies, exact)
    assert all(torch.equal(p, q.float()) for p, q in zip(again.parameters(), model.parameters(), strict=True))


def test_a_place_that_no_file_can_have_is_named(tmp_path):
    model = sdegen.Model(nets.MLP(2, width=8), sdegen.VP())
    with pytest.raises(FileNotFoundError, match=r"new is no folder; make it before model is written there"):
        save(model, tmp_path / "new" / "model")
    with pytest.raises(IsADirectoryError, match=r"is a folder; give the name of a file in it"):
        save(model, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is a folder; give the file that save wrote"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model is not there; give the file that save wrote"):
        load(tmp_path / "model")
    assert not list(tmp_path.iterdir())


# --- older formats ----------------------------------------------------------------------------------------------------

CONDITIONED = {
    "MLP": (lambda: nets.MLP(2, width=8, depth=1, classes=3), "", (2,)),
    "UNet": (lambda: nets.UNet(1, (8,), classes=3), "condition.", (1, 4, 4)),
    "DiT": (lambda: nets.DiT(1, patch=2, width=8, depth=1, classes=3), "condition.", (1, 4, 4)),
}


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_file_of_the_third_format_finds_the_table_of_its_labels(name, tmp_path):
    make, before, shape = CONDITIONED[name]
    model = sdegen.Model(make(), sdegen.VP()).eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    save(model, tmp_path / "now")
    with safe_open(tmp_path / "now", "pt") as file:
        header, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    here, there = (f"weight:net.{before}{table}.weight" for table in ("given.entries.label_.table", "label.table"))
    tensors[there] = tensors.pop(here)
    header = {k: v for k, v in header.items() if k != "checksum"} | {"format": "sdegen-3"}
    storage.write_whole(tensors, header, tmp_path / "then")
    again, x = load(tmp_path / "then"), torch.randn(2, *shape)
    for label in (-1, 2):
        assert torch.equal(again.score(x, 0.5, label=label), model.score(x, 0.5, label=label))


def test_labels_of_networks_within_lists_and_other_networks_are_found():
    part = {"class": "models.Model", "arguments": {"net": {"class": "nets.UNet", "arguments": {}}}}
    whole = {"class": "a.Whole", "arguments": {"models": [{"class": "nets.MLP", "arguments": {}}, part], "scale": 2.0}}
    old = ("weight:models.0.label.table.weight", "weight:models.1.net.condition.label.table.weight", "weight:scale")
    new = (
        "weight:models.0.given.entries.label_.table.weight",
        "weight:models.1.net.condition.given.entries.label_.table.weight",
        "weight:scale",
    )
    for found in ("sdegen-3", "sdegen-2"):
        described, tensors = upgrade(whole, {name: torch.tensor(float(i)) for i, name in enumerate(old)}, found, FORMAT)
        assert described == whole and {name: v.item() for name, v in tensors.items()} == dict(zip(new, range(3)))


RENAMED = {
    "models.EDM": models.EDMParametrization, "models.Data": models.DataParametrization, "foreign.Steps": foreign.StepIndex,
    "models.Noise": models.NoiseParametrization, "models.Score": models.ScoreParametrization,
    "models.Velocity": models.VelocityParametrization, "foreign.Times": foreign.ScaledTime, "foreign.Level": foreign.NoiseLevel,
    "baselines.Chain": baselines.Composition, "baselines.Flow": baselines.NormalizingFlow,
    "baselines.Layer": baselines.LatentLayer, "distributions.Empirical": sdegen.Empirical, "nets.MLP": nets.MLP,
    "weightings.UniformTimes": sdegen.weightings.UniformTimes, "measurements.DPS": guidance.DPS,
    "processes.VP": sdegen.VP,
}  # fmt: skip


def test_classes_of_the_first_format_are_those_of_today_by_their_names():
    for old, cls in RENAMED.items():
        whole = {"class": "own.Whole", "arguments": {"parts": [{"class": old, "arguments": {"a": 1}}, 3], "name": old}}
        found, tensors = upgrade(whole, {"x": torch.ones(1)}, "sdegen-1", FORMAT)
        assert found["class"] == "own.Whole" and found["arguments"]["name"] == old and list(tensors) == ["x"]
        part, number = found["arguments"]["parts"]
        assert files._library()[part["class"]] is cls and part["arguments"] == {"a": 1} and number == 3
