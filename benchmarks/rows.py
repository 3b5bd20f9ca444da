"""Rows that are computed once, kept in files, and put together as CSV and Markdown."""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Values = dict[str, Any]


def arguments(
    description: str,
    results: str,
    seeds: int = 3,
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    shared: bool = False,
) -> argparse.Namespace:
    """The options that every table takes, and those that `options` adds; with `shared`, a quick run uses all cores."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="one seed and short trainings: minutes instead of hours")
    parser.add_argument("--device", default="cpu", help="device of networks and samples")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help=f"seeds to average over ({seeds} of them; one with --quick)"
    )
    parser.add_argument("--threads", type=int, default=None, help="threads of a CPU run (all cores)")
    parser.add_argument(
        "--only",
        default="",
        help="compute only rows whose name holds this text; a text that none holds puts together what there is",
    )
    parser.add_argument("--jobs", type=int, default=None, help="processes that share the rows, of one thread each")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None, help=f"folder of the results (benchmarks/results/{results})")
    options(parser)
    args = parser.parse_args()
    name = f"{results}_quick" if args.quick else results
    args.out = args.out or Path(__file__).parent / "results" / name
    args.seeds = args.seeds or list(range(1 if args.quick else seeds))
    args.out.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    jobs = args.jobs or (os.cpu_count() or 1 if shared and args.quick and args.device == "cpu" else 1)
    if jobs > 1 and not args.worker:
        share_out(args, jobs)
    return args


def share_out(args: argparse.Namespace, jobs: int) -> None:
    """Have the rows computed by processes of one thread each: whole rows side by side scale better than threads within one."""
    spec = sys.modules["__main__"].__spec__
    if spec is None:
        raise SystemExit("start the table as a module: python -m benchmarks.NAME.")
    command = [sys.executable, "-m", spec.name, *sys.argv[1:], "--worker", "--threads", "1"]
    workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(jobs)]
    failed = [worker.returncode for worker in workers if worker.wait()]
    for claim in args.out.rglob("*.claim"):
        claim.unlink()
    if failed:
        raise SystemExit(failed[0])


def claimed(path: Path) -> bool:
    """Whether this worker is the first to ask for the row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.with_suffix(".claim").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def file_of(out: Path, block: str, name: str, seed: int) -> Path:
    """Where a row of a table is kept."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{block} {name}".lower().replace("++", "pp")).strip("-")
    return out / "rows" / f"{slug}-{seed}.json"


def row(args: argparse.Namespace, block: str, name: str, seed: int, compute: Callable[[int], Values]) -> Values:
    """The values of a row: from its file if it was computed before, else computed and written whole."""
    path = file_of(args.out, block, name, seed)
    if path.exists():
        return json.loads(path.read_text())
    if (args.only and args.only not in name) or (args.worker and not claimed(path)):
        return {}
    began = time.perf_counter()
    values = compute(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(values, indent=1))
    os.replace(part, path)
    print(f"{block}: {name}, seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return values


def made(path: Path, make: Callable[[Path], object]) -> Path:
    """A file that takes long to make, made where it is not there yet: by one process, while others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path


def combine(rows: list[Values]) -> Values:
    """Means over seeds, as (value, standard error): over seeds where there are several, else the estimate's own.

    Rows not computed (yet) are empty and left out; ``seeds`` counts the others.
    Every value is a number, or a pair of a number and its standard error.
    """
    rows = [r for r in rows if r]
    combined: Values = {"seeds": (float(len(rows)), None)} if rows else {}
    for key in dict.fromkeys(key for r in rows for key in r):
        cells = [r[key] for r in rows if r.get(key) is not None]
        if not cells:
            continue
        if isinstance(cells[0], str):
            combined[key] = cells[0]
            continue
        pairs = [c if isinstance(c, list) else [c, None] for c in cells]
        values = torch.tensor([p[0] for p in pairs], dtype=torch.float64)
        own = [p[1] for p in pairs if p[1] is not None]
        stderr = values.std().item() / len(values) ** 0.5 if len(values) > 1 else (own[0] if own else None)
        combined[key] = (values.mean().item(), stderr)
    return combined


def text(cell: Any, digits: int) -> str:
    """A cell as it is printed: ``value ± stderr``."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    value, stderr = cell
    form = f".{digits}f" if value == 0 or max(abs(value), stderr or 0.0) >= 10**-digits else ".0e"
    return f"{value:{form}}" if stderr is None or stderr == 0 else f"{value:{form}} ± {stderr:{form}}"


def write(args: argparse.Namespace, stem: str, columns: dict[str, int], table: dict[str, Values]) -> str:
    """Write a table as CSV and Markdown and return the Markdown; `columns` maps each to its digits. Workers do not."""
    if args.worker:
        return ""
    lines = ["| row | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, cells in table.items():
        lines.append(f"| {name} | " + " | ".join(text(cells.get(c), d) for c, d in columns.items()) + " |")
    markdown = "\n".join(lines) + "\n"
    (args.out / f"{stem}.md").write_text(markdown)
    with open(args.out / f"{stem}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *(f"{c}{suffix}" for c in columns for suffix in ("", " s.e."))])
        for name, cells in table.items():
            flat: list[Any] = []
            for column in columns:
                cell = cells.get(column)
                flat += [cell, ""] if isinstance(cell, str) or cell is None else [cell[0], cell[1]]
            writer.writerow([name, *flat])
    return markdown
