"""What the codes of a VAE of images are good for: a classifier on them, what fools it, and walks through them.

    python -m benchmarks.latent_codes                    # the VAE of the families table on Fashion-MNIST, or one trained now
    python -m benchmarks.latent_codes --data digits

A linear head on the codes is trained on the labels of the training set; its accuracy is that on 2,000 images held back, changed
by the fast gradient sign method by so much in every pixel of [0, 1]. Beside it the same for an encoder that was never trained.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.families import LATENT, images, trained
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen import baselines, plots
from sdegen.data import Images

EPSILONS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)


def vae(table: Table, train: Images, learned: bool) -> baselines.VAE:
    """The VAE of the families table; or the same as it is built."""
    family = images(table.quick, math.ceil(len(train) / 64))["VAE"]
    if not learned:
        torch.manual_seed(0)
        return family.build(train)
    path = table.beside("families_table").within(data_of(table)).out / "models" / "VAE-0.safetensors"
    if path.exists() and not table.quick:
        return sdegen.load(path)
    return trained(family, train, 0, device=table.device)[0]


def head(table: Table, learned: bool, seed: int) -> Values:
    """A row: accuracy of a head by the size of the change."""
    train, test = SPLITS[data_of(table)]()
    model = vae(table, train, learned).eval()
    torch.manual_seed(seed)
    classifier = baselines.LatentClassifier(model, LATENT, len(train.label_names))
    steps = 100 if table.quick else 3000
    fit_on(table.device, classifier, train.scaled(0, 1), steps=steps, lr=5e-3, batch_size=256, seed=seed)
    part = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:2000]]
    assert part.labels is not None
    x = part.scaled(0, 1).rows()
    curve = baselines.robustness(classifier, x, part.labels, EPSILONS)
    if learned and seed == 0:
        picture(table, model, classifier, x, part.labels)
    with torch.no_grad():
        units = baselines.active_units(model.codes(x)).sum().item()
    cells: Values = {f"ε = {e:g}": list(found) for e, found in zip(EPSILONS, curve)}
    return cells | {"active units": [float(units), None], "of": [float(LATENT), None]}


@torch.no_grad()
def picture(
    table: Table, model: baselines.VAE, classifier: baselines.LatentClassifier, x: Tensor, label: Tensor
) -> None:
    """Walks along the liveliest units, arcs between images, and images that fool the head beside the own ones."""
    codes = model.codes(x)
    lively = codes.var(0).argsort(descending=True)[:6]
    values = torch.linspace(-3, 3, 10)
    walks = torch.cat([baselines.traversal(model.decode, codes[0], int(i), values) for i in lively])
    arcs = torch.cat([baselines.walk_latents(model.decode, codes[k], codes[k + 1], 10) for k in range(0, 12, 2)])
    fooled = baselines.fgsm(classifier, x[:30], label[:30], 0.1)
    pairs = torch.stack([x[:30].reshape(3, 10, *x.shape[1:]), fooled.reshape(3, 10, *x.shape[1:])], 1).flatten(0, 2)
    figure = Figure(figsize=(12, 3), layout="constrained")
    titles = ("traversals of six units", "arcs between images", "images, and changed by ε = 0.1")
    for ax, part, title in zip(figure.subplots(1, 3), (walks, arcs, pairs), titles):
        plots.images(part.clamp(0, 1), columns=10, ax=ax, title=title)
    table.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(table.out / f"{data_of(table)}.png", dpi=100)


def codes_block(table: Table) -> str:
    """Return the accuracies of heads on the codes of a VAE, learned and as it is built."""
    data = data_of(table)
    rows = {
        name: table.row(data, name, partial(head, table, learned))
        for name, learned in (("codes of the VAE", True), ("codes of an encoder as it is built", False))
    }
    columns = {f"ε = {e:g}": 3 for e in EPSILONS} | {"active units": 0, "of": 0, "seeds": 0}
    return table.write(data, columns, rows)


def data_of(table: Table) -> str:
    """Return the name of the images."""
    return "digits" if table.quick else table.args.data


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    parser.add_argument("--data", choices=list(SPLITS), default="fashion_mnist", help="which images")


def main() -> None:
    """Print the table."""
    command.run("latent_codes", __doc__, [codes_block], options=options, networks=True)


if __name__ == "__main__":
    main()
