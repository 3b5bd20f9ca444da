"""The command line that all tables share: which rows are missing, who computes them, and what is printed."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.devices import usable
from benchmarks.tables import COMMITTED, Table
from benchmarks.tickets import Tickets, Who

Block = Callable[[Table], str]


def no_more(parser: argparse.ArgumentParser) -> None:
    """Add no option."""


def run(
    name: str,
    description: str | None,
    blocks: Sequence[Block],
    seeds: int = 3,
    options: Callable[[argparse.ArgumentParser], None] = no_more,
    picture: Callable[[Table], object] | None = None,
    shared: bool = False,
    timed: bool = False,
    networks: bool = False,
) -> None:
    """Print a table: the rows that exist, and those that are missing once they are computed.

    Parameters
    ----------
    name
        Of the table's folder.
    description
        The docstring of its module, whose first line is the help.
    blocks
        The parts of the table: each asks for its rows and returns Markdown. They are asked twice, first for what is missing.
    seeds
        How many a row is the mean of.
    options
        Adds options to the parser.
    picture
        What is drawn when all rows are there.
    shared
        Whether a quick run uses all cores.
    timed
        Whether rows hold times of their own, which watching their code would lengthen.
    networks
        Whether networks are trained or asked on ``--device``; a table of true scores or of times of a CPU refuses others.
    """
    args = arguments(name, description, seeds, options, shared, networks)
    folder = Path(f"{name}_quick" if args.quick else name)
    if args.worker:
        asked(Table(folder, args, Tickets(args.worker), written=False, watched=not timed), blocks)
        return
    plan = asked(Table(folder, args, written=False), blocks)
    missing = drawn(frozenset(who for who in plan.left if plan.chosen(who[1].name)), args.draw)
    if missing:
        print(f"{name}: {len(plan.read)} rows read, {len(missing)} to compute", file=sys.stderr, flush=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        tickets = Tickets(Path(place))
        tickets.put(missing)
        if missing and args.jobs > 1:
            share_out(tickets, min(args.jobs, len(missing)))
        elif missing:
            asked(Table(folder, args, tickets, written=False, watched=not timed), blocks)
    table = Table(folder, args, done=missing)
    for block in blocks:
        if markdown := block(table):
            print(markdown, flush=True)
    print(summary(table, time.perf_counter() - began), flush=True)
    if picture:
        table.out.mkdir(parents=True, exist_ok=True)
        picture(table)


def arguments(
    name: str,
    description: str | None,
    seeds: int = 3,
    options: Callable[[argparse.ArgumentParser], None] = no_more,
    shared: bool = False,
    networks: bool = True,
) -> argparse.Namespace:
    """Return the options of the command: those that every table takes, and its own."""
    parser = argparse.ArgumentParser(description=(description or name).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed and short trainings: minutes instead of hours")
    add_device(parser)
    parser.add_argument(
        "--seeds", type=int, nargs="+", help=f"seeds to compute ({seeds} of most rows; one with --quick); all are shown"
    )
    parser.add_argument(
        "--only",
        default="",
        help="compute only rows whose name holds this text (one that none holds: show what there is)",
    )
    parser.add_argument("--fresh", action="store_true", help="compute rows even if they exist")
    parser.add_argument(
        "--own",
        action="store_true",
        help="leave the committed rows out: compute all that the folder written to has not yet",
    )
    parser.add_argument("--stale", action="store_true", help="compute rows that exist but are of earlier code")
    parser.add_argument(
        "--draw",
        type=int,
        default=None,
        help="compute only so many of these rows, drawn at random, such as 5 with --stale: whether they still hold",
    )
    parser.add_argument("--threads", type=int, default=None, help="threads of a CPU run (all cores)")
    parser.add_argument("--jobs", type=int, default=None, help="processes that share the rows, of one thread each")
    parser.add_argument("--worker", type=Path, default=None, help=argparse.SUPPRESS)
    add_out(parser)
    options(parser)
    args = parser.parse_args()
    if args.device != "cpu" and not networks:
        parser.error(
            f"{name} is of true scores or of times of a CPU, and computed there; leave out --device {args.device}."
        )
    if args.draw is not None and args.draw < 1:
        parser.error(f"--draw {args.draw} is no number of rows; give a whole number from 1 on.")
    args.default_seeds = seeds
    args.jobs = args.jobs or (os.cpu_count() or 1 if shared and args.quick and args.device == "cpu" else 1)
    if args.threads or args.jobs > 1:
        torch.set_num_threads(args.threads or 1)
    return args


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option of the device, which is refused where it holds no numbers."""

    def device(name: str) -> str:
        try:
            return usable(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument("--device", type=device, default="cpu", help="device that networks are trained and asked on")


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """Add the option of the time that a training may take."""
    parser.add_argument("--seconds", type=float, default=None, help="end a training by then, however far it has come")


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the option of where results are written."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        help=f"folder that results are written to (results); {relative(COMMITTED)} takes the place of the committed ones",
    )


def relative(path: Path) -> str:
    """Return a path as it is reached from here."""
    return os.path.relpath(path)


def asked(table: Table, blocks: Sequence[Block]) -> Table:
    """Return the table after all its parts have asked for their rows."""
    for block in blocks:
        block(table)
    return table


def drawn(rows: frozenset[Who], count: int | None) -> frozenset[Who]:
    """Return so many rows drawn at random; all of them if there are no more, or if the count is None."""
    return rows if count is None else frozenset(random.sample(sorted(rows), min(count, len(rows))))


def summary(table: Table, seconds: float) -> str:
    """Return a line that says how many rows were read and computed, and where the table is."""
    spent = f" in {seconds:.0f} s" if table.computed else ""
    without = f", {len(table.left)} missing" if table.left else ""
    like = "of the rows read are of earlier code, whose changes since moved no row that was computed again"
    vouched = f"\n{len(table.vouched)} {like}" if table.vouched else ""
    aged = f"\n{older(table)}" if table.aged else ""
    return (
        f"{len(table.read)} rows read, {len(table.computed)} computed{spent}{without}; "
        f"written to {relative(table.out)}{vouched}{aged}"
    )


def older(table: Table) -> str:
    """Return a sentence that names the rows of earlier code."""
    names = sorted({f"{folder}, {key.block}: {key.name}" for folder, key in table.aged})
    which = "; ".join(names[:8]) + (f"; and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"{len(table.aged)} of the rows read are of earlier code, or do not say ({which}): --stale computes them again"
    )


def share_out(tickets: Tickets, jobs: int) -> None:
    """Have rows computed by processes of one thread each: whole rows side by side scale better than threads within one.

    Raises
    ------
    SystemExit
        If the table was not started as a module, or one of the processes failed.
    """
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        raise SystemExit("start the table as a module: python -m benchmarks.NAME.")
    command = [sys.executable, "-m", spec.name, *sys.argv[1:], "--worker", str(tickets.folder), "--threads", "1"]
    workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(jobs)]
    failed = [worker.returncode for worker in workers if worker.wait()]
    if failed:
        raise SystemExit(failed[0])
