"""Options and fixtures of the whole suite: `--device`, `--dtype`, and the hypothesis profiles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=15, suppress_health_check=list(HealthCheck)
)
settings.register_profile("nightly", deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of states and networks")
    parser.addoption("--dtype", default="float64", choices=("float32", "float64"), help="dtype of states and networks")


def pytest_configure(config: pytest.Config) -> None:
    # pytest's own --hypothesis-profile wins; ci is the default.
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("ci")
    torch.set_num_threads(1)  # pytest-xdist uses the cores


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
