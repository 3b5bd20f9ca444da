"""Averaged weights have the buffers that belong to them: bounds hold, statistics are those of the averaged network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import fit
from sdegen.baselines import ResidualFlow
from sdegen.baselines.residual import Contraction
from sdegen.training import constant_rate

RING = sdegen.data.gaussian_ring()
WIDTHS = [0.0, 0.05, 0.15, 0.25, 0.28]
ASKED: dict[str, Any] = {"batch_size": 64, "lr": 0.05, "warmup": 0, "seed": 0, "progress": False, "threads": 1}


def slopes(model: nn.Module) -> list[float]:
    """The spectral norm of every contraction as it is applied, by singular values, over the bound that it has."""
    found = []
    for part in model.modules():
        if isinstance(part, Contraction):
            weight = part.layer.weight.detach()
            applied = weight * (part.bound / part.norm().detach()).clamp(max=1.0)
            found.append(torch.linalg.matrix_norm(applied.flatten(1), 2).item() / part.bound)
    return found


@pytest.mark.turns("0.05", "0.15")
@pytest.mark.parametrize("ema", WIDTHS)
def test_the_bound_of_a_residual_flow_holds_for_averaged_weights(ema: float) -> None:
    torch.manual_seed(0)
    flow = ResidualFlow((2,), blocks=2, width=16)
    run = fit(flow, RING, steps=40, ema=ema, snapshots=5, **ASKED)
    # Width 0 are the last weights, with the two iterations a step of training itself.
    assert max(slopes(flow)) <= (1 + 1e-5 if ema else 1.05)
    for width in (0.06, 0.1, 0.2):
        assert max(slopes(run.averaged(width))) <= 1 + 1e-5


def test_the_bound_holds_where_the_power_iteration_was_stuck() -> None:
    """A vector without any part of the largest singular vector never finds it by itself."""
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5])))
    part = Contraction(layer, (4,), 0.9)
    part.u.copy_(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    assert slopes(part)[0] > 1.4
    part.converge()
    assert slopes(part)[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("next_to", [0.5, 0.9, 0.99, 0.995])
def test_the_power_iteration_rests_at_the_largest_singular_value(next_to: float) -> None:
    """However slow it is: an error falls by ``(σ_2 / σ_1)²`` in a step, and it starts at the second singular vector."""
    layer = nn.Linear(3, 3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 3.0 * next_to, 1.0], dtype=torch.float64)))
    part = Contraction(layer, (3,), 0.9)
    part.u.copy_(torch.tensor([[0.0, 1.0, 0.0]]))
    part.converge()
    assert part.norm().item() == pytest.approx(3.0, rel=1e-9)


class Plain(nn.Module):
    """A learner around any network, whose loss draws nothing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.moments = net, None

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return (self.net(x) - 3 * x.flip(1)).square().sum(1)


def new_norm() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(2, 6))


def old_norm() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(2, 6))


@pytest.mark.parametrize("norm", [new_norm, old_norm])
@pytest.mark.parametrize("ema", [0.05, 0.25])
def test_spectral_norms_of_torch_are_one_for_averaged_weights(norm: Any, ema: float) -> None:
    torch.manual_seed(0)
    model = Plain(nn.Sequential(norm(), nn.Tanh(), nn.Linear(6, 2)))
    fit(model, RING, steps=40, ema=ema, **ASKED)
    model.net[0](torch.zeros(1, 2))  # type: ignore[index]  # the old kind sets its weight in a call
    weight = model.net[0].weight.detach()  # type: ignore[index, union-attr]
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1.0, abs=1e-3)  # type: ignore[arg-type]


def normalised() -> Plain:
    torch.manual_seed(0)
    return Plain(nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Dropout(0.5), nn.Linear(8, 2)))


def off(model: Plain, x: Tensor) -> float:
    """How far the statistics of the normalisation are from those of the data, in standard deviations."""
    with torch.no_grad():
        h = model.net[0](x)  # type: ignore[index]
    norm: Any = model.net[1]  # type: ignore[index]
    mean = ((norm.running_mean - h.mean(0)) / h.std(0)).abs().max()
    return max(mean.item(), (norm.running_var / h.var(0) - 1).abs().max().item())


@pytest.mark.parametrize("form", ["tensor", "loader", "iterator"])
@pytest.mark.parametrize("ema", WIDTHS[1:])
def test_statistics_of_batch_normalisation_are_those_of_averaged_weights(form: str, ema: float) -> None:
    x = RING.sample(64, torch.Generator().manual_seed(1)).float()
    model, own = normalised(), ASKED | {"batch_size": 64}
    data = {"tensor": x, "loader": torch.utils.data.DataLoader(x, batch_size=64), "iterator": iter([x] * 100)}[form]
    run = fit(model, data, steps=30, ema=ema, snapshots=5, **own)
    assert off(model, x) < 1e-5 and not model.training
    assert model.net[1].momentum == 0.3  # type: ignore[index, union-attr]
    assert off(run.averaged(0.1), x) < 1e-5


def test_a_look_at_averaged_weights_changes_nothing_of_the_run() -> None:
    seen = []

    def look(step: Any) -> None:
        with step.averaged() as model:
            seen.append(copy.deepcopy(model))

    x = RING.sample(200, torch.Generator().manual_seed(1)).float()
    looked, other = normalised(), normalised()
    torch.manual_seed(7)  # of dropout
    fit(looked, x, steps=12, ema=0.2, callbacks=[look], validation=x[:50], validate_every=3, **ASKED)
    torch.manual_seed(7)
    fit(other, x, steps=12, ema=0.2, **ASKED)
    # Statistics of batches are sums, which other numbers of threads round otherwise.
    torch.testing.assert_close(looked.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)
    # The last look is what the run leaves.
    torch.testing.assert_close(looked.state_dict(), seen[-1].state_dict(), rtol=1e-5, atol=1e-6)


def test_a_finished_run_gives_the_same_buffers_again(tmp_path: Path) -> None:
    x = RING.sample(200, torch.Generator().manual_seed(1)).float()
    models = [normalised() for _ in range(3)]
    for model, steps in zip(models, (6, 12, 12), strict=True):
        fit(model, x, steps=steps, ema=0.2, checkpoint=tmp_path, schedule=constant_rate, **ASKED)
    whole = normalised()
    fit(whole, x, steps=12, ema=0.2, schedule=constant_rate, **ASKED)
    for model in models[1:]:
        for name, value in whole.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
