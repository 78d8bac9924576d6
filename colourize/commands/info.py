"""`colourize info`"""

from __future__ import annotations

from typing import Annotated

import typer

import myconv2d

from .. import __version__, networks, tables, training
from ..files import UserError
from ..settings import Settings
from ..summary import layers
from .options import Bottleneck, Depth, Filters, KernelSize, Order, console, option


def info(
    network: Annotated[str | None, typer.Argument(metavar="NETWORK", help=" | ".join(networks.NAMES))] = None,
    in_channels: Annotated[int | None, option("--in-channels", "1 for grey, 3 for superres", 1)] = None,
    out_channels: Annotated[int | None, option("--out-channels", "colours; 3 for regression")] = None,
    filters: Filters = None,
    kernel_size: KernelSize = None,
    bottleneck: Bottleneck = None,
    order: Order = None,
    depth: Depth = None,
    size: Annotated[
        int | None, typer.Option("--size", min=1, help=f"height and width of the picture (default: {Settings.size})")
    ] = None,
) -> None:
    """Prints the layers of NETWORK; without it, versions, what was built and what is active.

    Example: `colourize info unet --size 64`
    """
    names = ("in_channels", "out_channels", "filters", "kernel_size", "bottleneck", "order", "depth", "size")
    given = {name: value for name, value in locals().items() if name in names and value is not None}
    if network is None:
        for name, value in given.items():
            raise UserError(f"--{name.replace('_', '-')} {value} is for a NETWORK: {', '.join(networks.NAMES)}")
        console.print(tables.facts({"colourize": __version__, **myconv2d.info(), **training.habits()}))
        return
    size = given.pop("size", Settings.size)
    rows = layers(networks.create(network, **given), size)
    title = f"{network}: {networks.description(network)}. One picture of {size}×{size}:"
    console.print(tables.layers(rows, title))
