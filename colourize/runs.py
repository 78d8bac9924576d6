"""The folder of a run: everything that a training leaves behind, and what it takes to go on with it.

settings.toml                   what was asked for
palette.npy                     the colours that labels stand for, where there are any
frequencies.npy                 how often each class is right, where the loss needs it
model.safetensors               the network after the last finished epoch
best.safetensors                the network after the epoch of the lowest validation loss
checkpoint-even.safetensors     both, optimizer and metrics after the last even epoch, and
checkpoint-odd.safetensors      after the last odd one: while one is written, the other is whole
metrics.csv, curves.png         losses and scores by epoch
samples.png                     validation pictures as the network makes them
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint, networks, pickles, tasks
from .files import UserError, atomic_write
from .palette import Palette
from .perceptual import PerceptualLoss
from .settings import Settings
from .tasks import Task

logger = logging.getLogger("colourize")

CHECKPOINTS = ("checkpoint-even.safetensors", "checkpoint-odd.safetensors")
WEIGHTS = {"last": "model.safetensors", "best": "best.safetensors"}
Metrics = list[dict[str, float]]


class Run:
    """A run's folder, settings and task; `begin` makes one, `open` finds one.

    `metrics` has a row for each finished epoch, once `load_epoch` has read them or training has made them. `speeds` are
    those of the epochs that were trained since, in pictures per second, without validation and saving.
    """

    def __init__(self, folder: Path, settings: Settings, task: Task) -> None:
        self.folder = folder
        self.settings = settings
        self.task = task
        self.metrics: Metrics = []
        self.speeds: list[float] = []
        self._best: dict[str, Tensor] = {}  # what best.safetensors holds

    @property
    def best_row(self) -> dict[str, float]:
        """See `best_row`."""
        return best_row(self.metrics)

    @classmethod
    def begin(cls, folder: str | os.PathLike[str], settings: Settings, task: Task) -> Run:
        """Writes the settings and what the task holds into a folder that `check_free` finds free."""
        check_free(folder)
        run = cls(Path(folder), settings, task)
        if task.palette:
            task.palette.save(run.folder / "palette.npy")
        if task.frequencies is not None:
            values = task.frequencies.numpy()
            atomic_write(run.folder / "frequencies.npy", lambda file: np.save(file, values, allow_pickle=False))
        settings.save(run.folder / "settings.toml")
        return run

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """The run in `folder`. Raises `UserError` if there is none or its files are damaged."""
        folder = Path(folder)
        if not (folder / "settings.toml").is_file():
            raise UserError(f"{folder} holds no run: it has no settings.toml")
        settings = Settings.load(folder / "settings.toml")
        kind = tasks.kind(settings.task)
        palette = Palette.load(folder / "palette.npy", settings.space) if kind.needs_palette else None
        task = create_task(settings, palette)
        if task.needs_frequencies:
            task.frequencies = _load_frequencies(folder / "frequencies.npy", task.out_channels)
        return cls(folder, settings, task)

    def create_network(self) -> nn.Module:
        """A freshly initialised network; the same for the same seed, on every device.

        Its weights, and so whatever passes through it, are channels_last, which convolutions are fastest in.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            chosen = {**self.task.network_settings, **self.settings.network_settings}
            network = networks.create(self.settings.network, **chosen)
        if self.settings.mirror:
            network.mirror = True
        return network.to(memory_format=torch.channels_last)

    def load_network(self, weights: str = "last") -> nn.Module:
        """The trained network, on the CPU, in evaluation mode.

        `weights` is "last", as they were after the last epoch, or "best", after the epoch of the lowest validation
        loss, which makes that loss a little too good as a measure.
        """
        if weights not in WEIGHTS:
            raise UserError(f"weights must be {' or '.join(WEIGHTS)}, not {weights!r}")
        path = self.folder / WEIGHTS[weights]
        tensors, _ = checkpoint.load(path)
        network = self.create_network()
        checkpoint.load_network(network, tensors, path)
        return network.eval()

    def save_epoch(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keeps the state after the last epoch of `metrics`, first the checkpoint, as it holds the rest."""
        if self.best_row is self.metrics[-1]:
            self._best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors.update({f"best.{name}": tensor for name, tensor in self._best.items()})
        tensors.update(checkpoint.pack_optimizer(optimizer))
        path = self.folder / CHECKPOINTS[len(self.metrics) % 2]
        checkpoint.save(path, tensors, {"metrics": json.dumps(self.metrics)})
        self.save_results(network)

    def save_results(self, network: nn.Module) -> None:
        """Writes model.safetensors, best.safetensors and metrics.csv."""
        notes = {"epoch": str(len(self.metrics))}
        checkpoint.save(self.folder / WEIGHTS["last"], network.state_dict(), notes)
        checkpoint.save(self.folder / WEIGHTS["best"], self._best, {"epoch": str(self.best_row["epoch"])})
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.metrics[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.metrics)
        atomic_write(self.folder / "metrics.csv", lambda file: file.write(table.getvalue().encode()))

    def load_epoch(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Puts network, optimizer and metrics back to the last finished epoch that can be read.

        A damaged checkpoint is named in a warning and the one before it taken; `UserError` if none is left.
        Where no epoch was finished, all stays as it is.
        """
        found: list[tuple[Metrics, dict[str, Tensor], Path]] = []
        problems: list[str] = []
        for path in (self.folder / name for name in CHECKPOINTS):
            try:
                tensors, notes = checkpoint.load(path)
                found.append((json.loads(notes["metrics"]), tensors, path))
            except UserError as error:
                if path.exists():
                    problems.append(str(error))
        if not found:
            if problems or (self.folder / WEIGHTS["last"]).exists():
                raise UserError("; ".join(problems) or f"{self.folder} has a model but no checkpoint")
            return
        self.metrics, tensors, path = max(found, key=lambda entry: len(entry[0]))
        for problem in problems:
            logger.warning("%s; going on from %s, after epoch %d", problem, path, len(self.metrics))
        checkpoint.load_network(network, checkpoint.part(tensors, "network"), path)
        self._best = checkpoint.part(tensors, "best")
        checkpoint.unpack_optimizer(optimizer, tensors)


def read_metrics(folder: Path) -> Metrics:
    """The rows of a run's metrics.csv; none if it is missing or damaged."""
    try:
        text = (folder / "metrics.csv").read_text(encoding="utf-8")
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def best_row(metrics: Metrics) -> dict[str, float]:
    """The row with the lowest validation loss, the first of equal ones."""
    return min(metrics, key=lambda row: row["validation_loss"])


def create_task(settings: Settings, palette: Palette | None) -> Task:
    """The task of these settings; what is counted on training pictures is not in it yet."""
    loss = PerceptualLoss(settings.loss_weights, settings.loss_layers)
    return tasks.kind(settings.task)(
        palette, loss=settings.loss, temperature=settings.temperature, perceptual=loss
    )


def _load_frequencies(path: Path, classes: int) -> Tensor:
    try:
        values = torch.from_numpy(pickles.load_npy(io.BytesIO(path.read_bytes()), str(path)))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if values.shape != (classes,) or values.dtype != torch.float64 or not (values >= 0).all() or values.sum() <= 0:
        raise UserError(f"{path} does not hold the frequencies of {classes} classes")
    return values


def check_free(folder: str | os.PathLike[str], what: str = "run", mark: str = "settings.toml") -> None:
    """Raises `UserError` unless `folder` can take a new run, or `what` else is known by the file `mark`: nothing that
    exists is ever overwritten."""
    folder = Path(folder)
    if (folder / mark).exists():
        raise UserError(f"{folder} already holds a {what}: go on with it by --resume, or choose another --out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: choose another --out")
