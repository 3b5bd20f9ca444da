"""The first time of a nonlinear process that does not say it: a part of its last one, so that no unit of time is assumed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sdegen


class Cubic(sdegen.SDE):
    """A process that is over at `T`, whatever `T` is."""

    def __init__(self, T: float) -> None:
        self.T = T

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -(x + 0.1 * x**3) * (5 / self.T)

    def diffusion(self, x: Tensor, t: Tensor) -> sdegen.Operator:
        return sdegen.Scale(torch.full_like(t, (10 / self.T) ** 0.5))


@pytest.mark.parametrize("T", [0.3, 1e-3, 5e-4, 1e-6])
def test_training_does_not_depend_on_the_unit_of_time(T: float) -> None:
    losses = []
    for last in (1.0, T):
        torch.manual_seed(0)
        model = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), Cubic(last))
        data = 0.5 * torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
        losses.append(sdegen.fit(model, data, steps=4, batch_size=32, seed=0, progress=False).loss)
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=0.02, atol=0.02)


def test_the_first_time_is_at_most_a_thousandth_and_may_be_said() -> None:
    class Own(Cubic):
        t_min = 0.2

    assert [Cubic(T).t_min for T in (8.0, 1.0, 0.5)] == [1e-3, 1e-3, 5e-4] and Own(1.0).t_min == 0.2
