"""Processes that accelerate's launcher starts train and sample as one would; a single process does without accelerate."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sdegen
from sdegen import fit
from sdegen.training.workers import Workers

RING = sdegen.data.gaussian_ring()
# Several processes, without an answer to any question that the launcher would ask.
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]
launched = pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is an extra")

SCRIPT = '''
import json, sys
from pathlib import Path
import torch
import sdegen
from sdegen import fit
torch.set_num_threads(1)

folder = Path(sys.argv[1])
x = sdegen.data.gaussian_ring().sample(50, torch.Generator().manual_seed(1))
data = (x, torch.arange(50) % 3)


def train(name, own=0, **asked):
    """Another start in each process, which must not matter; what came of it, by process."""
    torch.manual_seed(rank * own)
    net = sdegen.nets.MLP(2, width=8, depth=1, classes=0 if asked.get("law") else 3)
    model = sdegen.Model(net, sdegen.VP()).double()
    called = []
    source = sdegen.data.gaussian_ring() if asked.pop("law", False) else data
    record = fit(model, source, **{"steps": 12, "batch_size": 15, "seed": 3, "warmup": 1} | asked,
                 callbacks=[lambda step: called.append(step.step)])
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
    result = {"loss": record.loss, "weights": weights, "called": len(called), "seed": record.settings.seed}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(result))


def spoil(model, x, generator=None, **cond):
    """Not finite in the last row alone, which the last process answers for."""
    values = sdegen.losses.Denoising()(model, x, generator=generator, **cond)
    spoil.calls += 1
    if spoil.calls > 3 and rank == last:
        raise sdegen.NonFiniteLoss("the loss is not finite at t = 0.5 (1 of 15 rows)")
    return values


spoil.calls = 0
if __name__ == "__main__":
    rank, last = 0, 0
    if len(sys.argv) > 2:
        import accelerate
        state = accelerate.PartialState(cpu=True)
        rank, last = state.process_index, state.num_processes - 1
    train("law", own=1, law=True, p_uncond=0.0)
    train("labelled", own=1, p_uncond=0.3, accumulate=2, snapshots=5, checkpoint=folder / "run", every=4)
    train("again", checkpoint=folder / "run", every=4, p_uncond=0.3, accumulate=2, snapshots=5)
    train("unseeded", own=1, seed=None, steps=2)
    train("timed", seconds=0.2, steps=None)
    try:
        train("spoiled", loss=spoil)
    except sdegen.NonFiniteLoss as error:
        (folder / f"error-{rank}.json").write_text(json.dumps(str(error)))
    (folder / f"accelerate-{rank}.json").write_text(json.dumps("accelerate" in sys.modules))
    if last:  # threads of a group that is left open may end the interpreter by an abort
        state.wait_for_everyone()
        state.destroy_process_group()
'''


def results(folder, name, processes):
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(processes)]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(sdegen.__file__).parents[1])}


def launch(*command):
    """Run a script on two processes."""
    done = subprocess.run([*LAUNCH, *command], env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@launched
def test_two_processes_train_as_one(tmp_path):
    script, one, two = tmp_path / "script.py", tmp_path / "one", tmp_path / "two"
    script.write_text(SCRIPT)
    one.mkdir()
    two.mkdir()
    alone = subprocess.Popen([sys.executable, script, one], env=environment(), stderr=subprocess.PIPE, text=True)
    launch(script, two, "launched")
    assert alone.communicate(timeout=600)[1] is not None and alone.returncode == 0

    for name in ("law", "labelled", "again"):
        (single,), pair = results(one, name, 1), results(two, name, 2)
        assert pair[0]["weights"] == pair[1]["weights"] and pair[0]["loss"] == pair[1]["loss"]
        assert pair[0]["loss"] == pytest.approx(single["loss"], rel=1e-9)
        assert pair[0]["weights"] == pytest.approx(single["weights"], rel=1e-6, abs=1e-9)
        assert single["loss"][0] != single["loss"][-1]
        # The main process alone calls back; of a finished run nobody does.
        steps = 0 if name == "again" else 12
        assert [single["called"], pair[0]["called"], pair[1]["called"]] == [steps, steps, 0]
    pair = results(two, "unseeded", 2)
    assert pair[0]["seed"] == pair[1]["seed"] and pair[0]["weights"] == pair[1]["weights"]
    pair = results(two, "timed", 2)
    assert pair[0]["loss"] == pair[1]["loss"] and pair[0]["weights"] == pair[1]["weights"]
    names = sorted(p.name for p in (two / "run").iterdir())
    assert names == sorted(p.name for p in (one / "run").iterdir())
    # Both processes stop at the same step; the one whose rows they were says at which time.
    first, last = results(two, "error", 2)
    assert "stopped in step 4: loss nan" in first and "stopped in step 4: the loss is not finite at t = 0.5" in last
    assert results(one, "accelerate", 1) == [False]


def test_a_weight_that_another_process_used_moves_in_this_one_too():
    """Else the processes would go apart: one's optimiser moves the weight, the other's leaves it out."""

    class Talk:
        def reduce(self, flat, how):
            assert how == "sum"
            other = torch.tensor(
                [0.5, *(1.0, 0.0, 0.0), *(7.0, 8.0), 0.0, 0.0]
            )  # its loss, what it used, its gradients
            return flat + other

    workers = Workers(torch.device("cpu"))
    workers.number, workers._talk = 2, Talk()
    theirs, ours, nobodys = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 1, 1))
    ours.grad = torch.tensor([3.0])
    assert workers.add(torch.tensor(1.0), [theirs, ours, nobodys]) == 1.5
    assert theirs.grad.tolist() == [7.0, 8.0] and ours.grad.tolist() == [3.0] and nobodys.grad is None


SAMPLING = """
import sys
import accelerate, torch
import sdegen

model = sdegen.load(sys.argv[1] + "/model")
state = accelerate.PartialState(cpu=True)
part = (state.process_index, state.num_processes)
for name, eta in (("flow", 0.0), ("stochastic", 1.0)):
    sampler = sdegen.samplers.DDIM(6, eta=eta)
    x = sdegen.sample(model, 9, sampler=sampler, seed=4, part=part, batch=3, label=torch.arange(9) % 3)
    torch.save(x, f"{sys.argv[1]}/{name}-{part[0]}")
state.wait_for_everyone()
state.destroy_process_group()
"""


@launched
@pytest.mark.slow
def test_two_processes_sample_as_one(tmp_path):
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1, classes=3), sdegen.VP()).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.moments = RING.moments()
    sdegen.save(model, tmp_path / "model")
    (tmp_path / "script.py").write_text(SAMPLING)
    launch(tmp_path / "script.py", tmp_path)
    for name, eta in (("flow", 0.0), ("stochastic", 1.0)):
        parts = [torch.load(tmp_path / f"{name}-{rank}") for rank in range(2)]
        whole = sdegen.sample(model, 9, sampler=sdegen.samplers.DDIM(6, eta=eta), seed=4, label=torch.arange(9) % 3)
        assert [len(part) for part in parts] == [4, 5]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=1e-9)


def test_one_process_does_not_import_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # an import would fail
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())
    assert fit(model, RING, steps=1, batch_size=4, seed=0).steps == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ImportError, match=r"^2 processes were launched, .* pip install sdegen\[train\]"):
        fit(model, RING, steps=1, batch_size=4, seed=0)


@launched
def test_a_world_that_was_left_over_is_refused_and_not_waited_for(monkeypatch):
    """All that a launcher sets, in a process that none has started."""
    left = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    for names in (["WORLD_SIZE"], list(left)):
        for name in names:
            monkeypatch.setenv(name, left[name])
        model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())
        with pytest.raises(ValueError, match=r"^WORLD_SIZE = 2 .* connected to no other\. .* take WORLD_SIZE out"):
            fit(model, RING, steps=1, batch_size=4, seed=0)


@launched
@pytest.mark.parametrize(
    ("number", "given", "says"),
    [
        (1, torch.device("cpu"), r"^2 processes were launched, but accelerate was set up for 1; on CPUs"),
        (2, torch.device("cuda", 1), r"the model is on cpu, process 1 of 2 was given cuda:1; move the model"),
    ],
)
def test_what_accelerate_was_set_up_for_and_the_model_does_not_fit_is_refused(monkeypatch, number, given, says):
    import accelerate

    class State:
        num_processes, process_index, device = number, 1, given

        def __init__(self, cpu):
            pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "PartialState", State)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())
    with pytest.raises(ValueError, match=says):
        fit(model, RING, steps=1, batch_size=4, seed=0)
