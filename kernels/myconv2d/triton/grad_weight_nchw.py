"""grad_weight and grad_bias of images in NCHW as partial sums over the pixels, both images loaded by tensor descriptors
from where they lie (see halo_nchw.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .grad_weight_reduce import next_box, partial_sums, store_tap, tile
from .halo_nchw import describe_rows, is_flat, load_rows
from .indexing import Axis, below
from .launch import ceil_div, launch, needs_64_bit, power_of_two
from .plans import Plan
from .tuning import arithmetic


# The idea: the GEMM of grad_weight_halo.py. A tap cannot shift its box by columns here, and the sum runs over them. So
#   tensor cores shift, by a product with a matrix of zeros and ones: it is exact (TF32 rounds what it would round
#   anyway), and leaves its result in registers, from where wgmma takes the rows of the product proper.
#   (But 0 · inf is not a number: a pixel that is not finite spoils taps that do not reach it.)
#   Where a row has several boxes, that of the source begins up to a unit of 16 bytes before what the tap reads, and the
#   last columns of grad_output, which it does not hold, are the next box's.
# Layout: width innermost, of both images.
# Tile: BLOCK_K outputs × BLOCK_C channels of one tap, accumulated in fp32; BOX_P × BOX_Q pixels of one image a step.
#   CHANNELS_FIRST makes the channels the rows of the product, which wgmma takes 64 at a time.
# Bias: the programs of the first tap and channels also sum the grad_output they hold, as column `C·R·S` of the partial:
#   16-bit types by a product with ones, which is exact and has no shuffles; TF32 would round fp32, which is added up.
# Bound: L2, which serves both images for every tap; memory sees them once.
@triton.jit(do_not_specialize=["rows", "columns", "offset_h", "boxes", "boxes_per_split"])
def grad_weight_nchw_split(
    grad_output,  # descriptor (G, N, K, P, Q), or (G, N, K, P·Q) if GRAD_FLAT
    source,  # descriptor (G, N, C, H, W), or (G, N, C, H·W) if SOURCE_FLAT
    partial,  # (splits, G·K, R·S·C + 1), contiguous
    rows, columns,  # P, Q
    offset_h,  # −padding
    boxes, boxes_per_split,
    G: tl.constexpr, K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    OFFSET_W: tl.constexpr,  # −padding
    UNIT: tl.constexpr,  # columns of 16 bytes; 0 where a box holds whole rows, or nothing is shifted
    GRAD_FLAT: tl.constexpr, SOURCE_FLAT: tl.constexpr,  # as in halo_nchw_gemm
    BIAS: tl.constexpr, CHANNELS_FIRST: tl.constexpr,
    INDEX_64: tl.constexpr,  # offsets into the partial sums need 64 bits
    PRECISION: tl.constexpr,  # of fp32 products: "tf32"
    BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = BOX_P * BOX_Q
    HALF: tl.constexpr = grad_output.dtype.primitive_bitwidth == 16
    OWNED: tl.constexpr = BOX_Q - UNIT  # columns of grad_output that no other box counts
    SHIFTED: tl.constexpr = S > 1 or OFFSET_W != 0
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
    left = tap % S * STEP_W + OFFSET_W
    base = left & -UNIT  # the multiple of UNIT below

    i = tl.arange(0, PIXELS)
    line, column = i // BOX_Q, i % BOX_Q
    owned = column < OWNED
    read = column + left - base
    pairs = owned[:, None] & (line[:, None] == line[None, :]) & (read[:, None] == column[None, :])
    pairs = pairs.to(source.dtype)  # 1 where the tap takes a result (row) from a pixel (column)
    box = split * boxes_per_split
    boxes_q, boxes_p = tl.cdiv(columns, OWNED), tl.cdiv(rows, BOX_P)
    q = box % boxes_q * OWNED
    p = box // boxes_q % boxes_p * BOX_P
    n = box // (boxes_q * boxes_p)
    accumulator = tl.zeros((BLOCK_C, BLOCK_K) if CHANNELS_FIRST else (BLOCK_K, BLOCK_C), tl.float32)
    ones = tl.where(owned[None, :], tl.full((64, PIXELS), 1.0, source.dtype), 0.0).to(source.dtype)
    bias_rows = tl.zeros((64, BLOCK_K), tl.float32)  # all the same
    bias_sum = tl.zeros((BLOCK_K,), tl.float32)
    for _ in range(tl.minimum(boxes_per_split, boxes - box)):
        a = load_rows(grad_output, g, n, first_k, p, q, GRAD_FLAT, BLOCK_K, BOX_P, BOX_Q)
        b = load_rows(source, g, n, first_c, p + top, q + base, SOURCE_FLAT, BLOCK_C, BOX_P, BOX_Q)
        if not SHIFTED:
            along_k, along_c = a, b
        elif CHANNELS_FIRST:
            along_k, along_c = a, tl.dot(b, pairs.T, input_precision=PRECISION).to(b.dtype)
        else:
            along_k, along_c = tl.dot(a, pairs, input_precision=PRECISION).to(a.dtype), b
        if CHANNELS_FIRST:
            accumulator = tl.dot(along_c, along_k.T, accumulator, PRECISION)
        else:
            accumulator = tl.dot(along_k, along_c.T, accumulator, PRECISION)
        if BIAS and tile_j == 0:
            if HALF:
                bias_rows = tl.dot(ones, a.T, bias_rows)
            else:
                bias_sum += tl.sum(a if OWNED == BOX_Q else tl.where(owned[None, :], a, 0.0), 1)
        n, p, q = next_box(n, p, q, rows, columns, 1, BOX_P, OWNED)

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


def grad_weight_nchw(
    grad_output: torch.Tensor,
    source: torch.Tensor,
    weight_size: Sequence[int],
    vertical: Axis,
    horizontal: Axis,
    bias: bool,
    allow_tf32: bool,
    plan: Plan,
) -> torch.Tensor:
    """As `grad_weight_gather`, for images that `why_never` and `why_not_rows` have nothing against."""
    _, channels, taps_h, taps_w = weight_size
    batch, groups, outputs, rows, columns = grad_output.shape
    block_k, block_c = tile(plan, arithmetic(source.dtype, allow_tf32), outputs, channels)
    whole = power_of_two(max(source.shape[4], columns))
    width, shifted = min(whole, plan.block_m), taps_w > 1 or horizontal.offset != 0
    unit = 16 // source.element_size() if whole > width and shifted else 0
    box = max(16, min(plan.block_m, width * power_of_two(rows))) // width, width
    boxes = batch * ceil_div(rows, box[0]) * ceil_div(columns, width - unit)
    tiles = ceil_div(channels, block_c) * taps_h * taps_w * ceil_div(outputs, block_k) * groups
    partial, boxes_per_split = partial_sums(
        source, tiles, boxes, groups * outputs, taps_h * taps_w * channels
    )
    flat = is_flat(grad_output, width), is_flat(source, width)
    launch(
        grad_weight_nchw_split, tiles * partial.shape[0], source.device,
        describe_rows(grad_output, block_k, box, flat[0]), describe_rows(source, block_c, box, flat[1]), partial,
        rows, columns, vertical.offset, boxes, boxes_per_split,
        G=groups, K=outputs, C=channels, R=taps_h, S=taps_w, STEP_H=vertical.step, STEP_W=horizontal.step,
        OFFSET_W=horizontal.offset, UNIT=unit, GRAD_FLAT=flat[0], SOURCE_FLAT=flat[1],
        BIAS=bias, CHANNELS_FIRST=block_k < 64, INDEX_64=needs_64_bit(partial),
        PRECISION="tf32" if allow_tf32 else "ieee",
        BLOCK_K=block_k, BLOCK_C=block_c, BOX_P=box[0], BOX_Q=box[1],
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    return partial
