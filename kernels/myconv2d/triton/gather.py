"""The gather kernel: forward and grad_input as one implicit GEMM.

Both are  result[n, k, p, q] = bias[k] + Σ_{c,r,s} source[n, c, h, w] · weight[k, c, r, s]
with      h = p·stride + r·step + offset, and w likewise:
forward with step = dilation and offset = −padding, grad_input with the roles of input and output exchanged
(see grad_input.py). They differ in views, not in code.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .indexing import Axis, below, taps_and_channels
from .launch import Operand, ceil_div, fit, launch, needs_64_bit
from .plans import Plan


# The idea: GEMM of (pixels × taps·channels) by (taps·channels × outputs), the left matrix never written down.
#   Each program owns BLOCK_M consecutive pixels of the flattened (n, p, q) and BLOCK_N outputs of one group.
#   The pixel's coordinates are divided out once, before the loop. In the loop only a tap offset is added.
# Layout: any strides. With channels innermost, rows of BLOCK_C channels are wide, aligned loads; a mask,
#   where there is one, is constant along the row and leaves them wide. With width innermost (NCHW) the wide
#   axis is the pixels.
# Tile: BLOCK_M × BLOCK_N accumulators in fp32 (fp64 for fp64); per step BLOCK_C channels of one tap, or, with
#   FLAT (few channels), BLOCK_C of the taps·channels in one row.
# Bound: memory, at up to some 64 channels: each pixel is read R·S times, all but once from L1 or L2.
@triton.jit(do_not_specialize=["pixels", "height", "width", "rows", "columns", "offset_h", "offset_w"])
def gather_gemm(
    source,  # (N, G, C, H, W)
    weight,  # (G, K, C, R, S)
    bias,  # (G·K) or None
    result,  # (N, G, K, P, Q)
    source_n, source_g, source_c, source_h, source_w,  # strides; all but c counted in SOURCE_UNIT
    result_n, result_g, result_k, result_p, result_q,  # strides; all but k counted in RESULT_UNIT
    bias_k,
    pixels, height, width, rows, columns,  # N·P·Q, H, W, P, Q
    offset_h, offset_w,
    SOURCE_UNIT: tl.constexpr, RESULT_UNIT: tl.constexpr,
    WEIGHT_G: tl.constexpr, WEIGHT_K: tl.constexpr, WEIGHT_C: tl.constexpr,
    WEIGHT_R: tl.constexpr, WEIGHT_S: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    HALO: tl.constexpr,  # some reads fall outside the source
    EVEN_M: tl.constexpr,  # BLOCK_M divides the pixels
    INDEX_64: tl.constexpr,  # offsets need 64 bits
    FLAT: tl.constexpr,  # taps·channels as one axis
    PRECISION: tl.constexpr,  # of fp32 products: "tf32" or "ieee"
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    accumulator_type: tl.constexpr = tl.float64 if result.dtype.element_ty == tl.float64 else tl.float32
    tiles_n: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    blocks_c: tl.constexpr = ((R * S * C if FLAT else C) + BLOCK_C - 1) // BLOCK_C
    steps: tl.constexpr = blocks_c if FLAT else R * S * blocks_c

    program = tl.program_id(0)
    if INDEX_64:
        program = program.to(tl.int64)
    tiles_m = tl.cdiv(pixels, BLOCK_M)
    m = (program // tiles_n) % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = program % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    g = program // (tiles_n * tiles_m)

    q = m % columns
    p = m // columns % rows
    n = m // (rows * columns)
    top = p * STRIDE_H + offset_h
    left = q * STRIDE_W + offset_w
    source_rows = source + (n * source_n + g * source_g + top * source_h + left * source_w) * SOURCE_UNIT
    weight_rows = weight + g * WEIGHT_G + k * WEIGHT_K

    accumulator = tl.zeros((BLOCK_M, BLOCK_N), accumulator_type)
    r, s, first = 0, 0, 0
    for _ in range(steps):
        row, column, c, in_channels = taps_and_channels(first, r, s, C, R, S, FLAT, BLOCK_C)
        if INDEX_64:
            c = c.to(tl.int64)
        tap = (row * STEP_H * source_h + column * STEP_W * source_w) * SOURCE_UNIT
        inside = in_channels[None, :]
        if HALO:
            h = top[:, None] + (row * STEP_H)
            w = left[:, None] + (column * STEP_W)
            inside = inside & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        if not EVEN_M:
            inside = inside & (m < pixels)[:, None]
        a = tl.load(source_rows[:, None] + (tap + (c * source_c)[None, :]), inside, other=0.0)
        tap = row * WEIGHT_R + column * WEIGHT_S
        b = tl.load(weight_rows[:, None] + (tap + (c * WEIGHT_C)[None, :]),
                    below(k, K, BLOCK_N)[:, None] & in_channels[None, :], other=0.0)  # fmt: skip
        accumulator = tl.dot(a, tl.trans(b), accumulator, PRECISION, out_dtype=accumulator_type)
        first += BLOCK_C
        if not FLAT:
            next_tap = first >= C
            first = tl.where(next_tap, 0, first)
            s += next_tap.to(tl.int32)
            next_row = s == S
            s = tl.where(next_row, 0, s)
            r += next_row.to(tl.int32)

    if bias is not None:
        addend = tl.load(bias + (g * K + k) * bias_k, below(k, K, BLOCK_N), other=0.0)
        accumulator += addend.to(accumulator_type)[None, :]
    result_rows = result + (n * result_n + g * result_g + p * result_p + q * result_q) * RESULT_UNIT
    tl.store(result_rows[:, None] + (k * result_k)[None, :], accumulator.to(result.dtype.element_ty),
             (m < pixels)[:, None] & below(k, K, BLOCK_N)[None, :])  # fmt: skip


def gather(
    source: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    vertical: Axis,
    horizontal: Axis,
    allow_tf32: bool,
    plan: Plan,
) -> None:
    """Fill `result` (N, G, K, P, Q) from `source` (N, G, C, H, W), `weight` (G, K, C, R, S), `bias` (G·K)."""
    batch, groups, outputs, rows, columns = result.shape
    channels, height, width = source.shape[2:]
    taps_h, taps_w = weight.shape[3:]
    pixels = batch * rows * columns
    weight_g, weight_k, weight_c, weight_r, weight_s = weight.stride()
    reads, writes = Operand.of(source), Operand.of(result)
    flat = channels < 16
    block_m, block_n = plan.block_m, fit(plan.block_n, outputs)
    block_c = fit(plan.block_c, channels * taps_h * taps_w if flat else channels)
    launch(
        gather_gemm, ceil_div(pixels, block_m) * ceil_div(outputs, block_n) * groups, result.device,
        source, weight, bias, result, *reads.strides, *writes.strides, 0 if bias is None else bias.stride(0),
        pixels, height, width, rows, columns, vertical.offset, horizontal.offset,
        SOURCE_UNIT=reads.unit, RESULT_UNIT=writes.unit,
        WEIGHT_G=weight_g, WEIGHT_K=weight_k, WEIGHT_C=weight_c, WEIGHT_R=weight_r, WEIGHT_S=weight_s,
        K=outputs, C=channels, R=taps_h, S=taps_w,
        STRIDE_H=vertical.stride, STRIDE_W=horizontal.stride, STEP_H=vertical.step, STEP_W=horizontal.step,
        HALO=vertical.leaves(rows, taps_h, height) or horizontal.leaves(columns, taps_w, width),
        EVEN_M=pixels % block_m == 0, INDEX_64=needs_64_bit(source, weight, result),
        FLAT=flat, PRECISION="tf32" if allow_tf32 else "ieee",
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_C=block_c,
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
