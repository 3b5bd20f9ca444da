"""Write the sections about samplers: their error, their time, and what they need instead of evaluations."""

from __future__ import annotations

from benchmarks.pages.blocks import picture, table, tables, under

SOLVERS = {
    "order": """### Observed orders of convergence

On the ring under VP: the logarithm of the ratio of median errors at 256 and 512 steps, and the error at 512. Ours on `Angle()`,
the peers on log-SNR, where their polynomials live.""",
    "law": """### Law of the stochastic samplers

4,000 samples under VP by evaluations of the network: sliced W2 to as many exact ones; the width of the modes, by root mean
squared Mahalanobis distances, less 1; the total variation of the modes' weights; on the ring KL(data‖samples) by nearest
neighbours. Every sampler is on the best of three grids of the peers', chosen on other samples, and ours on their own too.
The first row of a target is the floor. Mixtures differ from seed to seed; "uneven" ones have 2 to 32 dimensions, with weights
and widths far apart. None of these mixtures was used to choose anything; others of such families were, and the ring.""",
    "trained": """### A trained network

A perceptron trained on the ring under VP; runs timed in turns, the median of 15 ratios.""",
}

DRAWN = {"drawn_peer": "### Over the best peer", "drawn_grid": "### Over the best of ten grids"}

SHAPES = ("1x2", "1x3x32x32", "64x3x32x32")
STEP = """### Microseconds a step

With a network that returns its input, in runs of 50 steps; *set-up* is what comes before a run, per step of it. Our plan forms
every coefficient of the run there, the peers form most of theirs in the step."""
SPEED = {
    "unet": """### Beyond a network

Runs of 20 steps with our small U-Net, set-up included: their time over the time inside the network, and the rest a step.""",
    "noise": """### The price of noise

Microseconds a draw in runs of so many, the making of the source shared out; ratios to `torch.randn` of the same round.""",
    "distance": """### The Fréchet distance of 2,048 features

Seconds, ratio to ours of the same round, and how far the values are from ours, relative to it.""",
}

TOGETHER = {
    "ring": "### The ring, eight samples\n\nTrue score, float64.",
    "images": "### Fashion-MNIST, four images\n\nThe shipped network of 1.8 million parameters, float32.",
}

OBJECTIVES = ["KL, 1", "k-NN KL, 1", "KL, 4", "k-NN KL, 4", "steps"]  # columns on the page of flow maps
MAPS = {
    "ring": "### The ring",
    "mixture_in_8_dimensions": "### A mixture in eight dimensions",
    "objectives": "### Objectives",
}


def nearness() -> str:
    """Return how near maps come to their law and to their flow, by numbers of jumps."""
    columns = [
        "KL", "k-NN KL", "mode weights", "stray", "off", "median off", "99 % off", "train s", "from data s", "seeds",
    ]  # fmt: skip
    return "\n".join(under(text, table("flow_map_table", stem, columns)) for stem, text in list(MAPS.items())[:2])


def sections() -> dict[str, str]:
    """Return the sections by their markers in the page of tables."""
    errors = "\n".join(
        [
            tables("solver_table", {"solver": ""}),
            picture("error against evaluations", "solver_table", "solver"),
            tables("solver_table", SOLVERS),
        ]
    )
    columns = [*(f"{shape}: µs" for shape in SHAPES), "1x2: set-up", "64x3x32x32: set-up"]
    return {
        "solvers": errors,
        "drawn": tables("drawn_table", DRAWN),
        "speed": "\n".join([under(STEP, table("speed", "step", columns)), tables("speed", SPEED)]),
        "together": tables("parallel_table", TOGETHER),
        "maps": tables("flow_map_table", MAPS),
    }
