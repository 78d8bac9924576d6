"""`colourize demo`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import demo as demonstration
from .options import Device, Threads, console


def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for the run and the picture")] = Path("demo"),
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Trains a network, evaluates it and colours photographs that come with scikit-image, in minutes.

    Example: `colourize demo`
    """
    picture = demonstration.demo(out, device=device, console=console)
    console.print(f"Now look at {picture}", style="bold", markup=False, highlight=False, soft_wrap=True)
