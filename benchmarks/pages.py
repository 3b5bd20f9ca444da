"""Put the computed tables into the pages that show them, between a marker and the next heading or rule.

python -m benchmarks.pages
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import sdegen
from benchmarks.posterior_table import NOISES

HERE = Path(__file__).parent
TITLES = {
    "kl": "Processes and weightings",
    "architectures": "Architectures (VP, likelihood weighting)",
    "levels": "Relative score error `E‖s − s*‖² / E‖s*‖²` of networks trained at one noise level",
    "langevin": "Langevin dynamics against the probability flow, exact score",
    "langevin_trained": "Langevin dynamics with scores trained level by level",
}
SOLVERS = {
    "solver": "",
    "order": """### Observed orders of convergence

On the ring under VP: the logarithm of the ratio of median errors at 256 and 512 steps, and the error at 512. Ours on `Angle()`,
the peers on log-SNR, where their polynomials live.

""",
    "law": """### Law of the stochastic samplers

4,000 samples under VP by evaluations of the network: sliced W2 to as many exact ones; the width of the modes, by root mean
squared Mahalanobis distances, less 1; the total variation of the modes' weights; on the ring KL(data‖samples) by nearest
neighbours. Every sampler is on the best of three grids of the peers', chosen on other samples, and ours on their own too.
The first row of a target is the floor. Mixtures differ from seed to seed; "uneven" ones have 2 to 32 dimensions, with weights
and widths far apart. No mixture was used to choose anything; the ring was.

""",
    "trained": """### A trained network

A perceptron trained on the ring under VP; runs timed in turns, the median of 15 ratios.

""",
}

DRAWN = {
    "drawn_peer": "### Over the best peer\n\n",
    "drawn_grid": "### Over the best of ten grids\n\n",
}

SPEED: dict[str, tuple[str, list[str] | None]] = {
    "step": (
        """### Microseconds a step

With a network that returns its input, in runs of 50 steps; *set-up* is what comes before a run, per step of it. Our plan forms
every coefficient of the run there, the peers form most of theirs in the step.

""",
        [*(f"{shape}: µs" for shape in ("1x2", "1x3x32x32", "64x3x32x32")), "1x2: set-up", "64x3x32x32: set-up"],
    ),
    "unet": (
        """### Beyond a network

Runs of 20 steps with our small U-Net, set-up included: their time over the time inside the network, and the rest a step.

""",
        None,
    ),
    "noise": (
        """### The price of noise

Microseconds a draw in runs of so many, the making of the source shared out; ratios to `torch.randn` of the same round.

""",
        None,
    ),
    "distance": (
        """### The Fréchet distance of 2,048 features

Seconds, ratio to ours of the same round, and how far the values are from ours, relative to it.

""",
        None,
    ),
}

TOGETHER = {
    "ring": "### The ring, eight samples\n\nTrue score, float64.\n\n",
    "images": "### Fashion-MNIST, four images\n\nThe shipped network of 1.8 million parameters, float32.\n\n",
}

CONDITIONAL = {
    "posteriors": "### Posteriors of ten measurements each\n\n",
    "labels": "### Labels of very different widths\n\n",
}

LIKELIHOOD = {
    "flow": """### Integrating the flow

The ring, 500 points, from the true law at T; nats.

""",
    "divergence": """### Estimated divergences

Root mean square error in nats on a law of sixteen dimensions under VP.

""",
    "bounds": """### Bounds

Nats below the density, and the standard deviation of one draw, by the law that times are drawn from; then chains of N steps.

""",
    "processes": """### Every process, trained

The ring, the double well on a smaller one; KL and negative log-likelihood by the flow, of CLD of the whole state, in
nats. For the nonlinear process also the bound of its reversed SDE, from the true score on a grid, and what the target
of short kernels is off by.

""",
    "learned": """### Learned processes

Nats below the true density on the ring, of a chain of 20 states at equal distances in `t`, before training with the
true score and after training network and process on that bound; and of the process itself.

""",
    "identity": """### A diffusion model is a hierarchical VAE

Terms of the negative bound in nats, of two trained models and of the hierarchical VAE with their encoder: fixed
variances, learned ones.

""",
    "images": """### Bits per dimension, and foreign images

8 bits, uniform dequantisation (the digits have 17 levels), flow with one probe an image, the shipped models without
class, of the digits one trained for it, beside the flows of the families table; then areas under the curve, 0.5 being
chance, of five scores that should be larger for images of the other set (docs/likelihood.md): MNIST of Fashion-MNIST
and the other way round. Published for MNIST: RealNVP 1.06, residual flow 0.97.

""",
}

POSTERIORS = {
    f"d{dim}-noise{noise:g}": f"### {dim} dimensions, noise {noise:g} of the signal\n\n"
    for dim in (2, 8, 32)
    for noise in NOISES
}

FIELDS = {"signals": "### Signals of 32 places\n\n", "volumes": "### Volumes of 5 × 4 × 6 places\n\n"}

MAPS = {"ring": "### The ring\n\n", "mixture_in_8_dimensions": "### A mixture in eight dimensions\n\n"}

WEIGHTED = {
    "guided": "### Guidance along one mode\n\n",
    "annealed": "### Guidance along one mode, densities known\n\n",
    "named": "### Published ways of guidance, in floors\n\n",
    "planar": "### Products in the plane without closed form\n\n",
    "several": "### Several observations of one datum\n\n",
    "coverage": "### Stated errors of the normaliser, over 100 runs\n\n",
}

UNNORMALISED = {
    "known": "### Laws without data\n\n",
    "tilted": "### A model tilted by a reward\n\n",
}

RECIPE = {
    "images": "",
    "parts": """### What tells fine detail apart

Digits after 600 steps of a small network, one seed: 100 test images. *Flow, uniform noise* is that of `bits_per_dim`, which
asks the network about states between bytes, and below the noise that it was trained with.

""",
}

CODEC = {
    "codec": "",
    "recipe": """### Parts of a training for bits

Of the same small network of the digits, in nats an image of the test set: bounds of chains of 50 steps that end at noise
of two steps between bytes, and of one. 600 steps of training; one seed.

""",
    "gradient": """### How noisy gradients of the likelihood are

The variance of the gradient of a batch of 64 over the square of its mean, from 50 batches, after 100 steps of training,
by laws of the times. All have the same mean; with opposite pairs a batch is 128 evaluations.

""",
}

SERIES = {
    "composition": "### Long series from true scores of windows\n\n",
    "windows": "### Long series from trained windows\n\nOf the smooth process.\n\n",
    "posteriors": "### Forecasts and imputation\n\n",
    "stiff": "### A covariance that is nearly singular\n\n64 places, nine of them measured.\n\n",
}

MEASURED = {
    "reduced-four-times": "Means of 4 × 4 pixels, 7 × 7 numbers:\n\n",
    "a-square-missing": "All but a square of 14 × 14 pixels:\n\n",
    "half-missing": "The upper half:\n\n",
    "a-quarter-of-the-pixels": "A quarter of the pixels, at random:\n\n",
}

NONLINEAR = {
    "magnitude": "The size of one direction on the ring, with Gaussian noise of a tenth of what it sees:\n\n",
    "counts": "Two counts in 8 dimensions, whose mean is exponential along a direction, with the noise of Poisson:\n\n",
    "answers": "Six answers of yes or no in 8 dimensions:\n\n",
}

CODES = {
    "fashion_mnist": "Heads on codes, the VAE of the families table:\n\n",
    "fashion_mnist-source-reconstruction": "Distances of reconstructions, the VAE of the recipes of the sources:\n\n",
}

RESTORED = {"fashion_mnist": "Fashion-MNIST", "sprites": "Sprites"}

FIDS = {
    "fashion_mnist": "Fashion-MNIST, the shipped model, against test images",
    "fashion_mnist-10000": "Fashion-MNIST, of 10,000 images each",
    "mnist": "MNIST, the shipped model, against test images",
    "mnist-10000": "MNIST, of 10,000 images each",
    "sprites": "Sprites, the shipped model, against the tiles that no fold holds; four seeds, ± over them",
    "digits": "Digits, a model of 3,000 steps, against held-back images; four seeds, ± over them",
}


FAMILIES = {
    "mixture": "The mixture of eight modes",
    "fashion_mnist": "Families on Fashion-MNIST",
    "mnist": "Families on MNIST",
    "digits": "Families on the digits",
}


INFERRED = {"tasks": "", "rounds": "The moons, in rounds of simulations for one datum at a time:\n\n"}

Pages = dict[Path, str]


def put(pages: Pages, page: Path, marker: str, body: str) -> None:
    """Replace what stands between ``<!-- marker -->`` and ``<!-- end -->`` of a page, which is read if there is none yet."""
    text = pages.get(page) or page.read_text()
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- end -->|\Z)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page.name} has no <!-- {marker} --> marker.")
    pages[page] = pattern.sub(lambda m: f"{m[1]}\n{body}\n<!-- end -->", text)


def table(stem: str, columns: list[str] | None = None, of: str = "kl_table") -> str:
    """A computed table, or some of its columns, without the rows that are yet to be computed."""
    lines = (HERE / "results" / of / f"{stem}.md").read_text().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    keep = [i for i, name in enumerate(cells[0]) if columns is None or i == 0 or name in columns]
    return "\n".join("| " + " | ".join(row[i] for i in keep) + " |" for row in cells if set(row[1:]) != {"–"})


def main() -> None:
    """Fill the pages."""
    for page, text in filled().items():
        page.write_text(text)


def filled() -> Pages:
    """Return the text of every page with its tables."""
    pages: Pages = {}
    blocks = [f"### {title}\n\n{table(stem)}\n" for stem, title in TITLES.items()]
    picture = "![densities of trained models beside the truth](results/kl_table/densities.png)\n"
    put(pages, HERE / "README.md", "results", "\n".join([*blocks, picture]))
    blocks = [f"{text}{table(stem, of='solver_table')}\n" for stem, text in SOLVERS.items()]
    picture = "![error against evaluations](results/solver_table/solver.png)\n"
    put(pages, HERE / "README.md", "solvers", "\n".join([blocks[0], picture, *blocks[1:]]))
    drawn = [f"{text}{table(stem, of='drawn_table')}\n" for stem, text in DRAWN.items()]
    put(pages, HERE / "README.md", "drawn", "\n".join(drawn))
    conditional = [f"{text}{table(stem, of='conditional_table')}\n" for stem, text in CONDITIONAL.items()]
    put(pages, HERE / "README.md", "conditional", "\n".join(conditional))
    speed = [f"{text}{table(stem, columns, of='speed')}\n" for stem, (text, columns) in SPEED.items()]
    put(pages, HERE / "README.md", "speed", "\n".join(speed))
    together = [f"{text}{table(stem, of='parallel_table')}\n" for stem, text in TOGETHER.items()]
    put(pages, HERE / "README.md", "together", "\n".join(together))
    put(
        pages,
        HERE / "README.md",
        "guided",
        f"{table('guided_modes', of='guided_modes')}\n\n![one mode](results/guided_modes/guided_modes.png)\n",
    )
    columns = [table(stem, of="columns_table") for stem in ("columns_samples", "columns_densities")]
    put(pages, HERE / "README.md", "columns", "\n\n".join(columns) + "\n")
    put(pages, HERE / "README.md", "bounded", f"{table('bounded', of='bounded_table')}\n")
    inferred = [f"{text}{table(stem, of='inference_table')}\n" for stem, text in INFERRED.items()]
    put(pages, HERE / "README.md", "inference", "\n".join(inferred))
    put(
        pages,
        HERE / "README.md",
        "posteriors",
        "\n".join(f"{t}{table(s, of='posterior_table')}\n" for s, t in POSTERIORS.items()),
    )
    weighted = [f"{text}{table(stem, of='weighted_table')}\n" for stem, text in WEIGHTED.items()]
    put(pages, HERE / "README.md", "weighted", "\n".join(weighted))
    unnormalised = [f"{text}{table(stem, of='unnormalised_table')}\n" for stem, text in UNNORMALISED.items()]
    put(pages, HERE / "README.md", "unnormalised", "\n".join(unnormalised))
    put(pages, HERE / "README.md", "unseen", f"{table('unseen', of='posterior_table')}\n")
    nonlinear = [f"{text}{table(stem, of='posterior_table')}\n" for stem, text in NONLINEAR.items()]
    put(pages, HERE / "README.md", "nonlinear", "\n".join(nonlinear))
    put(pages, HERE / "README.md", "misfit", f"{table('misfit', of='misfit_table')}\n")
    fields = [f"{text}{table(stem, of='fields_table')}\n" for stem, text in FIELDS.items()]
    put(pages, HERE / "README.md", "fields", "\n".join(fields))
    maps = [f"{text}{table(stem, of='flow_map_table')}\n" for stem, text in MAPS.items()]
    put(pages, HERE / "README.md", "maps", "\n".join(maps))
    series = [f"{text}{table(stem, of='series_table')}\n" for stem, text in SERIES.items()]
    put(pages, HERE / "README.md", "series", "\n".join(series))
    tables = {text: table(stem, of="conditional_images") for stem, text in MEASURED.items()}
    measured = [f"{text}{rows}\n" for text, rows in tables.items() if rows.count("\n") > 1]  # more than a head
    put(pages, HERE / "README.md", "measured images", "\n".join(measured))
    put(pages, HERE.parent / "docs" / "conditions.md", "measured images", "\n".join(measured[:2]))
    put(pages, HERE / "README.md", "restored", "\n".join(restored_block(name) for name in RESTORED))
    fids = [
        (name, title) for name, title in FIDS.items() if (HERE / "results" / "fid_table" / name / "fid.md").exists()
    ]
    put(pages, HERE / "README.md", "fid", "\n".join(fid_block(name, title) for name, title in fids))
    put(pages, HERE.parent / "docs" / "choose_a_sampler.md", "noise", noise_block([name for name, _ in fids]))
    put(pages, HERE.parent / "docs" / "flow_maps.md", "jumps", jumps_block([name for name, _ in fids]))
    cards = [
        card(name, kind, of)
        for name, _ in fids
        for kind, of in (("unet", "train_images"), ("jumps", "train_flow_maps"))
        if (HERE / "results" / of / name / "card.json").exists()
    ]
    put(pages, Path(sdegen.__file__).parent / "weights" / "README.md", "cards", "\n".join(cards))
    for name in ("train_speed", "race"):
        if (HERE / "results" / name / f"{name}.md").exists():
            put(pages, HERE / "README.md", name.replace("_", " "), f"{table(name, of=name)}\n")
    blocks = [f"{text}{table(stem, of='likelihood_table')}\n" for stem, text in LIKELIHOOD.items()]
    put(pages, HERE / "README.md", "likelihood", "\n".join(blocks))
    trained = [f"{text}{table(stem, of='likelihood_recipe')}\n" for stem, text in RECIPE.items()]
    put(pages, HERE / "README.md", "bits", "\n".join(trained))
    files = [f"{text}{table(stem, of='codec_table')}\n" for stem, text in CODEC.items()]
    put(pages, HERE / "README.md", "codec", "\n".join(files))
    put(pages, HERE / "README.md", "families", "\n".join(family_block(name, title) for name, title in FAMILIES.items()))
    put(
        pages,
        HERE / "README.md",
        "sources",
        shown("sources_table", "recipes", "samples above the losses of the training"),
    )
    matrices = "![confusion matrices](results/mode_categories/confusion.png)"
    put(pages, HERE / "README.md", "categories", f"{table('categories', of='mode_categories')}\n\n{matrices}\n")
    codes = {text: shown("latent_codes", stem, "walks") for stem, text in CODES.items()}
    put(pages, HERE / "README.md", "codes", "\n".join(f"{text}{rows}" for text, rows in codes.items()))
    chosen = ["KL(data‖model)", "k-NN KL", "C2ST", "kde_kl", "source", "train s", "seeds"]
    picture = "![densities of trained models beside the truth](benchmarks/results/kl_table/densities.png)"
    put(pages, HERE.parent / "README.md", "table", f"{table('kl', chosen)}\n\n{picture}\n")
    return pages


def fid_block(name: str, title: str) -> str:
    """The table of a data set, and guided samples."""
    picture = f"![samples of every class](results/fid_table/{name}/default--10--guided-1-25.png)"
    return f"### {title}\n\n{table('fid', of=f'fid_table/{name}')}\n\n{picture}\n"


def restored_block(name: str) -> str:
    """The tables of a set of images, task by task, and the picture."""
    files = sorted((HERE / "results" / "restore_images").glob(f"{name}-*.md"))
    tables = [
        f"{RESTORED[name]}, {f.stem.removeprefix(f'{name}-').replace('-', ' ')}:\n\n{table(f.stem, of='restore_images')}\n"
        for f in files
    ]
    shown = f"![restored images](results/restore_images/{name}.png)\n" if files else ""
    return "\n".join([*tables, shown])


def noise_block(names: list[str]) -> str:
    """FID by a thousand steps of DDPM, and by ten of the default with noise and without, of each data set."""
    return fids_of(names, ["DDPM, 1000", "default, 10", "default, no noise, 10"])


def jumps_block(names: list[str]) -> str:
    """FID of jumps beside that of the default sampler, of each data set with a shipped map."""
    few = [f"default, {n}" for n in (1, 2, 4, 5, 6, 10)]
    jumps = [f"jumps, {n}" for n in (1, 2, 4)]
    between = [f"{name}, noise between" for name in jumps[1:]]
    return fids_of(names, ["training images (floor)", *few, "default, no noise, 100", *jumps, *between])


def fids_of(names: list[str], rows: list[str]) -> str:
    """FID of rows of each data set that has all of them."""
    lines = ["| | " + " | ".join(rows) + " |", "| --- " * (len(rows) + 1) + "|"]
    for name in names:
        found = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", table("fid", ["FID"], of=f"fid_table/{name}"), re.M))
        if all(row in found for row in rows):
            lines.append(f"| {FIDS[name].split(',')[0]} | " + " | ".join(found[row] for row in rows) + " |")
    return "\n".join(lines) + "\n"


def family_block(name: str, title: str) -> str:
    """The table of a set of data, and the samples side by side; nothing where there is none yet."""
    of, stem = ("families_table", "mixture") if name == "mixture" else (f"families_table/{name}", "images")
    if not (HERE / "results" / of / f"{stem}.md").exists():
        return ""
    picture = f"\n![samples, and curves of training](results/{of}/{stem}.png)\n"
    shown = picture if (HERE / "results" / of / f"{stem}.png").exists() else ""
    return f"### {title}\n\n{table(stem, of=of)}\n{shown}"


def shown(of: str, stem: str, what: str) -> str:
    """A table, and the picture of its name where there is one; nothing where no row is computed."""
    rows, picture = table(stem, of=of), Path("results") / of / f"{stem}.png"
    below = f"\n![{what}]({picture.as_posix()})\n" if (HERE / picture).exists() else ""
    return f"{rows}\n{below}" if rows.count("\n") > 1 else ""


def card(name: str, kind: str, of: str) -> str:
    """What a shipped model or flow map is, and how good."""
    known = json.loads((HERE / "results" / of / name / "card.json").read_text())
    lines = [f"- {key}: {f'`{value}`' if key == 'command' else value}" for key, value in known.items()]
    rows = table("fid", ["FID", "accuracy", "evaluations", "count", "features"], of=f"fid_table/{name}")
    head, others = rows.splitlines()[:2], rows.splitlines()[2:]
    own = [row for row in others if row.startswith("| jumps") == (kind == "jumps") and "short training" not in row]
    return f"## `{name.replace('_', '-')}-{kind}-v1`\n\n" + "\n".join(lines) + "\n\n" + "\n".join([*head, *own]) + "\n"


if __name__ == "__main__":
    main()
