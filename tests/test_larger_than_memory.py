"""Data on a disk train as those in memory do, row by row, and take no more memory than their batches."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import sdegen
from sdegen.data import Source, Stream
from sdegen.data.moments import NUMBERS, split_rows
from sdegen.training import constant_rate

CPU = torch.device("cpu")
X = sdegen.data.gaussian_ring().sample(300, torch.Generator().manual_seed(1))
LABEL = torch.arange(300) % 3


def mapped(path: Path, array: np.ndarray) -> np.memmap:
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def model(classes: int = 0) -> sdegen.Model:
    torch.manual_seed(0)
    return sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1, classes=classes), sdegen.VP()).double()


def weights(model: sdegen.Model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("order", ["=", ">"])
def test_a_mapped_array_gives_the_batches_of_its_tensor(tmp_path: Path, order: str) -> None:
    x = mapped(tmp_path / "x.npy", X.numpy().astype(f"{order}f8"))
    label = mapped(tmp_path / "label.npy", LABEL.numpy())
    ours, theirs = (Source(data, torch.float64, CPU) for data in ((x, {"label": label}), (X, LABEL)))
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    batches = zip(ours.batches(64, generators[0]), theirs.batches(64, generators[1]), strict=False)
    for _, (a, b) in zip(range(6), batches, strict=False):
        assert torch.equal(a.x, b.x) and torch.equal(a.cond["label"], b.cond["label"])
    for a, b in zip(ours.moments(generators[0]), theirs.moments(generators[1]), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(torch.cat([part.x for part in ours.once(64)]), X)


def test_a_run_on_a_mapped_array_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    x, label = mapped(tmp_path / "x.npy", X.numpy()), mapped(tmp_path / "label.npy", LABEL.numpy())
    ask = {"batch_size": 32, "seed": 0, "schedule": constant_rate, "progress": False}
    whole, parts = model(3), model(3)
    sdegen.fit(whole, (x, label), steps=7, **ask)
    sdegen.fit(model(3), (x[:], label), steps=4, checkpoint=tmp_path / "run", **ask)
    sdegen.fit(parts, (x, label), steps=7, checkpoint=tmp_path / "run", **ask)
    assert torch.equal(weights(whole), weights(parts))
    changed = mapped(tmp_path / "y.npy", X.flip(0).numpy())
    with pytest.raises(ValueError, match="is of a run on other data"):
        sdegen.fit(model(3), (changed, label), steps=8, checkpoint=tmp_path / "run", **ask)


def test_rows_that_were_not_looked_at_before_are_refused_when_they_are_drawn(tmp_path: Path) -> None:
    x = X.numpy().copy()
    x[7] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values in row 7"):
        sdegen.fit(model(), mapped(tmp_path / "x.npy", x), steps=20, seed=0, progress=False)


REFUSED = {
    "bytes": (lambda p: mapped(p, np.zeros((4, 2), np.uint8)), "memory map of uint8.*DataLoader"),
    "no rows": (lambda p: np.memmap(p, "f8", "w+", shape=()), r"memory map of shape \(\)"),
    "coarse": (lambda p: mapped(p, X.numpy().astype("f4")), "data is torch.float32.*coarser"),
    "labels": (lambda p: (mapped(p, X.numpy()), LABEL[:5].numpy()), r"'label' has shape \(5,\) for 300 rows"),
    "words": (lambda p: (mapped(p, X.numpy()), {"k": "abc"}), "condition 'k' is a str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_maps_that_cannot_be_trained_on_are_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=words):
        Source(make(tmp_path / "x.npy"), torch.float64, CPU)


def test_parts_are_rows_in_order_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdegen.data.moments.NUMBERS", 64)
    for x in (X, X[:1], torch.zeros(3, 100), torch.zeros(5, 0)):
        parts = split_rows(x)
        assert torch.equal(torch.cat(parts), x) and all(len(p) == 1 or p.numel() <= 64 for p in parts)
    whole, found = sdegen.moments_of(X), Source(X, torch.float64, CPU).moments(torch.Generator())
    torch.testing.assert_close(found.covariance, whole.covariance)
    bad = X.clone()
    bad[250, 1] = torch.inf
    with pytest.raises(ValueError, match="first in row 250"):
        Source(bad, torch.float64, CPU)
    assert NUMBERS > 64


def test_coordinates_of_a_stream_are_measured_on_its_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdegen.data.stream.MOMENT_ROWS", 20)
    source = Stream([part.exp() for part in X.split(10)], torch.float64, CPU)
    before = source.read
    found = source.moments(torch.Generator(), sdegen.laws.coordinates.Log())
    assert source.read - before == 2
    torch.testing.assert_close(found.mean, X[:20].mean(0))


@pytest.mark.slow
def test_batches_that_workers_read_come_again_to_the_last_bit(tmp_path: Path) -> None:
    loader = lambda: DataLoader(
        TensorDataset(X, LABEL), 32, shuffle=True, num_workers=2, generator=torch.Generator().manual_seed(3)
    )
    ask = {"seed": 0, "schedule": constant_rate, "progress": False}
    whole, parts = model(3), model(3)
    sdegen.fit(whole, loader(), steps=12, **ask)
    sdegen.fit(model(3), loader(), steps=4, checkpoint=tmp_path / "run", **ask)
    sdegen.fit(parts, loader(), steps=12, checkpoint=tmp_path / "run", **ask)
    assert torch.equal(weights(whole), weights(parts))


LIMITED = """
    import resource, sys
    resource.setrlimit(resource.{limit}, 2 * ({memory} * 2**20,))
    import numpy as np, torch, sdegen
    from torch.utils.data import DataLoader, Dataset

    path, rows, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

    class Read(Dataset):
        def __len__(self): return rows
        def __getitem__(self, i): return torch.from_numpy(np.fromfile(path, np.float32, side, offset=4 * side * i))

    try:
        whole = np.fromfile(path, np.float32)
    except MemoryError:
        print("larger than memory")
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(side, width=4, depth=1), sdegen.VP())
    run = sdegen.fit(model, {data}, steps=30, batch_size=256, seed=0, threads=1, progress=False, checkpoint=path + "-run")
    print(run.steps, model.moments.variance().item())
"""
ROW = 1024  # numbers
WRITTEN = 253  # one row of so many is written: the others are holes in the file, which are read as zeros
SOURCES = {
    "map": ("RLIMIT_DATA", 512, "np.memmap(path, np.float32, 'r', shape=(rows, side))"),
    "loader": ("RLIMIT_AS", 1280, "DataLoader(Read(), 256, sampler=range(0, rows, 4), num_workers=1)"),
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux has them")
@pytest.mark.parametrize("case", SOURCES)
def test_data_ten_times_as_large_as_the_limit_of_memory_train(tmp_path: Path, case: str) -> None:
    """A map takes addresses but no memory, so that only `ulimit -d` is a limit for it; a loader keeps to `ulimit -v` too."""
    limit, memory, data = SOURCES[case]
    rows = 10 * memory * 2**20 // (4 * ROW)
    path = tmp_path / "x"
    values = np.random.default_rng(0).standard_normal((WRITTEN, ROW)).astype(np.float32)
    with path.open("wb") as file:
        for place in range(0, rows, WRITTEN):
            file.seek(4 * ROW * place)
            file.write(values[place // WRITTEN % WRITTEN].tobytes())
        file.truncate(4 * ROW * rows)
    script = textwrap.dedent(LIMITED.format(limit=limit, memory=memory, data=data))
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(rows), str(ROW)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, last = done.stdout.splitlines()
    steps, variance = last.split()
    assert said == "larger than memory" and steps == "30"
    assert float(variance) == pytest.approx(1 / WRITTEN, rel=0.1)


TENSOR = """
    import resource, sys
    import torch, sdegen

    path, rows, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    x = torch.from_file(path, shared=True, size=rows * side).reshape(rows, side)
    ask = {"steps": 3, "batch_size": 64, "seed": 0, "threads": 1, "progress": False}
    make = lambda: sdegen.Model(sdegen.nets.MLP(side, width=4, depth=1), sdegen.VP())
    sdegen.fit(make(), x[:999], **ask)  # loads all that it needs
    taken = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 2**10
    resource.setrlimit(resource.RLIMIT_DATA, 2 * (taken + 160 * 2**20,))
    print(sdegen.fit(make(), x, checkpoint=path + "-run", **ask).steps)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux has them")
def test_a_tensor_that_is_mapped_from_a_file_is_looked_at_in_parts(tmp_path: Path) -> None:
    """Of 800 MiB, five times what may be added, the flags of finite numbers alone would be 200."""
    rows = 800 * 2**20 // (4 * ROW)
    with (tmp_path / "x").open("wb") as file:
        file.write(np.random.default_rng(0).standard_normal((100, ROW)).astype(np.float32).tobytes())
        file.truncate(4 * ROW * rows)
    script = [sys.executable, "-c", textwrap.dedent(TENSOR), str(tmp_path / "x"), str(rows), str(ROW)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.split() == ["3"], done.stderr[-2000:]
