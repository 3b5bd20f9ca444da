"""A step of training asks an accelerator for no number: steps on torch's device ``meta``, which has none to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import baselines as b
from sdegen import nets
from sdegen.data import Images
from sdegen.training.run import PendingLosses
from sdegen.training.settings import Settings
from sdegen.training.state import Training

SHAPE, LATENT = (1, 8, 8), 4
META = torch.device("meta")


def down(n: int, **more: Any) -> nn.Module:
    return nets.Down(SHAPE, n, width=8, **more)


def up(**more: Any) -> nn.Module:
    return nets.Up(LATENT, SHAPE, 8, **more)


MODELS: dict[str, Callable[[], Any]] = {
    "DDPM": lambda: sdegen.Model(nets.UNet.small(1, 8, 3), sdegen.DDPM(), sdegen.models.NoiseParametrization()),
    "VAE": lambda: b.VAE(down(2 * LATENT), up(), LATENT, b.Continuous()),
    "hierarchical VAE": lambda: b.HierarchicalVAE(SHAPE, (4, 2), width=16, likelihood=b.Continuous(), skip=True),
    "RealNVP": lambda: b.RealNVP(SHAPE, couplings=2, width=8, depth=1, scales=1),
    "RealNVP behind a logit": lambda: b.RealNVP(SHAPE, couplings=2, width=8, depth=1, scales=1, first=b.Logit()),
    "residual flow": lambda: b.ResidualFlow(SHAPE, blocks=1, width=8, squeeze=1),
    "GAN": lambda: b.GAN(up(batch_norm=True, bounded=True), down(1, batch_norm=True), LATENT),
    "WGAN": lambda: b.WGAN(up(bounded=True), down(1), LATENT),
    "WGAN-GP": lambda: b.WGANGP(up(bounded=True), down(1), LATENT),
}


def take_steps(model: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Training:
    """Two steps of a training that was set up on the CPU and moved to where no number can be asked for."""
    monkeypatch.setattr("sdegen.checks.check_dense", lambda *_: None)  # which refuses that device
    images = Images(torch.arange(64 * 24).reshape(24, *SHAPE).to(torch.uint8), torch.arange(24) % 3, ("a", "b", "c"))
    labelled = isinstance(model, sdegen.Model)
    data = (images if labelled else images.without_labels()).scaled(0, 1)
    training = Training(model, data, Settings(batch_size=8, seed=0, p_uncond=0.1 if labelled else 0.0, **settings))
    training.model.to(META).train()
    training.parameters = training.gradient.parameters = list(training.model.parameters())
    training.optimiser = torch.optim.SGD([{"params": training.parameters, "factor": 1.0}])  # type: ignore[assignment]
    training.pending, training.averages = PendingLosses(training.run, META), []
    training.source.device, training.source.cond = META, {k: v.to(META) for k, v in training.source.cond.items()}
    batches = training.source.batches(8, training.generator)
    for _ in range(2):
        batch = next(batches)
        training.step(training.drop(batch, training.generator) if training.drop.chances else batch, 1e-3)
    return training


@pytest.mark.parametrize("name", MODELS)
def test_a_step_asks_for_no_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    training = take_steps(MODELS[name](), monkeypatch)
    assert len(training.pending.waiting) == 2 and training.pending.waiting[0].device == META


def test_a_loss_that_asks_for_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def asking(model: b.VAE, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        values = model.loss(x, generator=generator)
        return values / max(values.detach().max().item(), 1.0)

    with pytest.raises(RuntimeError, match="meta"):
        take_steps(MODELS["VAE"](), monkeypatch, loss=asking)
