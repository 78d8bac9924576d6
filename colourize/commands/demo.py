"""`colourize demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import demo as demonstration
from .options import Device, Threads, console, errors


def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for the run and the picture")] = Path("demo"),
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Trains a network, evaluates it and colours photographs that come with scikit-image, in minutes.

    Finished epochs are kept in the folder: interrupted, the same command goes on.

    Example: `colourize demo`
    """
    try:
        picture = demonstration.demo(out, device=device, console=console)
    except KeyboardInterrupt:
        errors.print(f"Interrupted. What is done is kept in {out}; the same command goes on.", markup=False)
        raise typer.Exit(130) from None
    console.print(f"Now look at {picture}", style="bold", markup=False, highlight=False, soft_wrap=True)
