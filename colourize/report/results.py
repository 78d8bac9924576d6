"""The trainings that a report stands on: each is kept in a folder named by its settings, and made only once."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from ..baselines import Prediction
from ..data import Split
from ..evaluation import Evaluation, evaluate, picture_scores
from ..examples import Examples
from ..files import atomic_write
from ..runs import Run
from ..settings import Settings
from ..tasks import Batch, Task
from ..training import train
from .sentences import Score

SCORES = "evaluation.json"  # within the folder of a run; it is written last, so what has it is finished
_ANYWHERE = ("data_dir",)  # where the same pictures lie does not change a result


@dataclass(frozen=True)
class Result:
    """A finished training: its run, its metrics by epoch, its scores beside those of the baselines."""

    run: Run
    metrics: list[dict[str, float]]
    evaluation: Evaluation

    def score(self, metric: str, predictor: str = "network") -> Score:
        scores, intervals = self.evaluation.scores, self.evaluation.intervals
        return Score(scores[predictor][metric], *intervals[predictor][metric])

    def baselines(self, metric: str) -> dict[str, Score]:
        """Of those that have this score."""
        scores = self.evaluation.scores
        return {name: self.score(metric, name) for name in self.baseline_names if metric in scores[name]}

    @property
    def baseline_names(self) -> list[str]:
        return [name for name, scores in self.evaluation.scores.items() if name != "network" and "psnr" in scores]


@dataclass(frozen=True)
class Results:
    """What an experiment gets to see: results by the names that it gave its runs, the pictures, the device."""

    of: Mapping[str, Result]
    split: Split
    device: torch.device

    def __getitem__(self, name: str) -> Result:
        return self.of[name]

    def scores(self, metric: str, *names: str) -> dict[str, Score]:
        """Of the networks of these runs, or of all."""
        return {name: self[name].score(metric) for name in names or self.of}

    def measured(self, name: str, predictor: Callable[[nn.Module, Task, Batch], Tensor]) -> dict[str, Score]:
        """The scores of pictures that `predictor` makes with the network and the task of a run."""
        run = self[name].run
        network, task = run.load_network().to(self.device), run.task
        batches = Examples(self.split.validation, task, self.device).batches(run.settings.batch_size)
        found = picture_scores(
            lambda batch: Prediction(made=predictor(network, task, batch)), task, batches, thorough=True
        )
        scored = Evaluation.of(name, {name: found})
        return {metric: Score(value, *scored.intervals[name][metric]) for metric, value in scored.scores[name].items()}


def folder_name(settings: Settings) -> str:
    """The same for the same settings, whatever settings are invented later."""
    own = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in _ANYWHERE}
    other = {f.name: own[f.name] for f in fields(settings) if f.name in own and own[f.name] != f.default}
    digest = hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()
    return f"{settings.task}-{settings.network}-{digest[:8]}"


def finished(settings: Settings, folder: Path) -> bool:
    return (folder / folder_name(settings) / SCORES).is_file()


def obtain(settings: Settings, folder: Path, split: Split, device: torch.device, console: Console) -> Result:
    """The kept result of these settings; otherwise trains, going on with what was interrupted, and evaluates."""
    place = folder / folder_name(settings)
    if not finished(settings, folder):
        resume = (place / "settings.toml").is_file()
        if not resume:
            shutil.rmtree(place, ignore_errors=True)  # interrupted before there was anything to go on with
        run = train(settings, place, resume=resume, device=device, console=console)
        content = json.dumps(asdict(evaluate(run, split, device=device)), indent=1)
        atomic_write(place / SCORES, lambda file: file.write(content.encode()))
    with (place / "metrics.csv").open(newline="") as file:
        metrics = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return Result(Run.open(place), metrics, Evaluation(**json.loads((place / SCORES).read_text())))
