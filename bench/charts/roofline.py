"""Rate against arithmetic intensity, under the roofs that this machine reached just before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..rows import PASSES, Row, peak
from ..tables import UNITS, precisions
from .style import OURS, RIVAL

_MARKERS = {"forward": "o", "grad_input": "s", "grad_weight": "^"}
_DASHES = "-", "--", ":", "-."


def roofline(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    rows = [
        row for row in rows if row.kind == "layer" and row.flop and row.ours and row.pass_name in _MARKERS
    ]
    if not rows or "roofs" not in facts:
        return None
    units = UNITS[facts["settings"]["device"]]
    bandwidth = facts["roofs"]["GB/s"]
    peaks = {name: peak(facts["roofs"], name) for name in precisions(rows, facts["settings"])}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    intensities = [row.flop / row.bytes for row in rows]
    low, high = min(intensities) / 1.6, max(*intensities, max(peaks.values()) / bandwidth) * 1.6
    for (name, top), dashes in zip(peaks.items(), _DASHES, strict=False):
        roof = [units.rates * rate for rate in (bandwidth * low, top, top)]
        kind = "" if len(peaks) == 1 else f" in {name}"
        label = (
            f"roofs: copy {bandwidth:.0f} GB/s,\nmatrix product{kind} {units.rates * top:.0f} {units.rate}"
        )
        axes.plot([low, top / bandwidth, high], roof, dashes, color="#222222", linewidth=1.3, label=label)
    for name, marker in _MARKERS.items():
        for side, colour in (("rival", RIVAL), ("ours", OURS)):
            chosen = [
                (row.flop / row.bytes, units.rates * row.rate(getattr(row, side)))
                for row in rows
                if row.pass_name == name and getattr(row, side)
            ]
            if chosen:
                x, y = zip(*chosen, strict=True)
                label = f"{PASSES[name]}, {'MyConv2d' if side == 'ours' else 'best rival'}"
                axes.scatter(x, y, s=26, marker=marker, color=colour, alpha=0.7, linewidths=0, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)
    axes.grid()
    axes.set_xlabel("operations per byte (direct convolution; every operand and result moved once)")
    axes.set_ylabel(f"{units.rate} (direct convolution counted: Winograd may exceed the roof)")
    axes.set_title("Roofline of the layers")
    axes.legend(fontsize=8, loc="lower right")
    return figure
