"""Mistakes put into C++ sources on purpose, all of them at once: each is compiled beside what is right, and a number
says which one is active when the program runs ("mutant schemata": one compilation for all)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).parents[1] / "csrc"
_ACTIVE = """#include <cstdlib>
inline int active_change = std::getenv("ACTIVE_CHANGE") ? std::atoi(std::getenv("ACTIVE_CHANGE")) : 0;
"""


class Change(NamedTuple):
    """An expression in a file of csrc/, and another one of its type in its place."""

    file: str
    old: str
    new: str


def with_changes(changes: Mapping[str, Change], folder: Path) -> Path:
    """A copy of csrc/, in `folder`, that offers `changes`, numbered from 1; to be compiled with `switch(copy)`.

    Raises:
        LookupError: `old` is not in the file exactly once, so that this change no longer means anything.
    """
    copy = Path(shutil.copytree(CSRC, folder / "csrc"))
    (copy / "active_change.h").write_text(_ACTIVE)
    expressions: dict[tuple[str, str], str] = {}
    for number, (name, (file, old, new)) in enumerate(changes.items(), 1):
        if (found := (CSRC / file).read_text().count(old)) != 1:
            raise LookupError(
                f"{name}: {old!r} occurs {found} times in csrc/{file}; bring the mutation up to date"
            )
        right = expressions.get((file, old), f"({old})")
        expressions[file, old] = f"(::active_change == {number} ? ({new}) : {right})"
    for (file, old), offered in expressions.items():
        source = copy / file
        source.write_text(offered.join(source.read_text().split(old)))
    return copy


def switch(csrc: Path) -> tuple[str, str]:
    """What tells the compiler about the number, `active_change`: ACTIVE_CHANGE of the environment, or 0."""
    return "-include", str(csrc / "active_change.h")
