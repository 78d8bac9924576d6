"""What the commands share: options with their help, and the two consoles."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from .. import distributed, networks, perceptual, precision, schedule, tasks
from ..data import SOURCES
from ..files import UserError
from ..palette import SPACES
from ..settings import Settings

console = Console()
errors = Console(stderr=True)
_SETTINGS = {field.name for field in dataclasses.fields(Settings)}
SCHEDULES = f"constant | cosine, from --lr to zero | one-cycle, up to {schedule.PEAK} times --lr, then to zero"

_MOST_THREADS = 1024  # far more end in a crash of the thread pool
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


_PICTURES = f"pictures: {', '.join(SOURCES)}"
_CLASS = "class of cifar10"
_LIMIT = "at most so many pictures in each part"

Data = Annotated[str | None, option("--data", _PICTURES, Settings.data)]
DataDir = Annotated[str | None, option("--data-dir", "folder or archive of cifar10, downloaded otherwise")]
ClassName = Annotated[str | None, option("--class", _CLASS, Settings.class_name)]
Size = Annotated[int | None, option("--size", "height and width of the pictures", Settings.size)]
Limit = Annotated[int | None, option("--limit", _LIMIT)]
RunData = Annotated[str | None, option("--data", _PICTURES, "the run's")]
RunClassName = Annotated[str | None, option("--class", _CLASS, "the run's")]
RunLimit = Annotated[int | None, option("--limit", _LIMIT, "the run's")]
Colours = Annotated[int | None, option("--colours", "colours of a fitted palette", Settings.colours)]
Space = Annotated[str | None, option("--space", f"colours' distances: {' | '.join(SPACES)}", Settings.space)]
Filters = Annotated[int | None, option("--filters", "filters of the first convolution", Settings.filters)]
KernelSize = Annotated[int | None, option("--kernel-size", "side of the kernels, odd", Settings.kernel_size)]
Bottleneck = Annotated[int | None, option("--bottleneck", "channels before the last convolution", "colours")]
Order = Annotated[
    str | None, option("--order", f"of a block's parts: {' | '.join(networks.ORDERS)}", "the network's own")
]
Depth = Annotated[int | None, option("--depth", "residual blocks of enlarger", 8)]
PaletteFile = Annotated[str | None, option("--palette", "file of a palette; otherwise fitted")]
Loss = Annotated[str | None, option("--loss", LOSSES)]
LossWeights = Annotated[
    str | None, option("--loss-weights", "file or URL of VGG-16 for --loss perceptual", "torchvision's, 528 MB")
]
LossLayers = Annotated[
    str | None, option("--loss-layers", "of VGG-16: relu1_2+relu2_2+…", perceptual.LAYER)
]
Temperature = Annotated[
    float | None, option("--temperature", "of mean colours: 0 the likeliest alone, 1 the mean")
]
Flips = Annotated[
    bool | None, typer.Option("--flips/--no-flips", help="train on mirror images as well (default: no)")
]
Mirror = Annotated[
    bool | None,
    typer.Option("--mirror/--no-mirror", help="give the mean with what the mirror image gives (default: no)"),
]
Turns = Annotated[
    bool | None, typer.Option("--turns/--no-turns", help="train on pictures turned by quarters as well (default: no)")
]
Shifts = Annotated[
    int | None, option("--shifts", "train on pictures moved by up to so many pixels as well", Settings.shifts)
]
Stretches = Annotated[
    int | None,
    option("--stretches", "train on pictures stretched at every end by up to so many pixels", Settings.stretches),
]
Epochs = Annotated[
    int | None,
    option("--epochs", "passes over the pictures; --schedule spans them, resumed or not", Settings.epochs),
]
BatchSize = Annotated[int | None, option("--batch-size", "pictures a step, in all processes", Settings.batch_size)]
Lr = Annotated[float | None, option("--lr", "learning rate of Adam; enlarger learns best at a tenth", Settings.lr)]
WeightDecay = Annotated[float | None, option("--weight-decay", "of AdamW", Settings.weight_decay)]
Schedule = Annotated[str | None, option("--schedule", SCHEDULES, Settings.schedule)]
Precision = Annotated[str | None, option("--precision", " | ".join(precision.NAMES), "tf32 on a GPU, else fp32")]
Seed = Annotated[int | None, option("--seed", "of crops, palette, weights and order", Settings.seed)]
Device = Annotated[str | None, option("--device", "cpu, cuda, cuda:1 …", "cuda where there is one")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=_MOST_THREADS, callback=_use_threads, help="of the processor (default: one a core)"
    ),
]
Weights = Annotated[
    Which, typer.Option("--weights", help="after the last epoch, or after that of the lowest validation loss")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")]

_TRAINING = {
    "data": Data,
    "data_dir": DataDir,
    "class_name": ClassName,
    "size": Size,
    "limit": Limit,
    "palette": PaletteFile,
    "colours": Colours,
    "space": Space,
    "filters": Filters,
    "kernel_size": KernelSize,
    "bottleneck": Bottleneck,
    "order": Order,
    "depth": Depth,
    "loss": Loss,
    "loss_weights": LossWeights,
    "loss_layers": LossLayers,
    "temperature": Temperature,
    "flips": Flips,
    "turns": Turns,
    "shifts": Shifts,
    "stretches": Stretches,
    "mirror": Mirror,
    "epochs": Epochs,
    "batch_size": BatchSize,
    "lr": Lr,
    "weight_decay": WeightDecay,
    "schedule": Schedule,
    "precision": Precision,
    "seed": Seed,
}


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose **settings are an option for every setting of a training but task and network."""
    signature = inspect.signature(command, eval_str=True)
    *own, settings = signature.parameters.values()
    if settings.kind is not inspect.Parameter.VAR_KEYWORD:
        raise TypeError(f"{command.__name__} takes no **settings")
    arguments = [parameter for parameter in own if parameter.default is inspect.Parameter.empty]
    options = [parameter for parameter in own if parameter not in arguments]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _TRAINING.items()
    ]
    options = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in options]
    command.__signature__ = signature.replace(parameters=[*arguments, *shared, *options])
    return command


def chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's options that are settings and were given."""
    return {name: value for name, value in options.items() if name in _SETTINGS and value is not None}


def print_error(error: UserError) -> None:
    if isinstance(error, distributed.SaidElsewhere):
        return
    errors.print(f"colourize: {error}", style="red", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C in the block ends the command with the words that go on with it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stopped = isinstance(stop, distributed.Stopped)
        if distributed.launched() == 1:
            command = shlex.join([*sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])])
            note = f"Interrupted. Finished epochs are kept; go on with: colourize {command}"
        else:
            why = "Stopped by SIGTERM (torchrun's, if a process has ended)" if stopped else "Interrupted"
            note = f"{why}. Finished epochs are kept: go on by the same command with --resume"
        if distributed.rank() == 0:
            errors.print(note, markup=False, soft_wrap=True)
        raise typer.Exit(128 + (signal.SIGTERM if stopped else signal.SIGINT)) from None
