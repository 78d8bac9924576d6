"""`python -m bench compare OLD NEW`: what a change did, row by row, and whether the machine stayed the same."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from .rows import CONDITIONS, PASSES, Row, load
from .stats import geometric_mean, ratio_interval
from .subjects import RIVAL
from .tables import console_table

_DRIFT = 1.05  # of the rivals, beyond which the machines or their load differ


@dataclass(frozen=True)
class Change:
    """How one row changed: old time over new time, so that above 1 it became faster."""

    row: Row  # the new one
    faster: float
    low: float  # of the 95 % interval
    high: float
    rival: float  # the same of the best rival, of those that both reports have: how much faster the machine seems

    @property
    def verdict(self) -> str:
        """In words, if the interval does not hold 1."""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "–"


def changes(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """Of the rows that both reports have, in the new one's order."""
    before = {row.key: row for row in old if row.ours}
    found = []
    for row in new:
        if row.key not in before or not row.ours:
            continue
        was = before[row.key]
        interval = ratio_interval(was.samples[was.ours], row.samples[row.ours])
        found.append(Change(row, *interval, _rivals(was, row)))
    return found


def _rivals(was: Row, row: Row) -> float:
    """Old time over new time of the best rival; who competed in one report alone says nothing of the machine."""
    both = [name for name in row.samples if row.sides[name] == RIVAL and name in was.samples]
    return min(map(was.median, both)) / min(map(row.median, both)) if both else math.nan


def compare(old: Path, new: Path) -> int:
    """Prints the comparison. Returns the exit status: 0; 2 where the files cannot be compared."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        (old_rows, old_facts), (new_rows, new_facts) = load(old), load(new)
    except ValueError as error:
        console.print(escape(str(error)))
        return 2
    found = changes(old_rows, new_rows)
    if not found:
        console.print("The two reports have no row in common.")
        return 2
    for name in sorted(old_facts["environment"].keys() | new_facts["environment"].keys()):
        was, is_now = (facts["environment"].get(name, "–") for facts in (old_facts, new_facts))
        if was != is_now:
            console.print(f"{escape(name)}: {escape(str(was))} → {escape(str(is_now))}")
    for name in CONDITIONS:
        was, is_now = (facts["settings"].get(name) for facts in (old_facts, new_facts))
        if was != is_now:
            console.print(f"[yellow]the settings differ[/]: {name} {was} → {is_now}")
    console.print(console_table(_COLUMNS, map(_cells, found)))
    console.print(*summary(found), sep="\n")
    return 0


_COLUMNS = ("case", "pass", "old/new", "95 % interval", "verdict", "rival old/new", "ratio to rival now")


def _cells(change: Change) -> tuple[str, ...]:
    return (
        change.row.title,
        PASSES[change.row.pass_name],
        f"{change.faster:.3f}",
        f"{change.low:.3f} … {change.high:.3f}",
        change.verdict,
        f"{change.rival:.3f}",
        f"{change.row.ratio:.2f}",
    )


def summary(found: Sequence[Change]) -> list[str]:
    """What it comes to, and a warning where the rivals, who did not change, did."""
    counts = {word: sum(change.verdict == word for change in found) for word in ("faster", "slower", "–")}
    overall = geometric_mean(change.faster for change in found)
    lines = [
        f"{len(found)} rows: {counts['faster']} faster, {counts['slower']} slower, {counts['–']} the same within the "
        f"interval; geometric mean of old/new {overall:.3f}"
    ]
    drift = geometric_mean(change.rival for change in found if math.isfinite(change.rival))
    if math.isfinite(drift):
        lines.append(f"The rivals' old/new is {drift:.3f}, so against them it is {overall / drift:.3f}.")
        if not 1 / _DRIFT < drift < _DRIFT:
            lines.append(
                "The machine, its load or the rivals' versions differ: measure both again, close together."
            )
    return lines
