"""Trained runs beside what the handout published and what needs no network: one dated result file.

The published figures are those of the assignment's 2019 edition, after 25 epochs at batch 100, on 1,000 validation
pictures of horses (CIFAR-10).
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from colourize.evaluation import evaluate
from colourize.files import UserError
from colourize.runs import Run
from colourize.training import load_data

from .environment import environment
from .names import free

PUBLISHED = {  # (task, network): validation loss, accuracy
    ("regression", "regression-cnn"): (0.0082, None),
    ("classification", "cnn"): (1.591, 0.41),
    ("classification", "unet"): (1.349, 0.48),
    ("superres", "cnn"): (1.481, 0.46),
    ("superres", "unet"): (1.468, 0.47),
}
_LEFT_OUT = ("data_dir", "palette")  # paths of the machine


def collect(folders: Sequence[Path], out: Path) -> Path:
    """Evaluates the runs in `folders` and writes handout-DATE.json and .md into `out`; returns the latter."""
    opened = [Run.open(folder) for folder in folders]
    for run in opened:
        if (run.settings.task, run.settings.network) not in PUBLISHED:
            published = "; ".join(map(", ".join, PUBLISHED))
            what = f"{run.settings.task}, {run.settings.network}"
            raise UserError(f"{run.folder} is {what}, of which the handout published nothing; it did of {published}")
    runs = [_record(run) for run in opened]
    date = datetime.date.today().isoformat()
    out.mkdir(parents=True, exist_ok=True)
    stem = free(out / f"handout-{date}")
    result = {"date": date, "environment": environment("cpu"), "runs": runs}
    stem.with_suffix(".json").write_text(json.dumps(result) + "\n")
    table = stem.with_suffix(".md")
    table.write_text("\n".join(_table(runs, date)) + "\n")
    return table


def _record(run: Run) -> dict:
    settings = settings_of(run)
    scores = evaluate(run, load_data(run.settings)).scores
    with (run.folder / "metrics.csv").open(newline="") as file:
        metrics = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {"settings": settings, "metrics": metrics, "scores": scores}


def settings_of(run: Run) -> dict:
    """Those that are the same on every machine; whether a palette was given is, its path is not."""
    given = {"palette": "given"} if run.task.palette and run.settings.palette else {}
    return {name: value for name, value in vars(run.settings).items() if name not in _LEFT_OUT} | given


def _table(runs: Sequence[dict], date: str) -> list[str]:
    lines = [
        f"Handout trainings, {date}: horses of CIFAR-10 (JPEG copy), validation. Published: the handout's own run, 25 "
        "epochs, batch 100, Adam at a constant 1e-3.",
        "",
        "| task, network | schedule | epochs | seed | loss at the end | accuracy | published: loss | accuracy "
        "| reached | best epoch: loss | accuracy |",
        "|---" * 11 + "|",
    ]
    for run in runs:
        settings, last = run["settings"], run["metrics"][-1]
        best = min(run["metrics"], key=lambda row: row["validation_loss"])
        loss, accuracy = PUBLISHED[settings["task"], settings["network"]]
        cells = [f"{settings['task']}, {settings['network']}"]
        cells.append(f"{settings['schedule']}, lr {settings['lr']:g}")
        cells += [f"{len(run['metrics'])}", f"{settings['seed']}"]
        cells += [*_figures(last), f"{loss:.4g}", _percent(accuracy), "yes" if _reached(run) else "no"]
        lines.append("| " + " | ".join([*cells, *_figures(best)]) + " |")
    lines += [
        "",
        "Without any network, on the same pictures:",
        "",
        "| task | predictor | loss | accuracy | PSNR |",
    ]
    lines.append("|---|---|---|---|---|")
    seen = set()
    for run in runs:
        task = run["settings"]["task"]
        for name, scores in run["scores"].items():
            if name != "network" and (task, name) not in seen:
                seen.add((task, name))
                loss = f"{scores['loss']:.4g}" if "loss" in scores else "–"
                psnr = f"{scores['psnr']:.2f} dB" if "psnr" in scores else "–"
                lines.append(f"| {task} | {name} | {loss} | {_percent(scores.get('accuracy'))} | {psnr} |")
    return lines


def _reached(run: dict) -> bool:
    """Whether the last epoch is at least as good as the published run, in loss and in accuracy."""
    last = run["metrics"][-1]
    loss, accuracy = PUBLISHED[run["settings"]["task"], run["settings"]["network"]]
    return last["validation_loss"] <= loss and last.get("validation_accuracy", 1) >= (accuracy or 0)


def _figures(row: dict[str, float]) -> list[str]:
    return [f"{row['validation_loss']:.4g}", _percent(row.get("validation_accuracy"))]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
