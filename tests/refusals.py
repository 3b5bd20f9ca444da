"""Tables of calls that must be refused in a sentence, and what a sentence is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest


class Refusals:
    """A table that grows by calls: ``bad(name, error, call, *says)``; its `rows` are the parameters of a test."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def __call__(self, name: str, error: type[Exception], call: Callable[[Any], object], *says: str) -> None:
        """Add a row: `call` raises `error` with a sentence that matches all of `says`."""
        self.rows.append(pytest.param(call, error, says, id=name))


def check_refusal(w: Any, call: Callable[[Any], object], error: type[Exception], says: tuple[str, ...]) -> None:
    """Make a call of a table with the fixture `w`, and hold what it raises to be one short sentence with all that it says."""
    with pytest.raises(error) as caught:
        call(w)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 300
    for pattern in says:
        assert re.search(pattern, message), f"{pattern!r} is not in {message!r}"
