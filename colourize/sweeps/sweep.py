"""The folder of a sweep, and the trainings in it, one after the other.

sweep.toml                   what was asked for
NAME=VALUE,…/                the runs (see `runs`), each named by its values
sweep.csv, sweep.md          what they came to, beside the baselines; written after every run
curves.png, samples.png      all curves; the same validation pictures as every run makes them
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from ..data import Split
from ..files import UserError
from ..runs import Metrics, Run, check_free, read_metrics
from ..settings import Settings
from ..training import choose_device, load_data, train
from .plan import Plan, Settled, Varied

_PICTURES = ("data", "data_dir", "class_name", "size", "limit", "seed")  # what `load_data` looks at
_BEFORE_SETTINGS = ("palette.npy", "frequencies.npy")  # what a run that was stopped at once may have left


@dataclass
class Result:
    """What a run has come to. `speed` is that of the median epoch of the part that ended it, in pictures per second of
    training alone; `error` is why it ended before its time."""

    name: str
    settings: Settings
    folder: Path
    metrics: Metrics = field(default_factory=list)
    speed: float | None = None
    error: str | None = None

    @property
    def finished(self) -> bool:
        return len(self.metrics) >= self.settings.epochs

    @property
    def note(self) -> str:
        """What is to be said of a run that is not finished."""
        if self.error or self.finished:
            return f"failed: {self.error}" if self.error else ""
        return f"{len(self.metrics)} of {self.settings.epochs} epochs" if self.metrics else "not begun"


class Sweep:
    """A folder and its plan, with the `results` so far in the plan's order."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._loaded: tuple[dict[str, object], Split] | None = None
        speeds = _speeds(folder / "sweep.csv")
        self.results = [
            Result(name, settings, folder / name, read_metrics(folder / name), speeds.get(name))
            for name, settings in plan.runs.items()
        ]

    @classmethod
    def begin(cls, folder: str | os.PathLike[str], plan: Plan) -> Sweep:
        """Raises `UserError` for a folder that is not free."""
        check_free(folder, "sweep", "sweep.toml")
        return cls(Path(folder), plan)

    @classmethod
    def resume(cls, folder: str | os.PathLike[str], fixed: Settled, vary: Varied) -> Sweep:
        """The sweep in `folder`, with more values (see `Plan.extended`). Raises `UserError` if there is none."""
        path = Path(folder) / "sweep.toml"
        if not path.is_file():
            raise UserError(f"{folder} holds no sweep: it has no sweep.toml")
        return cls(Path(folder), Plan.load(path).extended(fixed, vary))

    def pictures(self, settings: Settings) -> Split:
        """The pictures of a run; runs next to each other mostly have the same, which are loaded once."""
        wanted = {name: getattr(settings, name) for name in _PICTURES}
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = wanted, load_data(settings)
        return self._loaded[1]

    def train(self, *, device: torch.device | str | None = None, console: Console | None = None) -> Iterator[Result]:
        """Trains what is not finished and yields each result as it comes, those that were finished before too.

        A run that fails with a `UserError`, such as a loss that is not finite, keeps it as its `error`. Pictures that
        cannot be had at all, or a device that is not there, are found before anything is written.
        """
        console = console or Console(quiet=True)
        device = choose_device(device)
        self.pictures(self.results[0].settings)
        self.plan.save(self.folder / "sweep.toml")
        for number, result in enumerate(self.results, 1):
            title = f"run {number}/{len(self.results)}  {result.name}" + ": finished" * result.finished
            console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
            if result.finished:
                result.error = _damage(result.folder)
            else:
                self._train(result, device, console)
            yield result

    def _train(self, result: Result, device: torch.device, console: Console) -> None:
        folder = result.folder
        resume = (folder / "settings.toml").exists()
        if not resume:
            _clear(folder)
        try:
            run = train(result.settings, folder, resume=resume, device=device, console=console)
            result.speed = median(run.speeds) if run.speeds else result.speed
        except UserError as error:
            result.error = str(error)
        finally:
            result.metrics = read_metrics(folder)


def _damage(folder: Path) -> str | None:
    """Why a finished run cannot be opened; None if it can."""
    try:
        Run.open(folder)
    except UserError as error:
        return str(error)
    return None


def _clear(folder: Path) -> None:
    """Removes what a training leaves that is stopped before its settings are written, and nothing else."""
    for path in (folder / name for name in _BEFORE_SETTINGS):
        path.unlink(missing_ok=True)
    for path in folder.glob(".*.tmp"):
        path.unlink()


def _speeds(path: Path) -> dict[str, float]:
    """By run, of a table that was written before."""
    with suppress(OSError, ValueError, KeyError):
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return {row["run"]: float(row["images_per_second"]) for row in rows if row["images_per_second"]}
    return {}
