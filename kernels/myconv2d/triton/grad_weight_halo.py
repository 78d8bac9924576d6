"""grad_weight and grad_bias as partial sums over the pixels, both images loaded by tensor descriptors (see halo.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .grad_weight_reduce import next_box, partial_sums, store_tap, tile
from .halo import describe, load_box
from .indexing import Axis, below
from .launch import ceil_div, launch, needs_64_bit, pixel_box
from .plans import Plan
from .tuning import arithmetic


# The idea: the GEMM of grad_weight_gather.py, where a step loads a box of grad_output and the box of the source that
#   one tap pairs with it. Boxes are stepped by counters; whatever lies outside an image is zero. (Where boxes do not
#   divide an image, its pixels meet zeros of grad_output beyond the edge: one that is not finite spoils taps that do
#   not reach it.)
# Layout: channels innermost.
# Tile: BLOCK_K outputs × BLOCK_C channels of one tap, accumulated in fp32. CHANNELS_FIRST makes the channels the rows
#   of the product, which wgmma takes 64 at a time.
# Bias: the programs of the first tap and channels also sum the grad_output they hold, as column `C·R·S` of the partial:
#   16-bit types by a product with ones, which is exact and has no shuffles; TF32 would round fp32, which is added up.
# Bound: L2, which serves grad_output for every tap and block of channels; memory sees it once.
@triton.jit(do_not_specialize=["rows", "columns", "offset_h", "offset_w", "boxes", "boxes_per_split"])
def grad_weight_halo_split(
    grad_output,  # descriptor (G, N, P, Q, K)
    source,  # descriptor (G, N, H, W, C), or what `describe` makes of strides
    partial,  # (splits, G·K, R·S·C + 1), contiguous
    rows, columns,  # P, Q
    offset_h, offset_w,  # −padding
    boxes, boxes_per_split,
    G: tl.constexpr, K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    PITCH: tl.constexpr, BIAS: tl.constexpr, CHANNELS_FIRST: tl.constexpr,
    INDEX_64: tl.constexpr,  # offsets into the partial sums need 64 bits
    PRECISION: tl.constexpr,  # of fp32 products: "tf32"
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
    BOX_N: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = BOX_N * BOX_P * BOX_Q
    HALF: tl.constexpr = grad_output.dtype.primitive_bitwidth == 16
    tiles_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    tiles_k: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    program = tl.program_id(0)
    tile_j = program % (R * S * tiles_c)
    tap = tile_j // tiles_c
    first_c = tile_j % tiles_c * BLOCK_C
    first_k = program // (R * S * tiles_c) % tiles_k * BLOCK_K
    g = program // (R * S * tiles_c * tiles_k) % G
    split = program // (R * S * tiles_c * tiles_k * G)
    top = tap // S * STEP_H + offset_h
    left = tap % S * STEP_W + offset_w

    box = split * boxes_per_split
    boxes_q, boxes_p = tl.cdiv(columns, BOX_Q), tl.cdiv(rows, BOX_P)
    q = box % boxes_q * BOX_Q
    p = box // boxes_q % boxes_p * BOX_P
    n = box // (boxes_q * boxes_p) * BOX_N
    accumulator = tl.zeros((BLOCK_C, BLOCK_K) if CHANNELS_FIRST else (BLOCK_K, BLOCK_C), tl.float32)
    ones = tl.full((64, PIXELS), 1.0, grad_output.dtype)
    bias_rows = tl.zeros((64, BLOCK_K), tl.float32)  # all the same
    bias_sum = tl.zeros((BLOCK_K,), tl.float32)
    for _ in range(tl.minimum(boxes_per_split, boxes - box)):
        a = grad_output.load([g, n, p, q, first_k]).reshape(PIXELS, BLOCK_K)
        b = load_box(source, g, n, p, q, top, left, first_c, STRIDE_H, STRIDE_W, PITCH)
        b = b.reshape(PIXELS, BLOCK_C)
        if CHANNELS_FIRST:
            accumulator = tl.dot(b.T, a, accumulator, PRECISION)
        else:
            accumulator = tl.dot(a.T, b, accumulator, PRECISION)
        if BIAS and tile_j == 0:
            if HALF:
                bias_rows = tl.dot(ones, a, bias_rows)
            else:
                bias_sum += tl.sum(a, 0)
        n, p, q = next_box(n, p, q, rows, columns, BOX_N, BOX_P, BOX_Q)

    if CHANNELS_FIRST:
        accumulator = accumulator.T
    if INDEX_64:
        split = split.to(tl.int64)
    k = first_k + tl.arange(0, BLOCK_K)
    c = first_c + tl.arange(0, BLOCK_C)
    partial_rows = partial + ((split * G + g) * K + k) * (R * S * C + 1)
    store_tap(partial_rows, accumulator, k, c, tap, K, C, BLOCK_K, BLOCK_C)
    if BIAS and tile_j == 0:
        if HALF:
            bias_sum = tl.max(bias_rows, 0)
        tl.store(partial_rows + R * S * C, bias_sum, below(k, K, BLOCK_K))


def grad_weight_halo(
    grad_output: torch.Tensor,
    source: torch.Tensor,
    weight_size: Sequence[int],
    vertical: Axis,
    horizontal: Axis,
    bias: bool,
    allow_tf32: bool,
    plan: Plan,
) -> torch.Tensor:
    """As `grad_weight_gather`, for images that `why_never` and `why_not_in_place` have nothing against."""
    _, channels, taps_h, taps_w = weight_size
    batch, groups, outputs, rows, columns = grad_output.shape
    block_k, block_c = tile(plan, arithmetic(source.dtype, allow_tf32), outputs, channels)
    box = pixel_box(plan.block_m, rows, columns)
    boxes = math.prod(map(ceil_div, (batch, rows, columns), box))
    tiles = ceil_div(channels, block_c) * taps_h * taps_w * ceil_div(outputs, block_k) * groups
    partial, boxes_per_split = partial_sums(
        source, tiles, boxes, groups * outputs, taps_h * taps_w * channels
    )
    launch(
        grad_weight_halo_split, tiles * partial.shape[0], source.device,
        describe(grad_output, box, block_k),
        describe(source, box, block_c, vertical.stride, horizontal.stride), partial,
        rows, columns, vertical.offset, horizontal.offset, boxes, boxes_per_split,
        G=groups, K=outputs, C=channels, R=taps_h, S=taps_w,
        STRIDE_H=vertical.stride, STRIDE_W=horizontal.stride, STEP_H=vertical.step, STEP_W=horizontal.step,
        PITCH=source.stride(4), BIAS=bias, CHANNELS_FIRST=block_k < 64, INDEX_64=needs_64_bit(partial),
        PRECISION="tf32" if allow_tf32 else "ieee",
        BLOCK_K=block_k, BLOCK_C=block_c, BOX_N=box[0], BOX_P=box[1], BOX_Q=box[2],
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    return partial
