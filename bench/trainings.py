"""The commands of the ruler that train, or read what was trained: their options. The work is done elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .options import RESULTS, Out


def _use_threads(count: int | None) -> int | None:
    if count:
        import torch

        torch.set_num_threads(count)
    return count


Data = Annotated[str, typer.Option(help="pictures, as `colourize train` names them")]
DataDir = Annotated[str | None, typer.Option(help="where CIFAR-10 lies, if not to be downloaded")]
Limit = Annotated[int | None, typer.Option(min=1, help="at most so many pictures, to try the command")]
Threads = Annotated[int | None, typer.Option(min=1, help="torch's if not given", callback=_use_threads)]


class Network(str, Enum):
    unet = "unet"
    cnn = "cnn"


def handout(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders that `colourize train` made")],
    out: Out = RESULTS,
) -> None:
    """Writes trained runs beside the handout's published figures and the baselines without any network.

    Example: python -m bench handout runs/*
    """
    from .handout import collect

    typer.echo(collect(runs, out).read_text())


def superres(
    crops: Annotated[Path, typer.Option(help="folder of pictures to train on, such as CBSD68")],
    test: Annotated[list[Path], typer.Option(metavar="FOLDER", help="pictures to measure on, such as Set5")],
    preset: Annotated[list[str] | None, typer.Option(help="of best-superres, best-superres3, best-superres4")] = None,
    threads: Threads = None,
    runs: Annotated[Path, typer.Option(help="folder of the trainings; finished ones are taken from it")] = Path("runs"),
    out: Out = RESULTS,
) -> None:
    """Trains the presets of super-resolution on the CPU and measures them beside bicubic interpolation and SRCNN.

    Example: python -m bench superres --crops CBSD68 --test Set5 --test Set14
    """
    from .superres import PRESETS
    from .superres import superres as run

    if unknown := set(preset or ()) - set(PRESETS):
        raise typer.BadParameter(f"unknown preset {', '.join(sorted(unknown))}; known are {', '.join(PRESETS)}")
    typer.echo(run(preset or list(PRESETS), crops, test, runs, out).read_text())


def epoch(
    data: Data = "cifar10",
    data_dir: DataDir = None,
    network: Annotated[Network, typer.Option(help="which there is in plain PyTorch too")] = Network.unet,
    epochs: Annotated[int, typer.Option(min=2, help="of a training; the first is not counted")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="trainings of each side, in turns")] = 2,
    limit: Limit = None,
    threads: Threads = None,
    out: Out = RESULTS,
) -> None:
    """Times epochs of `colourize train classification` beside the same training in plain PyTorch, on the CPU.

    Files are written after every round: whatever ends the command, the rounds that were finished are there.

    Exit status: 0 done, 1 the two sides did not compute the same, 130 interrupted.

    Example: python -m bench epoch --data-dir cifar-10
    """
    from colourize.commands.use import check_used
    from colourize.settings import Settings

    from .epoch import epoch as run

    options = {"data": data, "epochs": epochs, "limit": limit} | ({"data_dir": data_dir} if data_dir else {})
    settings = Settings("classification", network.value, **options)
    check_used(options, [settings])
    raise typer.Exit(run(settings, rounds, out))


def presets(
    names: Annotated[list[str], typer.Argument(metavar="PRESET...", help="of `colourize train`")],
    data: Data = "cifar10",
    data_dir: DataDir = None,
    palette: Annotated[str | None, typer.Option(help="file of a palette, if not to be fitted")] = None,
    seed: Annotated[int, typer.Option(help="of the training")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="if not the preset's own")] = None,
    limit: Limit = None,
    threads: Threads = None,
    out: Out = RESULTS,
) -> None:
    """Trains presets, scores them beside the baselines and times both, and a photograph of a megapixel.

    Example: python -m bench presets best-colour best-mean vivid-colour --data-dir cifar-10
    """
    from .presets import measure

    given = {"data": data, "data_dir": data_dir, "palette": palette, "seed": seed, "epochs": epochs, "limit": limit}
    given = {name: value for name, value in given.items() if value is not None}
    for file in measure(names, given, out):
        typer.echo(file)
