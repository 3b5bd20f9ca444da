"""Further conditions of a trained network: nothing changes until training has heard them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_declared_conditions import KINDS, SMALL, N, awake, values
from torch import nn

import sdegen
from sdegen import VP, Model, fit, nets
from sdegen.conditions import Condition

LEVEL = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_says_the_same_whatever_its_new_conditions_are_and_can_learn_from_them(name: str) -> None:
    make, shape = SMALL[name]
    old = awake(make(conditions={"seen": values("known", shape)[0]}))
    x, seen = torch.randn(N, *shape, dtype=torch.float64), values("known", shape)[1]
    new = nets.add_conditions(old, {kind: values(kind, shape)[0] for kind in KINDS})
    given = {kind: values(kind, shape)[1] for kind in KINDS}
    for more in ({}, given):
        torch.testing.assert_close(new(x, LEVEL, seen=seen, **more), old(x, LEVEL, seen=seen), rtol=0, atol=1e-12)
    loss = new(x, LEVEL, seen=seen, **given).square().sum()
    loss.backward()
    with torch.no_grad():
        for p in new.parameters():
            p -= 1e-3 * p.grad
    for kind in KINDS:
        moved = new(x, LEVEL, seen=seen, **given | {kind: given[kind].roll(1, 0)})
        assert (moved - new(x, LEVEL, seen=seen, **given)).abs().max() > 1e-9, kind


def test_the_network_that_was_given_stays_as_it_is_and_shares_no_weight() -> None:
    old = awake(nets.MLP(2, width=8, depth=1, classes=3, embedding=nets.Sinusoidal(6)))
    before = {name: value.clone() for name, value in old.state_dict().items()}
    new = nets.add_conditions(old, {"theta": nets.Vector(1)})
    assert {p.dtype for p in new.parameters()} == {torch.float64} and not new.training
    assert list(new.declared) == ["label", "theta"]
    for p in new.parameters():
        p.data.fill_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())


@pytest.mark.slow
def test_a_trained_model_goes_on_with_a_further_condition(tmp_path: Path) -> None:
    """Of a law whose mean is a condition: the density of the model is as it was, and training brings it nearer."""
    torch.manual_seed(0)
    theta = torch.randn(2000, 1)
    x = theta + 0.5 * torch.randn(2000, 1)
    model = Model(nets.MLP(1, width=32, depth=1), VP())
    fit(model, x, steps=150, batch_size=128, seed=0, progress=False)
    without = sdegen.log_prob(model, x[:100])
    model.net = nets.add_conditions(model.net, {"theta": nets.Vector(1)})
    torch.testing.assert_close(sdegen.log_prob(model, x[:100], theta=theta[:100]), without)
    fit(model, (x, {"theta": theta}), steps=150, batch_size=128, seed=0, progress=False)
    within = sdegen.log_prob(model, x[:100], theta=theta[:100])
    assert (within - without).mean() > 0.5  # log √5 = 0.8 of the exact densities
    sdegen.save(model, tmp_path / "model.safetensors")
    again = sdegen.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(sdegen.log_prob(again, x[:100], theta=theta[:100]), within)


class Loud(nets.Vector):
    """A vector that enters by a module of the user, which cannot be silent."""

    def entry(self, features: int) -> nn.Module:
        return nn.Linear(self.size, features)


@pytest.mark.parametrize(
    ("net", "conditions", "error", "sentence"),
    [
        (lambda: nets.Perceptron(2, 2, 8), {"theta": nets.Vector(1)}, TypeError, "keeps no argument `conditions`"),
        (lambda: nets.MLP(2, classes=3), {"label": nets.Label(3)}, ValueError, "label"),
        (
            lambda: nets.MLP(2, conditions={"theta": nets.Vector(1)}),
            {"theta": nets.Vector(2)},
            ValueError,
            "conditions has 'theta', which the network has already",
        ),
        (lambda: nets.MLP(2), {"theta": Loud(1)}, TypeError, "theta enters by a Linear, which has no method silence()"),
        (lambda: nets.UNet(1, (8,)), {"known": nets.Fields(1, dims=1)}, ValueError, "give Fields(..., dims=2)"),
    ],
)
def test_what_cannot_be_added_is_refused(
    net: Callable[[], nn.Module], conditions: dict[str, Condition], error: Any, sentence: str
) -> None:
    with pytest.raises(error) as refusal:
        nets.add_conditions(net(), conditions)
    assert sentence in str(refusal.value)
