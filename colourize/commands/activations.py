"""`colourize activations`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import activations as looking
from .. import training
from ..files import UserError
from ..runs import Run
from .options import Device, RunFolder, Threads, Weights, Which, console, option

_FIRST = (0, 1, 2)


def activations(
    run: RunFolder,
    index: Annotated[
        list[int] | None, typer.Option("--index", help="a validation picture; may be repeated (default: 0, 1, 2)")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", metavar="FILE", help="a picture of your own; may be repeated")
    ] = None,
    out: Annotated[Path | None, option("--out", "folder for the pictures' folders", "RUN/activations")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace folders that exist")] = False,
    weights: Weights = Which.last,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Draws what every block of a trained network makes of pictures: all output channels, a sheet for each block.

    Each picture gets a folder with input.png, truth.png, output.png and the sheets, numbered in the order in which
    the blocks run. The network's input is made of a picture as in training.

    Example: `colourize activations runs/horses --index 0 --index 7`
    """
    opened = Run.open(run)
    network = opened.load_network(weights.value).to(training.choose_device(device))
    files = [looking.from_file(path, opened.task.size_multiple) for path in image or ()]
    validation = []
    if index or not files:
        images = training.load_data(opened.settings).validation
        validation = looking.from_validation(images, index or _FIRST[: len(images)])
    folder = out or run / "activations"
    targets = {folder / subject.name: subject for subject in (*validation, *files)}
    if len(targets) < len(validation) + len(files):
        raise UserError("two of the pictures have the same name: draw them one at a time, into different --out")
    for target in targets:
        if target.exists() and not overwrite:
            raise UserError(f"{target} exists already: choose another --out, or --overwrite")
    for target, subject in targets.items():
        looking.save(network, opened.task, subject, target)
        console.print(f"{subject.name} → {target}", markup=False, highlight=False, soft_wrap=True)
