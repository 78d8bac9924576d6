"""`colourize train`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import distributed, networks, presets, tables, tasks, training
from ..runs import Run
from ..settings import Settings
from .options import Device, Threads, chosen, console, option, resumable, takes_settings
from .use import check_used

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
        typer.Option("--graph/--no-graph", help="capture the step and replay it (default: where it can be)"),
    ] = None,
    threads: Threads = None,
    out: Annotated[Path | None, option("--out", "folder of the run", "runs/TASK-NETWORK, or runs/PRESET")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="write for TensorBoard too, into the run")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    **settings: Any,
) -> None:
    """Trains NETWORK for TASK, or what a preset names, and leaves a run: a folder with the model, metrics, curves and
    samples.

    Example: `colourize train classification unet --data cifar10 --epochs 25 --out runs/horses`

    With a preset: `colourize train best-colour --data cifar10`

    In two processes: `torchrun --nproc-per-node 2 -m colourize train best-colour --data cifar10`
    """
    folder = out or Path("runs") / (task if network is None else f"{task}-{network}")
    given = chosen(settings)

    def asked() -> tuple[Settings, bool]:
        complete = presets.complete(task, network, given)
        going_on = resume or distributed.restarted() and (folder / "settings.toml").is_file()
        if going_on:
            changes = given | {name: complete[name] for name in ("task", "network")}
            wanted = Run.open(folder).settings.replace(**changes)
        else:
            wanted = Settings(**complete)
        check_used(given, [wanted])
        return wanted, going_on

    with resumable(), distributed.joined(threads) as world:
        wanted, going_on = world.from_first(asked)
        where = {"device": device, "graph": graph, "console": console, "world": world, "events": tensorboard}
        run = training.train(wanted, folder, resume=going_on, **where)
    if world.rank == 0:
        console.print(tables.training(run))
