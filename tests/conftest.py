"""Options, fixtures and the last section of the whole suite.

`--device`, `--dtype` and `--threads` say where and how the tests compute, `--slow-share` and `--stop-after` how many of them run.
Every test starts with the same random state of torch, whatever ran before it. Where SDEGEN_DATA names no folder of data sets, a
few images of each set stand in. What did not run is listed at the end, with the reason.
"""

from __future__ import annotations

import gc
import gzip
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

import sdegen
from sdegen.data import sets

FEW = Path(__file__).parent / "data"  # a few images of each set, laid out as under SDEGEN_DATA
FULL = os.environ.get("SDEGEN_DATA")
LEFT_OUT = pytest.StashKey[Counter[str]]()
REASON = pytest.StashKey[str]()
MET = pytest.StashKey[dict[tuple[str, ...], list[list[Any]]]]()  # values of parametrisations
BEGAN = time.monotonic()

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=15, suppress_health_check=list(HealthCheck)
)
settings.register_profile("nightly", deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of states and networks")
    parser.addoption("--dtype", default="float64", choices=("float32", "float64"), help="dtype of states and networks")
    parser.addoption("--threads", type=int, default=1, help="threads of one process; pytest-xdist uses the cores")
    parser.addoption("--slow-share", type=share, metavar="K/N", help="of the slow tests the K-th of N equal shares")
    parser.addoption("--stop-after", type=float, metavar="SECONDS", help="begin no further test after so long")


def share(text: str) -> tuple[int, int]:
    """Read ``K/N`` and return ``(K, N)``."""
    k, n = (int(part) for part in text.split("/"))
    if not 1 <= k <= n:
        raise ValueError(text)
    return k, n


def pytest_configure(config: pytest.Config) -> None:
    # pytest's own --hypothesis-profile wins; ci is the default.
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("ci")
    torch.set_num_threads(config.getoption("--threads"))
    config.stash[LEFT_OUT] = Counter()


# --- which tests run, and what is said of the others ------------------------------------------------------------------


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark as slow the cases that a test says take turns or are thinned, before -m is looked at."""
    for mark in item.iter_markers("turns"):
        if any(fnmatchcase(item.callspec.id, pattern) for pattern in mark.args):
            item.add_marker("slow")
    for mark in item.iter_markers("thinned"):
        if place_of(item) % mark.args[0]:
            item.add_marker("slow")


def place_of(item: pytest.Item) -> int:
    """Add up the places of a case along the axes of its parametrisations, which are met in order.

    One in k of these sums is a multiple of k. Along an axis of k values or more, wherever the others are, such a case is met: so
    every value of two axes has one, and every pair of values of three.
    """
    met, place = item.parent.stash.setdefault(MET, {}), 0
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0].replace(" ", "").split(",") if isinstance(mark.args[0], str) else mark.args[0]
        values = [item.callspec.params[name] for name in names]
        before = met.setdefault((item.originalname, *names), [])
        if not any(all(a is b for a, b in zip(values, other)) for other in before):
            before.append(values)
        place += next(k for k, other in enumerate(before) if all(a is b for a, b in zip(values, other)))
    return place


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Look for no garbage while all tests are put together, nor among them afterwards: there is none, and a look takes long.

    Classes that are changed look for their objects in what is made from then on (`sdegen.fixed`).
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse names that differ between processes, which share the tests by name, and leave out the slow tests of other shares: by
    their names in order, dealt out like cards.
    """
    fleeting = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if fleeting:
        raise pytest.UsageError(
            f"{fleeting[0]} has an address in its name, another in every process; give the case an id."
        )
    if config.getoption("--slow-share") is None:
        return
    k, n = config.getoption("--slow-share")
    dealt = sorted((item for item in items if is_slow(item)), key=lambda item: item.nodeid)
    others = set(dealt) - set(dealt[k - 1 :: n])
    for item in others:
        item.stash[REASON] = "slow, of another share: see --slow-share"
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        reason = "slow: -m slow runs them" if is_slow(item) else "not asked for by -m or -k"
        item.config.stash[LEFT_OUT][item.stash.get(REASON, reason)] += 1


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--stop-after")
    if limit is not None and time.monotonic() - BEGAN > limit:
        pytest.skip(f"the {limit:g} seconds of --stop-after were over")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist, which tells the one that reports
        session.config.workeroutput["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = Counter(
        getattr(node, "workeroutput", {}).get("left_out")
    )  # every process leaves out the same


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """List what did not run: how many tests, and why."""
    reasons = config.stash[LEFT_OUT].copy()
    for report in terminalreporter.stats.get("skipped", []):
        reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    terminalreporter.section("left out")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:6} {reason}")
    if not reasons:
        terminalreporter.line("nothing")
    if not FULL:
        terminalreporter.line(
            f"Tests of data sets used the few images in {FEW}: SDEGEN_DATA names no folder of the full sets."
        )


# --- the same start for every test ------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # torch.manual_seed would write down its whole stack for each kind of accelerator that there is not.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Iterator[None]:
    """Make what several tests share from a random state of its own, so that it is the same whichever test comes first."""
    if fixturedef.scope == "function":
        return (yield)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def few_images() -> Iterator[None]:
    """A few images of each published set stand in for all, unless SDEGEN_DATA names a folder."""
    if FULL:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDEGEN_DATA", str(FEW))
        patch.setattr(sets, "_MNIST", checksums(FEW / "mnist"))
        patch.setattr(sets, "_FASHION", checksums(FEW / "fashion_mnist"))
        yield


def checksums(folder: Path) -> dict[str, tuple[str, str]]:
    """Compute the md5 of every file in a folder and of its decompressed bytes, by the file's name."""
    md5 = lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest()
    contents = {path.stem: path.read_bytes() for path in folder.glob("*.gz")}
    return {name: (md5(data), md5(gzip.decompress(data))) for name, data in contents.items()}


@pytest.fixture
def data_folder() -> Path:
    """The folder of the data sets that the loaders read."""
    return Path(os.environ["SDEGEN_DATA"])


@pytest.fixture
def full_sets() -> None:
    """Skip the test where the data sets are not there in full."""
    if not FULL:
        pytest.skip("needs the full data sets; let SDEGEN_DATA name their folder")


# --- what tests are made of -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(scope="session")
def eps(dtype: torch.dtype) -> float:
    """What rounding in the suite's dtype may cost, relative."""
    return 1e-9 if dtype == torch.float64 else 2e-4


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def draw(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Callable[..., Tensor]:
    """Standard normal numbers of a shape."""
    return lambda *shape: torch.randn(*shape, dtype=dtype, generator=generator).to(device)


@pytest.fixture
def awake() -> Callable[[nn.Module], nn.Module]:
    """Moves a network off its zero-initialised start, where it ignores all that it is told."""

    def moved(net: nn.Module) -> nn.Module:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.2 * torch.randn(p.shape, dtype=p.dtype).to(p.device))
        return net

    return moved


@pytest.fixture
def net(device: torch.device, dtype: torch.dtype) -> sdegen.Model:
    """A small network off its start, as a model of VP."""
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).to(device, dtype)
    for p in model.parameters():  # a last layer that starts at zero would hide everything
        nn.init.normal_(p, std=0.3)
    model.moments = sdegen.data.gaussian_ring().moments()
    return model


@pytest.fixture
def images(generator: torch.Generator) -> sdegen.data.Images:
    """Twelve images in three classes and four groups, which know their number: the first byte is it."""
    x = torch.randint(0, 256, (12, 3, 4, 5), dtype=torch.uint8, generator=generator)
    x[:, 0, 0, 0] = torch.arange(12)
    return sdegen.data.Images(x, torch.arange(12) % 3, ("a", "b", "c"), torch.arange(12) // 3)


@pytest.fixture
def w(device: torch.device, dtype: torch.dtype) -> SimpleNamespace:
    """Small models and data on the suite's device, in its dtype."""
    torch.manual_seed(0)
    ring = sdegen.data.gaussian_ring()

    def model(sde: Any = None, moments: bool = True, **net: Any) -> sdegen.Model:
        built = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1, **net), sdegen.VP() if sde is None else sde).to(
            device, dtype
        )
        built.moments = ring.moments() if moments else None
        return built

    def well() -> sdegen.DirectModel:
        built = sdegen.DirectModel(sdegen.nets.MLP(2, width=8, depth=1), sdegen.DoubleWell(T=1.0)).to(device, dtype)
        built.moments = ring.moments()
        return built

    x = ring.sample(5, torch.Generator().manual_seed(0)).to(device, dtype)
    other = torch.float32 if dtype == torch.float64 else torch.bfloat16
    return SimpleNamespace(
        model=model, well=well, x=x, other=x.to(other), exact=sdegen.Exact(sdegen.VP(), ring), device=device
    )
