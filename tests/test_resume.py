"""A run that is stopped, however, goes on to the same weights; a folder that does not fit is refused with what differs."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import sdegen
from sdegen import fit, storage
from sdegen.training import checkpoints, constant_rate

RING = sdegen.data.gaussian_ring()
flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


class Forgetting(nn.Module):
    """A network with dropout, whose masks come from torch's own generator, and labels."""

    def __init__(self):
        super().__init__()
        self.label = nn.Embedding(4, 8)
        self.first, self.drop, self.last = nn.Linear(2, 8), nn.Dropout(0.2), nn.Linear(8, 2)

    def forward(self, x, level, label):
        return self.last(self.drop(self.first(x).tanh() + self.label(label + 1)))


def run(folder, steps=60, dtype=torch.float64, **asked):
    """A run that leans on all that a checkpoint holds; the model and its record."""
    torch.manual_seed(0)
    model = sdegen.Model(Forgetting(), sdegen.VP()).to(dtype)
    x = RING.sample(50, torch.Generator().manual_seed(1)).to(dtype)
    data = (x, torch.arange(50) % 3)
    settings = {
        "batch_size": 16, "lr": 1e-2, "warmup": 5, "p_uncond": 0.2, "accumulate": 2, "snapshots": 7, "ema": 0.1, "seed": 3
    }  # fmt: skip
    torch.manual_seed(4)
    return model, fit(model, data, steps=steps, checkpoint=folder, **settings | {"every": 5} | asked)


def same(one, other, records=True):
    """Bit for bit: weights, the curves, and an average formed afterwards."""
    (model, record), (again, copy) = one, other
    assert torch.equal(flat(model), flat(again))
    if records:
        assert (record.steps, record.loss, record.grad_norm, record.lr) == (
            copy.steps, copy.loss, copy.grad_norm, copy.lr
        )  # fmt: skip
        assert torch.equal(flat(record.averaged(0.12)), flat(copy.averaged(0.12)))


class Stop(Exception):
    """What stands for a stop in the tests that need no process of their own."""


def stopping(step):
    def look(seen):
        if seen.step == step:
            raise Stop

    return look


def stopped(folder, at, **asked):
    with pytest.raises(Stop):
        run(folder, callbacks=[stopping(at)], **asked)


@pytest.fixture(scope="module")
def whole():
    """The run that nothing stopped, without a folder."""
    return run(None)


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 7])
def test_a_stopped_run_goes_on_to_the_same_weights(whole, tmp_path, every):
    for at in (1, 8, 23, 24, 59):
        stopped(tmp_path / "run", at, every=every)
    same(run(tmp_path / "run", every=every), whole)


def test_checkpoints_change_nothing(whole, tmp_path):
    same(run(tmp_path / "run"), whole)


def test_a_folder_named_in_short_is_that_where_the_run_began(whole, tmp_path, monkeypatch):
    """Also where what listens, or the code of a data set, works in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    album = sdegen.plots.Album(
        "pictures", every=30, n=4, steps=1, draw=sdegen.plots.scatter, label=torch.zeros(4).long()
    )
    same(run("run", callbacks=[lambda step: os.chdir(tmp_path / "elsewhere"), album]), whole)
    assert len(list((tmp_path / "run").iterdir())) >= 2 and list((tmp_path / "pictures").iterdir())
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_finished_run_gives_its_result_at_once(whole, tmp_path):
    run(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    seen = []
    again = run(tmp_path / "run", callbacks=[seen.append])
    same(again, whole)
    assert not seen and not again[0].training and again[1].seconds < 60
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_a_checkpoint_from_before_conditions_were_noted_goes_on(tmp_path):
    """What is noted of them follows from nothing that the weights know: then all is taken to be learned, as it was before."""

    def labelled(folder, **asked):
        torch.manual_seed(0)
        model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1, classes=3), sdegen.VP())
        x, label = RING.sample(50, torch.Generator().manual_seed(1)).float(), torch.arange(50) % 3
        fit(model, (x, label), steps=20, batch_size=16, seed=3, checkpoint=folder, every=5, **asked)
        return model

    whole = labelled(None)
    with pytest.raises(Stop):
        labelled(tmp_path / "run", callbacks=[stopping(12)])
    folder = checkpoints.Folder(tmp_path / "run")
    kept = folder.newest()
    older = {name: value for name, value in kept.tensors.items() if not name.startswith("weight:learned.")}
    assert len(older) < len(kept.tensors)
    folder.write(kept.step, kept.seconds, kept.about, older)
    again = labelled(tmp_path / "run")
    assert torch.equal(flat(whole), flat(again))
    assert whole.learned == {"label": (True, False)} and again.learned.get("label", (True, True)) == (True, True)
    sdegen.sample(again, 2, seed=0)


def test_a_run_of_constant_rate_can_be_made_longer(tmp_path):
    long = run(None, schedule=constant_rate)
    for steps in (20, 33, 60):
        last = run(tmp_path / "run", steps=steps, schedule=constant_rate)
        assert last[1].steps == steps
    same(last, long, records=False)
    assert last[1].loss == long[1].loss
    with pytest.raises(
        ValueError,
        match=r"is of a run with schedule = sdegen\.training\.constant_rate, not sdegen\.training\.cosine_decay",
    ):
        run(tmp_path / "run")


def test_seconds_are_counted_on(tmp_path):
    stopped(tmp_path / "run", 30)
    kept = checkpoints.Folder(tmp_path / "run").newest()
    record = run(tmp_path / "run")[1]
    assert record.seconds > kept.seconds > 0


def test_an_unseeded_run_keeps_its_seed(tmp_path):
    stopped(tmp_path / "run", 12, seed=None)
    seed = checkpoints.Folder(tmp_path / "run").newest().about["seed"]
    model, record = run(tmp_path / "run", seed=None)
    assert record.settings.seed == seed
    whole = run(None, seed=None)  # drawn from torch's generator, as the rest of its numbers
    assert whole[1].settings.seed == seed
    same((model, record), whole)


def test_two_checkpoints_are_kept_and_nothing_is_pickled(tmp_path):
    stopped(tmp_path / "run", 23)
    (tmp_path / "run" / ".step-00000025.safetensors.x.part").mkdir()  # what a killed process leaves
    run(tmp_path / "run", steps=60)
    names = sorted(p.name for p in (tmp_path / "run").iterdir())
    steps = [n for n in names if n.startswith("step")]
    assert steps == ["step-00000055.safetensors", "step-00000060.safetensors"]
    assert names == sorted(steps + [f"average-{s:08d}.safetensors" for s in (7, 14, 21, 28, 35, 42, 49, 56, 60)])
    for name in names:
        with safe_open(tmp_path / "run" / name, framework="pt") as file:
            header = file.metadata()
            assert header["format"] in ("sdegen-run-3", "sdegen-average-2") and int(header["step"]) > 0
    about = json.loads(header["about"])
    assert about["batch_size"] == 16 and about["model"]["sde"]["beta_max"] == 20.0


# --- killed -----------------------------------------------------------------------------------------------------------

# Children come from a server that has imported the library, and what an optimiser imports late, and run nothing; each is a
# process of its own.
children = multiprocessing.get_context("forkserver")


def child(folder, begun, done, threads, last):
    """A run that at the step `last` waits to be killed: on a busy machine it might be over before anyone looks."""
    torch.set_num_threads(threads)
    begun.set()
    model, record = run(Path(folder), every=1, callbacks=[lambda seen: seen.step < last or signal.pause()])
    save_file({"weights": flat(model), "loss": torch.tensor(record.loss, dtype=torch.float64)}, done)


def launched(folder, done, last=1000):
    begun = children.Event()
    process = children.Process(target=child, args=(str(folder), begun, str(done), torch.get_num_threads(), last))
    process.start()
    assert begun.wait(120)
    return process


def last_step(folder: Path) -> int:
    """The step of the last whole checkpoint of a run, 0 before the first."""
    files = checkpoints.Folder(folder).files() if folder.exists() else []
    return int(files[-1].stem.split("-")[1]) if files else 0


def test_a_killed_run_goes_on_to_the_same_weights(whole, tmp_path):
    """SIGKILL at random moments, a checkpoint every step: most of the time one is being written."""
    children.set_forkserver_preload(["sdegen", "pytest", "torch._dynamo"])
    process = launched(tmp_path / "undisturbed", tmp_path / "a")
    process.join()
    chance, folder, reached = random.Random(0), tmp_path / "run", [0]
    for _ in range(100):
        # steps, not seconds: a machine may be busier or less busy than it was
        wanted = reached[-1] + chance.randint(1, 8)
        process = launched(folder, tmp_path / "b", wanted + 8)
        while process.exitcode is None and last_step(folder) < wanted:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.005))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            break
        reached.append(last_step(folder))
    assert process.exitcode == 0 and reached == sorted(reached)
    assert len({step for step in reached if 0 < step < 60}) >= 2, reached  # it was interrupted in its midst
    for name in ("a", "b"):
        with safe_open(tmp_path / name, framework="pt") as file:
            assert torch.equal(file.get_tensor("weights"), flat(whole[0]))
            assert file.get_tensor("loss").tolist() == whole[1].loss
    assert not list(folder.glob(".*"))


# --- disks and files --------------------------------------------------------------------------------------------------


def full(folder, begun, done):
    """The disk takes no file of more than 2,000 bytes from step 12 on."""
    torch.set_num_threads(1)
    begun.set()

    def fill(seen):
        if seen.step == 12:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    try:
        run(Path(folder), snapshots=None, callbacks=[fill])
    except OSError as error:
        done.put(str(error))


def test_a_full_disk_stops_the_run_and_leaves_the_older_checkpoint(tmp_path):
    children.set_forkserver_preload(["sdegen", "pytest", "torch._dynamo"])
    begun, said = children.Event(), children.Queue()
    process = children.Process(target=full, args=(str(tmp_path / "run"), begun, said))
    process.start()
    message = said.get(timeout=120)
    process.join()
    assert re.search(
        r"step-00000015\.safetensors could not be written \(.*File too large.*\); make room and call again: what was there "
        r"before is whole\.$",
        message,
    )
    names = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert names == ["step-00000005.safetensors", "step-00000010.safetensors"]
    same(run(tmp_path / "run", snapshots=None), run(None, snapshots=None), records=False)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_named_and_the_older_one_goes_on(whole, tmp_path, part):
    stopped(tmp_path / "run", 23)
    older, newest = checkpoints.Folder(tmp_path / "run").files()
    content = newest.read_bytes()
    newest.write_bytes(content[: int(part * len(content))])
    with pytest.raises(
        ValueError,
        match=r"00000020\.safetensors is no whole safetensors file \(.*\); delete it, and the run goes on from step-00000015",
    ):
        run(tmp_path / "run")
    assert older.exists()
    newest.unlink()
    same(run(tmp_path / "run"), whole)


def test_a_first_checkpoint_that_is_truncated_is_named(tmp_path):
    stopped(tmp_path / "run", 6)
    (newest,) = checkpoints.Folder(tmp_path / "run").files()
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"is no whole safetensors file .*; delete it, and the run starts anew\."):
        run(tmp_path / "run")


def test_a_failure_at_any_moment_of_writing_leaves_a_checkpoint(whole, tmp_path, monkeypatch):
    """Every call by which a file comes to be or goes, failing in turn."""
    folder, written = tmp_path / "run", storage.save_file
    stopped(folder, 11)

    def fails(*args, **kwargs):
        raise OSError("no space left")

    def torn(tensors, path, metadata=None):
        written(tensors, path, metadata=metadata)
        path.write_bytes(path.read_bytes()[:200])
        fails()

    for owner, name, broken in ((storage, "save_file", torn), (os, "fsync", fails), (os, "replace", fails)):
        before = {p: p.read_bytes() for p in folder.iterdir() if "step" in p.name}
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            with pytest.raises(OSError, match=r"could not be written \(no space left\)"):
                run(folder)
        assert {p: p.read_bytes() for p in folder.iterdir() if "step" in p.name} == before
    same(run(folder), whole)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"^checkpoint = .*run is a file; give a folder"):
        run(tmp_path / "run")


# --- other runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"lr": 1e-3}, r"lr = 0\.01, not 0\.001"),
        ({"steps": 61}, r"steps = 60, not 61"),
        ({"batch_size": 20}, r"batch_size = 16, not 20"),
        ({"steps": 9}, r"steps = \d+, not 9"),
        ({"seed": 4}, r"seed = 3, not 4"),
        ({"ema": 0.05}, r"ema = 0\.1, not 0\.05"),
        ({"snapshots": None}, r"snapshots = 7, not None"),
        ({"p_uncond": 0.1}, r"p_uncond = 0\.2, not 0\.1"),
        ({"autocast": torch.bfloat16}, r"autocast = None, not torch\.bfloat16"),
        ({"loss": sdegen.losses.Denoising(antithetic=True)}, r"loss = None, not {'class': 'training\.Denoising'"),
    ],
)
def test_a_setting_that_differs_is_named(tmp_path, asked, says):
    stopped(tmp_path / "run", 6)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(
        ValueError,
        match=rf"step-00000005\.safetensors is of a run with {says}.*; call fit as the run was begun, or give",
    ) as refused:
        run(tmp_path / "run", **asked)
    assert ("To train the model of a finished run further" in str(refused.value)) == ("steps" in asked)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


class Wide(nn.Module):
    """A network that does not say what it was made of."""

    def __init__(self, width, bias=True):
        super().__init__()
        self.line = nn.Linear(2, width, bias=bias)

    def forward(self, x, level):
        return self.line(x)[:, :2]


MODELS = {
    "width": (lambda: sdegen.nets.MLP(2, width=8), lambda: sdegen.nets.MLP(2, width=12), r"model\.net\.width = 8, not 12"),
    "shape alone": (lambda: Wide(2), lambda: Wide(3), r"model\.net\.line\.out_features = 2, not 3"),
    "names alone": (lambda: Wide(2), lambda: Wide(2, bias=False), r"model\.net\.line\.bias = parameter \(2,\), not None"),
    "class": (lambda: Wide(2), lambda: sdegen.nets.MLP(2, width=4), r"model\.net = Wide, not nets\.MLP"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_another_architecture_is_named(tmp_path, case):
    first, second, says = MODELS[case]
    asked = {"steps": 4, "batch_size": 4, "seed": 0, "checkpoint": tmp_path / "run", "every": 2}
    fit(sdegen.Model(first(), sdegen.VP()), RING, **asked)
    other = sdegen.Model(second(), sdegen.VP())
    with pytest.raises(ValueError, match=rf"{says}.*; call fit as the run was begun"):
        fit(other, RING, **asked)
    assert len(list((tmp_path / "run").glob("step-*"))) == 2
    assert other.moments is None  # a model that is refused stays as it was


def test_another_process_or_other_data_are_named(tmp_path):
    asked = {"steps": 2, "batch_size": 4, "seed": 0, "checkpoint": tmp_path / "run"}
    model = lambda sde: sdegen.Model(sdegen.nets.MLP(2, width=8), sde)
    fit(model(sdegen.VP()), RING, **asked)
    with pytest.raises(ValueError, match=r"model\.sde\.beta_max = 20\.0, not 15\.0"):
        fit(model(sdegen.VP(0.1, 15.0)), RING, **asked)
    with pytest.raises(ValueError, match=r"is of a run on other data: their covariance differs; call fit as"):
        fit(model(sdegen.VP()), sdegen.data.gaussian_ring(radius=3.0), **asked)


def test_another_version_is_refused(tmp_path):
    stopped(tmp_path / "run", 6)
    (path,) = checkpoints.Folder(tmp_path / "run").files()
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata=header | {"format": "sdegen-run-0"})
    with pytest.raises(ValueError, match=r"has format 'sdegen-run-0', expected 'sdegen-run-3'; go on with the version"):
        run(tmp_path / "run")


def test_a_loss_that_turns_non_finite_leaves_the_last_good_checkpoint(tmp_path):
    def spoiled(model, x, generator=None, **cond):
        values = sdegen.losses.Denoising()(model, x, generator=generator, **cond)
        spoiled.calls += 1
        return values * (float("nan") if spoiled.calls > 2 * 11 else 1.0)  # two parts a step

    spoiled.calls = 0
    with pytest.raises(sdegen.NonFiniteLoss, match=r"stopped in step 12: loss nan"):
        run(tmp_path / "run", loss=spoiled)
    assert checkpoints.Folder(tmp_path / "run").newest().step == 10
    spoiled.calls = -1000
    same(run(tmp_path / "run", loss=spoiled), run(None, loss=spoiled))


def test_other_frozen_weights_are_named(tmp_path):
    """Averages and the optimiser's state go by the place among the weights that learn."""

    def train(frozen, steps):
        model = sdegen.Model(sdegen.nets.MLP(2, width=8), sdegen.VP())
        if frozen:
            model.net.first.weight.requires_grad_(False)
        asked = {"batch_size": 4, "seed": 0, "schedule": constant_rate}
        return fit(model, RING, steps=steps, checkpoint=tmp_path / str(first), **asked)

    for first in (False, True):
        train(first, 2)
        assert train(first, 3).steps == 3
        with pytest.raises(
            ValueError, match=r"is of a run with frozen(\.net\.first\.weight)? = .*, not .*; call fit as"
        ):
            train(not first, 4)


def test_snapshots_of_a_run_that_left_no_checkpoint_are_not_mixed_in(tmp_path):
    stopped(tmp_path / "run", 23, every=100, lr=1e-3, snapshots=4)
    assert not checkpoints.Folder(tmp_path / "run").files()
    same(run(tmp_path / "run"), run(None))
    assert run(tmp_path / "run")[1].snapshots.steps == [7, 14, 21, 28, 35, 42, 49, 56, 60]


@pytest.mark.parametrize("every", [1, 1000])
def test_a_finished_run_of_so_many_seconds_gives_its_result(tmp_path, every):
    runs = [run(tmp_path / "run", steps=None, seconds=0.05, every=every, snapshots=None) for _ in range(3)]
    assert runs[0][1].steps > 0
    for again in runs[1:]:
        same(again, runs[0], records=False)
        assert again[1].loss == runs[0][1].loss


def test_half_a_picture_in_the_folder_does_no_harm(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".samples-00000500.png.part").write_bytes(b"")  # what a killed `plots.Album` leaves
    assert run(tmp_path / "run", steps=2)[1].steps == 2


# --- the data are those that the run began with -----------------------------------------------------------------------


def labelled_rows(n=60):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(n) % 3


class ReadRows(torch.utils.data.Dataset):
    """Rows that are read one by one."""

    def __init__(self, x, label, jitter=0.0):
        self.x, self.label, self.jitter = x, label, jitter

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + self.jitter * torch.randn(2), self.label[i]


def swapped(value, i=3, j=40):
    value = value.clone()
    value[[i, j]] = value[[j, i]]
    return value


def loaded(x, label):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, label), batch_size=20)


def small_images(x, label):
    images = ((x - x.min()) / (x.max() - x.min()) * 255).to(torch.uint8).reshape(-1, 1, 1, 2)
    return sdegen.data.from_arrays(images, label).scaled(-1, 1)


FORMS = {
    "pair": lambda x, label: (x, label),
    "conditions": lambda x, label: (x, {"label": label}),
    "tensors": lambda x, label: torch.utils.data.TensorDataset(x, label),
    "rows": ReadRows,
    "random rows": lambda x, label: ReadRows(x, label, 0.1),
    "images": small_images,
    "loader": loaded,
}
CHANGES = {
    "two labels": lambda x, label: (x, swapped(label)),
    "other labels": lambda x, label: (x, (label + 1) % 3),
    "one label": lambda x, label: (x, torch.cat([label[:-1], (label[-1:] + 1) % 3])),
    "two rows": lambda x, label: (swapped(x), label),
    "another order": lambda x, label: (x.flip(0), label.flip(0)),
    "one number": lambda x, label: (torch.cat([x[:-1], x[-1:] + 0.5]), label),
    "columns": lambda x, label: (x.flip(1), label),
}


class Labelless(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2)
        self.moments = None

    def loss(self, x, *, generator=None, label=None):
        return (self.line(x.flatten(1)) - x.flatten(1)).square().sum(1) * (1 + label)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", FORMS)
def test_a_run_on_other_rows_labels_or_order_is_refused(tmp_path, form, change):
    asked = {"batch_size": 20, "seed": 0, "checkpoint": tmp_path / "run", "schedule": constant_rate, "progress": False}
    x, label = labelled_rows()
    fit(Labelless(), FORMS[form](x, label), steps=3, **asked)
    with pytest.raises(
        ValueError, match=r"is of a run on other data|batches of the data are not those that the run had"
    ) as told:
        fit(Labelless(), FORMS[form](*CHANGES[change](x, label)), steps=4, **asked)
    if form in ("pair", "conditions", "tensors") and change in ("two labels", "two rows"):
        assert f"{'label' if change == 'two labels' else 'rows'}, or their order" in str(told.value)
    # Rounding is forgiven, as another machine may round otherwise.
    near = x if form == "images" else x * (1 + 1e-7)
    assert fit(Labelless(), FORMS[form](near, label.clone()), steps=4, **asked).steps == 4


@pytest.mark.parametrize("law", ["turned", "wider"])
def test_a_run_on_another_law_of_the_same_moments_is_refused(tmp_path, law):
    ring = sdegen.data.gaussian_ring(modes=6)
    moments = ring.moments()
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    other = {
        "turned": sdegen.GaussianMixture(ring.weights, ring.means @ turn, ring.covariances),
        "wider": sdegen.GaussianMixture(torch.ones(1), moments.mean[None], moments.covariance.diagonal()[None]),
    }[law]
    asked = {"batch_size": 8, "seed": 0, "checkpoint": tmp_path / "run", "schedule": constant_rate, "progress": False}
    model = lambda: sdegen.Model(sdegen.nets.MLP(2, width=4), sdegen.VP())
    fit(model(), ring, steps=2, **asked)
    assert fit(model(), sdegen.data.gaussian_ring(modes=6), steps=3, **asked).steps == 3
    with pytest.raises(ValueError, match=r"is of a run on other data: the rows"):
        fit(model(), other, steps=4, **asked)


# --- settings and networks that have no arguments of their own are told apart -----------------------------------------


def times(factor):
    def loss(model, x, generator=None):
        return factor * sdegen.losses.Denoising()(model, x, generator=generator)

    return loss


def scaled_loss(model, x, generator=None, by=1.0):
    return by * sdegen.losses.Denoising()(model, x, generator=generator)


def hidden(loss):
    loss.strength = lambda: 2.0
    return loss


class Weighted:
    def __init__(self, by):
        self.by = by

    def strength(self):
        return float(np.asarray(self.by).item())

    def __call__(self, model, x, generator=None):
        return scaled_loss(model, x, generator, self.strength())


class Around(nn.Module):
    """A network around others, which its arguments do not tell."""

    def __init__(self, *parts):
        super().__init__()
        self.inside = nn.Sequential(*parts)

    def forward(self, x, level):
        return self.inside(x)


class Private:
    """A loss that keeps what it was given under a name of its own, and counts its calls."""

    power = 1.0

    def __init__(self, by):
        self._by, self.calls = by, 0

    def __call__(self, model, x, generator=None):
        self.calls += 1
        return scaled_loss(model, x, generator, self._by**self.power)


class Doubled(Private):
    def __call__(self, model, x, generator=None):
        return 2 * super().__call__(model, x, generator)


def powered(power):
    """Make a class of the same code that holds another number of its own."""
    return type("Powered", (Private,), {"power": power, "__module__": __name__})


def looking_up(**names):
    """Make a loss that looks a name up in its module, where it stands for this."""
    source = "def loss(model, x, generator=None):\n    return scaled(model, x, generator, BY)"
    exec(source, module := {"scaled": scaled_loss, "__name__": __name__} | names)
    return module["loss"]


PAIRS_TOLD_APART = {
    "closures": ({"loss": times(1.0)}, {"loss": times(2.0)}, {"loss": times(1.0)}),
    "partials": ({"loss": partial(scaled_loss, by=1.0)}, {"loss": partial(scaled_loss, by=2.0)}, None),
    "lambdas": ({"schedule": lambda done: 1.0}, {"schedule": lambda done: 1.0 - done}, None),
    "methods": ({"loss": Weighted(1.0).__call__}, {"loss": Weighted(2.0).__call__}, None),
    "NumPy scalars": ({"loss": Weighted(np.float32(1.0))}, {"loss": Weighted(np.float32(2.0))}, {"loss": Weighted(1.0)}),
    "arrays": ({"loss": Weighted(np.ones(1))}, {"loss": Weighted(np.full(1, 2.0))}, {"loss": Weighted(np.ones(1))}),
    "tensors": ({"loss": Weighted(torch.ones(1))}, {"loss": Weighted(torch.full((1,), 2.0))}, None),
    "tables": ({"loss": Weighted(torch.ones(()))}, {"loss": Weighted(torch.ones(1))}, None),
    "what has a name of its own": ({"loss": Private(1.0)}, {"loss": Private(2.0)}, {"loss": Private(1.0)}),
    "numbers of classes": ({"loss": powered(1.0)(2.0)}, {"loss": powered(2.0)(2.0)}, {"loss": powered(1.0)(2.0)}),
    "numbers of modules": ({"loss": looking_up(BY=1.0)}, {"loss": looking_up(BY=2.0)}, {"loss": looking_up(BY=1.0)}),
    "functions of modules": ({"loss": looking_up(BY=1)}, {"loss": looking_up(BY=1, scaled=lambda *a: scaled_loss(*a[:3]))}, None),
    "hidden methods": ({"loss": Weighted(1.0)}, {"loss": hidden(Weighted(1.0))}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS_TOLD_APART)
def test_settings_without_a_name_of_their_own_are_told_apart(tmp_path, case):
    first, second, same_as_first = PAIRS_TOLD_APART[case]
    asked = {"steps": 2, "batch_size": 4, "seed": 0, "checkpoint": tmp_path / "run", "progress": False}
    model = lambda: sdegen.Model(sdegen.nets.MLP(2, width=4), sdegen.VP())
    fit(model(), RING, **asked, **first)
    with pytest.raises(ValueError, match=r"is of a run with (loss|schedule)"):
        fit(model(), RING, **asked, **second)
    fit(model(), RING, **asked, **(first if same_as_first is None else same_as_first))


def edited(factor):
    """Make a class of networks as it is before or after its `forward` was written anew."""

    class Line(nn.Linear):
        if factor == 1:

            def forward(self, x, level):
                return super().forward(x)
        else:

            def forward(self, x, level):
                return super().forward(x) * 2

    return Line(2, 2)  # fmt: skip


class Gain(nn.Module):
    """A network with a number and a table that are no arguments."""

    def __init__(self):
        super().__init__()
        self.inside, self._gain, self.memory = nn.Linear(2, 2), 1.0, None
        self.register_buffer("table", torch.ones(2), persistent=False)

    def forward(self, x, level):
        self.memory = x
        return self._gain * self.inside(x) * self.table


def with_changes(net, **changes):
    for name, value in changes.items():
        setattr(net, name, value)
    return net


def hooked(net):
    net.register_forward_hook(lambda net, given, out: 2 * out)
    return net


CHANGED_NETS = {
    "a number": lambda: with_changes(Gain(), _gain=2.0),
    "a table": lambda: with_changes(Gain(), table=torch.full((2,), 2.0)),
    "a method": lambda: with_changes(Gain(), forward=lambda x, level: x),
    "a part": lambda: with_changes(Gain(), inside=nn.Sequential(nn.Linear(2, 2), nn.Tanh())),
    "a hook": lambda: hooked(Gain()),
}


@pytest.mark.parametrize("case", CHANGED_NETS)
def test_what_was_set_on_a_network_is_told_apart_and_not_saved(tmp_path, case):
    asked = {"steps": 2, "batch_size": 4, "seed": 0, "checkpoint": tmp_path / "run", "progress": False}
    whole = sdegen.Model(Gain(), sdegen.VP())
    fit(whole, RING, **asked)
    fit(sdegen.Model(Gain(), sdegen.VP()), RING, **asked)
    sdegen.save(whole, tmp_path / "saved")  # the memory of its last call is no part of it
    changed = sdegen.Model(CHANGED_NETS[case](), sdegen.VP())
    with pytest.raises(ValueError, match=r"is of a run with model\.net|holds weights of another architecture"):
        fit(changed, RING, **asked)
    with pytest.raises(ValueError, match=r"^model\.net.* comes back as .*\.$|of another architecture"):
        sdegen.save(changed, tmp_path / "changed")


def test_the_side_that_has_a_weight_alone_is_named() -> None:
    few, many = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
    moments = sdegen.data.gaussian_ring().moments()
    for then, now, has in ((many, few, "the checkpoint"), (few, many, "the model")):
        tensors = {f"weight:{name}": value for name, value in then.state_dict().items()}
        with pytest.raises(ValueError, match=rf"^run is of .*|^run holds weights of .*: only {has} has bias;"):
            checkpoints.Checkpoint(Path("run"), 1, 0.0, {}, tensors).check({}, now, moments)


NETS_TOLD_APART = {
    "activations": (lambda: Around(nn.Linear(2, 2), nn.SiLU()), lambda: Around(nn.Linear(2, 2), nn.ReLU())),
    "code": (lambda: edited(1), lambda: edited(2)),
    "dropout": (lambda: Around(nn.Linear(2, 2), nn.Dropout(0.1)), lambda: Around(nn.Linear(2, 2), nn.Dropout(0.2))),
    "compiled": (
        lambda: torch.compile(Around(nn.Linear(2, 2), nn.SiLU()), backend="eager"),
        lambda: torch.compile(Around(nn.Linear(2, 2), nn.ReLU()), backend="eager"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NETS_TOLD_APART)
def test_networks_that_differ_in_what_has_no_weights_are_told_apart(tmp_path, case):
    first, second = NETS_TOLD_APART[case]
    asked = {"steps": 2, "batch_size": 4, "seed": 0, "checkpoint": tmp_path / "run", "progress": False}
    fit(sdegen.Model(first(), sdegen.VP()), RING, **asked)
    fit(sdegen.Model(first(), sdegen.VP()), RING, **asked)
    with pytest.raises(ValueError, match=r"is of a run with model\.net\.(inside\.1|code)"):
        fit(sdegen.Model(second(), sdegen.VP()), RING, **asked)


@pytest.mark.parametrize("given", [5, b"run", True])
def test_a_checkpoint_is_given_by_the_path_of_its_folder(given):
    with pytest.raises(TypeError, match=r"checkpoint.*give the path of a folder"):
        fit(sdegen.Model(sdegen.nets.MLP(2, width=4), sdegen.VP()), RING, steps=1, checkpoint=given, progress=False)
