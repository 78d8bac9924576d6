"""The block's convolution: one implicit GEMM over one feed or two, and what is made of y before it is written."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .block_feed import columns_of, feed_tile, relu, vector_tile
from .block_plan import precision, reduction, serve
from .block_tile import Tile, pick, pooled_positions, tile_positions
from .indexing import below
from .launch import ceil_div, fit, launch, needs_64_bit
from .plans import Plan


class Feed(NamedTuple):
    """relu(scale·tensor + shift), or the tensor itself, enlarged if `upsample`; (N, C, H, W) in channels_last."""

    tensor: torch.Tensor
    scale: torch.Tensor | None
    shift: torch.Tensor | None
    upsample: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        h, w = self.tensor.shape[2:]
        return (2 * h, 2 * w) if self.upsample else (h, w)

    @property
    def channels(self) -> int:
        return self.tensor.shape[1]


@triton.jit
def convolve(accumulator, tensor, scale, shift, n, top, left, valid, height, width,
             taps, weight_rows, in_outputs,  # R·S; pointers to the first tap and channel of each output [BLOCK_K, 1]
             C: tl.constexpr, UPSAMPLE: tl.constexpr, FLAT: tl.constexpr, BLOCK_C: tl.constexpr,
             CHANNELS: tl.constexpr, R: tl.constexpr, S: tl.constexpr, HALO: tl.constexpr,
             PRECISION: tl.constexpr):  # fmt: skip
    """accumulator [M, BLOCK_K] plus the convolution of one feed, whose C channels are among the weight's CHANNELS."""
    steps = (R * S * C + BLOCK_C - 1) // BLOCK_C if FLAT else taps * ((C + BLOCK_C - 1) // BLOCK_C)
    for step in range(steps):
        row, column, c, in_channels = columns_of(step, C, R, S, FLAT, BLOCK_C)
        a = feed_tile(tensor, scale, shift, n, top + row, left + column, c, valid & in_channels, height, width,
                      C, UPSAMPLE, HALO)  # fmt: skip
        b = tl.load(weight_rows + ((row * S + column) * CHANNELS + c), in_outputs & in_channels, other=0.0)
        accumulator = tl.dot(a, tl.trans(b), accumulator, PRECISION)
    return accumulator


# The idea: GEMM of (positions × taps·channels) by (taps·channels × outputs), the left matrix computed as it is
#   loaded (block_feed.py), first all of the first feed, then all of the second: nothing is ever concatenated.
# Layout: images channels_last and dense; weight (K, R, S, C), dense, rows of channels for both operands.
# Tile: TILE_N·TILE_P·TILE_Q positions × BLOCK_K outputs, fp32.
# Epilogue, training (`partial`): y rounded and written; of the rounded values each tile's mean, rounded, and the
#   sums of the differences from it and of their squares, for block_statistics.py; with `index`, each 2 × 2 window's
#   value of the largest sign(gamma)·y beside. Inference: batch norm as scale and shift, ReLU, max-pool.
# Bound: memory at these channel counts; each input pixel is read R·S times, all but once from L1.
@triton.jit(do_not_specialize=["batch", "height", "width", "rows", "columns", "tiles", "taps"])
def block_forward(
    first, first_scale, first_shift,  # (N, H, W, C1); (C1) or None
    second, second_scale, second_shift,  # (N, H, W, C2) or None
    weight,  # (K, R, S, C1 + C2)
    bias, gamma, beta, mean, var,  # (K) or None; mean and var for inference
    eps,
    result,  # (N, P, Q, K), or its windows (N, P/2, Q/2, K)
    full, index,  # training with pooling: (N, P, Q, K), (N, P/2, Q/2, K); else None
    partial,  # training with batch norm: (3·K + 1, tiles); else None
    batch, height, width, rows, columns, tiles,  # N, H, W of the images, P, Q
    taps,  # R·S once more: a loop of a length that the compiler knows is unrolled, and takes all registers
    C1: tl.constexpr, UPSAMPLE_1: tl.constexpr, FLAT_1: tl.constexpr, BLOCK_1: tl.constexpr,
    C2: tl.constexpr, UPSAMPLE_2: tl.constexpr, FLAT_2: tl.constexpr, BLOCK_2: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
    RELU: tl.constexpr, POOL: tl.constexpr,
    EVEN: tl.constexpr,  # the tiles divide the pictures
    INDEX_64: tl.constexpr, PRECISION: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    HALO: tl.constexpr = PADDING_H > 0 or PADDING_W > 0
    M: tl.constexpr = TILE_N * TILE_P * TILE_Q
    tiles_k: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    program = tl.program_id(0)
    tile = program // tiles_k
    k = program % tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)
    in_outputs = below(k, K, BLOCK_K)
    n, p, q = tile_positions(tile, rows, columns, TILE_N, TILE_P, TILE_Q, POOL)
    if INDEX_64:
        n = n.to(tl.int64)
    inside = tl.full((M,), 1, tl.int1) if EVEN else (n < batch) & (p < rows) & (q < columns)

    weight_rows = weight + k[:, None] * (R * S * (C1 + C2))
    top, left = p[:, None] - PADDING_H, q[:, None] - PADDING_W
    y = tl.zeros((M, BLOCK_K), tl.float32)
    y = convolve(y, first, first_scale, first_shift, n[:, None], top, left, inside[:, None], height, width,
                 taps, weight_rows, in_outputs[:, None], C1, UPSAMPLE_1, FLAT_1, BLOCK_1,
                 C1 + C2, R, S, HALO, PRECISION)  # fmt: skip
    if second is not None:
        y = convolve(y, second, second_scale, second_shift, n[:, None], top, left, inside[:, None], height, width,
                     taps, weight_rows + C1, in_outputs[:, None], C2, UPSAMPLE_2, FLAT_2, BLOCK_2,
                     C1 + C2, R, S, HALO, PRECISION)  # fmt: skip
    if bias is not None:
        y += vector_tile(bias, k, K)[None, :]

    if mean is not None:
        scale = vector_tile(gamma, k, K) / tl.sqrt(vector_tile(var, k, K) + eps)
        shift = vector_tile(beta, k, K) - vector_tile(mean, k, K) * scale
        y = y * scale[None, :] + shift[None, :]
    if RELU:
        y = relu(y)
    y = y.to(result.dtype.element_ty).to(tl.float32)  # what follows goes by the values that are written

    if full is not None or not POOL:
        every = full if POOL else result
        tl.store(every + (((n * rows + p) * columns + q) * K)[:, None] + k[None, :],
                 y.to(result.dtype.element_ty), inside[:, None] & in_outputs[None, :])  # fmt: skip
    if partial is not None:
        values = y if EVEN else tl.where(inside[:, None], y, 0.0)
        count = tl.sum(inside.to(tl.float32), 0)
        average = tl.sum(values, 0) / count
        centred = y - average[None, :]
        centred = centred if EVEN else tl.where(inside[:, None], centred, 0.0)
        tl.store(partial + k.to(tl.int64) * tiles + tile, average, in_outputs)
        tl.store(partial + (K + k).to(tl.int64) * tiles + tile, tl.sum(centred, 0), in_outputs)
        tl.store(partial + (2 * K + k).to(tl.int64) * tiles + tile, tl.sum(centred * centred, 0), in_outputs)
        if program % tiles_k == 0:
            tl.store(partial + tl.full((), 3 * K, tl.int64) * tiles + tile, count)

    if POOL:
        n, p, q = pooled_positions(tile, rows, columns, TILE_N, TILE_P, TILE_Q)
        if INDEX_64:
            n = n.to(tl.int64)
        sign = tl.full((BLOCK_K,), 1.0, tl.float32)
        if full is not None:
            sign = vector_tile(gamma, k, K)
            sign = tl.where(sign > 0, 1.0, tl.where(sign < 0, -1.0, 0.0 * sign))
        picked, where = pick(y, sign[None, :])
        at = (((n * (rows // 2) + p) * (columns // 2) + q) * K)[:, None] + k[None, :]
        inside = ((n < batch) & (p < rows // 2) & (q < columns // 2))[:, None] & in_outputs[None, :]
        tl.store(result + at, picked.to(result.dtype.element_ty), inside)
        if index is not None:
            tl.store(index + at, where.to(tl.uint8), inside)


def forward(
    feeds: list[Feed],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    padding: tuple[int, int],
    norm: tuple,  # gamma, beta, mean, var, eps; None where there is none
    result: torch.Tensor,
    full: torch.Tensor | None = None,
    index: torch.Tensor | None = None,
    *,
    size: tuple[int, int],  # P, Q
    relu: bool = False,
    pool: bool = False,
    statistics: bool = False,
    allow_tf32: bool,
) -> torch.Tensor | None:
    """Fills result, full and index; gives the tiles' partial statistics (3·K + 1, tiles), if they are wanted.

    Nothing is empty, but for the batch when there are `statistics`.
    """
    batch, (height, width) = feeds[0].tensor.shape[0], feeds[0].size
    (rows, columns), (outputs, channels, taps_h, taps_w) = size, weight.shape
    first, second = feeds[0], feeds[1] if len(feeds) == 2 else Feed(None, None, None, False)
    images = [image for image in (result, full, *(feed.tensor for feed in feeds)) if image is not None]
    partial = weight.new_empty((3 * outputs + 1, 0), dtype=torch.float32) if statistics else None
    if batch == 0:
        return partial

    def run(plan: Plan) -> None:
        nonlocal partial
        tile, block_k = Tile.of(plan.block_m, rows, columns, pool), fit(plan.block_n, outputs)
        tiles = tile.count(batch, rows, columns)
        partial = weight.new_empty((3 * outputs + 1, tiles), dtype=torch.float32) if statistics else None
        blocks = [reduction(plan, feed.channels, taps_h * taps_w) for feed in feeds]
        (flat_1, block_1), (flat_2, block_2) = blocks if second.tensor is not None else (*blocks, (False, 16))
        launch(
            block_forward, tiles * ceil_div(outputs, block_k), weight.device,
            *first[:3], *second[:3], weight, bias, *norm, result, full, index, partial,
            batch, height, width, rows, columns, tiles, taps_h * taps_w,
            C1=first.channels, UPSAMPLE_1=first.upsample, FLAT_1=flat_1, BLOCK_1=block_1,
            C2=channels - first.channels, UPSAMPLE_2=second.upsample, FLAT_2=flat_2, BLOCK_2=block_2,
            K=outputs, R=taps_h, S=taps_w, PADDING_H=padding[0], PADDING_W=padding[1], RELU=relu, POOL=pool,
            EVEN=tile.divides(batch, rows, columns), INDEX_64=needs_64_bit(*images),
            PRECISION=precision(allow_tf32), **tile.constants(), BLOCK_K=block_k,
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip

    serve("block_forward", weight.dtype, allow_tf32, channels, outputs, (taps_h, taps_w), size, weight.device, run)
    return partial
