"""A feed as an image of its own, for whoever reads it outside a block, and the gradients through it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .block_feed import activated, vector_tile
from .block_statistics import scale_and_shift
from .launch import ceil_div, launch, needs_64_bit, power_of_two


# Tile: BLOCK_M positions of the feed's tensor × BLOCK_C channels; each read once, written once or, enlarged, four
# times. Bound: memory.
@triton.jit(do_not_specialize=["positions", "width"])
def activate_kernel(raw, scale, shift, result, positions, width, C: tl.constexpr, UPSAMPLE: tl.constexpr,
                    INDEX_64: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    tiles_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    program = tl.program_id(0).to(tl.int64) if INDEX_64 else tl.program_id(0)
    m = program // tiles_c * BLOCK_M + tl.arange(0, BLOCK_M)
    c = (program % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    inside = (m < positions)[:, None] & (c < C)
    values = tl.load(raw + (m[:, None] * C + c), inside, other=0.0)
    values = activated(values, vector_tile(scale, c, C), vector_tile(shift, c, C)).to(result.dtype.element_ty)
    if UPSAMPLE:
        at = m // width * (4 * width) + m % width * 2  # the window's first position
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                tl.store(result + ((at + dy * 2 * width + dx)[:, None] * C + c), values, inside)
    else:
        tl.store(result + (m[:, None] * C + c), values, inside)


# As above; each tile leaves its sums of grad·raw and grad where the ReLU lets through.
@triton.jit(do_not_specialize=["positions", "width", "tiles"])
def activate_backward_kernel(grad, raw, scale, shift, result, partial, positions, width, tiles,
                             C: tl.constexpr, UPSAMPLE: tl.constexpr, INDEX_64: tl.constexpr,
                             BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    tiles_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    program = tl.program_id(0).to(tl.int64) if INDEX_64 else tl.program_id(0)
    tile = program // tiles_c
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = program % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    c = channel[None, :]
    inside = (m < positions)[:, None] & (c < C)
    if UPSAMPLE:
        at = m // width * (4 * width) + m % width * 2
        through = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                through += tl.load(grad + ((at + dy * 2 * width + dx)[:, None] * C + c), inside, other=0.0)
    else:
        through = tl.load(grad + (m[:, None] * C + c), inside, other=0.0).to(tl.float32)
    values = tl.load(raw + (m[:, None] * C + c), inside, other=0.0).to(tl.float32)
    factor = vector_tile(scale, c, C)
    through = tl.where(factor * values + vector_tile(shift, c, C) > 0, through, 0.0)
    tl.store(partial + channel.to(tl.int64) * tiles + tile, tl.sum(through * values, 0), channel < C)
    tl.store(partial + (C + channel).to(tl.int64) * tiles + tile, tl.sum(through, 0), channel < C)
    tl.store(result + (m[:, None] * C + c), (factor * through).to(result.dtype.element_ty), inside)


def _blocks(raw: torch.Tensor) -> tuple[int, dict[str, int]]:
    """Tiles along the positions, and the constants of a launch."""
    block_c = min(power_of_two(raw.shape[1]), 64)
    block_m = min(4096 // block_c, 256)
    positions = raw.numel() // raw.shape[1]
    return ceil_div(positions, block_m), {"C": raw.shape[1], "BLOCK_M": block_m, "BLOCK_C": block_c}


def activate(raw: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, upsample: bool, result: torch.Tensor) -> None:
    """Fills `result`. Nothing is empty; all images are channels_last."""
    tiles, constants = _blocks(raw)
    launch(activate_kernel, tiles * ceil_div(raw.shape[1], constants["BLOCK_C"]), raw.device, raw, scale, shift, result,
           raw.numel() // raw.shape[1], raw.shape[3], UPSAMPLE=upsample, INDEX_64=needs_64_bit(result), **constants)


def activate_backward(
    grad: torch.Tensor, raw: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, upsample: bool
) -> tuple[torch.Tensor, ...]:
    """The gradients of raw, scale and shift. Nothing is empty; all images are channels_last."""
    tiles, constants = _blocks(raw)
    result = torch.empty_like(raw, memory_format=torch.channels_last)
    partial = raw.new_empty((2 * raw.shape[1], tiles), dtype=torch.float32)
    launch(activate_backward_kernel, tiles * ceil_div(raw.shape[1], constants["BLOCK_C"]), raw.device,
           grad, raw, scale, shift, result, partial, raw.numel() // raw.shape[1], raw.shape[3], tiles,
           UPSAMPLE=upsample, INDEX_64=needs_64_bit(grad), **constants)  # fmt: skip
    return result, *scale_and_shift(partial, scale, shift)
