"""Which numbers the arguments of public names take: all of an interval up to its ends, and none beyond.

`tests/data/intervals.txt` has a line for each of these arguments, of what the documentation says: ``[0, 1)`` are fractions
without 1, ``2, 3, …`` counts from 2 on. Left out are seeds, numbers without bounds or with bounds that other arguments set, and
those of calls that take long. Other arguments are as a plain call has them.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from fuzz import Case, call

NEAR = 1e-3
WAYS = {  # the numbers nearest to the ends of an interval: those that are taken, and those that are not
    "[0, ∞)": ((0.0, NEAR), (-NEAR,)),
    "(0, ∞)": ((NEAR, 1.0), (0.0,)),
    "[0.5, ∞)": ((0.5,), (0.5 - NEAR,)),
    "[0, 1]": ((0.0, 1.0), (-NEAR, 1 + NEAR)),
    "[0, 1)": ((0.0, 1 - NEAR), (-NEAR, 1.0)),
    "(0, 1]": ((NEAR, 1.0), (0.0, 1 + NEAR)),
    "(0, 1)": ((NEAR, 1 - NEAR), (0.0, 1.0)),
    "0, 1, …": ((0, 1), (-1,)),
    "1, 2, …": ((1,), (0,)),
    "2, 3, …": ((2,), (1,)),
}
EACH = 24  # arguments that a test looks at


@cache
def places() -> dict[str, list[tuple[str, str]]]:
    """The names and arguments that take the numbers of each interval."""
    found: dict[str, list[tuple[str, str]]] = {interval: [] for interval in WAYS}
    for line in (Path(__file__).parent / "data" / "intervals.txt").read_text().splitlines():
        name, argument, interval = re.fullmatch(r"(.*)\((\w+)\): (.*)", line).groups()
        found[interval].append((name, argument))
    return found


def take(name: str, argument: str, number: float) -> None:
    """Call a name with a number for one of its arguments."""
    call(name, Case(name, argument, f"{number:g}"), lambda _: number, used=False)


PARTS = [(interval, first) for interval in WAYS for first in range(0, len(places()[interval]), EACH)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("interval", "first"), PARTS)
def test_numbers_are_taken_up_to_the_ends_of_their_interval(interval: str, first: int) -> None:
    taken, refused = WAYS[interval]
    for name, argument in places()[interval][first : first + EACH]:
        for number in taken:
            take(name, argument, number)
        for number in refused:
            with pytest.raises(ValueError, match=rf"\b{argument}\b.*\.$"):
                take(name, argument, number)
