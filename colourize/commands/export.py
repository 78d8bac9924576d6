"""`colourize export`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .. import export as exporting
from ..files import UserError
from ..runs import Run
from .options import RunFolder, Weights, Which, console

Format = Enum("Format", {name: name for name in exporting.FORMATS}, type=str)


def export(
    run: RunFolder,
    format: Annotated[
        Format,
        typer.Option("--format", help="ONNX; a program of torch.export; or tensors for plain nn modules, with a JSON"),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="file to write (default: the run's name, here)", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that exists")] = False,
    weights: Weights = Which.last,
) -> None:
    """Writes the network of RUN for use without this package, for pictures of any size and any number.

    The file says what the network reads and gives. It is read back and compared with the network at several sizes; if
    it differs, nothing is kept. ONNX needs the extra [onnx].

    Example: `colourize export runs/horses --format onnx --out horses.onnx`
    """
    opened = Run.open(run)
    path = out or Path(run.resolve().name + exporting.SUFFIXES[format.value])
    files = [path, path.with_suffix(".json")] if format.value == "plain" else [path]
    for file in files:
        if file.exists() and not overwrite:
            raise UserError(f"{file} exists already: choose another --out, or --overwrite")
    difference, largest = exporting.export(opened, format.value, path, weights=weights.value)
    sizes = ", ".join("×".join(map(str, shape)) for shape in exporting.SHAPES)
    console.print(f"{run} → {', '.join(map(str, files))}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"Read back and compared at N×H×W {sizes}: differs by at most {difference:.2g}, outputs reach {largest:.2g}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
