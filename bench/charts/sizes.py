"""Time per pixel against the size of the picture, for the layers that exist in several sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ..rows import PASSES, Row
from .style import OURS, RIVAL, grouped


def sizes(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    """A column for each layer, a line for each pass; the rivals are named above each panel."""
    rows = [row for row in rows if "large" in row.tags and row.ours and row.rival]
    layers = grouped(rows, lambda row: re.sub(r"-\d+px-n\d+", "", row.title))
    layers = {name: group for name, group in layers.items() if len({row.pixels for row in group}) > 1}
    passes = [name for name in ("forward", "backward") if any(row.pass_name == name for row in rows)]
    if not layers or not passes:
        return None
    figure = Figure(figsize=(3.3 * len(layers) + 0.6, 2.8 * len(passes) + 0.5), layout="constrained")
    grid = figure.subplots(len(passes), len(layers), squeeze=False)
    for line, pass_name in zip(grid, passes, strict=True):
        for axes, (name, group) in zip(line, layers.items(), strict=True):
            chosen = sorted((row for row in group if row.pass_name == pass_name), key=lambda row: row.pixels)
            x = [math.isqrt(row.pixels) for row in chosen]
            for side, colour, label in (
                ("ours", OURS, "MyConv2d"),
                ("rival", RIVAL, "best rival, named above each panel"),
            ):
                y = [1e9 * row.median(getattr(row, side)) / row.pixels for row in chosen]
                axes.plot(x, y, "o-", color=colour, label=label, markersize=4)
            rivals = ", ".join(dict.fromkeys(row.rival for row in chosen))
            axes.text(0, 1.02, rivals, transform=axes.transAxes, va="bottom", fontsize=7, color=RIVAL)
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, map(str, x))
            axes.set_ylim(bottom=0)
            axes.grid()
            channels = re.match(r"c(\d+)-k(\d+)", name)
            what = f"{channels[1]}→{channels[2]} channels" if channels else name
            axes.set_title(f"{what}, {PASSES[pass_name]}", fontsize=9.5, pad=16)
            if name == next(iter(layers)):
                axes.set_ylabel("ns per pixel (lower is better)")
            if pass_name == passes[-1]:
                axes.set_xlabel("side of the picture (pixels)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
    return figure
