"""The handout's experiments, A to F, run and written down as one HTML page."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from rich.console import Console

from ..files import UserError, atomic_write
from ..settings import Settings
from ..training import choose_device, load_data
from . import activations, classification, large, order, perception, regression, skips, superres, tuning
from .experiment import BUDGETS, Experiment, budget
from .page import page
from .results import Results, finished, folder_name, obtain

__all__ = ["BUDGETS", "Experiment", "budget", "experiments", "write"]

_PARTS = regression, classification, skips, superres, activations, tuning, order, perception, large


def experiments(base: Settings) -> list[Experiment]:
    """All of them, around a training of the UNet by classification."""
    return [part.experiment(base) for part in _PARTS]


def write(
    base: Settings,
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    console: Console | None = None,
) -> Path:
    """Runs the experiments around `base` and returns the page, FOLDER/report.html.

    Trainings are kept in FOLDER/runs, one for each settings, and made only if they are not there yet; one that was
    interrupted goes on where it was. Raises `UserError` for pictures of which no interval can be had.
    """
    runs, device, console = Path(folder) / "runs", choose_device(device), console or Console(quiet=True)
    chosen = experiments(base)
    split = load_data(base)
    if (count := len(split.validation)) < 2:
        needed = "a report compares by 95 % intervals, so it needs at least 2 validation pictures"
        raise UserError(f"{needed}, not {count} of {base.data}")
    wanted = {folder_name(s): s for experiment in chosen for s in experiment.runs.values()}
    found = {}
    for number, (name, settings) in enumerate(wanted.items(), 1):
        kept = ", kept" if finished(settings, runs) else ""
        console.print(f"[bold]training {number} of {len(wanted)}[/bold]: {name}{kept}", highlight=False)
        found[name] = obtain(settings, runs, split, device, console)

    sections = []
    for experiment in chosen:
        console.print(f"section {experiment.letter}: {experiment.title}", highlight=False)
        own = {name: found[folder_name(settings)] for name, settings in experiment.runs.items()}
        sections.append((experiment, experiment.blocks(Results(own, split, device))))
    content = page(base, split, sections).encode()
    path = Path(folder) / "report.html"
    atomic_write(path, lambda file: file.write(content))
    return path
