"""`colourize train`"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import networks, precision, presets, tables, tasks, training
from ..runs import Run
from ..settings import Settings
from .options import (
    LOSSES,
    SCHEDULES,
    Bottleneck,
    ClassName,
    Colours,
    Data,
    DataDir,
    Depth,
    Device,
    Filters,
    KernelSize,
    Limit,
    Order,
    Seed,
    Size,
    Threads,
    chosen,
    console,
    errors,
    option,
)


_TASKS = f"a task: {' | '.join(tasks.NAMES)}; or a preset: {' | '.join(presets.NAMES)}"


def train(
    task: Annotated[str, typer.Argument(metavar="TASK|PRESET", help=_TASKS)],
    network: Annotated[
        str | None, typer.Argument(metavar="NETWORK", help=f"{' | '.join(networks.NAMES)}; a preset has its own")
    ] = None,
    data: Data = None,
    data_dir: DataDir = None,
    class_name: ClassName = None,
    size: Size = None,
    limit: Limit = None,
    palette: Annotated[str | None, option("--palette", "file of a palette; otherwise fitted")] = None,
    colours: Colours = None,
    filters: Filters = None,
    kernel_size: KernelSize = None,
    bottleneck: Bottleneck = None,
    order: Order = None,
    depth: Depth = None,
    loss: Annotated[str | None, option("--loss", LOSSES)] = None,
    temperature: Annotated[
        float | None, option("--temperature", "of mean colours: 0 the likeliest alone, 1 the mean")
    ] = None,
    flips: Annotated[
        bool | None, typer.Option("--flips/--no-flips", help="train on mirror images as well (default: no)")
    ] = None,
    epochs: Annotated[
        int | None,
        option("--epochs", "passes over the pictures; --schedule spans them, resumed or not", Settings.epochs),
    ] = None,
    batch_size: Annotated[int | None, option("--batch-size", "pictures a step", Settings.batch_size)] = None,
    lr: Annotated[float | None, option("--lr", "learning rate of Adam", Settings.lr)] = None,
    schedule: Annotated[str | None, option("--schedule", SCHEDULES, Settings.schedule)] = None,
    precision: Annotated[
        str | None, option("--precision", " | ".join(precision.NAMES), "tf32 on a GPU, else fp32")
    ] = None,
    seed: Seed = None,
    device: Device = None,
    graph: Annotated[
        bool | None,
        typer.Option("--graph/--no-graph", help="replay the step from a CUDA graph (default: where it can be)"),
    ] = None,
    threads: Threads = None,
    out: Annotated[Path | None, option("--out", "folder of the run", "runs/TASK-NETWORK")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
) -> None:
    """Trains NETWORK for TASK, or what a preset names, and leaves a run: a folder with the model, metrics, curves and
    samples.

    Examples: `colourize train classification unet --data cifar10 --epochs 25 --out runs/horses`,
    `colourize train best-colour --data cifar10`
    """
    folder = out or Path("runs") / (task if network is None else f"{task}-{network}")
    options = chosen(locals())
    given = {name: value for name, value in options.items() if name not in ("task", "network")}
    complete = presets.complete(task, network, given)
    if resume:
        settings = Run.open(folder).settings.replace(task=complete["task"], network=complete["network"], **given)
    else:
        settings = Settings(**complete)
    try:
        run = training.train(settings, folder, resume=resume, device=device, graph=graph, console=console)
    except KeyboardInterrupt:
        command = [*sys.argv[1:], *([] if resume else ["--resume"])]
        errors.print(
            f"Interrupted. Finished epochs are kept; go on with: colourize {shlex.join(command)}",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    console.print(tables.training(run))
