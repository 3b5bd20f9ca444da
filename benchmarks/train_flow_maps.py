"""Train the flow maps that are shipped in `sdegen/weights`: each makes the samples of a shipped model in one to four evaluations.

    python -m benchmarks.train_flow_maps fashion_mnist      # two hours of one core at most; goes on where it was stopped
    python -m benchmarks.train_flow_maps sprites --device cuda
    python -m benchmarks.train_flow_maps mnist --out benchmarks/results --weights sdegen/weights/mnist-jumps-v1.safetensors
    python -m benchmarks.train_flow_maps mnist --out benchmarks/results --hours

The map begins as its teacher, conditional on the class as that is, and learns from trajectories of the teacher's flow
(`training.Trajectories`). A card says what was spent. The third command takes the place of a map that is shipped, and of its
card; the last one times a few trajectories and steps on one core, and adds to the card what a run takes there.
"""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

import sdegen
from benchmarks import command
from benchmarks.cards import Card, describe_training, write_card
from benchmarks.devices import fit_on
from benchmarks.files import made
from benchmarks.train_images import P_UNCOND, SPLITS
from sdegen.data import Images
from sdegen.samplers import FlowMap
from sdegen.training import Paths, Trajectories, trace


class Plan(NamedTuple):
    """How a map is trained.

    Attributes
    ----------
    steps, batch, lr
        Arguments of `sdegen.fit`.
    paths, nodes, between
        Trajectories, states kept of each, and evaluations from one to the next (`training.trace`).
    whole, still
        Arguments of `Trajectories`.
    """

    steps: int
    batch: int = 256
    lr: float = 1e-3
    paths: int = 60_000
    nodes: int = 8
    between: int = 2
    whole: float = 0.4
    still: float = 0.125


PLANS = {"mnist": Plan(5600), "fashion_mnist": Plan(5600), "sprites": Plan(30_000, 128)}


def trace_paths(teacher: sdegen.Model, images: Images, plan: Plan, device: str) -> Paths:
    """Return trajectories under the labels of images, one in ten without."""
    assert images.labels is not None
    generator = torch.Generator().manual_seed(1)
    label = images.labels[torch.randint(len(images), (plan.paths,), generator=generator)]
    label = torch.where(torch.rand(plan.paths, generator=generator) < P_UNCOND, -1, label)
    return trace(
        teacher.to(device), plan.paths, nodes=plan.nodes, between=plan.between, seed=2, half=True, cond={"label": label}
    )


def write_paths(paths: Paths, path: Path) -> None:
    """Write trajectories to a file."""
    tensors = paths._asdict()
    save_file({k: v.cpu() for k, v in (tensors | tensors.pop("cond")).items()}, path)


def read_paths(path: Path, device: str) -> Paths:
    """Read trajectories from a file."""
    found = load_file(path, device)
    return Paths(found["states"], found["velocities"], found["angles"].cpu(), {"label": found["label"]})


def train(
    name: str, plan: Plan, state: Path, seconds: float | None = None, device: str = "cpu", **more: Any
) -> tuple[FlowMap, sdegen.Run]:
    """Train a map of a shipped model, and return it with the record of its training."""
    teacher, images = sdegen.pretrained(name), SPLITS[name]().train
    file = made(state / "paths.safetensors", lambda path: write_paths(trace_paths(teacher, images, plan, device), path))
    paths = read_paths(file, device)
    return fit_map(teacher.cpu(), paths, images, plan, seconds, device, checkpoint=state, every=500, **more)


def fit_map(
    teacher: sdegen.Model, paths: Paths, images: Images, plan: Plan, seconds: float | None, device: str, **more: Any
) -> tuple[FlowMap, sdegen.Run]:
    """Train a map that begins as its teacher and learns from trajectories, and return it with the record of its training."""
    torch.manual_seed(0)
    model = FlowMap.of(teacher)
    run = fit_on(
        device, model, images.scaled(-1, 1), steps=plan.steps, seconds=seconds, batch_size=plan.batch, lr=plan.lr,
        warmup=min(200, plan.steps // 5), loss=Trajectories(teacher, paths, plan.whole, plan.still, power=0.0),
        autocast=torch.bfloat16, seed=0, **more,
    )  # fmt: skip
    return model, run


def estimate_hours(name: str, spent: Card) -> dict[str, float]:
    """Return what a run takes on one core of a CPU: the least time of a few trajectories and steps, times their numbers."""
    teacher, images, plan, marks = sdegen.pretrained(name), SPLITS[name]().train, PLANS[name], list[float]()
    few = plan._replace(steps=6, batch=64, paths=64)
    began = time.process_time()
    paths = trace_paths(teacher, images, few, "cpu")
    path = (time.process_time() - began) / few.paths
    listen = [lambda step: marks.append(time.process_time())]
    fit_map(teacher, paths, images, few, None, "cpu", progress=False, threads=1, callbacks=listen)
    row = min(b - a for a, b in pairwise(marks)) / few.batch
    whole = (spent["trajectories"] * path + spent["steps"] * spent["batch"] * row) / 3600
    return {
        "seconds of a trajectory on one core": round(path, 4), "seconds of a row on one core": round(row, 5),
        "hours of the run on one core": round(whole, 2),
    }  # fmt: skip


def main() -> None:
    """Train one, and write its card."""
    parser = command.make_parser("train_flow_maps", __doc__)
    parser.add_argument("name", choices=list(PLANS), help="images of the shipped model that is made into a map")
    command.add_length(parser)
    parser.add_argument("--paths", type=command.whole, help="trajectories to learn from (default: 60,000)")
    parser.add_argument("--hours", action="store_true", help="add to the card what a run takes on one core of a CPU")
    command.add_weights(parser)
    command.add_place(parser)
    command.add_threads(parser)
    args = parser.parse_args()
    command.set_threads(args.threads)
    plan = PLANS[args.name]
    plan = plan._replace(steps=args.steps or plan.steps, paths=args.paths or plan.paths)
    folder, file = args.out / "train_flow_maps", args.out / "train_flow_maps" / args.name / "card.json"
    if args.hours:
        torch.set_num_threads(1)
        found = json.loads(file.read_text())
        found |= estimate_hours(args.name, found)
    else:
        state = folder / "models" / f"{args.name}-{plan.steps}"
        state.mkdir(parents=True, exist_ok=True)
        model, run = train(args.name, plan, state, args.seconds, args.device)
        written = args.weights or state.with_suffix(".safetensors")
        sdegen.save(model.half(), written)
        found = describe_training(
            run, PLANS[args.name].steps, args.device, teacher=f"the shipped model of {args.name}",
            command=f"python -m benchmarks.train_flow_maps {args.name} --steps {run.steps} --paths {plan.paths}",
            batch=plan.batch, trajectories=plan.paths,
        )  # fmt: skip
        print(f"weights are written to {written}")
    print(f"{write_card(found, file)}\nwritten to {file}")


if __name__ == "__main__":
    main()
