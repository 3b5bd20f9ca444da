"""Train image models: those that are shipped in `sdegen/weights`, and the recipe of the source projects.

    python -m benchmarks.train_images fashion_mnist      # about 45 minutes on one core with AMX; goes on where it was stopped
    python -m benchmarks.train_images mnist --preset source --seconds 3600 --device cuda
    python -m benchmarks.train_images digits --steps 500
    python -m benchmarks.train_images mnist --out benchmarks/results --weights sdegen/weights/mnist-unet-v1.safetensors

A DDPM of 1,000 linear betas with a small U-Net, conditional on the class, which is dropped one time in ten. Samples and the
loss curve are drawn while it runs, into ``results/train_images``; a card says what was spent. The last command takes the place of
a model that is shipped, and of its card.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sdegen
from benchmarks import command
from benchmarks.cards import describe_training, write_card
from benchmarks.devices import fit_on
from benchmarks.files import made
from benchmarks.followed import Lines, MeanLoss
from sdegen import models, plots, training
from sdegen.data import Images, Split
from sdegen.laws import Units
from sdegen.processes.times import DiscreteTimes, LogNormalTimes
from sdegen.training.losses import Denoising
from sdegen.training.weightings import EDMWeighting, InverseVarianceWeighting

STEPS = {"digits": 3000, "mnist": 10_000, "fashion_mnist": 10_000, "sprites": 8000}
SPLITS: dict[str, Callable[[], Split]] = {
    "digits": lambda: sdegen.data.digits().split(0.8, seed=0),
    "mnist": sdegen.data.mnist,
    "fashion_mnist": sdegen.data.fashion_mnist,
    "sprites": sdegen.data.sprites,
}
P_UNCOND = 0.1


@dataclass(frozen=True)
class Preset:
    """How a model is trained.

    Attributes
    ----------
    parametrization, loss, lr, batch_size, warmup, schedule
        Arguments of `sdegen.Model` and `sdegen.fit`.
    epochs
        Passes over the data that the recipe asks for; None where `STEPS` says how long.
    end
        ``sigma / alpha`` below which the default sampler does not go; None for no such level.
    """

    parametrization: models.Parametrization
    loss: Denoising
    lr: float
    batch_size: int
    warmup: int
    schedule: Callable[[float], float]
    epochs: int | None = None
    end: float | None = None


PRESETS = {
    "shipped": Preset(
        models.EDMParametrization(),
        Denoising(EDMWeighting(), LogNormalTimes(-1.0, 1.4)),
        1e-3,
        128,
        200,
        training.cosine_decay,
        end=0.08,  # an eighth of the training is below: log 0.08 is 1.1 x 1.4 below -1
    ),
    # T = 1,000 linear betas, mean squared error of the noise at uniform steps, 500 epochs
    "source": Preset(
        models.NoiseParametrization(),
        Denoising(InverseVarianceWeighting(), DiscreteTimes(1000)),
        2e-4,
        64,
        0,
        training.constant_rate,
        epochs=500,
    ),
}


def build(
    images: Images, preset: Preset = PRESETS["shipped"], learned: bool = False, sde: sdegen.LinearSDE | None = None
) -> sdegen.Model:
    """Return an untrained model of a set of images, of a DDPM where no process is given."""
    channels, size = images.x.shape[1:3]
    net = sdegen.nets.UNet.small(channels, size, len(images.label_names), 2 * channels if learned else None)
    kind = sdegen.LearnedVariance if learned else sdegen.Model
    sde = (sdegen.DDPM() if sde is None else sde).in_units(
        Units()
    )  # bytes as numbers in [−1, 1], for which the settings were chosen
    return kind(net, sde, preset.parametrization, None if preset.end is None else sde.time(preset.end**-2).item())


def train(
    name: str, steps: int, preset: Preset = PRESETS["shipped"], folder: Path | None = None, **more: Any
) -> tuple[sdegen.Model, sdegen.Run]:
    """Train a model on the training split of a set, and return it with the record of its training."""
    return train_on(SPLITS[name]().train, steps, preset, folder, **more)


def train_on(
    images: Images, steps: int, preset: Preset = PRESETS["shipped"], folder: Path | None = None,
    sde: sdegen.LinearSDE | None = None, device: str = "cpu", **more: Any,
) -> tuple[sdegen.Model, sdegen.Run]:  # fmt: skip
    """Train a model on any images, conditional on their labels if they have some, and return it with the record of its
    training.
    """
    torch.manual_seed(0)
    model = build(images, preset, sde=sde)
    run = fit_on(
        device, model, images.scaled(-1, 1), steps=steps, batch_size=preset.batch_size, lr=preset.lr, warmup=preset.warmup,
        schedule=preset.schedule, loss=preset.loss, p_uncond=0.0 if images.labels is None else P_UNCOND,
        autocast=torch.bfloat16, seed=0, checkpoint=folder, every=250, **more,
    )  # fmt: skip
    return model, run


def of_digits(steps: int, path: Path, device: str = "cpu") -> Any:
    """Return a model of the digits, of which none is shipped: trained where the file is not there yet."""
    return sdegen.load(
        made(path, lambda path: sdegen.save(train("digits", steps, device=device, progress=False)[0], path))
    )


def main() -> None:
    """Train one, and write its card."""
    parser = command.make_parser("train_images", __doc__)
    parser.add_argument("name", choices=list(SPLITS), help="images that the model learns")
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="shipped",
        help="recipe of the training: that of the shipped models, or that of the source projects (default: shipped)",
    )
    command.add_length(parser)
    command.add_weights(parser)
    command.add_place(parser)
    command.add_threads(parser)
    args = parser.parse_args()
    command.set_threads(args.threads)
    preset = PRESETS[args.preset]
    images = SPLITS[args.name]().train
    asked = asked_of(args.name, preset, len(images))
    steps = args.steps or asked
    results = args.out / "train_images"
    folder = results / (args.name if args.preset == "shipped" else f"{args.name}-{args.preset}")
    # A recipe of constant rate is one run, however far it goes; the others end as they began to.
    state = results / "models" / (f"{folder.name}-{steps}" if preset.epochs is None else folder.name)
    for path in (folder, state.parent):
        path.mkdir(parents=True, exist_ok=True)
    labels = torch.arange(100, device=args.device) % len(images.label_names)
    album = plots.Album(folder, every=500 if preset.epochs is None else 5000, n=100, label=labels)
    followed = [album, MeanLoss(folder / "loss.csv"), Lines(folder.name, steps)]
    model, run = train(args.name, steps, preset, state, device=args.device, seconds=args.seconds, callbacks=followed)
    written = args.weights or state.with_suffix(".safetensors")
    sdegen.save(model.half(), written)
    card = describe_training(
        run, asked, args.device, data=f"{args.name}, {len(images):,} training images", preset=args.preset,
        command=f"python -m benchmarks.train_images {args.name} --preset {args.preset} --steps {run.steps}",
        epochs=round(run.steps * preset.batch_size / len(images), 1),
    )  # fmt: skip
    print(f"{write_card(card, folder / 'card.json')}\nwritten to {written} and {folder}")


def asked_of(name: str, preset: Preset, images: int) -> int:
    """Return the steps of a whole recipe on so many images."""
    return STEPS[name] if preset.epochs is None else round(preset.epochs * images / preset.batch_size)


if __name__ == "__main__":
    main()
