"""The command line of the scripts: options that they share, which rows are missing, who computes them, and what is printed.

A script of a table ends in one call of `run`, with its name, its docstring, which is the help of the command, and the functions
that return its parts. Scripts that train models alone, without a table, make their parsers of the same options.
"""

from __future__ import annotations

import argparse
import math
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


def add_nothing(parser: argparse.ArgumentParser) -> None:
    """Add no option."""


def run(
    name: str,
    description: str | None,
    blocks: Sequence[Block],
    seeds: int = 3,
    options: Callable[[argparse.ArgumentParser], None] = add_nothing,
    picture: Callable[[Table], object] | None = None,
    shared: bool = False,
    timed: bool = False,
    networks: bool = False,
) -> None:
    """Print a table: the rows that exist, and those that are missing once they are computed.

    Parameters
    ----------
    name
        The name of the table's module and of its folder.
    description
        The docstring of its module, which is the help: what the table holds, by which command, and what its columns mean.
    blocks
        The parts of the table: each asks for its rows and returns Markdown. They are asked twice, first for what is missing.
    seeds
        The number of seeds that a row is the mean of.
    options
        Adds the options that this table alone has to the parser.
    picture
        Called with the table once all its rows are there, to draw it.
    shared
        Whether a quick run uses all cores.
    timed
        Whether rows hold times of their own, which watching their code would lengthen.
    networks
        Whether networks are trained or asked on ``--device``; a table of true scores or of times of a CPU refuses others.
    """
    args = parse_arguments(name, description, seeds, options, shared, networks)
    folder = Path(f"{name}_quick" if args.quick else name)
    if args.worker:
        ask_all(Table(folder, args, Tickets(args.worker), written=False, watched=not timed), blocks)
        return
    plan = ask_all(Table(folder, args, written=False), blocks)
    missing = draw_rows(frozenset(who for who in plan.left if plan.chosen(who[1].name)), args.draw)
    if missing:
        print(f"{name}: {len(plan.read)} rows read, {len(missing)} to compute", file=sys.stderr, flush=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        tickets = Tickets(Path(place))
        tickets.put(missing)
        if missing and args.jobs > 1:
            share_out(tickets, min(args.jobs, len(missing)))
        elif missing:
            ask_all(Table(folder, args, tickets, written=False, watched=not timed), blocks)
    table = Table(folder, args, done=missing)
    for block in blocks:
        if markdown := block(table):
            print(markdown, flush=True)
    print(summarise(table, time.perf_counter() - began), flush=True)
    if picture:
        table.out.mkdir(parents=True, exist_ok=True)
        picture(table)


def parse_arguments(
    name: str,
    description: str | None,
    seeds: int = 3,
    options: Callable[[argparse.ArgumentParser], None] = add_nothing,
    shared: bool = False,
    networks: bool = True,
) -> argparse.Namespace:
    """Return the options of the command: the table's own, and those that every table takes."""
    parser = make_parser(name, description)
    options(parser)
    add_choice_of_rows(parser, seeds)
    add_place(parser)
    add_threads(parser)
    parser.add_argument("--jobs", type=whole, help="processes that share the rows, of one thread each (default: 1)")
    parser.add_argument("--worker", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device != "cpu" and not networks:
        parser.error(
            f"{name} is of true scores or of times of a CPU, and computed there; leave out --device {args.device}."
        )
    args.default_seeds = seeds
    args.jobs = args.jobs or (os.cpu_count() or 1 if shared and args.quick and args.device == "cpu" else 1)
    set_threads(args.threads or (1 if args.jobs > 1 else None))
    return args


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of a script, line by line."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_choice_of_rows(parser: argparse.ArgumentParser, seeds: int) -> None:
    """Add the options that say which rows are computed; `seeds` is how many most rows are the mean of."""
    parser.add_argument("--quick", action="store_true", help="one seed and short trainings: minutes instead of hours")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help=f"seeds to compute ({seeds} of most rows; one with --quick); all are shown"
    )
    parser.add_argument(
        "--only",
        default="",
        help="compute only rows whose name holds this text (one that none holds: show what there is)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="compute rows even if they exist; of these the table is the mean over the seeds asked for",
    )
    parser.add_argument(
        "--own",
        action="store_true",
        help="leave the committed rows out: compute all that the folder written to has not yet",
    )
    parser.add_argument("--stale", action="store_true", help="compute rows that exist but are of earlier code")
    parser.add_argument(
        "--draw",
        type=whole,
        help="compute only so many of these rows, drawn at random, such as 5 with --stale: whether they still hold",
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the options of the device of networks and of the folder of results, which every script has."""

    def device(name: str) -> str:
        try:
            return usable(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(
        "--device", type=device, default="cpu", help="device that networks are trained and asked on (default: cpu)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        help=f"folder that results are written to (default: results); {relative(COMMITTED)} takes the place of the committed",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add the option of the threads of a CPU."""
    parser.add_argument("--threads", type=whole, help="threads of a CPU run (default: all cores)")


def add_data(
    parser: argparse.ArgumentParser, choices: Sequence[str], default: str, what: str = "the images", quick: str = ""
) -> None:
    """Add the option of the set of data, and say which a quick run takes where it takes always the same."""
    always = f"; --quick takes {quick}" if quick else ""
    parser.add_argument("--data", choices=choices, default=default, help=f"{what} (default: {default}{always})")


def add_count(parser: argparse.ArgumentParser, default: int, what: str = "a row") -> None:
    """Add the option of how many samples a row has; `what` says which rows, if not all."""
    parser.add_argument(
        "--count",
        type=whole,
        default=default,
        help=f"samples of {what}, and images held back that they are compared with, or all there are (default: {default:,})",
    )


def add_length(parser: argparse.ArgumentParser, recipe: str = "its recipe's") -> None:
    """Add the options of how long a training is, whose steps are those of `recipe` where nothing else is said."""
    parser.add_argument("--steps", type=whole, help=f"steps of each training (default: {recipe})")
    add_seconds(parser)


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """Add the option of the time that a training may take."""
    parser.add_argument(
        "--seconds",
        type=positive,
        help="end a training by then, however far it has come; the same command goes on (default: no limit)",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add the option of the file that trained weights are written to."""
    parser.add_argument("--weights", type=Path, help="file of the weights (default: in the folder of the results)")


def whole(text: str) -> int:
    """Return the whole number, 1 or more, that a text is; refuse any other.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is another text.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number to count by; give a whole number from 1 on.")
    return int(text)


def positive(text: str) -> float:
    """Return the positive number that a text is; refuse any other.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is another text.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number; give one, such as 60.")
    return value


def set_threads(threads: int | None) -> None:
    """Have torch use so many threads of a CPU; None leaves it as it is."""
    if threads is not None:
        torch.set_num_threads(threads)


def relative(path: Path) -> str:
    """Return a path as it is reached from here."""
    return os.path.relpath(path)


def ask_all(table: Table, blocks: Sequence[Block]) -> Table:
    """Have all parts of a table ask for their rows, and return the table."""
    for block in blocks:
        block(table)
    return table


def draw_rows(rows: frozenset[Who], count: int | None) -> frozenset[Who]:
    """Return so many rows drawn at random; all of them if there are no more, or if the count is None."""
    return rows if count is None else frozenset(random.sample(sorted(rows), min(count, len(rows))))


def summarise(table: Table, seconds: float) -> str:
    """Return a line that says how many rows were read and computed, and where the table is."""
    spent = f" in {seconds:.0f} s" if table.computed else ""
    without = f", {len(table.left)} missing" if table.left else ""
    like = "of the rows read are of earlier code, whose changes since moved no row that was computed again"
    vouched = f"\n{len(table.vouched)} {like}" if table.vouched else ""
    aged = f"\n{name_older(table)}" if table.aged else ""
    return (
        f"{len(table.read)} rows read, {len(table.computed)} computed{spent}{without}; "
        f"written to {relative(table.out)}{vouched}{aged}"
    )


def name_older(table: Table) -> str:
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
