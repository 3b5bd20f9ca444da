"""The models of the families table, `benchmarks.families_table`: of each family one, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

import sdegen
from benchmarks.devices import fit_on
from sdegen import baselines as b
from sdegen import nets, training
from sdegen.data import Images

LATENT = 100
# Both players by Adam without momentum, the critic faster: two time scales (M. Heusel et al., 2017, arXiv:1706.08500).
PLAYERS: dict[str, Any] = {"betas": (0.0, 0.9), "clip": 1e3, "lr_factors": {"net.critic.": 4.0}}
# The settings that deep convolutional players are commonly trained with.
CONVOLUTIONAL: dict[str, Any] = {"betas": (0.5, 0.9), "clip": 1e3}


@dataclass
class Family:
    """What a row is made by: a model, and how it is trained.

    Attributes
    ----------
    build
        The untrained model; of images, from the training set.
    fit
        Arguments of `sdegen.fit`.
    dequantised
        Whether images get uniform noise, so that densities are those of bytes.
    mean
        Whether samples of images are means of ``p(x | z)``, as they are commonly shown.
    warm_up
        Share of the steps in which the KL of a hierarchy is let in.
    as_they_are
        Whether the model takes data as they are, and not in units of their spread, because the recipe was chosen so.
    """

    build: Callable[..., Any]
    fit: dict[str, Any] = field(default_factory=dict)
    dequantised: bool = False
    mean: bool = False
    warm_up: float = 0.0
    as_they_are: bool = False


def coder(inner: int, outer: int) -> nn.Module:
    """Return the perceptron that encoders, decoders and both players of the mixture's rows are."""
    return nets.Perceptron(inner, outer, 128, 2)


# Chosen on data as they are, with a standard deviation of 2.9. In units of the spread the penalties of critics weigh eight times
# as much, and latents merge modes: a row says so.
AS_THEY_ARE: dict[str, Family] = {
    "VAE": Family(lambda: b.VAE(coder(2, 4), coder(2, 4), 2), {"steps": 6000, "lr": 2e-3}),
    "VAE, KL let in slowly": Family(
        lambda: b.HierarchicalVAE((2,), (2,), width=128, depth=2), {"steps": 6000, "lr": 2e-3}, warm_up=0.2
    ),
    "hierarchical VAE": Family(
        lambda: b.HierarchicalVAE((2,), (2, 2), width=96, depth=2), {"steps": 6000, "lr": 2e-3}, warm_up=0.2
    ),
    "RealNVP": Family(
        lambda: b.RealNVP((2,), couplings=8, width=128, depth=2), {"steps": 6000, "lr": 3e-3, "batch_size": 512}
    ),
    "residual flow": Family(lambda: b.ResidualFlow((2,), blocks=16, width=64, bound=0.95), {"steps": 2000}),
    "continuous flow": Family(
        lambda: b.ContinuousFlow(nets.MLP(2, width=64, depth=2), (2,), steps=6), {"steps": 600}
    ),
    "GAN": Family(lambda: b.GAN(coder(2, 2), coder(2, 1), 2, r1=0.1), {"steps": 6000, "lr": 1e-3} | PLAYERS),
    "GAN, no penalty": Family(lambda: b.GAN(coder(2, 2), coder(2, 1), 2), {"steps": 6000, "lr": 1e-3} | PLAYERS),
    "GAN, saturating": Family(
        lambda: b.GAN(coder(2, 2), coder(2, 1), 2, saturating=True, r1=0.1), {"steps": 6000, "lr": 5e-4} | PLAYERS
    ),
    "f-GAN, KL": Family(
        lambda: b.GAN(coder(2, 2), coder(2, 1), 2, divergence=b.KL(), r1=0.1), {"steps": 6000, "lr": 5e-4} | PLAYERS
    ),
    "f-GAN, reverse KL": Family(
        lambda: b.GAN(coder(2, 2), coder(2, 1), 2, divergence=b.ReverseKL(), r1=0.1),
        {"steps": 6000, "lr": 5e-4} | PLAYERS,
    ),
    "WGAN, clipped": Family(lambda: b.WGAN(coder(2, 2), coder(2, 1), 2, clip=0.1), {"steps": 6000, "lr": 5e-4} | PLAYERS),
    "WGAN-GP": Family(
        lambda: b.WGANGP(coder(2, 2), coder(2, 1), 2, weight=0.1), {"steps": 6000, "lr": 1e-3} | PLAYERS
    ),
}  # fmt: skip

MIXTURE: dict[str, Family] = {
    "score model, VP": Family(lambda: sdegen.Model(nets.MLP(2, width=96), sdegen.VP()), {"steps": 4000}),
    "flow matching": Family(lambda: sdegen.Model(nets.MLP(2, width=96), sdegen.Rectified()), {"steps": 4000}),
    **{name: replace(family, as_they_are=True) for name, family in AS_THEY_ARE.items()},
    # A small encoder at a high rate: of five seeds all gave every mode its own category; of three of a larger one at 1e-3, none.
    "VAE, 8 categories": Family(
        lambda: b.CategoricalVAE(nets.Perceptron(2, 8, 32, 0), nets.Perceptron(8, 4, 64, 0), 8), {"steps": 3000, "lr": 1e-2}
    ),
    "hierarchical VAE, in units of the spread": AS_THEY_ARE["hierarchical VAE"],
}  # fmt: skip


def _up(shape: Any, latent: int, **more: Any) -> nn.Module:
    return nets.Up(latent, shape, 64, **more)


def images(quick: bool, epoch: int, of_flow: int = 1500) -> dict[str, Family]:
    """Return the families that are trained on images, by name, for a set with an epoch of so many steps of 64; RealNVP takes
    `of_flow` steps.
    """

    def steps(epochs: float) -> int:
        return 60 if quick else max(3000, round(epochs * epoch))  # a small set is gone through more often

    fast = {"autocast": torch.bfloat16, "batch_size": 64}

    def shape(data: Any) -> tuple[int, ...]:
        return tuple(data.x.shape[1:])

    return {
        "VAE": Family(
            lambda data: b.VAE(nets.Down(shape(data), 2 * LATENT), _up(shape(data), LATENT), LATENT, b.Continuous()),
            fast | {"steps": steps(5), "lr": 1e-3}, dequantised=True, mean=True,
        ),
        "hierarchical VAE": Family(
            lambda data: b.HierarchicalVAE(shape(data), (32, 16), width=384, likelihood=b.Continuous(), skip=True),
            fast | {"steps": steps(5), "lr": 1e-3}, dequantised=True, mean=True, warm_up=0.2,
        ),
        "RealNVP": Family(
            lambda data: b.RealNVP(shape(data), first=b.Marginals.of(data)),
            fast | {"steps": 60 if quick else of_flow, "lr": 1e-3}, dequantised=True,
        ),
        "residual flow": Family(
            lambda data: b.ResidualFlow(shape(data), blocks=6, width=64, first=b.Marginals.of(data), squeeze=2),
            {"batch_size": 64, "steps": 60 if quick else 600, "lr": 2e-3}, dequantised=True,
        ),
        "GAN": Family(
            lambda data: b.GAN(
                _up(shape(data), LATENT, batch_norm=True, bounded=True), nets.Down(shape(data), 1, batch_norm=True), LATENT
            ),
            fast | {"steps": steps(5), "lr": 2e-4, "schedule": training.constant_rate} | CONVOLUTIONAL,
        ),
        "WGAN, clipped": Family(
            lambda data: b.WGAN(
                _up(shape(data), LATENT, batch_norm=True, bounded=True), nets.Down(shape(data), 1), LATENT, clip=0.02
            ),
            fast | {"steps": steps(5), "lr": 2e-4, "schedule": training.constant_rate} | PLAYERS,
        ),
        "WGAN-GP": Family(
            lambda data: b.WGANGP(
                _up(shape(data), LATENT, batch_norm=True, bounded=True), nets.Down(shape(data), 1), LATENT
            ),
            fast | {"steps": steps(5), "lr": 2e-4, "schedule": training.constant_rate} | PLAYERS,
        ),
    }  # fmt: skip


# The source projects: 100 numbers in a latent, Adam at 2e-4 in batches of 64, 100 epochs over 80 % of all images in [0, 1].
SOURCE_EPOCHS, SOURCE_SPLIT = 100.0, 0.8
SOURCE: dict[str, Any] = {
    "lr": 2e-4, "batch_size": 64, "betas": (0.5, 0.999), "schedule": training.constant_rate, "warmup": 0, "ema": 0.0, "clip": 1e3,
    "lr_factors": None,
}  # fmt: skip


def as_the_sources(family: Family, steps: int) -> Family:
    """Return the same model with the settings of the source projects."""
    return replace(family, fit=family.fit | SOURCE | {"steps": steps}, warm_up=0.0)


def trained(
    family: Family, data: Any, seed: int, steps: int | None = None, device: str = "cpu", **more: Any
) -> tuple[Any, sdegen.Run]:
    """Return a model of a family, and the record of its training."""
    torch.manual_seed(seed)
    model = family.build(data) if isinstance(data, Images) else family.build()
    settings = family.fit | ({} if steps is None else {"steps": steps}) | more
    if family.as_they_are:
        model.units = sdegen.Units()
    if family.warm_up:
        warm = b.WarmUp(model, max(1, round(family.warm_up * settings["steps"])))
        settings["callbacks"] = [*settings.get("callbacks", ()), warm]
    given: Any = data
    if isinstance(data, Images):
        alone = data.without_labels()
        given = alone.dequantised(0, 1) if family.dequantised else alone.scaled(0, 1)
    return model, fit_on(device, model, given, seed=seed, **settings)
