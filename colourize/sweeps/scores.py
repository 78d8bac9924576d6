"""What the runs of a sweep came to, beside the baselines: one table for the screen, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from .. import tables
from ..baselines import baselines
from ..evaluation import HIGHER_IS_BETTER, mean_scores
from ..examples import Examples
from ..files import atomic_write
from ..runs import Run, best_row
from ..settings import Settings
from .plan import Value, name_of, written
from .sweep import Result, Sweep

METRICS = ("loss", "accuracy", "psnr")  # those of every epoch
_OF_BASELINES = (  # the settings that decide about them
    "data", "data_dir", "class_name", "size", "limit", "seed", "palette", "colours", "space", "loss",
)  # fmt: skip
_BATCH = 100
CAPTION = (
    "After the last epoch and, if another was better, at best: after the one of the lowest validation loss. Bold: the "
    "best of the finished runs, last and at best. images/s: of the median epoch, without validation and saving."
)


@dataclass
class Row:
    """A run or a baseline. `scores` are by ("last" or "best", metric); a baseline has those of the network's last."""

    name: str
    varied: dict[str, Value]
    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    epochs: int | None = None
    best_epoch: int | None = None
    speed: float | None = None
    note: str = ""
    competes: bool = False


class Scores:
    """The table of a sweep as it is now: `update` it after every run."""

    def __init__(self, sweep: Sweep, device: torch.device | str = "cpu") -> None:
        self.sweep, self.device = sweep, device
        self.runs: list[Row] = []
        self._baselines: dict[str, dict[str, dict[str, float]]] = {}  # by what they are of
        self.label = {metric: metric for metric in METRICS}

    def update(self) -> None:
        """Reads the results, computes baselines that are missing, and writes sweep.csv and sweep.md."""
        pairs = list(zip(self.sweep.results, self.sweep.plan.combinations, strict=True))
        self.runs = [_row(result, varied) for result, varied in pairs]
        for result, varied in pairs:
            group = name_of({name: value for name, value in varied.items() if name in _OF_BASELINES})
            if group not in self._baselines and result.metrics and not result.error:
                self._baselines[group] = self._measure(result.settings, Run.open(result.folder))
        folder = self.sweep.folder
        atomic_write(folder / "sweep.csv", lambda file: file.write(self.csv().encode()))
        atomic_write(folder / "sweep.md", lambda file: file.write(self.markdown().encode()))

    def _measure(self, settings: Settings, run: Run) -> dict[str, dict[str, float]]:
        self.label = {metric: tables.label(metric, run.task) for metric in METRICS}
        if "loss" in self.sweep.plan.vary:
            self.label["loss"] = "loss"
        split = self.sweep.pictures(settings)
        examples = Examples(split.validation, run.task, self.device)
        return {
            name: mean_scores(predict, run.task, examples, _BATCH)
            for name, predict in baselines(run.task, split.train).items()
        }

    @property
    def baselines(self) -> list[Row]:
        """One for each that is different: what varies need not concern it."""
        found: list[Row] = []
        for name in next(iter(self._baselines.values()), ()):
            distinct: dict[tuple[tuple[str, float], ...], str] = {}
            for group, scores in self._baselines.items():
                distinct.setdefault(tuple(scores[name].items()), group)
            for scores, group in distinct.items():
                called = name if len(distinct) == 1 else f"{name}, {group}"
                last = {("last", metric): value for metric, value in scores if metric in METRICS}
                found.append(Row(called, {}, last))
        return found

    def best(self, when: str, metric: str) -> float | None:
        """Of the finished runs."""
        values = [row.scores[when, metric] for row in self.runs if row.competes and (when, metric) in row.scores]
        values = [value for value in values if math.isfinite(value)]
        return (max if HIGHER_IS_BETTER[metric] else min)(values, default=None)

    def csv(self) -> str:
        """Every number in full; what a row has not is empty."""
        varied = list(self.sweep.plan.vary)
        keys = [(when, metric) for when in ("last", "best") for metric in METRICS]
        table = io.StringIO(newline="")
        writer = csv.writer(table, lineterminator="\n")
        names = [f"{when}_{metric}" for when, metric in keys]
        writer.writerow(["run", *varied, "epochs", "best_epoch", *names, "images_per_second", "note"])
        for row in (*self.runs, *self.baselines):
            numbers = (row.epochs, row.best_epoch, *(row.scores.get(key) for key in keys), row.speed)
            values = [written(row.varied.get(name)) for name in varied]
            writer.writerow([row.name, *values, *(_number(number) for number in numbers), row.note])
        return table.getvalue()

    def markdown(self) -> str:
        header, rows = self._cells()
        lines = [f"# {self.title}", "", _line(header), _line(["---", *("---:" for _ in header[1:])])]
        lines += [_line(f"**{text}**" if bold else text for text, bold in row) for row in rows]
        lines += ["", CAPTION, "", *(f"- {line}" for line in self.verdict)]
        lines += ["", "![validation curves](curves.png)", "", "![samples](samples.png)"]
        return "\n".join(lines) + "\n"

    def table(self) -> Table:
        header, rows = self._cells()
        table = Table(title=self.title, title_justify="left", caption=CAPTION, caption_justify="left", box=SIMPLE_HEAD)
        table.add_column(header[0], overflow="fold")
        for name in header[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(text, style="bold" if bold else "") for text, bold in row))
        return table

    @property
    def title(self) -> str:
        plan = self.sweep.plan
        what = ", ".join(str(plan.fixed[name]) for name in ("task", "network") if name in plan.fixed)
        return f"{what}: {(' with ' if plan.paired else ' × ').join(plan.vary)}, {len(plan.runs)} runs"

    @property
    def verdict(self) -> list[str]:
        """In plain words: the best run, and the baselines that no run beats."""
        lines = []
        losses = {row.name: row.scores["last", "loss"] for row in self.runs if row.competes}
        losses = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
        if losses:
            best = min(losses, key=losses.__getitem__)
            lines.append(f"Lowest {self.label['loss']} after the last epoch: {best}, {losses[best]:.4g}.")
        for row in self.baselines:
            lost = [
                f"{self.label[metric]} ({tables.written(metric, score)})"
                for (when, metric), score in row.scores.items()
                if (best := self.best(when, metric)) is not None
                and (score > best if HIGHER_IS_BETTER[metric] else score < best)
            ]
            if lost:
                lines.append(f"Every run loses to “{row.name}” in {', '.join(lost)}.")
        return lines

    def _cells(self) -> tuple[list[str], list[list[tuple[str, bool]]]]:
        """The header, and the rows' cells, each with whether it is bold: the last epoch, and the best if another."""
        rows = [*self.runs, *self.baselines]
        metrics = [metric for metric in METRICS if any(("last", metric) in row.scores for row in rows)]
        cells = []
        for row in rows:
            speed = f"{row.speed:,.0f}" if row.speed else "–"
            for when, epoch in (("last", row.epochs), ("best", row.best_epoch)):
                if when == "last" or epoch != row.epochs:
                    name = f"{row.name} – {row.note}" if row.note else row.name
                    scores = [self._score(row, when, metric) for metric in metrics]
                    edges = (name, str(epoch or "–"), speed) if when == "last" else ("… at best", str(epoch), "")
                    cells.append([(edges[0], False), (edges[1], False), *scores, (edges[2], False)])
        return ["run", "epoch", *(self.label[metric] for metric in metrics), "images/s"], cells

    def _score(self, row: Row, when: str, metric: str) -> tuple[str, bool]:
        value = row.scores.get((when, metric))
        if value is None:
            return "–", False
        return tables.written(metric, value), row.competes and value == self.best(when, metric)


def _row(result: Result, varied: dict[str, Value]) -> Row:
    row = Row(result.name, varied, speed=result.speed, note=result.note, competes=not result.note)
    if result.metrics:
        last, best = result.metrics[-1], best_row(result.metrics)
        row.epochs, row.best_epoch = int(last["epoch"]), int(best["epoch"])
        for when, scores in (("last", last), ("best", best)):
            for metric in METRICS:
                if (name := f"validation_{metric}") in scores:
                    row.scores[when, metric] = scores[name]
    return row


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
