"""A network that sees waves of the state: what they are, and that they tell bytes from what lies between them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import sdegen
from sdegen.nets import FourierState, UNet


class Seen(nn.Module):
    """A network that returns one of the channels that it sees."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return x[:, self.channel : self.channel + 1]


def test_the_waves_are_those_of_the_octaves() -> None:
    x, level = torch.randn(4, 1, 3, 3, dtype=torch.float64), torch.zeros(4)
    sine, cosine = (FourierState(Seen(c), octaves=[3, 4])(x, level) for c in (3, 4))
    assert torch.allclose(sine.square() + cosine.square(), torch.ones_like(x))
    assert torch.allclose(torch.atan2(sine, cosine), torch.atan2((16 * torch.pi * x).sin(), (16 * torch.pi * x).cos()))
    assert torch.equal(FourierState(Seen(0), octaves=[3, 4])(x, level), x)


def test_a_wave_of_one_step_is_the_same_on_all_bytes() -> None:
    scaling = sdegen.data.Scaling(-1, 1, 17)
    bytes_ = scaling(torch.arange(17, dtype=torch.uint8), torch.float64).reshape(17, 1, 1)
    seen = FourierState(Seen(2), octaves=[4])
    assert torch.allclose(seen(bytes_, torch.zeros(17)), torch.ones_like(bytes_))
    assert torch.allclose(seen(bytes_ + scaling.step / 2, torch.zeros(17)), -torch.ones_like(bytes_))


def test_such_a_network_is_conditioned_and_saved_as_the_one_inside(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = FourierState(UNet(3, (8,), out_channels=1, classes=2), octaves=[4])
    model = sdegen.Model(net, sdegen.VP())
    assert set(model.conditions.kinds) == {"label"}
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.3)
    sdegen.save(model, tmp_path / "model.safetensors")
    again = sdegen.load(tmp_path / "model.safetensors")
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(again.score(x, 0.3, label=1), model.score(x, 0.3, label=1))
    assert (model.score(x, 0.3, label=1) != model.score(x, 0.3, label=0)).any()


def test_no_octaves_are_refused() -> None:
    with pytest.raises(ValueError, match="octaves is empty"):
        FourierState(UNet(1, (8,)), octaves=[])
