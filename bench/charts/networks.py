"""Times of whole networks: a panel for each, a bar for each contestant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..rows import PASSES, Row
from ..tables import UNITS
from .style import OTHER, OURS, RIVAL

_OTHERS = "others (in brackets: time over the best of ours)"


def networks(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    """Bars are of one height in all panels; a panel with fewer contestants has room left at its foot."""
    rows = [row for row in rows if row.kind == "network" and row.ours and row.rival]
    if not rows:
        return None
    columns = min(2, len(rows))
    lines = math.ceil(len(rows) / columns)
    units = UNITS[facts["settings"]["device"]]
    most = max(len(row.samples) for row in rows)
    figure = Figure(figsize=(5.4 * columns, lines * (1.05 + 0.24 * most)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)  # inches, so that an axis and the next title keep apart
    for index, row in enumerate(rows):
        axes = figure.add_subplot(lines, columns, index + 1)
        names = sorted(row.samples, key=row.median, reverse=True)
        colours = {row.ours: OURS, row.rival: RIVAL}
        values = [units.times * row.median(name) for name in names]
        places = range(most - len(names), most)
        axes.barh(places, values, color=[colours.get(name, OTHER) for name in names])
        for place, name, value in zip(places, names, values, strict=True):
            times = row.median(name) / row.median(row.ours)
            text = f"{value:.3g} {units.time}" + ("" if name == row.ours else f"  ({times:.2f}×)")
            axes.annotate(
                text, (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5
            )
        axes.set_yticks(places, names, fontsize=8)
        axes.set_xlim(0, 1.35 * max(values))
        axes.set_ylim(-0.6, most - 0.4)
        axes.set_title(f"{row.title}, {PASSES[row.pass_name]}", fontsize=9.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"{units.time} (shorter is better)", fontsize=8)
        axes.grid(axis="x")
    handles = [
        Patch(color=colour, label=label)
        for colour, label in ((OURS, "best of ours"), (RIVAL, "best rival"), (OTHER, _OTHERS))
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8)
    return figure
