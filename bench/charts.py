"""The pictures of a report: ratios, whole networks, roofline, and cost against the size of the picture."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from colourize.files import atomic_write

from .rows import PASSES, Row, peak
from .stats import geometric_mean
from .tables import UNITS, precisions, threads

_STYLE = {
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
_OURS, _RIVAL, _OTHER = "#0b6e4f", "#c8553d", "#b9bec5"
_PASS_COLOURS = {
    **{"forward": "#2f6fb0", "grad_input": "#e08e2b", "grad_weight": "#7b519d", "backward": "#3b9a72"},
    **{"training": "#3b9a72", "training step": "#3b9a72", "epoch": "#3b9a72", "inference": "#2f6fb0"},
}
_SHORT = {"training": "training", "training step": "training", "epoch": "training"}
_MOST_CASES = 24  # as bars of their own
_BAR = 0.19  # height of a bar in inches


def draw_all(rows: Sequence[Row], facts: dict[str, Any], stem: Path) -> list[Path]:
    """Draws every picture for which there are rows; returns the files, named STEM-WHAT.png."""
    machine = facts["environment"].get("card") or facts["environment"].get("processor", "")
    settings = facts["settings"]
    words = [machine.partition(",")[0], *([threads(settings)] if settings["device"] == "cpu" else [])]
    words += ["/".join(precisions(rows, settings)), facts["date"][:10]]
    note = " · ".join(words)
    pictures: dict[str, Callable[[Sequence[Row], dict[str, Any]], Figure | None]] = {
        "layers": layer_ratios,
        "tags": tag_ratios,
        "networks": networks,
        "roofline": roofline,
        "sizes": sizes,
    }
    written = []
    for name, draw in pictures.items():
        with mpl.rc_context(_STYLE):
            figure = draw(rows, facts)
            if figure is None:
                continue
            figure.text(0.995, -0.005, note, ha="right", va="top", fontsize=7, color="#777777")
            data = io.BytesIO()
            figure.savefig(
                data, format="png", dpi=120, facecolor="white", bbox_inches="tight", pad_inches=0.12
            )
        path = stem.with_name(f"{stem.name}-{name}.png")
        atomic_write(path, lambda file, data=data: file.write(data.getvalue()))
        written.append(path)
    return written


def _grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _ratio_axis(axes: Axes, largest: float, smallest: float) -> None:
    """Logarithmic, from below 1, with a strong line at 1: on its right we are faster."""
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
            axes.barh(place, ratio - 1, left=1, height=0.85, color=_PASS_COLOURS[pass_name])
            axes.annotate(
                label,
                (max(ratio, 1), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        ticks.append(y + (len(bars) - 1) / 2)
        y += len(bars) + 0.8
    axes.set_yticks(ticks, list(groups))
    axes.set_ylim(y - 0.8 - 0.4, -0.7)
    axes.set_title(title, pad=24)
    ratios = [ratio for bars in groups.values() for _, ratio, _ in bars]
    _ratio_axis(axes, max(ratios), min(ratios))
    labels: dict[str, dict[str, None]] = {}  # by colour
    for pass_name in (pass_name for bars in groups.values() for pass_name, *_ in bars):
        labels.setdefault(_PASS_COLOURS[pass_name], {})[_SHORT.get(pass_name, PASSES[pass_name])] = None
    handles = [mpl.patches.Patch(color=colour, label=", ".join(names)) for colour, names in labels.items()]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(handles), fontsize=8
    )
    return figure, axes, places


def layer_ratios(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    """A bar for every pass of every layer: of the ten that stand for all, or of all if they are few."""
    layers = [row for row in rows if row.kind == "layer" and math.isfinite(row.ratio)]
    layers = [row for row in layers if "ten" in row.tags] or layers
    groups = _grouped(layers, lambda row: row.title)
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
        tag: [(name, geometric_mean(passes[name]), "") for name in PASSES if name in passes]
        for tag, passes in groups.items()
    }
    figure, axes, places = _bars(
        bars, "MyConv2d against the best rival: geometric means by tag, a dot for each case"
    )
    every = []
    for tag, group in bars.items():
        for place, (name, mean, _) in zip(places[tag], group, strict=True):
            dots = groups[tag][name]
            every += dots
            axes.scatter(dots, [place] * len(dots), s=7, color="#222222", alpha=0.55, linewidths=0, zorder=3)
            text = f"{mean:.2f}×"
            at = max(*dots, mean, 1)
            axes.annotate(
                text, (at, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=7
            )
    _ratio_axis(axes, max(every), min(every))
    return figure


def networks(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    """Times of whole networks: a panel for each, a bar for each contestant."""
    rows = [row for row in rows if row.kind == "network" and row.ours and row.rival]
    if not rows:
        return None
    columns = min(2, len(rows))
    lines = math.ceil(len(rows) / columns)
    units = UNITS[facts["settings"]["device"]]
    most = max(len(row.samples) for row in rows)
    figure = Figure(figsize=(5.4 * columns, lines * (0.95 + 0.24 * most)), layout="constrained")
    for index, row in enumerate(rows):
        axes = figure.add_subplot(lines, columns, index + 1)
        names = sorted(row.samples, key=row.median, reverse=True)
        colours = {row.ours: _OURS, row.rival: _RIVAL}
        values = [units.times * row.median(name) for name in names]
        places = range(most - len(names), most)
        axes.barh(places, values, color=[colours.get(name, _OTHER) for name in names])
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
        axes.set_xlabel(f"{units.time} (shorter is better; × against ours)", fontsize=8)
        axes.grid(axis="x")
    handles = [
        mpl.patches.Patch(color=colour, label=label)
        for colour, label in ((_OURS, "best of ours"), (_RIVAL, "best rival"), (_OTHER, "others"))
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8)
    return figure


def roofline(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    """Rate against arithmetic intensity, with the roofs that this machine reached just before."""
    rows = [
        row for row in rows if row.kind == "layer" and row.flop and row.ours and row.pass_name != "backward"
    ]
    if not rows or "roofs" not in facts:
        return None
    bandwidth = facts["roofs"]["GB/s"]
    peaks = {name: peak(facts["roofs"], name) for name in precisions(rows, facts["settings"])}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    intensities = [row.flop / row.bytes for row in rows]
    low, high = min(intensities) / 1.6, max(*intensities, max(peaks.values()) / bandwidth) * 1.6
    for name, top in peaks.items():
        ridge = top / bandwidth
        axes.plot([low, ridge, high], [bandwidth * low, top, top], color="#222222", linewidth=1.3)
        axes.annotate(
            f"matrix product{'' if len(peaks) == 1 else f' in {name}'}: {top:.0f} GF/s",
            (math.sqrt(ridge * high), top),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
        )
    axes.annotate(
        f"copy: {bandwidth:.0f} GB/s",
        (low, bandwidth * low),
        xytext=(8, -2),
        textcoords="offset points",
        va="top",
    )
    markers = {"forward": "o", "grad_input": "s", "grad_weight": "^"}
    for name, marker in markers.items():
        group = [row for row in rows if row.pass_name == name]
        for side, colour in (("rival", _RIVAL), ("ours", _OURS)):
            chosen = [
                (row.flop / row.bytes, row.rate(getattr(row, side))) for row in group if getattr(row, side)
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
    axes.set_ylabel("GF/s (direct convolution counted: Winograd may exceed the roof)")
    axes.set_title("Roofline of the layers")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def sizes(rows: Sequence[Row], facts: dict[str, Any]) -> Figure | None:
    """Time per pixel against the size of the picture, for the layers that exist in several sizes."""
    rows = [row for row in rows if "large" in row.tags and row.ours and row.rival]
    layers = _grouped(rows, lambda row: re.sub(r"-\d+px-n\d+", "", row.title))
    layers = {name: group for name, group in layers.items() if len({row.pixels for row in group}) > 1}
    passes = [name for name in ("forward", "backward") if any(row.pass_name == name for row in rows)]
    if not layers or not passes:
        return None
    figure = Figure(figsize=(3.3 * len(layers) + 0.6, 2.7 * len(passes) + 0.5), layout="constrained")
    grid = figure.subplots(len(passes), len(layers), squeeze=False)
    for line, pass_name in zip(grid, passes, strict=True):
        for axes, (name, group) in zip(line, layers.items(), strict=True):
            chosen = sorted((row for row in group if row.pass_name == pass_name), key=lambda row: row.pixels)
            x = [math.isqrt(row.pixels) for row in chosen]
            for side, colour, label in (
                ("ours", _OURS, "MyConv2d"),
                ("rival", _RIVAL, "best rival, named below"),
            ):
                y = [1e9 * row.median(getattr(row, side)) / row.pixels for row in chosen]
                axes.plot(x, y, "o-", color=colour, label=label, markersize=4)
            rivals = dict.fromkeys(row.rival for row in chosen)
            place = {"transform": axes.transAxes, "va": "bottom", "fontsize": 7, "color": _RIVAL}
            axes.text(0.03, 0.03, "\n".join(rivals), **place)
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, map(str, x))
            axes.set_ylim(bottom=0)
            axes.grid()
            channels = re.match(r"c(\d+)-k(\d+)", name)
            what = f"{channels[1]}→{channels[2]} channels" if channels else name
            axes.set_title(f"{what}, {PASSES[pass_name]}", fontsize=9.5)
            if name == next(iter(layers)):
                axes.set_ylabel("ns per pixel (lower is better)")
            if pass_name == passes[-1]:
                axes.set_xlabel("side of the picture (pixels)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
    return figure
