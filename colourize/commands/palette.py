"""`colourize palette fit` and `show`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import tables, training
from ..files import UserError
from ..palette import Palette
from ..settings import Settings
from .options import ClassName, Colours, Data, DataDir, Limit, Seed, Size, Space, chosen, console
from .use import check_used

app = typer.Typer(help="Palettes: the colours that classification chooses from.", no_args_is_help=True)


@app.command("fit")
def fit_palette(
    out: Annotated[Path, typer.Option("--out", help="file to write: .npy, .npz or .json")],
    data: Data = None,
    data_dir: DataDir = None,
    class_name: ClassName = None,
    size: Size = None,
    limit: Limit = None,
    colours: Colours = None,
    space: Space = None,
    seed: Seed = None,
) -> None:
    """Finds the colours of a set of pictures by k-means, by distances of R, G and B or of CIELAB, and saves them.

    The file holds the colours alone: a training that is to find the nearest of them in CIELAB has --space lab too.

    Example: `colourize palette fit --data cifar10 --colours 24 --out horses.npy`
    """
    given = chosen(locals())
    settings = Settings("classification", "cnn", **given)
    check_used(given, [settings])
    if out.exists():
        raise UserError(f"{out} exists already: choose another --out")
    Palette.check_name(out)
    palette = training.fit_palette(settings, training.load_data(settings))
    palette.save(out)
    console.print(tables.palette(palette))


@app.command("show")
def show_palette(file: Annotated[Path, typer.Argument(metavar="FILE", help=".npy, .npz or .json")]) -> None:
    """Prints the colours of a palette.

    Example: `colourize palette show horses.npy`
    """
    console.print(tables.palette(Palette.load(file)))
