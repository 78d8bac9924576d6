"""`python -m bench`: the commands of the ruler. They read options; the work is done elsewhere."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from . import ROOT

app = typer.Typer(
    help="The ruler: what is right, and what it is worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


_WORKERS = max(1, min(14, (os.cpu_count() or 1) - 1))


class Device(str, Enum):
    cuda = "cuda"
    cpu = "cpu"


@app.command()
def gpu_check(
    device: Annotated[
        Device, typer.Option(help="cpu: everything but the device itself, to try the command")
    ] = Device.cuda,
    out: Annotated[Path, typer.Option(help="folder for the result files")] = ROOT / "bench" / "results",
    quick: Annotated[
        bool, typer.Option("--quick", help="a few cases and types: about a minute and a half")
    ] = False,
    only: Annotated[str, typer.Option(metavar="PATTERN", help='jobs to run, such as "triton*"')] = "*",
    cases: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="names or tags of cases")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes at a time")] = _WORKERS,
    minutes: Annotated[float, typer.Option(min=0.1, help="after this long nothing new is begun")] = 5.0,
) -> None:
    """Runs every backend over the table of cases, and behaviours such as CUDA graphs; writes a dated result.

    Exit status: 0 if all passed, 1 if not, 2 if there is nothing to check.

    Example: python -m bench gpu-check --out bench/results
    """
    from .gpu_check import gpu_check

    raise typer.Exit(gpu_check(device.value, out, quick, only, cases or (), workers, minutes))


@app.command()
def handout(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders that `colourize train` made")],
    out: Annotated[Path, typer.Option(help="folder for the result files")] = ROOT / "bench" / "results",
) -> None:
    """Writes trained runs beside the handout's published figures and the baselines without any network.

    Example: python -m bench handout runs/*
    """
    from .handout import collect

    typer.echo(collect(runs, out).read_text())


if __name__ == "__main__":
    app(prog_name="python -m bench")
