"""Which plan serves a kernel of a fused block, and how much of what is summed a step takes then."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import tuning
from .halo import BOXES
from .launch import fit
from .plans import Plan, Shape


def serve(
    kernel: str,
    dtype: torch.dtype,
    allow_tf32: bool,
    channels: int,
    outputs: int,
    taps: tuple[int, int],
    image: tuple[int, int],
    device: torch.device,
    run: Callable[[Plan], None],
    obstacle: str | None,
) -> None:
    """`tuning.serve` for a kernel that gives `outputs` channels of `channels`, on pictures of the size `image`.

    `obstacle` is why it does not load boxes; None if it does.
    """
    arithmetic, layout = tuning.arithmetic(dtype, allow_tf32), "channels_last" if obstacle else "boxes"
    shape = Shape(kernel, arithmetic, layout, channels, outputs, taps, image, (1, 1))
    note = f"fused, ordinary loads: {obstacle}" if obstacle else f"fused, {BOXES}"
    tuning.serve(shape, device, run, note)


def reduction(plan: Plan, channels: int, taps: int) -> tuple[bool, int]:
    """For one feed: whether taps·channels are one axis (few channels), and how much of it a step takes."""
    flat = channels < 16
    return flat, fit(plan.block_c, channels * taps if flat else channels)


def precision(allow_tf32: bool) -> str:
    """Of fp32 products."""
    return "tf32" if allow_tf32 else "ieee"
