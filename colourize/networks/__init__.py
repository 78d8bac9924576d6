"""The networks, by name: the handout's, their editions, and those that are better."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from ..files import UserError
from .blocks import ORDERS
from .colour import ColourUNet
from .enlarger import Enlarger
from .handout import CNN, ConvTransposeNet, ConvTransposeUNet, DilatedUNet, UNet

__all__ = ["HANDOUT", "NAMES", "ORDERS", "complete", "create", "description", "enlarges"]

_SHARED = {"in_channels": 1, "out_channels": 24, "filters": 32, "kernel_size": 3}
_HANDOUT = {**_SHARED, "bottleneck": None, "order": ORDERS[0]}  # None: as many as out_channels
_PLAIN = {name: value for name, value in _HANDOUT.items() if name != "order"}


class _Kind(NamedTuple):
    network: Callable[..., nn.Module]
    defaults: dict[str, int | str | None]
    description: str


_KINDS = {
    "regression-cnn": _Kind(CNN, {**_HANDOUT, "out_channels": 3}, "the handout's CNN for R, G, B"),
    "cnn": _Kind(CNN, _HANDOUT, "the handout's CNN: down twice, up twice, no skips"),
    "unet": _Kind(UNet, _HANDOUT, "the handout's UNet: the CNN with skips"),
    "dilated-unet": _Kind(DilatedUNet, _HANDOUT, "2018 edition: its middle convolution dilated"),
    "pool-upsample": _Kind(
        CNN, {**_HANDOUT, "order": ORDERS[2]}, "2018 and 2022 editions: the CNN, resized before batch norm"
    ),
    "conv-transpose": _Kind(ConvTransposeNet, _PLAIN, "2022 edition: strides down, transposed convolutions up"),
    "conv-transpose-unet": _Kind(ConvTransposeUNet, _PLAIN, "2022 edition: conv-transpose with skips"),
    "colour-unet": _Kind(ColourUNet, _SHARED, "skips at full size, on top of a table by grey level"),
    "enlarger": _Kind(
        Enlarger,
        {**_SHARED, "in_channels": 3, "out_channels": 3, "depth": 8, "factor": 2},
        "residual blocks at the small size, then a channel for each new pixel, on top of bicubic interpolation",
    ),
}
NAMES = tuple(_KINDS)
HANDOUT = ("regression-cnn", "cnn", "unet")


def description(name: str) -> str:
    """What a network is, in a few words."""
    return _kind(name).description


def enlarges(name: str) -> bool:
    """Whether a network's output is larger than its input, by its setting `factor`."""
    return "factor" in _kind(name).defaults


def complete(name: str, **settings: int | str) -> dict[str, int | str]:
    """All settings of a network: the given ones, checked, and defaults for the rest (see `create`)."""
    known = dict(_kind(name).defaults)
    for setting, value in settings.items():
        if setting not in known:
            raise UserError(f"network {name} has no setting {setting!r}; it has {', '.join(known)}")
        if setting == "order":
            if value not in ORDERS:
                raise UserError(f"order must be one of {', '.join(ORDERS)}, not {value!r}")
        elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{setting} must be a whole number ≥ 1, not {value!r}")
    known.update(settings)
    if "bottleneck" in known and known["bottleneck"] is None:
        known["bottleneck"] = known["out_channels"]
    if known["kernel_size"] % 2 == 0:
        raise UserError(f"kernel_size must be odd, not {known['kernel_size']}")
    return known


def create(name: str, **settings: int | str) -> nn.Module:
    """A freshly initialised network: (N, in_channels, H, W) → (N, out_channels, H, W), any H, W ≥ 1; `enlarger`, which
    alone has `depth`, its number of blocks, and `factor`, gives (N, out_channels, factor·H, factor·W).

    Settings: `in_channels` (1, grey; 3 for super-resolution), `out_channels` (24 palette colours; 3 for
    `regression-cnn`), `filters` (32) and `kernel_size` (3, odd); some networks also have `bottleneck`, the channels
    between the last two convolutions (as many as `out_channels`), and `order`, one of ORDERS.

    Raises `UserError` for an unknown name or setting and for a value out of range.
    """
    chosen = complete(name, **settings)
    return _KINDS[name].network(**chosen)


def _kind(name: str) -> _Kind:
    if name not in _KINDS:
        raise UserError(f"network {name!r} is unknown; known are {', '.join(NAMES)}")
    return _KINDS[name]
