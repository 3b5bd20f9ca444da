"""What tests of conditions and guidance share: processes, states on them, and small models and networks with a label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import sdegen
from sdegen.models.score import ScoreModel
from sdegen.testing import gaussian_data

DATA = gaussian_data()
SDES = [sdegen.VP(), sdegen.VE(), sdegen.Cosine(), sdegen.DDPM(), sdegen.CLD(sigma_0=0.1)]


def states(sde: Any, n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    t = sde.T * torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    return sde.perturb(DATA.sample(n, g), t, generator=g).x, t


class Two(ScoreModel):
    """Exact for one of two laws by `label`, and for their mixture without."""

    def __init__(self, sde: Any) -> None:
        means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
        law = sdegen.GaussianMixture
        both = law(torch.full((2,), 0.5), means, torch.full((2,), 0.1))
        self.laws = {0: law(torch.ones(1), means[:1], torch.ones(1) * 0.1), None: both}
        self.sde, self.moments, self.asked = sde, both.moments(), 0

    def _at(self, label: Any) -> sdegen.Exact:
        self.asked += 1
        return sdegen.Exact(self.sde, self.laws[label])

    def score(self, x: Tensor, t: Any, label: Any = None, **cond: Any) -> Tensor:
        return self._at(label).score(x, t)

    def estimate(self, x: Tensor, t: Any, label: Any = None, **cond: Any) -> tuple[Tensor, Tensor]:
        return self._at(label).estimate(x, t)


class Labelled(nn.Module):
    """A net that answers with its conditions, of which it keeps a record."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> Tensor:
        self.seen.append(cond)
        label = cond["label"]
        return 0.1 * x + (label[:, None] if label.ndim else label)
