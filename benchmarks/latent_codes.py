"""What the codes of a VAE of images are good for: a classifier on them, what fools it, and walks through them.

    python -m benchmarks.latent_codes                    # the VAE of the families table on Fashion-MNIST, or one trained now
    python -m benchmarks.latent_codes --data digits
    python -m benchmarks.latent_codes --preset source    # the VAE of the sources table, which this does not train

A linear head on the codes is trained on the labels of the training set; its accuracy is that on 2,000 images held back, changed
by the fast gradient sign method by so much in every pixel of [0, 1]. Beside it the same for an encoder that was never trained,
and for a head and an autoencoder that were trained together, by the sum of the bound in nats per number and a tenth of the
head's loss. All heads are judged on the same images, and errors are over these, also where there are several seeds.

The second table changes images so that the autoencoder makes something else of them: by the sign of the gradient of the squared
distance between an image and the reconstruction of the changed one, and by random signs. It shows the root mean square of that
distance over all pixels of 500 images held back.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import sdegen
from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.families import LATENT, SOURCE_EPOCHS, images, trained
from benchmarks.families_images import add_preset, families_of, split_of
from benchmarks.fid_images import data_of
from benchmarks.rows import Values
from benchmarks.tables import Table, combine
from benchmarks.train_images import SPLITS
from sdegen import baselines, plots
from sdegen.data import Images

EPSILONS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)


def vae(table: Table, train: Images, learned: bool) -> baselines.VAE:
    """Return the VAE of the families table, trained where it is not there yet; or the same untrained."""
    family = images(table.quick, math.ceil(len(train) / 64))["VAE"]
    if not learned:
        torch.manual_seed(0)
        return family.build(train)
    path = vae_file(table)
    if is_there(table):
        return sdegen.load(path, dtype=torch.float32)
    if of_sources(table) and not table.quick:
        raise SystemExit(f"{path} is not there; train it by python -m benchmarks.sources_table --own --only VAE.")
    return trained(family, train, 0, device=table.device)[0]


def is_there(table: Table) -> bool:
    """Tell whether the autoencoder has been trained already."""
    return vae_file(table).exists() and not table.quick


def of_sources(table: Table) -> bool:
    """Tell whether the autoencoder is that of the sources' recipe."""
    return bool(table.args.preset == "source")


def vae_file(table: Table) -> Path:
    """Return where the weights of the autoencoder are kept by the table that trains it."""
    if of_sources(table):
        return table.beside("sources_table").out / "models" / f"{data_of(table)}-VAE-0.safetensors"
    return table.beside("families_table").within(data_of(table)).out / "models" / "VAE-0.safetensors"


class Joint(nn.Module):
    """A VAE and a linear head on its codes, trained by one loss.

    Parameters
    ----------
    vae
        The autoencoder.
    latent, classes
        Numbers in a code, and classes.
    """

    moments = None

    def __init__(self, vae: baselines.VAE, latent: int, classes: int) -> None:
        super().__init__()
        self.vae, self.head = vae, nn.Linear(latent, classes)

    @property
    def net(self) -> nn.Module:
        """The part that computes in half precision."""
        return self.vae.net

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, ``(B, classes)``."""
        return self.head(self.vae.codes(x))

    def loss(self, x: Tensor, *, label: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the bound in nats per number and a tenth of the head's cross-entropy, ``(B,)``."""
        return self.vae.loss(x, generator=generator) + 0.1 * F.cross_entropy(self(x), label, reduction="none")


def joint(table: Table, seed: int) -> Values:
    """Train a head together with its autoencoder, and return its accuracies by the size of the change."""
    train, test = split_of(data_of(table), table.args.preset)
    family = families_of(data_of(table), len(train), table.args.preset, SOURCE_EPOCHS, table.quick)["VAE"]
    torch.manual_seed(seed)
    both = Joint(family.build(train), LATENT, len(train.label_names))
    steps = table.args.steps or (100 if table.quick else None)
    settings = family.fit | ({"steps": steps} if steps else {})
    folder = table.out / "models" / f"joint-{folder_of(table)}-{seed}"
    run = fit_on(table.device, both, train.dequantised(0, 1), seed=seed, checkpoint=folder, every=250, **settings)
    return judged(both, both.vae, test) | {"steps": [run.steps, None]}


def judged(classifier: nn.Module, model: baselines.VAE, test: Images) -> Values:
    """Return accuracies of a head, by the size of the change, and how many numbers of a code are in use."""
    part = some(test, 2000)
    assert part.labels is not None
    x = part.scaled(0, 1).rows()
    curve = baselines.robustness(classifier.eval(), x, part.labels, EPSILONS)
    with torch.no_grad():
        units = baselines.active_units(model.codes(x)).sum().item()
    cells: Values = {f"ε = {e:g}": list(found) for e, found in zip(EPSILONS, curve)}
    return cells | {"active units": [float(units), None], "of": [float(LATENT), None]}


def some(test: Images, n: int) -> Images:
    """Return `n` images held back, or all, at random."""
    return test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:n]]


def head(table: Table, learned: bool, seed: int) -> Values:
    """Train a head on the codes of an autoencoder, and return its accuracies by the size of the change."""
    train, test = split_of(data_of(table), table.args.preset)
    model = vae(table, train, learned).eval()
    torch.manual_seed(seed)
    classifier = baselines.LatentClassifier(model, LATENT, len(train.label_names))
    steps = 100 if table.quick else 3000
    fit_on(table.device, classifier, train.scaled(0, 1), steps=steps, lr=5e-3, batch_size=256, seed=seed)
    if learned and seed == 0:
        part = some(test, 2000)
        assert part.labels is not None
        picture(table, model, classifier, part.scaled(0, 1).rows(), part.labels)
    return judged(classifier, model, test)


def reconstruct(model: baselines.VAE, x: Tensor) -> Tensor:
    """Return what an autoencoder makes of images."""
    return model.decode(model.codes(x))


def by_gradient(model: baselines.VAE, x: Tensor) -> Tensor:
    """Return the signs by which images are changed so that the reconstruction leaves the image fastest.

    The fast gradient sign method of I. Goodfellow, J. Shlens, C. Szegedy, 2014, arXiv:1412.6572, with another loss.
    """
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((reconstruct(model, at) - x).square().sum(), at)
    assert gradient.isfinite().all()  # the sign of NaN would be 0, without a word
    return gradient.sign()


def at_random(model: baselines.VAE, x: Tensor) -> Tensor:
    """Return random signs."""
    return 2.0 * torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)) - 1


def reconstructed(table: Table, signs: Callable[[baselines.VAE, Tensor], Tensor], seed: int) -> Values:
    """Return how far reconstructions of changed images are from the images, by the size of the change."""
    train, test = split_of(data_of(table), table.args.preset)
    model, x = vae(table, train, True).eval(), some(test, 500).scaled(0, 1).rows()
    direction, cells = signs(model, x), {}
    for e in EPSILONS:
        with torch.no_grad():
            square = (reconstruct(model, (x + e * direction).clamp(0, 1)) - x).square().flatten(1).mean(1).double()
        root = square.mean().sqrt().item()
        cells[f"ε = {e:g}"] = [root, square.std().item() / len(x) ** 0.5 / (2 * root)]
    return cells


@torch.no_grad()
def picture(
    table: Table, model: baselines.VAE, classifier: baselines.LatentClassifier, x: Tensor, label: Tensor
) -> None:
    """Draw walks along the six units of most variance, arcs between images, and images beside the changed ones that fool the
    head.
    """
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
    figure.savefig(table.out / f"{folder_of(table)}.png", dpi=100)


def folder_of(table: Table) -> str:
    """Return the name of the images, and whose recipe the autoencoder is of."""
    return data_of(table) + ("-source" if of_sources(table) else "")


def codes_block(table: Table) -> str:
    """Return the accuracies of heads on the codes of a VAE, learned, as it is built, and trained with its head."""
    name = folder_of(table)
    makers: dict[str, tuple[Callable[[int], Values], int]] = {
        "codes of the VAE": (partial(head, table, True), 3),
        "codes of an encoder as it is built": (partial(head, table, False), 3),
        "codes and head trained together": (partial(joint, table), 1),
    }
    rows = {row: over_images(table.each(name, row, make, seeds)) for row, (make, seeds) in makers.items()}
    columns = {f"ε = {e:g}": 3 for e in EPSILONS} | {"active units": 0, "of": 0, "steps": 0, "seeds": 0}
    return table.write(name, columns, rows)


def over_images(by_seed: dict[int, Values]) -> Values:
    """Return means over seeds with their errors over images, which all seeds share: no mean over seeds lowers these."""
    cells = combine(list(by_seed.values()))
    for column in (f"ε = {e:g}" for e in EPSILONS):
        if column in cells:
            own = [values[column][1] for values in by_seed.values()]
            cells[column] = (cells[column][0], sum(own) / len(own))
    return cells


def reconstruction_block(table: Table) -> str:
    """Return how far reconstructions of changed images are from the images."""
    name, device = f"{folder_of(table)}-reconstruction", "cpu" if is_there(table) else None
    rows = {
        row: table.row(name, row, partial(reconstructed, table, signs), once=True, device=device)
        for row, signs in (("changed by the gradient's sign", by_gradient), ("changed by random signs", at_random))
    }
    return table.write(name, {f"ε = {e:g}": 3 for e in EPSILONS}, rows)


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    command.add_data(parser, list(SPLITS), "fashion_mnist", quick="the digits")
    add_preset(parser)
    parser.add_argument(
        "--steps",
        type=command.whole,
        help="steps of the training of head and autoencoder together (default: those of the autoencoder's settings)",
    )


def main() -> None:
    """Print the table."""
    command.run("latent_codes", __doc__, [codes_block, reconstruction_block], options=options, networks=True)


if __name__ == "__main__":
    main()
