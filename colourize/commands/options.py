"""What the commands share: options with their help, and the two consoles."""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from .. import networks, schedule, tasks
from ..data import SOURCES
from ..files import UserError
from ..settings import Settings

console = Console()
errors = Console(stderr=True)
_SETTINGS = {field.name for field in dataclasses.fields(Settings)}
SCHEDULES = f"constant | cosine, from --lr to zero | one-cycle, up to {schedule.PEAK} times --lr, then to zero"

LOSSES = "; ".join(f"{name}: {' | '.join(tasks.kind(name).loss_names)}" for name in tasks.NAMES)


def option(flag: str, help: str, default: object = None) -> Any:
    """An option that is None unless given, so that `Settings` alone knows the defaults."""
    return typer.Option(flag, help=help if default is None else f"{help} (default: {default})")


class Which(str, Enum):
    """Whose names and values are those of `runs.WEIGHTS`."""

    last = "last"
    best = "best"


def _use_threads(count: int | None) -> int | None:
    if count:
        torch.set_num_threads(count)
    return count


Data = Annotated[str | None, option("--data", f"pictures: {', '.join(SOURCES)}", Settings.data)]
DataDir = Annotated[str | None, option("--data-dir", "folder or archive of cifar10, downloaded otherwise")]
ClassName = Annotated[str | None, option("--class", "class of cifar10", Settings.class_name)]
Size = Annotated[int | None, option("--size", "height and width of the pictures", Settings.size)]
Limit = Annotated[int | None, option("--limit", "at most so many pictures in each part")]
Colours = Annotated[int | None, option("--colours", "colours of a fitted palette", Settings.colours)]
Filters = Annotated[int | None, option("--filters", "filters of the first convolution", Settings.filters)]
KernelSize = Annotated[int | None, option("--kernel-size", "side of the kernels, odd", Settings.kernel_size)]
Bottleneck = Annotated[int | None, option("--bottleneck", "channels before the last convolution", "colours")]
Order = Annotated[
    str | None, option("--order", f"of a block's parts: {' | '.join(networks.ORDERS)}", "the network's own")
]
Depth = Annotated[int | None, option("--depth", "residual blocks of enlarger", 8)]
Seed = Annotated[int | None, option("--seed", "of crops, palette, weights and order", Settings.seed)]
Device = Annotated[str | None, option("--device", "cpu, cuda, cuda:1 …", "cuda where there is one")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, callback=_use_threads, help="of the processor (default: one a core)"),
]
Weights = Annotated[
    Which, typer.Option("--weights", help="after the last epoch, or after that of the lowest validation loss")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")]


def chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's options that are settings and were given."""
    return {name: value for name, value in options.items() if name in _SETTINGS and value is not None}


def print_error(error: UserError) -> None:
    errors.print(f"colourize: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
