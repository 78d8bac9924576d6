"""The commands: `colourize --help`. They read options, call the library and print."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

import myconv2d

from . import __version__, networks, precision, schedule, tables, tasks, training
from . import demo as demonstration
from .apply import apply_to_file
from .colour import Palette
from .data import SOURCES
from .evaluation import evaluate as evaluate_run
from .files import UserError
from .runs import Run
from .settings import Settings
from .summary import layers

app = typer.Typer(
    help="Colour for grey pictures, and large pictures from small ones.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
palettes = typer.Typer(help="Palettes: the colours that classification chooses from.", no_args_is_help=True)
app.add_typer(palettes, name="palette")
console = Console()
errors = Console(stderr=True)
_SETTINGS = {field.name for field in dataclasses.fields(Settings)}
_SCHEDULES = f"constant | cosine, from --lr to zero | one-cycle, up to {schedule.PEAK} times --lr, then to zero"


def _option(flag: str, help: str, default: object = None) -> Any:
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


Data = Annotated[str | None, _option("--data", f"pictures: {', '.join(SOURCES)}", Settings.data)]
DataDir = Annotated[str | None, _option("--data-dir", "folder or archive of cifar10, downloaded otherwise")]
ClassName = Annotated[str | None, _option("--class", "class of cifar10", Settings.class_name)]
Size = Annotated[int | None, _option("--size", "height and width of the pictures", Settings.size)]
Limit = Annotated[int | None, _option("--limit", "at most so many pictures in each part")]
Colours = Annotated[int | None, _option("--colours", "colours of a fitted palette", Settings.colours)]
Filters = Annotated[int | None, _option("--filters", "filters of the first convolution", Settings.filters)]
KernelSize = Annotated[int | None, _option("--kernel-size", "side of the kernels, odd", Settings.kernel_size)]
Bottleneck = Annotated[int | None, _option("--bottleneck", "channels before the last convolution", "colours")]
Seed = Annotated[int | None, _option("--seed", "of crops, palette, weights and order", Settings.seed)]
Device = Annotated[str | None, _option("--device", "cpu, cuda, cuda:1 …", "cuda where there is one")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, callback=_use_threads, help="of the processor (default: one a core)"),
]
Weights = Annotated[
    Which, typer.Option("--weights", help="after the last epoch, or after that of the lowest validation loss")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")]


@app.command()
def train(
    task: Annotated[str, typer.Argument(metavar="TASK", help=" | ".join(tasks.NAMES))],
    network: Annotated[str, typer.Argument(metavar="NETWORK", help=" | ".join(networks.NAMES))],
    data: Data = None,
    data_dir: DataDir = None,
    class_name: ClassName = None,
    size: Size = None,
    limit: Limit = None,
    palette: Annotated[str | None, _option("--palette", "file of a palette; otherwise fitted")] = None,
    colours: Colours = None,
    filters: Filters = None,
    kernel_size: KernelSize = None,
    bottleneck: Bottleneck = None,
    epochs: Annotated[
        int | None,
        _option("--epochs", "passes over the pictures; --schedule spans them, resumed or not", Settings.epochs),
    ] = None,
    batch_size: Annotated[int | None, _option("--batch-size", "pictures a step", Settings.batch_size)] = None,
    lr: Annotated[float | None, _option("--lr", "learning rate of Adam", Settings.lr)] = None,
    schedule: Annotated[str | None, _option("--schedule", _SCHEDULES, Settings.schedule)] = None,
    precision: Annotated[
        str | None, _option("--precision", " | ".join(precision.NAMES), "tf32 on a GPU, else fp32")
    ] = None,
    seed: Seed = None,
    device: Device = None,
    graph: Annotated[
        bool | None,
        typer.Option(
            "--graph/--no-graph", help="replay the step from a CUDA graph (default: where it can be)"
        ),
    ] = None,
    threads: Threads = None,
    out: Annotated[Path | None, _option("--out", "folder of the run", "runs/TASK-NETWORK")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
) -> None:
    """Trains NETWORK for TASK and leaves a run: a folder with the model, metrics, curves and samples.

    Example: `colourize train classification unet --data cifar10 --epochs 25 --out runs/horses`
    """
    folder = out or Path("runs") / f"{task}-{network}"
    given = _given(locals())
    settings = Run.open(folder).settings.replace(**given) if resume else Settings(**given)
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


@app.command()
def evaluate(
    run: RunFolder,
    data: Data = None,
    data_dir: DataDir = None,
    class_name: ClassName = None,
    limit: Limit = None,
    weights: Weights = Which.last,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Scores a trained network beside baselines without any network, on the data of the run unless told
    otherwise.

    Example: `colourize evaluate runs/horses`
    """
    given = _given(locals())
    opened = Run.open(run)
    split = training.load_data(opened.settings.replace(**given))
    result = evaluate_run(opened, split, weights=weights.value, device=training.choose_device(device))
    if as_json:
        defeats = [{"score": score, "baseline": name} for score, name in result.defeats]
        content = {"run": str(run), "data": result.data, "scores": result.scores, "loses_to": defeats}
        print(json.dumps(content, indent=2))
    else:
        console.print(tables.evaluation(result, opened.task))
        console.print(tables.verdict(result, opened.task), markup=False)


@app.command()
def apply(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="pictures of any size and format")],
    out: Annotated[Path, typer.Option("--out", help="folder for the new pictures")] = Path("."),
    reduce: Annotated[
        int | None, typer.Option(min=1, help="colour at 1/N of the size (default: about 112 pixels high)")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="the network's output as it is")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace pictures that exist")] = False,
    weights: Weights = Which.last,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Colours pictures, or enlarges them to four times their height and width if RUN was trained for
    superres.

    A coloured picture keeps the grey of the original and takes its tint from the network. New pictures are
    called NAME-colour.png or NAME-large.png. A picture that cannot be read is named, the rest done, and the
    exit code 1.

    Example: `colourize apply runs/horses old-photo.jpg --out coloured`
    """
    opened = Run.open(run)
    if reduce and reduce > 1 and (raw or not opened.task.keeps_grey):
        raise UserError(
            f"--reduce {reduce} is for colouring, without --raw; task of {run}: {opened.task.name}"
        )
    network = opened.load_network(weights.value).to(training.choose_device(device))
    failed = False
    for image in images:
        try:
            options = {"reduce": reduce, "raw": raw, "overwrite": overwrite}
            with console.status(Text(str(image))):
                target = apply_to_file(network, opened.task, image, out, **options)
            console.print(f"{image} → {target}", markup=False, highlight=False, soft_wrap=True)
        except UserError as error:
            _print_error(error)
            failed = True
    if failed:
        raise typer.Exit(1)


@palettes.command("fit")
def fit_palette(
    out: Annotated[Path, typer.Option("--out", help="file to write: .npy, .npz or .json")],
    data: Data = None,
    data_dir: DataDir = None,
    class_name: ClassName = None,
    size: Size = None,
    limit: Limit = None,
    colours: Colours = None,
    seed: Seed = None,
) -> None:
    """Finds the colours of a set of pictures by k-means and saves them.

    Example: `colourize palette fit --data cifar10 --colours 24 --out horses.npy`
    """
    settings = Settings("classification", "cnn", **_given(locals()))
    if out.exists():
        raise UserError(f"{out} exists already: choose another --out")
    palette = training.fit_palette(settings, training.load_data(settings))
    palette.save(out)
    console.print(tables.palette(palette))


@palettes.command("show")
def show_palette(file: Annotated[Path, typer.Argument(metavar="FILE", help=".npy, .npz or .json")]) -> None:
    """Prints the colours of a palette.

    Example: `colourize palette show horses.npy`
    """
    console.print(tables.palette(Palette.load(file)))


@app.command()
def info(
    network: Annotated[str | None, typer.Argument(metavar="NETWORK", help=" | ".join(networks.NAMES))] = None,
    in_channels: Annotated[int | None, _option("--in-channels", "1 for grey, 3 for superres", 1)] = None,
    out_channels: Annotated[int | None, _option("--out-channels", "colours; 3 for regression")] = None,
    filters: Filters = None,
    kernel_size: KernelSize = None,
    bottleneck: Bottleneck = None,
    size: Annotated[int, typer.Option(min=1, help="height and width of the picture")] = Settings.size,
) -> None:
    """Prints the layers of NETWORK; without it, versions, what was built and what is active.

    Example: `colourize info unet --size 64`
    """
    if network is None:
        console.print(tables.facts({"colourize": __version__, **myconv2d.info(), **training.habits()}))
        return
    names = ("in_channels", "out_channels", "filters", "kernel_size", "bottleneck")
    given = {name: value for name, value in locals().items() if name in names and value is not None}
    rows = layers(networks.create(network, **given), size)
    console.print(tables.layers(rows, f"{network}, one picture of {size}×{size}"))


@app.command()
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


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's options that are settings and were given."""
    return {name: value for name, value in options.items() if name in _SETTINGS and value is not None}


def _print_error(error: UserError) -> None:
    errors.print(f"colourize: {error}", style="red", markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the commands. Exit codes: 0 success, 1 an error that was named, 2 wrong usage, 130 interrupted."""
    handler = RichHandler(console=errors, show_time=False, show_path=False)
    logging.basicConfig(format="%(message)s", handlers=[handler])
    try:
        app(arguments, prog_name="colourize")
    except UserError as error:
        _print_error(error)
        sys.exit(error.exit_code)
