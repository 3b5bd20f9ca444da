"""Blurring diffusion beside VP: the FID of two image models of one budget, on sprites of 16 × 16 pixels.

    python -m benchmarks.blurring_table           # a quarter of an hour a model on one core, and minutes of samples
    python -m benchmarks.blurring_table --quick

The same small U-Net, loss, parametrisation and seed for each process: 1,500 steps of batches of 64, a tenth of what the
shipped model of sprites has seen. Samples are those of the default sampler with 20 evaluations, with the labels of the images
held back, against these; ± is over seeds of the samples. Blurring loses detail to heat besides the noise of VP; its width is
that at the end, in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.fid_table import NETWORKS, SCALING, as_images, equal_parts, quality
from benchmarks.files import made
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import P_UNCOND, PRESETS, SPLITS
from sdegen import metrics, samplers, training
from sdegen.data import Images
from sdegen.laws import Units

PROCESSES: dict[str, Callable[[], sdegen.LinearSDE]] = {
    "VP": sdegen.VP,
    "blurring, 2 pixels": lambda: sdegen.Blurring((3, 16, 16), blur=2.0),
    "blurring, 8 pixels": lambda: sdegen.Blurring((3, 16, 16), blur=8.0),
}
COLUMNS = {"FID": 1, "KID × 1000": 0, "precision": 2, "recall": 2, "seeds": 0}


def trained(sde: sdegen.LinearSDE, images: Images, steps: int) -> Any:
    """Return a model of the images on a process, conditional on their labels."""
    preset = PRESETS["shipped"]
    assert preset.end is not None
    torch.manual_seed(0)
    channels, size = images.x.shape[1:3]
    net = sdegen.nets.UNet.small(channels, size, len(images.label_names))
    own = sde.in_units(Units())  # bytes as numbers in [−1, 1], for which the settings were chosen
    model = sdegen.Model(net, own, preset.parametrization, own.time(preset.end**-2).item())
    sdegen.fit(
        model, images.scaled(-1, 1), steps=steps, batch_size=64, lr=preset.lr, warmup=100, schedule=training.cosine_decay,
        loss=preset.loss, p_uncond=P_UNCOND, autocast=torch.bfloat16, seed=0, progress=False,
    )  # fmt: skip
    return model


def sprites_block(table: Table) -> str:
    """Return the rows of every process."""
    steps = 20 if table.quick else 1500
    images = SPLITS["sprites"]().train
    train, held = equal_parts(images, sdegen.data.sprites_held_out(), 50 if table.quick else 2000)
    net, real = metrics.features(NETWORKS["sprites"]), held.scaled(0, 1).rows()

    def judged(x: Tensor) -> Values:
        return {name: value for name, value in quality(x, real, net).items() if name in COLUMNS}

    def floor(seed: int) -> Values:
        return judged(train.scaled(0, 1).rows())

    def drawn(name: str, seed: int) -> Values:
        path = table.out / "models" / f"{name.replace(' ', '-').replace(',', '')}-{steps}.safetensors"
        model = sdegen.load(made(path, lambda path: sdegen.save(trained(PROCESSES[name](), images, steps), path)))
        sampler = samplers.default(model, 20)
        return judged(
            as_images(
                sdegen.sample(model, len(held), sampler=sampler, label=held.labels, seed=seed, batch=250), SCALING
            )
        )

    rows = {"training images": table.row("sprites", "training images", floor, once=True)}
    for name in PROCESSES:
        rows[name] = table.row("sprites", name, partial(drawn, name))
    return table.write("blurring", COLUMNS, rows)


def main() -> None:
    """Print the table."""
    command.run("blurring_table", __doc__, [sprites_block], seeds=4)


if __name__ == "__main__":
    main()
