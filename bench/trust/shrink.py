"""Makes a failing configuration small: takes the first simpler one that fails too, until there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Configuration = TypeVar("Configuration")


def shrunk(
    failing: Configuration, problems: Callable[[Configuration], list[str]], seconds: float = 30.0
) -> Configuration:
    """`failing`, with a `smaller()`, as simple as it gets in that time; of the result `problems` are not empty."""
    deadline = time.monotonic() + seconds
    found = True
    while found:
        found = False
        for candidate in failing.smaller():
            if time.monotonic() > deadline:
                return failing
            if candidate != failing and problems(candidate):
                failing, found = candidate, True
                break
    return failing
