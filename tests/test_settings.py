"""Every setting of a training does what its formula says: one step, or a few, against the same steps by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import fit
from sdegen.nets.blocks import ResBlock
from sdegen.training import Settings

X = torch.arange(24, dtype=torch.float64).reshape(12, 2) / 10


class Line(nn.Module):
    """Two weights, whose loss is known: a gradient of ``slope`` for `a` and of twice that for `b`, at every datum."""

    moments = None

    def __init__(self, slope: float = 0.25) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64)) for _ in range(2))
        self.slope = slope
        self.rows: list[Tensor] = []

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        self.rows.append(x)
        return self.slope * (self.a.sum() + 2 * self.b.sum()).expand(len(x))


def trained(slope: float = 0.25, **settings: Any) -> Line:
    model = Line(slope)
    fit(
        model,
        X,
        **{"steps": 1, "batch_size": 4, "warmup": 0, "lr": 0.1, "ema": 0.0, "seed": 0, "progress": False} | settings,
    )
    return model


def steps_of_adam(
    gradients: list[float], start: float, rates: list[float], betas: Any = (0.9, 0.99), decay: float = 0.0
) -> list[float]:
    """AdamW as its paper writes it (I. Loshchilov and F. Hutter, 2017, arXiv:1711.05101), of one number."""
    p, m, v, found = start, 0.0, 0.0, []
    for k, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        p -= rate * decay * p
        p -= rate * (m / (1 - betas[0] ** k)) / (math.sqrt(v / (1 - betas[1] ** k)) + 1e-8)
        found.append(p)
    return found


def cosine(n: int) -> list[float]:
    return [0.5 * (1 + math.cos(math.pi * k / n)) for k in range(n)]


def lr() -> None:
    for rate in (0.1, 0.02):
        assert trained(lr=rate).a[0].item() == pytest.approx(2 - rate)  # Adam's first step is as long as the rate


def lr_factors() -> None:
    model = trained(lr_factors={"b": 3.0})
    assert model.a[0].item() == pytest.approx(2 - 0.1) and model.b[0].item() == pytest.approx(2 - 0.3)


def weight_decay() -> None:
    for decay in (0.0, 0.3):
        want = steps_of_adam([0.25] * 3, -3.0, [0.1 * c for c in cosine(3)], decay=decay)
        assert trained(steps=3, weight_decay=decay).a[1].item() == pytest.approx(want[-1])


def betas() -> None:
    turns = (1.0, -0.5, 0.1)

    class Turning(Line):
        def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
            return super().loss(x) * turns[len(self.rows) - 1]

    for pair in ((0.9, 0.99), (0.5, 0.8), (0.0, 0.5)):
        model = Turning()
        fit(model, X, steps=3, batch_size=4, warmup=0, lr=0.1, ema=0.0, betas=pair, seed=0, progress=False)
        want = steps_of_adam([0.25 * turn for turn in turns], 2.0, [0.1 * c for c in cosine(3)], pair)
        assert model.a[0].item() == pytest.approx(want[-1]), pair


def clip() -> None:
    # The norm of the gradient is √(2 (¼² + ½²)) = 0.79; in the second moment a clipped step counts for less.
    norm = math.sqrt(2 * (0.25**2 + 0.5**2))
    moved: list[Tensor] = []
    for bound in (1.0, 0.1):
        scale = min(1.0, bound / (norm * 1000))
        model = trained(
            slope=250.0, steps=1, clip=bound, callbacks=[lambda step: moved.append(step.model.a.grad.clone())]
        )
        assert moved[-1][0].item() == pytest.approx(250.0 * scale, rel=1e-4) and model.a[0] < 2


def steps() -> None:
    for n in (1, 4):
        assert len(trained(steps=n).rows) == n
    assert Settings().last == 4000 and Settings(seconds=1.0).last is None


def seconds() -> None:
    assert len(trained(steps=None, seconds=1e-9, lr=1e-5).rows) <= 1
    assert (
        Settings(seconds=10.0, steps=None).done(7, 5.0) == 0.5 and Settings(steps=10, seconds=10.0).done(7, 5.0) == 0.7
    )


def batch_size() -> None:
    for size in (1, 5):
        assert [len(rows) for rows in trained(steps=2, batch_size=size).rows] == [size, size]


def warmup() -> None:
    rates = []
    trained(steps=6, warmup=4, schedule=lambda done: 1.0, callbacks=[lambda step: rates.append(step.lr)])
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def schedule() -> None:
    rates: list[float] = []
    trained(steps=4, callbacks=[lambda step: rates.append(step.lr)])
    assert rates == pytest.approx([0.1 * c for c in cosine(4)])
    rates.clear()
    trained(steps=4, schedule=lambda done: 1 / (1 + done), callbacks=[lambda step: rates.append(step.lr)])
    assert rates == pytest.approx([0.1 / (1 + k / 4) for k in range(4)])


def ema() -> None:
    # Weights k^gamma of step k, with gamma of the relative width asked for (T. Karras et al., 2023, arXiv:2312.02696).
    raw: list[float] = []
    for width in (0.0, 0.05, 0.2):
        raw.clear()
        n = 40
        model = trained(
            steps=n, ema=width, schedule=lambda done: 1.0, callbacks=[lambda step: raw.append(step.model.a[0].item())]
        )
        if width == 0:
            assert model.a[0].item() == pytest.approx(raw[-1])
            continue
        # (gamma + 1)^½ (gamma + 2)⁻¹ (gamma + 3)^-½ is the width of the density ∝ t^gamma on [0, 1].
        low, high = -0.5, 1e4
        for _ in range(200):
            gamma = 0.5 * (low + high)
            spread = math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)
            low, high = (gamma, high) if spread > width else (low, gamma)
        mean = 0.0
        for k, value in enumerate(raw, 1):
            keep = (1 - 1 / k) ** (gamma + 1)
            mean = keep * mean + (1 - keep) * value
        assert model.a[0].item() == pytest.approx(mean, abs=1e-9), width


def loss() -> None:
    model = trained(loss=lambda model, x, generator=None: -model.a.sum().expand(len(x)))
    assert model.a[0].item() == pytest.approx(2.1) and model.b[0].item() == 2 and not model.rows


class Labels(nn.Module):
    """Keeps the labels that it is trained with."""

    moments = None

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.seen: list[Tensor] = []

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None, label: Tensor) -> Tensor:
        self.seen.append(label)
        return self.a.sum().expand(len(x))


def seen_labels(**settings: Any) -> Tensor:
    model = Labels()
    fit(model, (X, torch.arange(12)), steps=300, batch_size=12, seed=0, progress=False, **settings)
    return torch.cat(model.seen)


def p_uncond() -> None:
    assert (seen_labels() >= 0).all()
    lost = (seen_labels(p_uncond=0.3) == -1).double()
    assert abs(lost.mean() - 0.3) < 5 * (0.21 / 3600) ** 0.5


def null() -> None:
    labels = seen_labels(p_uncond=0.5, null={"label": 99})
    assert (labels == 99).double().mean() > 0.4 and (labels >= 0).all()


def accumulate() -> None:
    model, parts = (sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP()).double() for _ in range(2))
    parts.load_state_dict(model.state_dict())
    sizes = []
    first = next(m for m in parts.modules() if isinstance(m, nn.Linear) and m.in_features == 2)
    first.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    for m, n in ((model, 1), (parts, 3)):
        fit(m, X, steps=2, batch_size=6, accumulate=n, seed=0, progress=False)
    assert max(sizes) == 2
    for p, q in zip(model.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


def autocast() -> None:
    dtypes: list[torch.dtype] = []
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())
    linear = next(m for m in model.modules() if isinstance(m, nn.Linear))
    linear.register_forward_hook(lambda _, given, answer: dtypes.append(answer.dtype))
    for kind in (None, torch.bfloat16):
        fit(model, X.float(), steps=1, batch_size=4, autocast=kind, seed=0, progress=False)
    assert dtypes[0] == torch.float32 and dtypes[-1] == torch.bfloat16


def snapshots() -> None:
    model = Line()
    run = fit(model, X, steps=7, batch_size=4, snapshots=3, seed=0, progress=False)
    assert run.snapshots.steps == [3, 6, 7] and fit(Line(), X, steps=1, seed=0, progress=False).snapshots is None


def seed() -> None:
    rows = [torch.cat(trained(steps=3, seed=s).rows) for s in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


TABLE: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        steps, seconds, batch_size, lr, lr_factors, warmup, schedule, weight_decay, betas, clip, ema, loss, p_uncond, null,
        accumulate, autocast, snapshots, seed,
    )
}  # fmt: skip


def test_no_setting_is_left_out() -> None:
    assert [field.name for field in fields(Settings)] == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_setting_changes_what_it_says(name: str) -> None:
    TABLE[name]()


def test_a_setting_that_is_changed_leaves_the_others() -> None:
    settings = Settings(lr=0.5, steps=3)
    changed = Settings.of(settings, {"clip": 2.0})
    assert (changed.lr, changed.steps, changed.clip, settings.clip) == (0.5, 3, 2.0, 1.0)
    assert copy.copy(changed).clip == 2.0


# --- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.25, 0.8])
def test_dropout_loses_its_share_while_training_alone(p: float) -> None:
    torch.manual_seed(0)
    block = ResBlock(4, 64, 8, dropout=p)
    nn.init.constant_(block.conv_2.weight, 0.0)
    seen: list[Tensor] = []
    block.conv_2.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    h, features = torch.randn(8, 4, 6, 6), torch.randn(8, 8)
    for mode in (True, False):
        block.train(mode)(h, features)
    lost = (seen[0] == 0).double().mean().item()
    assert abs(lost - p) < 0.02 and not (seen[1] == 0).any()
    kept = seen[0] != 0
    torch.testing.assert_close(
        seen[0][kept], seen[1][kept] / (1 - p), rtol=1e-5, atol=1e-6
    )  # in the mean nothing changes
    assert sdegen.nets.UNet(1, (16,), 1, dropout=p).dropout == p
    rates = {m.p for m in sdegen.nets.UNet(1, (16,), 1, dropout=p).modules() if isinstance(m, nn.Dropout)}
    assert rates == {p}
