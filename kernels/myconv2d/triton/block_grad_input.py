"""The gradients of one feed: grad_input through the convolution, the enlargement, the ReLU and the scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .block_boxes import boxes, why_not
from .block_feed import box, columns_of, gradient_box, gradient_tile, tap_of, vector_tile
from .block_forward import Feed
from .block_plan import precision, reduction, serve
from .block_statistics import scale_and_shift
from .block_tile import Tile, pooled_positions, tile_origin, tile_positions, windows
from .indexing import below
from .launch import ceil_div, fit, launch, needs_64_bit
from .plans import Plan


class Gradient(NamedTuple):
    """grad + offset + slope·(y − mean), the gradient of y (N, K, P, Q); see block_feed.py."""

    grad: torch.Tensor
    index: torch.Tensor | None
    y: torch.Tensor | None
    mean: torch.Tensor | None
    offset: torch.Tensor | None
    slope: torch.Tensor | None
    size: tuple[int, int]  # P, Q

    @property
    def images(self) -> list[torch.Tensor]:
        return [image for image in (self.grad, self.y) if image is not None]

    def why_no_boxes(self, allow_tf32: bool) -> str | None:
        """Why the copy engine cannot load these images, in words; None if it can."""
        return why_not(self.images, allow_tf32) if self.index is None else "the gradient is pooled"

    def boxes(self, tile: Tile, outputs: int) -> Gradient:
        """With descriptors for the images."""
        y = None if self.y is None else boxes(self.y, tile, outputs)
        return self._replace(grad=boxes(self.grad, tile, outputs), y=y)


# The idea: the forward GEMM with the roles of channels and outputs exchanged and the taps turned round: position
#   (h, w) of the image receives from (h + padding − r, w + padding − s). The gradient of y is computed as it is loaded.
# Layout: images channels_last and dense; weight any strides, the feed's channels only. As pointers, or grad, y and
#   weight as descriptors (block_boxes.py).
# Tile: TILE_N·TILE_P·TILE_Q positions of the image × BLOCK_C of the feed's channels, fp32.
# Epilogue: an enlarged feed's windows of 2 × 2 are added up; ReLU masks; the scale multiplies; and each tile leaves
#   its sums of grad·tensor and grad, the gradients of scale and shift (block_statistics.py adds the tiles up).
# Bound: memory at these channel counts, R·S reads of grad and y from L1 or L2.
@triton.jit(do_not_specialize=["batch", "height", "width", "rows", "columns", "tiles"])
def block_grad_input(
    grad, index, y, mean, offset, slope,
    weight,  # (K, C, R, S)
    tensor, scale, shift,  # (N, H, W, C), (C); None for a feed that is an image
    result,  # (N, H, W, C)
    partial,  # (2·C, tiles) or None
    batch, height, width, rows, columns, tiles,  # N, H and W of the image, P, Q
    WEIGHT_K: tl.constexpr, WEIGHT_C: tl.constexpr, WEIGHT_R: tl.constexpr, WEIGHT_S: tl.constexpr,
    OUTPUTS_LAST: tl.constexpr,  # in the weight's boxes the outputs are innermost, else the channels
    C: tl.constexpr, K: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
    UPSAMPLE: tl.constexpr,
    EVEN: tl.constexpr,  # the tiles divide the pictures
    INDEX_64: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    M: tl.constexpr = TILE_N * TILE_P * TILE_Q
    HALO: tl.constexpr = R > 1 or S > 1 or PADDING_H > 0 or PADDING_W > 0
    tiles_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    steps: tl.constexpr = (R * S * K + BLOCK_K - 1) // BLOCK_K if FLAT else R * S * ((K + BLOCK_K - 1) // BLOCK_K)
    program = tl.program_id(0)
    tile = program // tiles_c
    first_c = program % tiles_c * BLOCK_C
    c = first_c + tl.arange(0, BLOCK_C)
    in_channels = below(c, C, BLOCK_C)
    first_n, first_h, first_w = tile_origin(tile, height, width, TILE_N, TILE_P, TILE_Q)
    n, h, w = tile_positions(first_n, first_h, first_w, TILE_N, TILE_P, TILE_Q)
    if INDEX_64:
        n = n.to(tl.int64)
    inside = tl.full((M,), 1, tl.int1) if EVEN else (n < batch) & (h < height) & (w < width)

    bottom, right = h[:, None] + PADDING_H, w[:, None] + PADDING_W
    everywhere = tl.full((M, 1), 1, tl.int1)
    to_image = tl.zeros((M, BLOCK_C), tl.float32)
    for step in range(steps):
        row, column, k, in_outputs = columns_of(step, K, R, S, FLAT, BLOCK_K)
        p, q = bottom - row, right - column
        if isinstance(grad, tl.tensor_descriptor):
            r, s, first_k = tap_of(step, K, S, BLOCK_K)
            a = gradient_box(grad, y, mean, offset, slope, first_n, first_h + PADDING_H - r, first_w + PADDING_W - s,
                             first_k, p, q, k, everywhere, rows, columns, K, HALO)  # fmt: skip
            b = box(weight, first_c, r, s, first_k) if OUTPUTS_LAST else box(weight, first_k, r, s, first_c).T
        else:
            a = gradient_tile(grad, index, y, mean, offset, slope, n[:, None], p, q, k, inside[:, None] & in_outputs,
                              rows, columns, K, HALO)  # fmt: skip
            b = tl.load(weight + c[:, None] * WEIGHT_C + (row * WEIGHT_R + column * WEIGHT_S + k * WEIGHT_K),
                        in_channels[:, None] & in_outputs, other=0.0)  # fmt: skip
        to_image = tl.dot(a, tl.trans(b), to_image, PRECISION)

    if UPSAMPLE:
        upper_left, upper_right, lower_left, lower_right = windows(to_image, TILE_Q)
        to_image = (upper_left + upper_right) + (lower_left + lower_right)
        n, h, w = pooled_positions(tile, height, width, TILE_N, TILE_P, TILE_Q)
        if INDEX_64:
            n = n.to(tl.int64)
        height, width = height // 2, width // 2
        inside = (n < batch) & (h < height) & (w < width)
    at = ((n * height + h) * width + w)[:, None] * C + c[None, :]
    inside = inside[:, None] & in_channels[None, :]
    if scale is not None:
        factor = vector_tile(scale, c[None, :], C)
        values = tl.load(tensor + at, inside, other=0.0).to(tl.float32)
        passes = inside & (factor * values + vector_tile(shift, c[None, :], C) > 0)
        to_image = tl.where(passes, to_image, 0.0)
        tl.store(partial + c.to(tl.int64) * tiles + tile, tl.sum(to_image * values, 0), in_channels)
        tl.store(partial + (C + c).to(tl.int64) * tiles + tile, tl.sum(to_image, 0), in_channels)
        to_image *= factor
    tl.store(result + at, to_image.to(result.dtype.element_ty), inside)


def grad_feed(
    gradient: Gradient,
    weight: torch.Tensor,  # (K, C, R, S), of this feed's channels, any strides
    feed: Feed,
    padding: tuple[int, int],
    allow_tf32: bool,
) -> tuple[torch.Tensor, ...]:
    """The gradients of the feed's tensor, scale and shift; the last two empty if it has none. Nothing is empty."""
    (rows, columns), (height, width), batch = gradient.size, feed.size, feed.tensor.shape[0]
    outputs, channels, taps_h, taps_w = weight.shape
    outputs_last = weight.dtype == torch.float32
    if outputs_last:
        weight = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last).transpose(0, 1)
    affine = feed.scale is not None
    result = torch.empty_like(feed.tensor, memory_format=torch.channels_last)
    partial = None
    by_rows = weight.transpose(0, 1) if outputs_last else weight
    obstacle = gradient.why_no_boxes(allow_tf32) or why_not([by_rows], allow_tf32)
    weight_k, weight_c, weight_r, weight_s = weight.stride()

    def run(plan: Plan) -> None:
        nonlocal partial
        tile, block_c = Tile.of(plan.block_m, height, width, feed.upsample), fit(plan.block_n, channels)
        tiles = tile.count(batch, height, width)
        partial = result.new_empty((2 * channels, tiles), dtype=torch.float32) if affine else None
        flat, block_k = reduction(plan, outputs, taps_h * taps_w)
        read, filters = gradient, weight
        if obstacle is None:
            outer, inner = (block_c, block_k) if outputs_last else (block_k, block_c)
            read, filters = gradient.boxes(tile, block_k), boxes(by_rows, (outer, 1, 1), inner)
        launch(
            block_grad_input, tiles * ceil_div(channels, block_c), weight.device,
            *read[:6], filters, feed.tensor if affine else None, feed.scale, feed.shift, result, partial,
            batch, height, width, rows, columns, tiles,
            WEIGHT_K=weight_k, WEIGHT_C=weight_c, WEIGHT_R=weight_r, WEIGHT_S=weight_s, OUTPUTS_LAST=outputs_last,
            C=channels, K=outputs, R=taps_h, S=taps_w, PADDING_H=padding[0], PADDING_W=padding[1],
            UPSAMPLE=feed.upsample, EVEN=tile.divides(batch, height, width),
            INDEX_64=needs_64_bit(*gradient.images, feed.tensor), FLAT=flat, PRECISION=precision(allow_tf32),
            **tile.constants(), BLOCK_C=block_c, BLOCK_K=block_k,
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip

    taps, image = (taps_h, taps_w), (height, width)
    serve("block_grad_input", weight.dtype, allow_tf32, outputs, channels, taps, image, weight.device, run, obstacle)
    if partial is None:
        return result, result.new_empty(0), result.new_empty(0)
    return result, *scale_and_shift(partial, feed.scale, feed.shift)
