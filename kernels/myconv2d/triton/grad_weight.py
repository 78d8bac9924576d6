"""grad_weight and grad_bias in one pass, split over the pixels, reduced in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from ..shapes import empty_beside
from . import tuning
from .indexing import below, forward_axes, taps_and_channels
from .launch import Operand, ceil_div, launch, needs_64_bit, power_of_two, split_groups


# The idea: GEMM of (outputs × pixels) by (pixels × taps·channels), reduced over the pixels. There are few
#   tiles and many pixels, so each program reduces one split of them and writes a partial sum to the
#   workspace; grad_weight_reduce adds the splits up in order: no atomics, the same bits every time.
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
    accumulator = tl.zeros((BLOCK_K, BLOCK_J), accumulator_type)
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
        accumulator = tl.dot(tl.trans(a), b, accumulator, PRECISION, out_dtype=accumulator_type)
        if BIAS and tile_j == 0:
            bias_sum += tl.sum(a.to(accumulator_type), 0)
        first_q += BOX_Q
        next_p = first_q >= columns
        first_q = tl.where(next_p, 0, first_q)
        first_p += tl.where(next_p, BOX_P, 0)
        next_n = first_p >= rows
        first_p = tl.where(next_n, 0, first_p)
        first_n += tl.where(next_n, BOX_N, 0)

    partial_rows = partial + ((split * G + g) * K + k) * (R * S * C + 1)
    j = (row * S + column) * C + c[None, :]
    tl.store(partial_rows[:, None] + j, accumulator, below(k, K, BLOCK_K)[:, None] & valid_j[None, :])
    if BIAS and tile_j == 0:
        tl.store(partial_rows + R * S * C, bias_sum, below(k, K, BLOCK_K))


# Adds up the splits of BLOCK elements of grad_weight and grad_bias, always in the same order, and rounds
# once. Each lane keeps the sum of every BLOCK_SPLITS-th split: many loads are in flight. Bound: memory.
@triton.jit(do_not_specialize=["splits"])
def grad_weight_reduce(
    partial,  # (splits, K, R·S·C + 1), contiguous
    grad_weight,  # (K, C, R, S)
    grad_bias,  # (K), contiguous, or None
    splits,
    WEIGHT_K: tl.constexpr, WEIGHT_C: tl.constexpr, WEIGHT_R: tl.constexpr, WEIGHT_S: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = R * S * C + 1
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, BLOCK_SPLITS)
    sums = tl.zeros((BLOCK_SPLITS, BLOCK), partial.dtype.element_ty)
    elements = partial + split.to(tl.int64)[:, None] * (K * COLUMNS) + i[None, :]
    for first in range(0, splits, BLOCK_SPLITS):
        valid = (first + split < splits)[:, None] & (i < K * COLUMNS)[None, :]
        sums += tl.load(elements, valid, other=0.0)
        elements += BLOCK_SPLITS * K * COLUMNS
    total = tl.sum(sums, 0)

    k, j = i // COLUMNS, i % COLUMNS
    r, s, c = j // (S * C), j // C % S, j % C
    weight_offset = k * WEIGHT_K + c * WEIGHT_C + r * WEIGHT_R + s * WEIGHT_S
    in_weight = (k < K) & (j < COLUMNS - 1)
    tl.store(grad_weight + weight_offset, total.to(grad_weight.dtype.element_ty), in_weight)
    if grad_bias is not None:
        tl.store(grad_bias + k, total.to(grad_bias.dtype.element_ty), (k < K) & ~in_weight)


def conv2d_grad_weight(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bias: bool,
    *,
    allow_tf32: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """grad_output (N, K, P, Q), input (N, C, H, W) → grad_weight (K, C/groups, R, S), grad_bias (K).

    Without `bias`, grad_bias is empty.
    """
    grad_weight = empty_beside(grad_output, input, weight_size)
    if grad_output.numel() == 0 or grad_weight.numel() == 0:
        return grad_weight.zero_(), grad_output.sum((0, 2, 3)) if bias else grad_output.new_empty(0)

    outputs, channels, taps_h, taps_w = weight_size
    height, width = input.shape[2:]
    pixels = batch, rows, columns = grad_output.shape[0], *grad_output.shape[2:]
    grad = Operand.of(split_groups(grad_output, 1, groups))
    source = Operand.of(split_groups(input, 1, groups))
    plan = tuning.grad_weight_plan(
        tuning.arithmetic(input.dtype, allow_tf32),
        channels, outputs // groups, taps_h * taps_w, grad.wide and source.wide,
    )  # fmt: skip
    box = pixel_box(plan.block_m, rows, columns)
    boxes = math.prod(map(ceil_div, pixels, box))
    tiles_k = ceil_div(outputs // groups, plan.block_k)
    tiles_j = tuning.column_tiles(plan, channels, taps_h * taps_w)
    tiles = tiles_j * tiles_k * groups
    boxes_per_split = ceil_div(boxes, tuning.splits(tiles, boxes))
    splits = ceil_div(boxes, boxes_per_split)

    weight_columns = taps_h * taps_w * channels + 1
    partial_type = torch.float64 if input.dtype == torch.float64 else torch.float32
    partial = input.new_empty((splits, outputs, weight_columns), dtype=partial_type)
    vertical, horizontal = forward_axes(stride, padding, dilation)
    launch(
        grad_weight_split, tiles * splits, input.device,
        grad_output, input, partial, *grad.strides, *source.strides,
        batch, rows, columns, height, width, vertical.offset, horizontal.offset, boxes, boxes_per_split,
        GRAD_UNIT=grad.unit, SOURCE_UNIT=source.unit,
        G=groups, K=outputs // groups, C=channels, R=taps_h, S=taps_w,
        STRIDE_H=vertical.stride, STRIDE_W=horizontal.stride, STEP_H=vertical.step, STEP_W=horizontal.step,
        BIAS=bias, HALO=vertical.leaves(rows, taps_h, height) or horizontal.leaves(columns, taps_w, width),
        EVEN=not any(size % edge for size, edge in zip(pixels, box, strict=True)),
        INDEX_64=needs_64_bit(grad_output, input, partial),
        FLAT=plan.flat, PRECISION="tf32" if allow_tf32 else "ieee",
        BLOCK_K=plan.block_k, BLOCK_J=plan.block_c, BOX_N=box[0], BOX_P=box[1], BOX_Q=box[2],
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip

    grad_bias = grad_output.new_empty(outputs if bias else 0)
    weight_k, weight_c, weight_r, weight_s = grad_weight.stride()
    launch(
        grad_weight_reduce, ceil_div(outputs * weight_columns, 64), input.device,
        partial, grad_weight, grad_bias if bias else None, splits,
        WEIGHT_K=weight_k, WEIGHT_C=weight_c, WEIGHT_R=weight_r, WEIGHT_S=weight_s,
        K=outputs, C=channels, R=taps_h, S=taps_w, BLOCK=64, BLOCK_SPLITS=16,
    )  # fmt: skip
    return grad_weight, grad_bias


def pixel_box(pixels: int, rows: int, columns: int) -> tuple[int, int, int]:
    """A box (n, p, q) of `pixels` positions, powers of two: as wide as the image, then as tall, then deep."""
    box_q = min(power_of_two(columns), pixels)
    box_p = min(power_of_two(rows), pixels // box_q)
    return pixels // (box_q * box_p), box_p, box_q
