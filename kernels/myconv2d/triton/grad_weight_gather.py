"""grad_weight and grad_bias as partial sums over the pixels, from any strides, by ordinary loads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .grad_weight_reduce import next_box, partial_sums, tile
from .indexing import Axis, below, taps_and_channels
from .launch import Operand, ceil_div, launch, needs_64_bit, pixel_box
from .plans import Plan
from .tuning import arithmetic

NOT_FLAT = 32  # channels: with fewer, a tile spans several taps, and grad_output is read for fewer of them


# The idea: GEMM of (outputs × pixels) by (pixels × taps·channels), reduced over the pixels. There are few
#   tiles and many pixels, so each program reduces one split of them and writes a partial sum to the
#   workspace; grad_weight_reduce.py adds the splits up in order: no atomics, the same bits every time.
# Layout: any strides; channels innermost gives wide, aligned loads of both operands.
# Tile: BLOCK_K × BLOCK_J accumulators, where j runs over channels of one tap or, with FLAT (few channels),
#   over taps·channels. A step takes a box of BOX_N × BOX_P × BOX_Q pixels, all powers of two: positions
#   inside the box are shifts, and the box itself is stepped by counters, so the loop has no division.
# Bias: the programs of the first j tile also sum the grad_output they hold, as column `C·R·S` of the partial.
# Bound: memory at the handout's channel counts; every j tile reads grad_output again (from L2).
@triton.jit(do_not_specialize=["batch", "rows", "columns", "height", "width", "offset_h", "offset_w",
                               "boxes", "boxes_per_split"])  # fmt: skip
def grad_weight_split(
    grad_output,  # (N, G, K, P, Q)
    source,  # (N, G, C, H, W)
    partial,  # (splits, G·K, R·S·C + 1), contiguous
    grad_n, grad_g, grad_k, grad_p, grad_q,  # strides; all but k counted in GRAD_UNIT
    source_n, source_g, source_c, source_h, source_w,  # strides; all but c counted in SOURCE_UNIT
    batch, rows, columns, height, width,  # N, P, Q, H, W
    offset_h, offset_w,  # −padding
    boxes, boxes_per_split,
    GRAD_UNIT: tl.constexpr, SOURCE_UNIT: tl.constexpr,
    G: tl.constexpr, K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    BIAS: tl.constexpr,
    HALO: tl.constexpr,  # some reads fall outside the source
    EVEN: tl.constexpr,  # the boxes divide the pixels
    INDEX_64: tl.constexpr,  # offsets need 64 bits
    FLAT: tl.constexpr,  # taps·channels as one axis
    CHANNELS_FIRST: tl.constexpr,  # j is the row axis of the product: wgmma takes rows 64 at a time
    PRECISION: tl.constexpr,  # of fp32 products: "tf32" or "ieee"
    BLOCK_K: tl.constexpr, BLOCK_J: tl.constexpr,
    BOX_N: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr,
):  # fmt: skip
    accumulator_type: tl.constexpr = partial.dtype.element_ty
    tiles_k: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    tiles_c: tl.constexpr = (C + BLOCK_J - 1) // BLOCK_J
    tiles_j: tl.constexpr = (R * S * C + BLOCK_J - 1) // BLOCK_J if FLAT else R * S * tiles_c

    program = tl.program_id(0)
    if INDEX_64:
        program = program.to(tl.int64)
    tile_j = program % tiles_j
    k = program // tiles_j % tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)
    g = program // (tiles_j * tiles_k) % G
    split = program // (tiles_j * tiles_k * G)
    if FLAT:
        row, column, c, valid_j = taps_and_channels(tile_j * BLOCK_J, 0, 0, C, R, S, FLAT, BLOCK_J)
    else:
        tap = tile_j // tiles_c
        row, column, c, valid_j = taps_and_channels(
            tile_j % tiles_c * BLOCK_J, tap // S, tap % S, C, R, S, FLAT, BLOCK_J
        )

    i = tl.arange(0, BOX_N * BOX_P * BOX_Q)
    within_q = i % BOX_Q
    within_p = i // BOX_Q % BOX_P
    within_n = i // (BOX_Q * BOX_P)
    box = split * boxes_per_split
    boxes_q = tl.cdiv(columns, BOX_Q)
    boxes_p = tl.cdiv(rows, BOX_P)
    first_q = box % boxes_q * BOX_Q
    first_p = box // boxes_q % boxes_p * BOX_P
    first_n = box // (boxes_q * boxes_p) * BOX_N
    if INDEX_64:
        c = c.to(tl.int64)

    grad_columns = grad_output + g * grad_g * GRAD_UNIT + k * grad_k
    source_columns = (
        source
        + g * source_g * SOURCE_UNIT
        + ((row * STEP_H * source_h + column * STEP_W * source_w) * SOURCE_UNIT + (c * source_c)[None, :])
    )
    accumulator = tl.zeros((BLOCK_J, BLOCK_K) if CHANNELS_FIRST else (BLOCK_K, BLOCK_J), accumulator_type)
    bias_sum = tl.zeros((BLOCK_K,), accumulator_type)
    for _ in range(tl.minimum(boxes_per_split, boxes - box)):
        n = first_n + within_n
        p = first_p + within_p
        q = first_q + within_q
        h = p * STRIDE_H + offset_h
        w = q * STRIDE_W + offset_w
        in_grad = below(k, K, BLOCK_K)[None, :]
        in_source = valid_j[None, :]
        if not EVEN:
            in_box = ((n < batch) & (p < rows) & (q < columns))[:, None]
            in_grad = in_grad & in_box
            in_source = in_source & in_box
        if HALO:
            tap_h = h[:, None] + row * STEP_H
            tap_w = w[:, None] + column * STEP_W
            in_source = in_source & (tap_h >= 0) & (tap_h < height) & (tap_w >= 0) & (tap_w < width)
        grad_rows = (n * grad_n + p * grad_p + q * grad_q) * GRAD_UNIT
        source_rows = (n * source_n + h * source_h + w * source_w) * SOURCE_UNIT
        a = tl.load(grad_columns[None, :] + grad_rows[:, None], in_grad, other=0.0)
        b = tl.load(source_columns + source_rows[:, None], in_source, other=0.0)
        if CHANNELS_FIRST:
            accumulator = tl.dot(b.T, a, accumulator, PRECISION, out_dtype=accumulator_type)
        else:
            accumulator = tl.dot(a.T, b, accumulator, PRECISION, out_dtype=accumulator_type)
        if BIAS and tile_j == 0:
            bias_sum += tl.sum(a.to(accumulator_type), 0)
        first_n, first_p, first_q = next_box(
            first_n, first_p, first_q, rows, columns, BOX_N, BOX_P, BOX_Q
        )

    if CHANNELS_FIRST:
        accumulator = accumulator.T
    partial_rows = partial + ((split * G + g) * K + k) * (R * S * C + 1)
    j = (row * S + column) * C + c[None, :]
    tl.store(partial_rows[:, None] + j, accumulator, below(k, K, BLOCK_K)[:, None] & valid_j[None, :])
    if BIAS and tile_j == 0:
        tl.store(partial_rows + R * S * C, bias_sum, below(k, K, BLOCK_K))


def grad_weight_gather(
    grad_output: torch.Tensor,
    source: torch.Tensor,
    weight_size: Sequence[int],
    vertical: Axis,
    horizontal: Axis,
    bias: bool,
    allow_tf32: bool,
    plan: Plan,
) -> torch.Tensor:
    """grad_output (N, G, K, P, Q), source (N, G, C, H, W) → partial sums (splits, G·K, R·S·C + 1)."""
    _, channels, taps_h, taps_w = weight_size
    batch, groups, outputs, rows, columns = grad_output.shape
    pixels, (height, width) = (batch, rows, columns), source.shape[3:]
    grad, reads = Operand.of(grad_output), Operand.of(source)
    flat = channels < NOT_FLAT
    taps = taps_h * taps_w
    axis, repeats = (channels * taps, 1) if flat else (channels, taps)  # what a tile spans, and how often
    block_k, block_j = tile(plan, arithmetic(source.dtype, allow_tf32), outputs, axis)
    box = pixel_box(plan.block_m, rows, columns)
    boxes = math.prod(map(ceil_div, pixels, box))
    tiles = ceil_div(axis, block_j) * repeats * ceil_div(outputs, block_k) * groups
    partial, boxes_per_split = partial_sums(source, tiles, boxes, groups * outputs, taps * channels)
    launch(
        grad_weight_split, tiles * partial.shape[0], source.device,
        grad_output, source, partial, *grad.strides, *reads.strides,
        *pixels, height, width, vertical.offset, horizontal.offset, boxes, boxes_per_split,
        GRAD_UNIT=grad.unit, SOURCE_UNIT=reads.unit, G=groups, K=outputs, C=channels, R=taps_h, S=taps_w,
        STRIDE_H=vertical.stride, STRIDE_W=horizontal.stride, STEP_H=vertical.step, STEP_W=horizontal.step,
        BIAS=bias, HALO=vertical.leaves(rows, taps_h, height) or horizontal.leaves(columns, taps_w, width),
        EVEN=not any(size % edge for size, edge in zip(pixels, box, strict=True)),
        INDEX_64=needs_64_bit(grad_output, source, partial),
        FLAT=flat, CHANNELS_FIRST=block_k < 64, PRECISION="tf32" if allow_tf32 else "ieee",
        BLOCK_K=block_k, BLOCK_J=block_j, BOX_N=box[0], BOX_P=box[1], BOX_Q=box[2],
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    return partial
