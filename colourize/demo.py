"""The main job from end to end on pictures that are already here: train, evaluate, colour photographs."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from rich.console import Console

from . import pictures, plots, tables
from .apply import colour_reduction, render
from .data import photos
from .evaluation import evaluate
from .settings import Settings
from .training import choose_device, load_data, train

SETTINGS = Settings("classification", "unet", data="photos", epochs=10, batch_size=50, lr=5e-4)


def demo(
    folder: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    console: Console | None = None,
    settings: Settings = SETTINGS,
) -> Path:
    """Returns the picture it made: photographs in grey, as the network colours them, and as they are.

    A demo that was interrupted goes on where it was.
    """
    folder = Path(folder)
    console = console or Console(quiet=True)
    device = choose_device(device)
    console.print(f"Training a {settings.network} to colour pictures, on crops of photographs …")
    resume = (folder / "run" / "settings.toml").exists()
    run = train(settings, folder / "run", resume=resume, device=device, console=console)

    console.print("Evaluating it beside a table of colours …")
    result = evaluate(run, load_data(settings), device=device)
    console.print(tables.evaluation(result, run.task))
    console.print(tables.verdict(result, run.task), markup=False)

    console.print("Colouring the photographs, of which it has seen no more than the left two thirds …")
    network = run.load_network().to(device)
    truth = [photos.photograph(name) for name in photos.NAMES]
    rows = {
        "grey, as the network sees it": [rgb.mean(axis=2).round().astype("uint8") for rgb in truth],
        "coloured by the network, which has never seen what is to the right of the line": [
            render(network, run.task, rgb, reduce=colour_reduction(rgb)) for rgb in truth
        ],
        "truth": truth,
    }
    path = folder / "coloured.png"
    pictures.save(path, plots.gallery(rows, line_at=photos.TRAIN_SHARE))
    return path
