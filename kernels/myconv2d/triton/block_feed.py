"""What a block's kernels read, computed as it is loaded: the image a feed stands for, and the gradient of y.

Images are channels_last and dense, so an offset is (position)·C + c with a constant C: rows of channels are wide,
aligned loads at any size of picture. Positions are [M, 1] with channels [1, J] of one tap, or [M, J] where each of J
columns is a tap and a channel of its own (few channels; see indexing.py). Boxes of the copy engine (block_boxes.py) are
of one tap.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .indexing import taps_and_channels


@triton.jit
def tap_of(step, C: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr):
    """Kernel row, kernel column and first channel of the step-th BLOCK of channels of one tap."""
    blocks: tl.constexpr = (C + BLOCK - 1) // BLOCK
    tap = step // blocks
    return tap // S, tap % S, step % blocks * BLOCK


@triton.jit
def columns_of(step, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr, FLAT: tl.constexpr, BLOCK: tl.constexpr):
    """Kernel row and column [1, 1 or BLOCK], channel and validity [1, BLOCK], of the step-th BLOCK of R·S·C."""
    if FLAT:
        row, column, c, valid = taps_and_channels(step * BLOCK, 0, 0, C, R, S, FLAT, BLOCK)
    else:
        r, s, first = tap_of(step, C, S, BLOCK)
        row, column, c, valid = taps_and_channels(first, r, s, C, R, S, FLAT, BLOCK)
    return row, column, c[None, :], valid[None, :]


@triton.jit
def vector_tile(vector, c, C: tl.constexpr):
    """Elements c of a vector over C channels, in fp32; zero from C on."""
    return tl.load(vector + c, c < C, other=0.0).to(tl.float32)


@triton.jit
def relu(values):
    """max(values, 0); not-a-number stays one."""
    return tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def activated(values, scale, shift):
    """relu(scale·values + shift) in fp32."""
    return relu(scale * values.to(tl.float32) + shift)


@triton.jit
def box(described, n, h, w, c):
    """The box that begins there of a descriptor (1, N, H, W, C), as a matrix of channels in rows; zeros outside."""
    loaded = described.load([0, n, h, w, c])
    return tl.reshape(loaded, (loaded.shape[1] * loaded.shape[2] * loaded.shape[3], loaded.shape[4]))


@triton.jit
def in_picture(h, w, height, width, valid, HALO: tl.constexpr):
    """Which of the `valid` positions are; all of them without HALO."""
    return valid & (h >= 0) & (h < height) & (w >= 0) & (w < width) if HALO else valid


@triton.jit
def feed_tile(tensor, scale, shift,  # (N, H, W, C); (C) or None
              n, h, w, c, valid, height, width,  # of the image: twice H and W if it is enlarged
              C: tl.constexpr, UPSAMPLE: tl.constexpr, HALO: tl.constexpr):  # fmt: skip
    """The image that a feed stands for at (n, h, w, c), in its element type; with HALO, zero around the picture."""
    inside = in_picture(h, w, height, width, valid, HALO)
    if UPSAMPLE:
        height, width, h, w = height // 2, width // 2, h >> 1, w >> 1
    values = tl.load(tensor + (((n * height + h) * width + w) * C + c), inside, other=0.0)
    if scale is not None:
        image = activated(values, vector_tile(scale, c, C), vector_tile(shift, c, C))
        if HALO:
            image = tl.where(inside, image, 0.0)
        values = image.to(tensor.dtype.element_ty)
    return values


@triton.jit
def feed_box(images, scale, shift,  # descriptor (1, N, H, W, C); (C) or None
             first_n, first_h, first_w, first_c, h, w, c, valid, height, width,
             C: tl.constexpr, HALO: tl.constexpr):  # fmt: skip
    """As feed_tile, of a feed that is not enlarged, by a box that begins at the first of its positions.

    Outside the picture the box has zeros; it is an activation that has to be made zero there.
    """
    values = box(images, first_n, first_h, first_w, first_c)
    inside = valid
    if scale is not None:
        inside = in_picture(h, w, height, width, valid, HALO)
        values = activated(values, vector_tile(scale, c, C), vector_tile(shift, c, C))
    return tl.where(inside, values, 0.0).to(images.dtype)


@triton.jit
def through_norm(values, y, mean, offset, slope, k, K: tl.constexpr):
    """values + offset + slope·(y − mean), of channels k, in fp32."""
    centred = y.to(tl.float32) - vector_tile(mean, k, K)
    return values + vector_tile(offset, k, K) + vector_tile(slope, k, K) * centred


@triton.jit
def gradient_tile(grad, index,  # (N, P, Q, K); or both pooled, (N, P/2, Q/2, K), index else None
                  y, mean, offset, slope,  # (N, P, Q, K); (K); all None without batch norm
                  n, p, q, k, valid, rows, columns,
                  K: tl.constexpr, HALO: tl.constexpr):  # fmt: skip
    """The gradient of y, grad + offset + slope·(y − mean), at (n, p, q, k), in its element type; zero outside.

    With `index`, grad goes to the position of its window that was picked, and the others get zero of it.
    """
    inside = in_picture(p, q, rows, columns, valid, HALO)
    if index is None:
        values = tl.load(grad + (((n * rows + p) * columns + q) * K + k), inside, other=0.0)
    else:
        pooled = inside & ((p >> 1) < rows // 2) & ((q >> 1) < columns // 2)
        at = ((n * (rows // 2) + (p >> 1)) * (columns // 2) + (q >> 1)) * K + k
        picked = tl.load(index + at, pooled, other=0)
        values = tl.load(grad + at, pooled, other=0.0)
        values = tl.where(picked == (p & 1) * 2 + (q & 1), values, 0.0)
    if y is not None:
        of_y = tl.load(y + (((n * rows + p) * columns + q) * K + k), inside, other=0.0)
        values = tl.where(inside, through_norm(values, of_y, mean, offset, slope, k, K), 0.0)
    return values.to(grad.dtype.element_ty)


@triton.jit
def gradient_box(grad, y, mean, offset, slope,  # descriptors (1, N, P, Q, K), y's or None; (K)
                 first_n, first_p, first_q, first_k, p, q, k, valid, rows, columns,
                 K: tl.constexpr, HALO: tl.constexpr):  # fmt: skip
    """As gradient_tile, of a gradient that is not pooled, by boxes that begin at the first of its positions.

    Outside the picture the boxes have zeros; it is the gradient through the batch norm that has to be made zero there.
    """
    values = box(grad, first_n, first_p, first_q, first_k)
    if y is not None:
        of_y = box(y, first_n, first_p, first_q, first_k)
        inside = in_picture(p, q, rows, columns, valid, HALO)
        values = tl.where(inside, through_norm(values, of_y, mean, offset, slope, k, K), 0.0)
    return values.to(grad.dtype)
