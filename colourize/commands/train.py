"""`colourize train`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import networks, presets, tables, tasks, training
from ..runs import Run
from ..settings import Settings
from .options import Device, Threads, chosen, console, option, resumable, takes_settings

_TASKS = f"a task: {' | '.join(tasks.NAMES)}; or a preset: {' | '.join(presets.NAMES)}"


@takes_settings
def train(
    task: Annotated[str, typer.Argument(metavar="TASK|PRESET", help=_TASKS)],
    network: Annotated[
        str | None, typer.Argument(metavar="NETWORK", help=f"{' | '.join(networks.NAMES)}; a preset has its own")
    ] = None,
    device: Device = None,
    graph: Annotated[
        bool | None,
        typer.Option("--graph/--no-graph", help="replay the step from a CUDA graph (default: where it can be)"),
    ] = None,
    threads: Threads = None,
    out: Annotated[Path | None, option("--out", "folder of the run", "runs/TASK-NETWORK")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    **settings: Any,
) -> None:
    """Trains NETWORK for TASK, or what a preset names, and leaves a run: a folder with the model, metrics, curves and
    samples.

    Example: `colourize train classification unet --data cifar10 --epochs 25 --out runs/horses`

    With a preset: `colourize train best-colour --data cifar10`
    """
    folder = out or Path("runs") / (task if network is None else f"{task}-{network}")
    given = chosen(settings)
    complete = presets.complete(task, network, given)
    if resume:
        given |= {name: complete[name] for name in ("task", "network")}
        asked = Run.open(folder).settings.replace(**given)
    else:
        asked = Settings(**complete)
    with resumable():
        run = training.train(asked, folder, resume=resume, device=device, graph=graph, console=console)
    console.print(tables.training(run))
