"""What the commands print, as rich tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from .colour import to_uint8
from .evaluation import Evaluation
from .palette import Palette
from .runs import WEIGHTS, Run
from .summary import Layer
from .tasks import Task

_UNITS = {
    "loss": "{:.4g}", "accuracy": "{:.1%}", "top-5": "{:.1%}", "psnr": "{:.2f} dB", "luma psnr": "{:.2f} dB",
    "ssim": "{:.3f}", "ciede2000": "{:.2f}", "colourfulness": "{:.1f}",
}  # fmt: skip
_NAMES = {"psnr": "PSNR", "luma psnr": "PSNR of Y", "ssim": "SSIM", "ciede2000": "ΔE₀₀", "mse": "MSE", "huber": "Huber"}


def label(metric: str, task: Task) -> str:
    """A metric's name as people write it."""
    name = task.loss_name if metric == "loss" else metric
    return _NAMES.get(name, name)


def written(metric: str, value: float) -> str:
    """A score as people write it."""
    return _UNITS[metric].format(value)


def training(run: Run) -> Table:
    """What a finished training was and what it came to: the last epoch, and the best by validation loss."""
    settings, last, best = run.settings, run.metrics[-1], run.best_row
    rows = {
        "run": f"{settings.task}, {settings.network}",
        "data": f"{settings.data}, batch {settings.batch_size}, lr {settings.lr:g} {settings.schedule}, "
        f"seed {settings.seed}, {settings.precision}",
        f"last epoch, {last['epoch']}": describe(last, run.task),
        f"best epoch, {best['epoch']}": "the last" if best is last else describe(best, run.task),
        "files": f"{run.folder}: {', '.join(WEIGHTS.values())}, metrics.csv, curves.png, samples.png",
    }
    return facts(rows)


def describe(row: Mapping[str, float], task: Task) -> str:
    """A row of a run's metrics in words."""
    parts = [f"train loss {row['train_loss']:.4g}", f"validation loss {row['validation_loss']:.4g}"]
    for metric in ("accuracy", "psnr"):
        if (name := f"validation_{metric}") in row:
            parts.append(f"{label(metric, task)} {_UNITS[metric].format(row[name])}")
    return ", ".join(parts)


def facts(rows: Mapping[str, Any]) -> Table:
    """Names and what they are."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in rows.items():
        table.add_row(Text(name), Text(str(fact)))
    return table


def evaluation(result: Evaluation, task: Task) -> Table:
    """Predictors by scores; the best score of a column is bold, ± half of its 95 % interval, where it has one."""
    title = f"{task.name} on {result.data}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("predictor", overflow="fold")
    metrics = [metric for metric in _UNITS if metric in result.scores["network"]]
    for metric in metrics:
        table.add_column(label(metric, task), justify="right", overflow="fold")
    for name in result.scores:
        table.add_row(name, *(_score(result, name, metric) for metric in metrics))
    return table


def _score(result: Evaluation, name: str, metric: str) -> Text:
    if metric not in (scores := result.scores[name]):
        return Text("–")
    style = "bold" if scores[metric] == result.best(metric) else ""
    cell = Text(_UNITS[metric].format(scores[metric]), style=style)
    if metric not in result.intervals[name]:
        return cell
    low, high = result.intervals[name][metric]
    half = (high - low) / 2
    return cell.append(f"\n± {half:.2g}" if metric == "loss" else f"\n± {_UNITS[metric].format(half)}", style="dim")


def verdict(result: Evaluation, task: Task) -> str:
    """In plain words: which baselines the network loses to, and in what."""
    network = result.scores["network"]
    lines = []
    for name, scores in result.scores.items():
        lost = [
            f"{label(metric, task)} ({unit.format(network[metric])} against {unit.format(scores[metric])})"
            for metric, unit in _UNITS.items()
            if (metric, name) in result.defeats
        ]
        if lost:
            lines.append(f"The network loses to “{name}” in {', '.join(lost)}.")
    return "\n".join(lines) or "The network loses to none of the baselines."


def layers(rows: Sequence[Layer], title: str) -> Table:
    """The layer table of a network, with totals."""
    table = Table(title=title, title_justify="left", show_footer=True, box=SIMPLE_HEAD, padding=0)
    table.add_column("layer", "total", overflow="fold")
    table.add_column("operations", overflow="fold")
    for name in ("kernel", "filters", "output"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("parameters", f"{sum(row.parameters for row in rows):,}", justify="right", overflow="fold")
    table.add_column("MFLOPs", f"{sum(row.flops for row in rows) / 1e6:,.2f}", justify="right", overflow="fold")
    for row in rows:
        table.add_row(
            row.name,
            row.operations,
            "×".join(map(str, row.kernel)),
            f"{row.channels}→{row.filters}",
            "×".join(map(str, row.output)),
            f"{row.parameters:,}",
            f"{row.flops / 1e6:,.2f}",
        )
    return table


def palette(colours: Palette) -> Table:
    """The colours of a palette with their labels."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for number, (red, green, blue) in enumerate(to_uint8(colours.centres).tolist()):
        code = f"#{red:02x}{green:02x}{blue:02x}"
        table.add_row(Text(f"{number:>3}"), Text("        ", style=f"on {code}"), Text(code))
    return table
