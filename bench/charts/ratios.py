"""Ratios to the best rival, as bars on a logarithmic axis that begin at 1: to the right we are faster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..rows import PASSES, Row
from ..stats import geometric_mean
from .style import grouped

_FORWARD, _GRAD_INPUT, _GRAD_WEIGHT, _BACKWARD = "#2f6fb0", "#e08e2b", "#7b519d", "#3b9a72"
_COLOURS = {  # in the order of a group's bars
    **{"forward": _FORWARD, "inference": _FORWARD, "grad_input": _GRAD_INPUT, "grad_weight": _GRAD_WEIGHT},
    **{name: _BACKWARD for name in ("backward", "training", "training step", "epoch")},
}
_SHORT = {"training": "training", "training step": "training", "epoch": "training"}
_MOST_CASES = 24  # as bars of their own
_BAR = 0.19  # height of a bar in inches


def layer_ratios(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    """A bar for every pass of every layer: of the ten that stand for all, or of all if they are few."""
    layers = [row for row in rows if row.kind == "layer" and math.isfinite(row.ratio)]
    layers = [row for row in layers if "ten" in row.tags] or layers
    groups = grouped(layers, lambda row: row.title)
    if not 0 < len(groups) <= _MOST_CASES:
        return None
    bars = {
        case: [(row.pass_name, row.ratio, f"{row.ratio:.2f}× {row.rival}") for row in group]
        for case, group in groups.items()
    }
    return _bars(bars, "Layers: MyConv2d against the best rival, named at each bar")[0]


def tag_ratios(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    """The geometric mean of every tag and pass, with a dot for each row; no tags that are a part of another's."""
    timed = [row for row in rows if math.isfinite(row.ratio) and row.kind in ("layer", "block", "network")]
    members = {tag: {row.key for row in timed if tag in row.tags} for tag in facts["tags"]}
    tags = [tag for tag, own in members.items() if own and not any(own < other for other in members.values())]
    if len(tags) < 2:
        return None
    groups: dict[str, dict[str, list[float]]] = {tag: {} for tag in tags}
    for row in timed:
        for tag in groups.keys() & row.tags:
            groups[tag].setdefault(row.pass_name, []).append(row.ratio)
    bars = {
        tag: [(name, geometric_mean(passes[name]), "") for name in _COLOURS if name in passes]
        for tag, passes in groups.items()
    }
    figure, axes, places = _bars(
        bars, "MyConv2d against the best rival: geometric means by kind, a dot for each case"
    )
    every = []
    for tag, group in bars.items():
        for place, (name, mean, _) in zip(places[tag], group, strict=True):
            dots = groups[tag][name]
            every += dots
            axes.scatter(dots, [place] * len(dots), s=7, color="#222222", alpha=0.55, linewidths=0, zorder=3)
            _label(axes, f"{mean:.2f}×", max(*dots, mean, 1), place)
    _ratio_axis(axes, max(every), min(every))
    return figure


def _bars(
    groups: dict[str, list[tuple[str, float, str]]], title: str
) -> tuple[Figure, Axes, dict[str, list[float]]]:
    """Horizontal bars: for every group (pass, ratio, label). Returns the y of the bars of each group too."""
    count = sum(map(len, groups.values()))
    figure = Figure(figsize=(8, 1.3 + _BAR * (count + 0.8 * len(groups))), layout="constrained")
    axes = figure.add_subplot()
    y, places, ticks = 0.0, {}, []
    for name, bars in groups.items():
        places[name] = [y + index for index in range(len(bars))]
        for place, (pass_name, ratio, label) in zip(places[name], bars, strict=True):
            axes.barh(place, ratio - 1, left=1, height=0.85, color=_COLOURS[pass_name])
            _label(axes, label, max(ratio, 1), place)
        ticks.append(y + (len(bars) - 1) / 2)
        y += len(bars) + 0.8
    axes.set_yticks(ticks, list(groups))
    axes.set_ylim(y - 0.8 - 0.4, -0.7)
    axes.set_title(title, pad=24)
    ratios = [ratio for bars in groups.values() for _, ratio, _ in bars]
    _ratio_axis(axes, max(ratios), min(ratios))
    labels: dict[str, dict[str, None]] = {}  # by colour
    for pass_name in (pass_name for bars in groups.values() for pass_name, *_ in bars):
        labels.setdefault(_COLOURS[pass_name], {})[_SHORT.get(pass_name, PASSES[pass_name])] = None
    handles = [Patch(color=colour, label=", ".join(names)) for colour, names in labels.items()]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(handles), fontsize=8
    )
    return figure, axes, places


def _label(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7)


def _ratio_axis(axes: Axes, largest: float, smallest: float) -> None:
    low, high = min(0.8, smallest / 1.1), max(2.0, largest * 1.6)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100) if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color="#222222", linewidth=1.2)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("times faster than the best rival (1× = as fast)")
