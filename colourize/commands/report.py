"""`colourize report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import report as reports
from ..settings import Settings
from .options import (
    ClassName,
    Data,
    DataDir,
    Device,
    Limit,
    Seed,
    Size,
    Threads,
    chosen,
    console,
    errors,
    option,
)
from .use import check_used


def report(
    out: Annotated[Path, typer.Option("--out", help="folder for the page and its runs")] = Path("report"),
    data: Data = None,
    data_dir: DataDir = None,
    class_name: ClassName = None,
    size: Size = None,
    limit: Limit = None,
    palette: Annotated[str | None, option("--palette", "file of a palette; otherwise fitted")] = None,
    budget: Annotated[
        str, typer.Option("--budget", metavar="BUDGET", help=f"{' | '.join(reports.BUDGETS)} | epochs of a training")
    ] = "quick",
    seed: Seed = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Runs the handout's experiments A to F and writes one HTML page with what they measured.

    Trainings are kept in the folder and not made again: interrupted, the same command goes on.

    Example: `colourize report --data cifar10 --budget handout --out report`
    """
    given = chosen(locals())
    settings = Settings("classification", "unet", **{**reports.budget(budget), **given})
    check_used(given, [settings])
    try:
        page = reports.write(settings, out, device=device, console=console)
    except KeyboardInterrupt:
        errors.print(f"Interrupted. What is done is kept in {out}; the same command goes on.", markup=False)
        raise typer.Exit(130) from None
    console.print(f"Now look at {page}", style="bold", markup=False, highlight=False, soft_wrap=True)
