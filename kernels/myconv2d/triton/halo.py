"""Forward and grad_input over tensor descriptors: the gather of gather.py where the copy engine can do it.

A descriptor tells the copy engine a tensor's sizes and strides; it then loads a box, asynchronously and with zeros for
whatever lies outside: channels and images beyond the last, and the padding. So the halo is free: a tap is a shift of
the box, and the loop holds no mask and no address. (In the machine code for sm_90, beside gather.py: half the
instructions a step and half the registers, both operands of wgmma in shared memory.)

A box begins on a unit of 16 bytes, as it does with channels innermost; halo_nchw.py has the images in NCHW. Pixels that
are no whole units, as of 25 channels, are copied first where they are read often.

Triton's boxes have no stride. But under a stride of 2 a tap reads only even rows or only odd ones, and so with columns.
So where 2 divides the image, it is described with one axis more, which tells even rows from odd ones, and with two
columns as one of twice the channels: there a tap's pixels lie side by side. The same goes for any stride.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from .indexing import Axis, below
from .launch import Gpu, Operand, ceil_div, fit, launch, needs_64_bit, pixel_box
from .plans import Plan

CHANNELS_LAST = (1, 0, 3, 4, 2)  # (N, G, C, H, W) as (G, N, H, W, C)
BOXES = "boxes by the copy engine"
COPIED_FROM = 4  # reads of each pixel; where there are fewer, a copy of the image is not worth its read and write


@triton.jit
def load_box(images, g, n, p, q, top, left, c, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PITCH: tl.constexpr):
    """A box of what `describe` gave: what a tap reads for the results from (n, p, q) on, at p·STRIDE_H + top and
    q·STRIDE_W + left. PITCH: from one column to the next."""
    if STRIDE_H * STRIDE_W == 1:
        return images.load([g, n, p + top, q + left, c])
    else:
        row = (top % STRIDE_H + STRIDE_H) % STRIDE_H  # top may be negative, and % has its sign
        column = (left % STRIDE_W + STRIDE_W) % STRIDE_W
        h, w = p + (top - row) // STRIDE_H, q + (left - column) // STRIDE_W
        return images.load([n, h, row, w, column * PITCH + c])


# The idea: the GEMM of gather.py, both operands loaded box by box through descriptors into shared memory, from where
#   wgmma reads them.
# Layout: channels innermost; the weight with channels or outputs innermost.
# Tile: BOX_N × BOX_P × BOX_Q pixels × BLOCK_N outputs, accumulated in fp32; BLOCK_C channels of one tap a step.
#   wgmma takes its rows 64 at a time. OUTPUTS_FIRST makes the outputs the rows and leaves the pixels in shared memory;
#   as rows, the compiler takes a box of pixels through registers (and does, where there are fewer than 64 outputs).
# Bound: L2, which serves each pixel R·S times, of a stride fewer; memory sees it once.
@triton.jit(do_not_specialize=["batch", "rows", "columns", "offset_h", "offset_w"])
def halo_gemm(
    source,  # descriptor (G, N, H, W, C), or what `describe` makes of strides
    weight,  # descriptor (G, R, S, K, C), or (G, R, S, C, K) unless WEIGHT_CHANNELS_LAST
    bias,  # (G·K) or None
    result,  # (N, G, K, P, Q)
    result_n, result_g, result_k, result_p, result_q,  # strides; all but k counted in RESULT_UNIT
    bias_k,
    batch, rows, columns,  # N, P, Q
    offset_h, offset_w,
    RESULT_UNIT: tl.constexpr, K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr,
    PITCH: tl.constexpr, WEIGHT_CHANNELS_LAST: tl.constexpr, OUTPUTS_FIRST: tl.constexpr,
    INDEX_64: tl.constexpr,  # offsets into the result need 64 bits
    PRECISION: tl.constexpr,  # of fp32 products: "tf32"
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    BOX_N: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = BOX_N * BOX_P * BOX_Q
    tiles_k: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    blocks_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    program = tl.program_id(0)
    first_k = program % tiles_k * BLOCK_N
    box = program // tiles_k
    boxes_q, boxes_p, boxes_n = tl.cdiv(columns, BOX_Q), tl.cdiv(rows, BOX_P), tl.cdiv(batch, BOX_N)
    first_q = box % boxes_q * BOX_Q
    first_p = box // boxes_q % boxes_p * BOX_P
    first_n = box // (boxes_q * boxes_p) % boxes_n * BOX_N
    g = box // (boxes_q * boxes_p * boxes_n)

    accumulator = tl.zeros((BLOCK_N, PIXELS) if OUTPUTS_FIRST else (PIXELS, BLOCK_N), tl.float32)
    for step in range(R * S * blocks_c):
        c = step % blocks_c * BLOCK_C
        r = step // blocks_c // S
        s = step // blocks_c % S
        top, left = r * STEP_H + offset_h, s * STEP_W + offset_w
        pixels = load_box(source, g, first_n, first_p, first_q, top, left, c, STRIDE_H, STRIDE_W, PITCH)
        pixels = pixels.reshape(PIXELS, BLOCK_C)
        if WEIGHT_CHANNELS_LAST:
            filters = weight.load([g, r, s, first_k, c]).reshape(BLOCK_N, BLOCK_C)
        else:
            filters = weight.load([g, r, s, c, first_k]).reshape(BLOCK_C, BLOCK_N).T
        if OUTPUTS_FIRST:
            accumulator = tl.dot(filters, pixels.T, accumulator, PRECISION)
        else:
            accumulator = tl.dot(pixels, filters.T, accumulator, PRECISION)

    if OUTPUTS_FIRST:
        accumulator = accumulator.T
    k = first_k + tl.arange(0, BLOCK_N)
    if bias is not None:
        addend = tl.load(bias + (g * K + k) * bias_k, below(k, K, BLOCK_N), other=0.0)
        accumulator += addend.to(tl.float32)[None, :]
    if INDEX_64:
        g, first_n, k = g.to(tl.int64), first_n.to(tl.int64), k.to(tl.int64)
    i = tl.arange(0, PIXELS)
    q = first_q + i % BOX_Q
    p = first_p + i // BOX_Q % BOX_P
    n = first_n + i // (BOX_Q * BOX_P)
    result_rows = result + (n * result_n + g * result_g + p * result_p + q * result_q) * RESULT_UNIT
    tl.store(result_rows[:, None] + (k * result_k)[None, :], accumulator.to(result.dtype.element_ty),
             ((n < batch) & (p < rows) & (q < columns))[:, None] & below(k, K, BLOCK_N)[None, :])  # fmt: skip


def halo(
    source: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    vertical: Axis,
    horizontal: Axis,
    allow_tf32: bool,
    plan: Plan,
) -> None:
    """As `gather`, for a source that `why_never` and `why_not_in_place` have nothing against."""
    batch, groups, outputs, rows, columns = result.shape
    channels, taps_h, taps_w = weight.shape[2:]
    box = pixel_box(plan.block_m, rows, columns)
    block_n, block_c = fit(plan.block_n, outputs), fit(plan.block_c, channels)
    if horizontal.stride > 1:  # beyond a pixel's channels are the next one's, not zeros: no block reaches there
        block_c = min(block_c, channels & -channels)
    weight, weight_channels_last = described_weight(weight)
    writes = Operand.of(result)
    programs = ceil_div(batch, box[0]) * ceil_div(rows, box[1]) * ceil_div(columns, box[2])
    launch(
        halo_gemm, programs * ceil_div(outputs, block_n) * groups, result.device,
        describe(source, box, block_c, vertical.stride, horizontal.stride),
        describe_weight(weight, weight_channels_last, block_n, block_c),
        bias, result, *writes.strides, 0 if bias is None else bias.stride(0),
        batch, rows, columns, vertical.offset, horizontal.offset,
        RESULT_UNIT=writes.unit, K=outputs, C=channels, R=taps_h, S=taps_w,
        STRIDE_H=vertical.stride, STRIDE_W=horizontal.stride, STEP_H=vertical.step, STEP_W=horizontal.step,
        PITCH=source.stride(4), WEIGHT_CHANNELS_LAST=weight_channels_last, OUTPUTS_FIRST=block_n >= 64,
        INDEX_64=needs_64_bit(result), PRECISION="tf32" if allow_tf32 else "ieee",
        BLOCK_N=block_n, BLOCK_C=block_c, BOX_N=box[0], BOX_P=box[1], BOX_Q=box[2],
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip


def why_never(images: torch.Tensor, *axes: Axis) -> str | None:
    """Why the copy engine cannot load boxes of `images` (N, G, C, H, W) along these axes, however they lie."""
    if Gpu.of(images.device).capability < (9, 0):
        return "this GPU has no copy engine for tensors"
    if images.shape[2] < 16:
        return f"{images.shape[2]} channels do not fill a step of 16"
    if any(axis.stride != 1 for axis in axes):
        return _why_no_stride(images, *axes)
    return None


def _why_no_stride(images: torch.Tensor, vertical: Axis, horizontal: Axis) -> str | None:
    groups, channels, height, width = images.shape[1:]
    if groups != 1:
        return "boxes of groups have no stride"
    if height % vertical.stride or width % horizontal.stride:
        return f"a stride of {vertical.stride}×{horizontal.stride} does not divide {height}×{width} pixels"
    if horizontal.stride != 1 and channels % 16:
        return f"a stride of columns takes steps of 16 channels, and {channels} are no whole ones"
    return None


def why_not_in_place(images: torch.Tensor) -> str | None:
    """Why it cannot load them from where they lie, in words; None if it can."""
    if images.stride(2) != 1:
        return "neither channels nor columns are innermost"
    if not aligned(images.permute(CHANNELS_LAST)):
        return "channels or strides are not whole units of 16 bytes"
    return None


def padded(images: torch.Tensor) -> torch.Tensor:
    """A copy of `images` (N, G, C, H, W) with channels innermost, and zeros after them to a whole unit of 16 bytes."""
    return _padded_rows(images.permute(CHANNELS_LAST)).permute(1, 0, 4, 2, 3)


def _padded_rows(tensor: torch.Tensor) -> torch.Tensor:
    """A dense copy of `tensor` with rows (the last axis) of whole units of 16 bytes, by zeros.

    Not by leaving them out of the descriptor's sizes: what is outside counts by whole units, it seems
    (https://github.com/triton-lang/triton/issues/11583).
    """
    *outer, inner = tensor.shape
    unit = 16 // tensor.element_size()
    rows = tensor.new_empty(*outer, ceil_div(inner, unit) * unit)
    rows[..., :inner].copy_(tensor)
    rows[..., inner:].zero_()
    return rows


def aligned(tensor: torch.Tensor) -> bool:
    """Whether a descriptor can hold `tensor`: innermost stride 1, the others positive multiples of 16 bytes, rows whole
    units of them."""
    *outer, inner = strides(tensor)
    unit = 16 // tensor.element_size()
    whole = tensor.data_ptr() % 16 == 0 and tensor.shape[-1] % unit == 0
    return whole and inner == 1 and all(size > 0 and size % unit == 0 for size in outer)


def strides(tensor: torch.Tensor) -> list[int]:
    """The strides, where those of axes of size 1, which are never used, are such as a descriptor takes: multiples of
    16, and no smaller than what lies within."""
    *outer, (size, stride) = zip(tensor.shape, tensor.stride(), strict=True)
    found = [1 if size == 1 else stride]
    for length, stride in reversed(outer):
        found.insert(0, ceil_div(found[0] * size, 16) * 16 if length == 1 else stride)
        size = length
    return found


def describe(
    images: torch.Tensor, box: tuple[int, int, int], channels: int, vertical: int = 1, horizontal: int = 1
) -> TensorDescriptor:
    """`images` (N, G, C, H, W) to be loaded in boxes of n × p × q pixels × channels of one group, as (G, N, H, W, C);
    under strides, without groups, as (N, H / vertical, vertical, W / horizontal, horizontal·C)."""
    if vertical * horizontal == 1:
        view, block = images.permute(CHANNELS_LAST), [1, *box, channels]
    else:
        n, p, q = box
        batch, _, pixel, height, width = images.shape
        to_image, _, _, to_row, pitch = images.stride()
        size = batch, height // vertical, vertical, width // horizontal, (horizontal - 1) * pitch + pixel
        view = images.as_strided(size, (to_image, vertical * to_row, to_row, horizontal * pitch, 1))
        block = [n, p, 1, q, channels]
    return TensorDescriptor(view, view.shape, strides(view), block)


def describe_weight(
    weight: torch.Tensor, channels_last: bool, outputs: int, channels: int
) -> TensorDescriptor:
    """What `described_weight` gave, to be loaded in boxes of one tap."""
    box = (outputs, channels) if channels_last else (channels, outputs)
    return TensorDescriptor(weight, weight.shape, strides(weight), [1, 1, 1, *box])


def described_weight(weight: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """`weight` (G, K, C, R, S) as (G, R, S, K, C) and True, or as (G, R, S, C, K) and False.

    A view if either axis is innermost already; else (a contiguous weight of more than one tap, or channels that are not
    whole units of 16 bytes) a copy of it.
    """
    channels_last = weight.permute(0, 3, 4, 1, 2)
    if aligned(channels_last):
        return channels_last, True
    outputs_last = weight.permute(0, 3, 4, 2, 1)
    if aligned(outputs_last):
        return outputs_last, False
    return _padded_rows(channels_last), True
