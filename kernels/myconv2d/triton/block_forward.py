"""The block's convolution: one implicit GEMM over one feed or two, and what is made of y before it is written."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .block_boxes import boxes, why_not
from .block_feed import box, columns_of, feed_box, feed_tile, relu, tap_of, vector_tile
from .block_plan import precision, reduction, serve
from .block_tile import Tile, pick, pooled_positions, tile_origin, tile_positions
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

    def boxes(self, tile: Tile, channels: int) -> Feed:
        """With a descriptor for the tensor, by boxes of a tile."""
        return self._replace(tensor=boxes(self.tensor, tile, channels))


def why_no_boxes(feeds: list[Feed], allow_tf32: bool) -> str | None:
    """Why the copy engine cannot load these feeds, in words; None if it can."""
    if any(feed.upsample for feed in feeds):
        return "a feed is enlarged"
    return why_not([feed.tensor for feed in feeds], allow_tf32)


@triton.jit
def convolve(accumulator, tensor, scale, shift, weight,
             first_n, first_h, first_w, first_k,  # of the first tap of the tile's first position; the first output
             n, top, left, valid, height, width, taps,  # of the positions' first taps [M, 1]; of the image; R·S
             C: tl.constexpr, UPSAMPLE: tl.constexpr, FLAT: tl.constexpr, BLOCK_C: tl.constexpr,
             CHANNELS: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr, HALO: tl.constexpr,
             PRECISION: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """accumulator [M, BLOCK_K] plus the convolution of one feed, whose C channels are among the weight's CHANNELS."""
    everywhere = tl.full(valid.shape, 1, tl.int1)
    k = first_k + tl.arange(0, BLOCK_K)[:, None]
    steps = (R * S * C + BLOCK_C - 1) // BLOCK_C if FLAT else taps * ((C + BLOCK_C - 1) // BLOCK_C)
    for step in range(steps):
        row, column, c, in_channels = columns_of(step, C, R, S, FLAT, BLOCK_C)
        h, w = top + row, left + column
        if isinstance(tensor, tl.tensor_descriptor):
            r, s, first_c = tap_of(step, C, S, BLOCK_C)
            a = feed_box(tensor, scale, shift, first_n, first_h + r, first_w + s, first_c, h, w, c, everywhere,
                         height, width, C, HALO)  # fmt: skip
            b = box(weight, first_k, r, s, first_c)
        else:
            a = feed_tile(tensor, scale, shift, n, h, w, c, valid & in_channels, height, width, C, UPSAMPLE, HALO)
            b = tl.load(weight + k * (R * S * CHANNELS) + ((row * S + column) * CHANNELS + c),
                        below(k, K, BLOCK_K) & in_channels, other=0.0)  # fmt: skip
        accumulator = tl.dot(a, tl.trans(b), accumulator, PRECISION)
    return accumulator


# The idea: GEMM of (positions × taps·channels) by (taps·channels × outputs), the left matrix computed as it is
#   loaded (block_feed.py), first all of the first feed, then all of the second: nothing is ever concatenated.
# Layout: images channels_last and dense; weight (K, R, S, C), dense, rows of channels for both operands. As pointers,
#   or, images and weights alike, as descriptors (block_boxes.py).
# Tile: TILE_N·TILE_P·TILE_Q positions × BLOCK_K outputs, fp32.
# Epilogue, training (`partial`): y rounded and written; of the rounded values each tile's mean, rounded, and the
#   sums of the differences from it and of their squares, for block_statistics.py; with `index`, each 2 × 2 window's
#   value of the largest sign(gamma)·y beside. Inference: batch norm as scale and shift, ReLU, max-pool.
# Bound: memory at these channel counts; each input pixel is read R·S times, all but once from L1 or L2.
@triton.jit(do_not_specialize=["batch", "height", "width", "rows", "columns", "tiles", "taps"])
def block_forward(
    first, first_scale, first_shift, first_weight,  # (N, H, W, C1), (C1) or None, (K, R, S, C1 of C1 + C2)
    second, second_scale, second_shift, second_weight,  # the same of C2, or None
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
    first_k = program % tiles_k * BLOCK_K
    k = first_k + tl.arange(0, BLOCK_K)
    in_outputs = below(k, K, BLOCK_K)
    first_n, first_p, first_q = tile_origin(tile, rows, columns, TILE_N, TILE_P, TILE_Q)
    n, p, q = tile_positions(first_n, first_p, first_q, TILE_N, TILE_P, TILE_Q)
    if INDEX_64:
        n = n.to(tl.int64)
    inside = tl.full((M,), 1, tl.int1) if EVEN else (n < batch) & (p < rows) & (q < columns)

    first_h, first_w = first_p - PADDING_H, first_q - PADDING_W
    top, left = p[:, None] - PADDING_H, q[:, None] - PADDING_W
    y = tl.zeros((M, BLOCK_K), tl.float32)
    y = convolve(y, first, first_scale, first_shift, first_weight, first_n, first_h, first_w, first_k,
                 n[:, None], top, left, inside[:, None], height, width, taps,
                 C1, UPSAMPLE_1, FLAT_1, BLOCK_1, C1 + C2, K, R, S, HALO, PRECISION, BLOCK_K)  # fmt: skip
    if second is not None:
        y = convolve(y, second, second_scale, second_shift, second_weight, first_n, first_h, first_w, first_k,
                     n[:, None], top, left, inside[:, None], height, width, taps,
                     C2, UPSAMPLE_2, FLAT_2, BLOCK_2, C1 + C2, K, R, S, HALO, PRECISION, BLOCK_K)  # fmt: skip
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
        picked, where = pick(y, sign[None, :], TILE_Q)
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

    filters = weight.split([feed.channels for feed in feeds], 1)
    obstacle = why_no_boxes(feeds, allow_tf32) or why_not([*filters], allow_tf32)

    def run(plan: Plan) -> None:
        nonlocal partial
        tile, block_k = Tile.of(plan.block_m, rows, columns, pool), fit(plan.block_n, outputs)
        tiles = tile.count(batch, rows, columns)
        partial = weight.new_empty((3 * outputs + 1, tiles), dtype=torch.float32) if statistics else None
        blocks = [reduction(plan, feed.channels, taps_h * taps_w) for feed in feeds]
        (flat_1, block_1), (flat_2, block_2) = blocks if second.tensor is not None else (*blocks, (False, 16))
        operands: list = []
        for feed, own, (_, block) in zip(feeds, filters, blocks, strict=True):
            if obstacle is None:
                feed, own = feed.boxes(tile, block), boxes(own, (block_k, 1, 1), block)
            operands += *feed[:3], own
        launch(
            block_forward, tiles * ceil_div(outputs, block_k), weight.device,
            *operands, *[None] * (8 - len(operands)), bias, *norm, result, full, index, partial,
            batch, height, width, rows, columns, tiles, taps_h * taps_w,
            C1=first.channels, UPSAMPLE_1=first.upsample, FLAT_1=flat_1, BLOCK_1=block_1,
            C2=channels - first.channels, UPSAMPLE_2=second.upsample, FLAT_2=flat_2, BLOCK_2=block_2,
            K=outputs, R=taps_h, S=taps_w, PADDING_H=padding[0], PADDING_W=padding[1], RELU=relu, POOL=pool,
            EVEN=tile.divides(batch, rows, columns), INDEX_64=needs_64_bit(*images),
            PRECISION=precision(allow_tf32), **tile.constants(), BLOCK_K=block_k,
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip

    taps = taps_h, taps_w
    serve("block_forward", weight.dtype, allow_tf32, channels, outputs, taps, size, weight.device, run, obstacle)
    return partial
