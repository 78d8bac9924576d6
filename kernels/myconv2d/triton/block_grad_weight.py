"""A block's grad_weight and grad_bias, split over the positions, reduced in a fixed order (as in grad_weight.py)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .block_feed import columns_of, feed_box, feed_tile, gradient_box, gradient_tile, tap_of
from .block_forward import Feed, why_no_boxes
from .block_grad_input import Gradient
from .block_plan import precision, reduction, serve
from .block_tile import Tile, next_origin, tile_origin, tile_positions
from .indexing import below
from .launch import ceil_div, fit, launch, needs_64_bit
from .plans import Plan
from .tuning import splits


# The idea: GEMM of (outputs × positions) by (positions × taps·channels) of one feed, both operands computed as they
#   are loaded. Each program sums over the tiles of one split and writes a partial; block_weight_reduce adds them up.
# Layout: images channels_last and dense; as pointers, or grad, y and tensor as descriptors (block_boxes.py).
# Tile: BLOCK_K outputs × BLOCK_J of the taps·channels, the longer edge as rows, of which wgmma wants 64; a step takes
#   TILE_N·TILE_P·TILE_Q positions.
# Bias: if it has a gradient, the programs of the first J tile also sum the y gradients they hold, as the last column.
# Bound: memory at these channel counts; every J tile computes the gradient again (from L2).
@triton.jit(do_not_specialize=["batch", "height", "width", "rows", "columns", "tiles", "tiles_per_split"])
def block_grad_weight(
    grad, index, y, mean, offset, slope,
    tensor, scale, shift,  # (N, H, W, C); (C) or None
    partial,  # (splits, K, COLUMNS), from this feed's first channel on
    batch, height, width, rows, columns, tiles, tiles_per_split,
    C: tl.constexpr, CHANNELS: tl.constexpr,  # of this feed, of the weight
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, COLUMNS: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
    UPSAMPLE: tl.constexpr, BIAS: tl.constexpr,
    EVEN: tl.constexpr,  # the tiles divide the pictures
    INDEX_64: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = TILE_N * TILE_P * TILE_Q
    HALO: tl.constexpr = PADDING_H > 0 or PADDING_W > 0
    TALL: tl.constexpr = BLOCK_J >= BLOCK_K
    tiles_k: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    tiles_j: tl.constexpr = (R * S * C + BLOCK_J - 1) // BLOCK_J if FLAT else R * S * ((C + BLOCK_J - 1) // BLOCK_J)
    program = tl.program_id(0)
    tile_j = program % tiles_j
    split = program // (tiles_j * tiles_k)
    first_k = program // tiles_j % tiles_k * BLOCK_K
    k = (first_k + tl.arange(0, BLOCK_K))[None, :]
    in_outputs = below(k, K, BLOCK_K)
    row, column, c, in_channels = columns_of(tile_j, C, R, S, FLAT, BLOCK_J)
    r, s, first_c = tap_of(tile_j, C, S, BLOCK_J)

    accumulator = tl.zeros((BLOCK_J, BLOCK_K) if TALL else (BLOCK_K, BLOCK_J), tl.float32)
    bias_sum = tl.zeros((BLOCK_K,), tl.float32)
    tile = split * tiles_per_split
    first_n, first_p, first_q = tile_origin(tile, rows, columns, TILE_N, TILE_P, TILE_Q)
    for _ in range(tl.minimum(tiles_per_split, tiles - tile)):
        n, p, q = tile_positions(first_n, first_p, first_q, TILE_N, TILE_P, TILE_Q)
        if INDEX_64:
            n = n.to(tl.int64)
        inside = tl.full((M,), 1, tl.int1) if EVEN else (n < batch) & (p < rows) & (q < columns)
        n, p, q, inside = n[:, None], p[:, None], q[:, None], inside[:, None]
        h, w = p + (row - PADDING_H), q + (column - PADDING_W)
        if isinstance(grad, tl.tensor_descriptor):
            a = gradient_box(grad, y, mean, offset, slope, first_n, first_p, first_q, first_k, p, q, k, inside,
                             rows, columns, K, False)  # fmt: skip
            b = feed_box(tensor, scale, shift, first_n, first_p + (r - PADDING_H), first_q + (s - PADDING_W), first_c,
                         h, w, c, inside, height, width, C, HALO)  # fmt: skip
        else:
            a = gradient_tile(grad, index, y, mean, offset, slope, n, p, q, k, inside & in_outputs,
                              rows, columns, K, False)  # fmt: skip
            b = feed_tile(tensor, scale, shift, n, h, w, c, inside & in_channels, height, width, C, UPSAMPLE, HALO)
        if TALL:
            accumulator = tl.dot(tl.trans(b), a, accumulator, PRECISION)
        else:
            accumulator = tl.dot(tl.trans(a), b, accumulator, PRECISION)
        if BIAS and tile_j == 0:
            bias_sum += tl.sum(a.to(tl.float32), 0)
        first_n, first_p, first_q = next_origin(first_n, first_p, first_q, rows, columns, TILE_N, TILE_P, TILE_Q)

    if TALL:
        accumulator = tl.trans(accumulator)
    k = first_k + tl.arange(0, BLOCK_K)
    partial_rows = partial + (split.to(tl.int64) * K + k) * COLUMNS
    j = (row * S + column) * CHANNELS + c
    tl.store(partial_rows[:, None] + j, accumulator, below(k, K, BLOCK_K)[:, None] & in_channels)
    if BIAS and tile_j == 0:
        tl.store(partial_rows + (COLUMNS - 1), bias_sum, below(k, K, BLOCK_K))


# Adds up the splits of BLOCK elements, always in the same order, and rounds once. Each lane sums every
# BLOCK_SPLITS-th split: many loads are in flight. Bound: memory.
@triton.jit(do_not_specialize=["splits"])
def block_weight_reduce(
    partial,  # (splits, K, COLUMNS)
    grad_weight,  # (K, C, R, S)
    grad_bias,  # (K) or None
    splits,
    WEIGHT_K: tl.constexpr, WEIGHT_C: tl.constexpr, WEIGHT_R: tl.constexpr, WEIGHT_S: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, BLOCK_SPLITS)
    sums = tl.zeros((BLOCK_SPLITS, BLOCK), tl.float32)
    for first in range(0, splits, BLOCK_SPLITS):
        rows = (first + split).to(tl.int64)[:, None] * (K * COLUMNS)
        valid = (first + split < splits)[:, None] & (i < K * COLUMNS)[None, :]
        sums += tl.load(partial + (rows + i[None, :]), valid, other=0.0)
    total = tl.sum(sums, 0)
    k, j = i // COLUMNS, i % COLUMNS
    r, s, c = j // (S * C), j // C % S, j % C
    in_weight = (k < K) & (j < R * S * C)
    tl.store(grad_weight + (k * WEIGHT_K + c * WEIGHT_C + r * WEIGHT_R + s * WEIGHT_S),
             total.to(grad_weight.dtype.element_ty), in_weight)  # fmt: skip
    if grad_bias is not None:
        tl.store(grad_bias + k, total.to(grad_bias.dtype.element_ty), (k < K) & (j == R * S * C))


def grad_weight(
    gradient: Gradient,
    feeds: list[Feed],
    weight: torch.Tensor,  # for its size, type and layout
    padding: tuple[int, int],
    bias: bool,
    allow_tf32: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """grad_weight, and grad_bias, which is empty without `bias`. Nothing is empty."""
    outputs, channels, taps_h, taps_w = weight.shape
    to_weight, to_bias = torch.empty_like(weight), weight.new_empty(outputs if bias else 0)
    obstacle = gradient.why_no_boxes(allow_tf32) or why_no_boxes(feeds, allow_tf32)

    def run(plan: Plan) -> None:
        partial = _partial_sums(gradient, feeds, weight, padding, bias, allow_tf32, obstacle is None, plan)
        parts, _, row = partial.shape
        weight_k, weight_c, weight_r, weight_s = to_weight.stride()
        launch(
            block_weight_reduce, ceil_div(outputs * row, 64), weight.device,
            partial, to_weight, to_bias if bias else None, parts,
            WEIGHT_K=weight_k, WEIGHT_C=weight_c, WEIGHT_R=weight_r, WEIGHT_S=weight_s,
            K=outputs, C=channels, R=taps_h, S=taps_w, COLUMNS=row, BLOCK=64, BLOCK_SPLITS=16,
        )  # fmt: skip

    taps, image = (taps_h, taps_w), gradient.size
    serve("block_grad_weight", weight.dtype, allow_tf32, channels, outputs, taps, image, weight.device, run, obstacle)
    return to_weight, to_bias


def _partial_sums(
    gradient: Gradient,
    feeds: list[Feed],
    weight: torch.Tensor,
    padding: tuple[int, int],
    bias: bool,
    allow_tf32: bool,
    by_boxes: bool,
    plan: Plan,
) -> torch.Tensor:
    """(splits, K, R·S·C), and one more column where there is a bias."""
    (rows, columns), (height, width), batch = gradient.size, feeds[0].size, gradient.grad.shape[0]
    outputs, channels, taps_h, taps_w = weight.shape
    taps = taps_h * taps_w
    blocks = [reduction(plan, feed.channels, taps) for feed in feeds]
    tiles_j = [
        ceil_div(feed.channels * taps, block) if flat else taps * ceil_div(feed.channels, block)
        for feed, (flat, block) in zip(feeds, blocks, strict=True)
    ]
    block_k = fit(plan.block_n, outputs)
    tiles_k = ceil_div(outputs, block_k)
    tile = Tile.of(plan.block_m, rows, columns)
    tiles = tile.count(batch, rows, columns)
    tiles_per_split = ceil_div(tiles, splits(sum(tiles_j) * tiles_k, tiles))
    parts = ceil_div(tiles, tiles_per_split)
    row = taps * channels + bias
    partial = weight.new_empty((parts, outputs, row), dtype=torch.float32)
    first_channel = 0
    read = gradient.boxes(tile, block_k) if by_boxes else gradient
    for feed, count, (flat, block) in zip(feeds, tiles_j, blocks, strict=True):
        launch(
            block_grad_weight, parts * tiles_k * count, weight.device,
            *read[:6], *(feed.boxes(tile, block) if by_boxes else feed)[:3], partial[:, :, first_channel:],
            batch, height, width, rows, columns, tiles, tiles_per_split,
            C=feed.channels, CHANNELS=channels, K=outputs, R=taps_h, S=taps_w, COLUMNS=row,
            PADDING_H=padding[0], PADDING_W=padding[1], UPSAMPLE=feed.upsample, BIAS=bias and first_channel == 0,
            EVEN=tile.divides(batch, rows, columns), INDEX_64=needs_64_bit(*gradient.images, feed.tensor),
            FLAT=flat, PRECISION=precision(allow_tf32), **tile.constants(), BLOCK_K=block_k, BLOCK_J=block,
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip
        first_channel += feed.channels
    return partial
