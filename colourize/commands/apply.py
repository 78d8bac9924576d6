"""`colourize apply`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from .. import training
from ..apply import apply_to_file
from ..files import UserError
from ..runs import Run
from .options import Device, RunFolder, Threads, Weights, Which, console, print_error


def apply(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="pictures of any size and format")],
    out: Annotated[Path, typer.Option("--out", help="folder for the new pictures")] = Path("."),
    reduce: Annotated[
        int | None, typer.Option(min=1, help="colour at 1/N of the size (default: about 112 pixels high)")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="the network's output as it is")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace pictures that exist")] = False,
    weights: Weights = Which.last,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Colours pictures, or enlarges them as many times as RUN was trained to: two, three or four for enlarge2, 3 and 4,
    four for superres.

    A coloured picture keeps the grey of the original and takes its tint from the network. New pictures are
    called NAME-colour.png or NAME-large.png. A picture that cannot be read is named, the rest done, and the
    exit code 1.

    Example: `colourize apply runs/horses old-photo.jpg --out coloured`
    """
    opened = Run.open(run)
    if reduce and reduce > 1 and (raw or not opened.task.keeps_grey):
        raise UserError(
            f"--reduce {reduce} is for colouring, without --raw; task of {run}: {opened.task.name}"
        )
    network = opened.load_network(weights.value).to(training.choose_device(device))
    made: set[Path] = set()
    failed = False
    for image in images:
        try:
            options = {"reduce": reduce, "raw": raw, "overwrite": overwrite, "spare": made}
            with console.status(Text(str(image))):
                target = apply_to_file(network, opened.task, image, out, **options)
            made.add(target)
            console.print(f"{image} → {target}", markup=False, highlight=False, soft_wrap=True)
        except UserError as error:
            print_error(error)
            failed = True
    if failed:
        raise typer.Exit(1)
