"""Forward and grad_input of images in NCHW, from where they lie: boxes by the copy engine, as in halo.py, which no tap
shifts by columns.

A box begins on a unit of 16 bytes, or the device meets an illegal instruction: so it was seen in loads
(https://github.com/triton-lang/triton/issues/7385) and in stores (https://github.com/tile-ai/tilelang/issues/2527).
With width innermost a shift by rows keeps to that, a shift by columns does not. So each of the S columns of taps has
sums of its own over the same box, and these are shifted, once, before they are added up. A box is thus read R times in
place of R·S.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from .halo import BOXES, aligned, describe_weight, described_weight, strides
from .indexing import Axis, below
from .launch import Operand, ceil_div, fit, launch, needs_64_bit, power_of_two
from .plans import Plan

CONTIGUOUS = (1, 0, 2, 3, 4)  # (N, G, C, H, W) as (G, N, C, H, W)
IN_PLACE = f"{BOXES}, from NCHW as it lies"
MOST_COLUMNS = 7  # of taps, each of which has sums in registers
SUMS = 96  # registers of a thread for them
WIDEST = 256  # columns that a box can hold
FURTHEST = 64  # columns between the first and the last tap


class Row(NamedTuple):
    """A row of an image as boxes of `width` columns: each has the results of `owned` columns, and begins `base` columns
    from the first of them, both whole units of 16 bytes."""

    width: int
    owned: int
    base: int

    @classmethod
    def cut(cls, columns: Axis, taps: int, size: int, positions: int, widest: int, unit: int) -> Row:
        """Whole if it fits, as what is outside is zero then; else boxes that overlap by what the taps reach."""
        whole = power_of_two(max(size, positions))
        if whole <= widest:
            return cls(whole, whole, 0)
        reach, first = (taps - 1) * abs(columns.step), columns.offset + min(0, (taps - 1) * columns.step)
        base = first // unit * unit
        width = max(widest, power_of_two(reach + 2 * unit))
        return cls(width, (width - reach - (first - base)) // unit * unit, base)


@triton.jit
def load_rows(images, g, n, c, h, w, FLAT: tl.constexpr, CHANNELS: tl.constexpr,
              BOX_P: tl.constexpr, BOX_Q: tl.constexpr):  # fmt: skip
    """A box of what `describe_rows` gave, (CHANNELS, BOX_P·BOX_Q)."""
    if FLAT:
        return images.load([g, n, c, h * BOX_Q]).reshape(CHANNELS, BOX_P * BOX_Q)
    else:
        return images.load([g, n, c, h, w]).reshape(CHANNELS, BOX_P * BOX_Q)


@triton.jit
def from_column(sums, SHIFT: tl.constexpr, WIDTH: tl.constexpr, AXIS: tl.constexpr):
    """`sums`, with rows of WIDTH pixels along AXIS, read SHIFT columns further; zero beyond a row's ends."""
    if SHIFT == 0:
        return sums
    else:
        pixel = tl.arange(0, sums.shape[AXIS])
        column = pixel % WIDTH + SHIFT
        inside = (column >= 0) & (column < WIDTH)
        read = tl.expand_dims(tl.where(inside, pixel + SHIFT, pixel), 1 - AXIS)
        return tl.where(
            tl.expand_dims(inside, 1 - AXIS), tl.gather(sums, read.broadcast_to(sums.shape), AXIS), 0.0
        )


# The idea: result[k, q] = Σ_s sums_s[k, q + s·step + offset], where sums_s is the GEMM of the s-th column of taps with
#   the box as it lies. What is outside the image is zero, so the loop holds no mask and no address.
# Layout: width innermost; the weight with channels or outputs innermost; results of any strides.
# Tile: BOX_P × BOX_Q pixels of one image × BLOCK_N outputs, S times in fp32; BLOCK_C channels of a row of taps a step.
#   wgmma takes its rows 64 at a time: the outputs, if there are as many (OUTPUTS_FIRST), else the pixels.
# Bound: L2, which serves each pixel R times; memory sees it once.
@triton.jit(do_not_specialize=["batch", "rows", "columns", "offset_h"])
def halo_nchw_gemm(
    source,  # descriptor (G, N, C, H, W), or (G, N, C, H·W) if FLAT
    weight,  # descriptor (G, R, S, K, C), or (G, R, S, C, K) unless WEIGHT_CHANNELS_LAST
    bias,  # (G·K) or None
    result,  # (N, G, K, P, Q)
    result_n, result_g, result_k, result_p, result_q,  # strides; all but k counted in RESULT_UNIT
    bias_k,
    batch, rows, columns,  # N, P, Q
    offset_h,
    RESULT_UNIT: tl.constexpr, K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    BASE: tl.constexpr, SHIFT: tl.constexpr,  # the box begins BASE columns from its first result, which reads SHIFT on
    OWNED: tl.constexpr,  # results of a row of the box
    FLAT: tl.constexpr,  # rows of the image, all of them whole, follow each other without a gap
    WEIGHT_CHANNELS_LAST: tl.constexpr, OUTPUTS_FIRST: tl.constexpr,
    INDEX_64: tl.constexpr,  # offsets into the result need 64 bits
    PRECISION: tl.constexpr,  # of fp32 products: "tf32"
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = BOX_P * BOX_Q
    tiles_k: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    blocks_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    program = tl.program_id(0)
    first_k = program % tiles_k * BLOCK_N
    box = program // tiles_k
    boxes_q, boxes_p = tl.cdiv(columns, OWNED), tl.cdiv(rows, BOX_P)
    first_q = box % boxes_q * OWNED
    first_p = box // boxes_q % boxes_p * BOX_P
    n = box // (boxes_q * boxes_p) % batch
    g = box // (boxes_q * boxes_p * batch)

    sums = (tl.zeros((BLOCK_N, PIXELS) if OUTPUTS_FIRST else (PIXELS, BLOCK_N), tl.float32),) * S
    for step in range(R * blocks_c):
        c = step % blocks_c * BLOCK_C
        r = step // blocks_c
        h = first_p + r * STEP_H + offset_h
        pixels = load_rows(source, g, n, c, h, first_q + BASE, FLAT, BLOCK_C, BOX_P, BOX_Q)
        updated = ()
        for s in tl.static_range(S):
            if WEIGHT_CHANNELS_LAST:
                filters = weight.load([g, r, s, first_k, c]).reshape(BLOCK_N, BLOCK_C)
            else:
                filters = weight.load([g, r, s, c, first_k]).reshape(BLOCK_C, BLOCK_N).T
            if OUTPUTS_FIRST:
                updated = updated + (tl.dot(filters, pixels, sums[s], PRECISION),)
            else:
                updated = updated + (tl.dot(pixels.T, filters.T, sums[s], PRECISION),)
        sums = updated

    PIXEL_AXIS: tl.constexpr = 1 if OUTPUTS_FIRST else 0
    total = from_column(sums[0], SHIFT, BOX_Q, PIXEL_AXIS)
    for s in tl.static_range(1, S):
        total += from_column(sums[s], SHIFT + s * STEP_W, BOX_Q, PIXEL_AXIS)
    k = first_k + tl.arange(0, BLOCK_N)
    if bias is not None:
        addend = tl.load(bias + (g * K + k) * bias_k, below(k, K, BLOCK_N), other=0.0)
        total += tl.expand_dims(addend.to(tl.float32), PIXEL_AXIS)
    if OUTPUTS_FIRST:
        total = total.T
    if INDEX_64:
        g, n, k = g.to(tl.int64), n.to(tl.int64), k.to(tl.int64)
    i = tl.arange(0, PIXELS)
    q = first_q + i % BOX_Q
    p = first_p + i // BOX_Q
    inside = below(i % BOX_Q, OWNED, BOX_Q) & (p < rows) & (q < columns)
    result_rows = result + (n * result_n + g * result_g + p * result_p + q * result_q) * RESULT_UNIT
    tl.store(result_rows[:, None] + (k * result_k)[None, :], total.to(result.dtype.element_ty),
             inside[:, None] & below(k, K, BLOCK_N)[None, :])  # fmt: skip


def halo_nchw(
    source: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    vertical: Axis,
    horizontal: Axis,
    allow_tf32: bool,
    plan: Plan,
) -> None:
    """As `gather`, for a source that `why_never` and `why_not_rows` have nothing against."""
    batch, groups, outputs, rows, columns = result.shape
    channels, taps_h, taps_w = weight.shape[2:]
    row = Row.cut(horizontal, taps_w, source.shape[4], columns, WIDEST, 16 // source.element_size())
    block_c = fit(plan.block_c, channels)
    pixels, block_n = tile(plan, row.width, rows, outputs, taps_w)
    box = pixels // row.width, row.width
    weight, weight_channels_last = described_weight(weight)
    writes, flat = Operand.of(result), is_flat(source, row.width)
    programs = batch * ceil_div(rows, box[0]) * ceil_div(columns, row.owned)
    launch(
        halo_nchw_gemm, programs * ceil_div(outputs, block_n) * groups, result.device,
        describe_rows(source, block_c, box, flat), describe_weight(weight, weight_channels_last, block_n, block_c),
        bias, result, *writes.strides, 0 if bias is None else bias.stride(0),
        batch, rows, columns, vertical.offset,
        RESULT_UNIT=writes.unit, K=outputs, C=channels, R=taps_h, S=taps_w,
        STEP_H=vertical.step, STEP_W=horizontal.step,
        BASE=row.base, SHIFT=horizontal.offset - row.base, OWNED=row.owned, FLAT=flat,
        WEIGHT_CHANNELS_LAST=weight_channels_last, OUTPUTS_FIRST=block_n >= 64,
        INDEX_64=needs_64_bit(result), PRECISION="tf32" if allow_tf32 else "ieee",
        BLOCK_N=block_n, BLOCK_C=block_c, BOX_P=box[0], BOX_Q=box[1],
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip


def tile(plan: Plan, width: int, rows: int, outputs: int, taps: int) -> tuple[int, int]:
    """Pixels × outputs of a program: whole rows, and no more than leaves room for the sums of every column of taps."""
    room = SUMS * 32 * plan.warps // taps
    pixels, block_n = (
        max(width, 64, min(plan.block_m, width * power_of_two(rows))),
        fit(plan.block_n, outputs),
    )
    while pixels * block_n > room and pixels > max(width, 64):
        pixels //= 2
    while pixels * block_n > room and block_n > 16:
        block_n //= 2
    return pixels, block_n


def is_nchw(images: torch.Tensor) -> bool:
    """Whether width is innermost in `images` (N, G, C, H, W)."""
    return images.stride(4) == 1 and images.stride(2) != 1


def why_not_rows(images: torch.Tensor, rows: Axis, columns: Axis, taps: int) -> str | None:
    """Why boxes of `images` (N, G, C, H, W) in NCHW cannot serve so many taps along the columns, in words."""
    if rows.stride * columns.stride > 1:
        return "in NCHW boxes have no stride"
    if not aligned(images.permute(CONTIGUOUS)):
        return "rows are not whole units of 16 bytes"
    if taps > MOST_COLUMNS:
        return f"{taps} columns of taps have too many sums"
    if (taps - 1) * abs(columns.step) > FURTHEST:
        return "taps lie far apart"
    return None


def is_flat(images: torch.Tensor, width: int) -> bool:
    """Whether rows of a box are those of `images` (N, G, C, H, W), which follow each other in memory: as one piece, not
    one for each, the copy engine loads them faster."""
    return images.shape[4] == width and images.stride(3) == width


def describe_rows(images: torch.Tensor, channels: int, box: tuple[int, int], flat: bool) -> TensorDescriptor:
    """`images` (N, G, C, H, W) in NCHW to be loaded in boxes of so many channels × rows × columns."""
    view, pixels = images.permute(CONTIGUOUS), box
    if flat:
        view, pixels = view.flatten(3), (math.prod(box),)
    return TensorDescriptor(view, view.shape, strides(view), [1, 1, channels, *pixels])
