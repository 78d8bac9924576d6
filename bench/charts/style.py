"""What all pictures of a report have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..rows import Row

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}
OURS, RIVAL, OTHER = "#0b6e4f", "#c8553d", "#b9bec5"


def grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
