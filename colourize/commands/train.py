"""`colourize train`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import networks, tables, tasks, training
from ..runs import Run
from ..settings import Settings
from .options import Device, Threads, chosen, console, option, resumable, takes_settings


@takes_settings
def train(
    task: Annotated[str, typer.Argument(metavar="TASK", help=" | ".join(tasks.NAMES))],
    network: Annotated[str, typer.Argument(metavar="NETWORK", help=" | ".join(networks.NAMES))],
    device: Device = None,
    threads: Threads = None,
    out: Annotated[Path | None, option("--out", "folder of the run", "runs/TASK-NETWORK")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    **settings: Any,
) -> None:
    """Trains NETWORK for TASK and leaves a run: a folder with the model, metrics, curves and samples.

    Example: `colourize train classification unet --data cifar10 --epochs 25 --out runs/horses`
    """
    folder = out or Path("runs") / f"{task}-{network}"
    given = chosen({"task": task, "network": network, **settings})
    asked = Run.open(folder).settings.replace(**given) if resume else Settings(**given)
    with resumable():
        run = training.train(asked, folder, resume=resume, device=device, console=console)
    console.print(tables.training(run))
