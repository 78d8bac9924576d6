"""The pictures of a sweep: all validation curves in one plot, and the runs side by side on the same pictures."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from .. import pictures, plots
from ..files import atomic_write
from ..runs import Run
from .scores import METRICS, Scores
from .sweep import Result, Sweep

_COLUMNS = 6  # runs beside each other on a sheet
_PICTURES = 5  # rows of a sheet
_SPREAD = 10  # largest by smallest loss, from which on the scale is logarithmic: a high lr may begin very high
_DASHES = ("--", ":", "-.", (0, (8, 2, 1, 2, 1, 2)))
_LEGEND = 30  # runs in a column of it


def curves(path: Path, results: list[Result], scores: Scores) -> None:
    """Each validation score over the epochs: a line for every run, a dashed one for every baseline, as PNG."""
    drawn = [result for result in results if result.metrics]
    metrics = [metric for metric in METRICS if f"validation_{metric}" in drawn[0].metrics[0]]
    figure = Figure(figsize=(4.2 * len(metrics) + 3, 4), dpi=120, layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        _panel(axis, metric, drawn, scores)
    handles, labels = axis.get_legend_handles_labels()
    columns = math.ceil(len(labels) / _LEGEND)
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small", ncols=columns)
    figure.suptitle(scores.title)
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def _panel(axis: Axes, metric: str, drawn: list[Result], scores: Scores) -> None:
    name, scale = f"validation_{metric}", 100 if metric == "accuracy" else 1
    values = []
    for result, colour in zip(drawn, _colours(len(drawn)), strict=True):
        epochs, line = [row["epoch"] for row in result.metrics], [scale * row[name] for row in result.metrics]
        label = result.name + (" (failed)" if result.error else "")
        axis.plot(epochs, line, color=colour, marker="o", ms=2.5, lw=1.3, label=label)
        values += line
    for row, dashes in zip(scores.baselines, itertools.cycle(_DASHES), strict=False):
        if ("last", metric) not in row.scores:
            continue
        level = scale * row.scores["last", metric]
        axis.axhline(level, color="#555555", lw=1.2, ls=dashes, label=row.name, zorder=0)
        values.append(level)
    finite = [value for value in values if math.isfinite(value)]
    if metric == "loss" and finite and 0 < _SPREAD * min(finite) < max(finite):
        axis.set_yscale("log")
    plots.dress(axis, f"validation {plots.LABELS.get(metric, scores.label[metric])}")


def _colours(count: int) -> list[tuple[float, ...]]:
    """As different as can be up to ten, then in the order of a scale."""
    if count <= 10:
        return [matplotlib.colormaps["tab10"](number) for number in range(count)]
    return [matplotlib.colormaps["turbo"](0.05 + 0.9 * number / (count - 1)) for number in range(count)]


@torch.inference_mode()
def samples(path: Path, sweep: Sweep) -> None:
    """The same validation pictures, spread over all of the first run's, as every run makes them that has not failed."""
    drawn = [result for result in sweep.results if result.metrics and not result.error]
    if not drawn:
        return
    images = sweep.pictures(drawn[0].settings).validation
    truth = images.batch(torch.linspace(0, len(images) - 1, min(_PICTURES, len(images))).long())
    made = {}
    for result in drawn:
        run = Run.open(result.folder)
        shown = run.task.degrade(truth)
        made[result.name.replace(",", "\n")] = run.task.decode(run.load_network()(shown), shown)
    parts = [list(made.items())[i : i + _COLUMNS] for i in range(0, len(made), _COLUMNS)]
    sheets = [pictures.sheet({"input": shown, **dict(part), "truth": truth}, cell=128) for part in parts]
    page = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    pictures.save(path, page)
