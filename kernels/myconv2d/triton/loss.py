"""Cross-entropy of classes: the loss, and if wanted its gradient, in one pass over the logits.

With l the logits of a pixel and t its class, loss = log Σ_k exp(l_k − max l) − (l_t − max l), and ∂loss/∂l_k =
softmax(l)_k − [k = t], over the number of pixels that count for the mean. All in float32 whatever the logits' type, and
the sum over the pixels in float64 and a fixed order. A class that there is not makes the loss and the pixel's gradient
NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import ceil_div, launch, needs_64_bit, power_of_two

_COUNTERS = 64  # programs that count pixels, at most
_AT_ONCE = 1024  # sums that are added up at once


# counts[program]: how many pixels count. Bound: memory.
@triton.jit(do_not_specialize=["positions", "image", "width", "ignore_index"])
def count_kernel(target, counts, positions, image, width, stride_n, stride_h, stride_w, ignore_index,
                 INDEX_64: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    program = tl.program_id(0).to(tl.int64) if INDEX_64 else tl.program_id(0)
    seen = tl.zeros((BLOCK,), tl.int32)
    for start in range(program * BLOCK, positions, tl.num_programs(0) * BLOCK):
        m = start + tl.arange(0, BLOCK)
        at = m // image * stride_n + m % image // width * stride_h + m % width * stride_w
        here = tl.load(target + at, m < positions, other=0).to(tl.int64)
        seen += ((here != ignore_index) & (m < positions)).to(tl.int32)
    tl.store(counts + tl.program_id(0), tl.sum(seen, 0))


# Tile: BLOCK_M pixels × all K classes, each logit read once and its gradient, if wanted, written once. Leaves the
# losses of its pixels, or their sum. DENSE: logits in channels_last without gaps. Bound: memory.
@triton.jit(do_not_specialize=["positions", "image", "width", "ignore_index", "counters"])
def cross_entropy_kernel(
    logits, target, gradient, each, sums, counts, positions, image, width, ignore_index, counters,
    stride_n, stride_k, stride_h, stride_w, target_n, target_h, target_w, grad_n, grad_k, grad_h, grad_w,
    K: tl.constexpr, DENSE: tl.constexpr, MEAN: tl.constexpr, INDEX_64: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, COUNTERS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64) if INDEX_64 else tl.program_id(0)
    m = program * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)[None, :]
    valid = m < positions
    inside = valid[:, None] & (k < K)
    n, h, w = m // image, m % image // width, m % width
    label = tl.load(target + (n * target_n + h * target_h + w * target_w), valid, other=0).to(tl.int64)
    counted = valid & (label != ignore_index)
    at = m[:, None] * K + k if DENSE else (n * stride_n + h * stride_h + w * stride_w)[:, None] + k * stride_k
    values = tl.load(logits + at, inside, other=-float("inf")).to(tl.float32)
    values -= tl.max(values, 1)[:, None]
    exponentials = tl.where(k < K, tl.exp(values), 0.0)
    total = tl.sum(exponentials, 1)
    chosen = k == label[:, None]
    loss = tl.log(total) - tl.sum(tl.where(chosen, values, 0.0), 1)
    exists = (label >= 0) & (label < K)
    loss = tl.where(counted, tl.where(exists, loss, float("nan")), 0.0)
    if each is not None:
        tl.store(each + m, loss, valid)
    else:
        tl.store(sums + program, tl.sum(loss.to(tl.float64), 0))
    if gradient is not None:
        softmax = exponentials / total[:, None]
        slope = softmax - chosen.to(tl.float32)
        if MEAN:
            i = tl.arange(0, COUNTERS)
            slope /= tl.sum(tl.load(counts + i, i < counters, other=0).to(tl.int64), 0).to(tl.float32)
        slope = tl.where(exists[:, None], slope, float("nan"))
        slope = tl.where(counted[:, None], slope, 0.0 * softmax)  # NaN stays NaN, as with the framework
        to = at if DENSE else (n * grad_n + h * grad_h + w * grad_w)[:, None] + k * grad_k
        tl.store(gradient + to, slope.to(gradient.dtype.element_ty), inside)


# The loss of all pixels from the sums of the tiles, always in the same order. Bound: latency.
@triton.jit(do_not_specialize=["tiles", "counters"])
def finish_kernel(sums, counts, loss, tiles, counters, MEAN: tl.constexpr, BLOCK: tl.constexpr, COUNTERS: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, tiles, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(sums + i, i < tiles, other=0.0)
    result = tl.sum(total, 0)
    if MEAN:
        j = tl.arange(0, COUNTERS)
        result /= tl.sum(tl.load(counts + j, j < counters, other=0).to(tl.int64), 0).to(tl.float64)
    tl.store(loss, result.to(tl.float32))


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, reduction: int, ignore_index: int, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """logits (N, K, H, W), K at most `MOST_CLASSES`, and target (N, H, W) → the loss in float32, and its gradient, of
    the logits' type, if wanted. With reduction 0 each pixel's loss (N, H, W), with 1 their mean, with 2 their sum."""
    none, mean = reduction == 0, reduction == 1
    (_, classes, height, width), device = logits.shape, logits.device
    positions = target.numel()
    loss = logits.new_empty(target.shape if none else (), dtype=torch.float32)
    slope = torch.empty_like(logits) if gradient else None
    if positions == 0:
        return loss if none else loss.fill_(float("nan") if mean else 0.0), slope
    block_k = power_of_two(classes)
    dense = logits.is_contiguous(memory_format=torch.channels_last)
    block_m = max(1, min(2048 // block_k, 256))
    tiles, counters = ceil_div(positions, block_m), min(_COUNTERS, ceil_div(positions, 1024))
    sums = None if none else logits.new_empty(tiles, dtype=torch.float64)
    counts = logits.new_empty(counters, dtype=torch.int32) if mean else None
    sizes = positions, height * width, width
    wide = needs_64_bit(logits, target)
    if mean:
        launch(count_kernel, counters, device, target, counts, *sizes, *target.stride(), ignore_index,
               INDEX_64=wide, BLOCK=1024)  # fmt: skip
    launch(
        cross_entropy_kernel, tiles, device,
        logits, target, slope, loss if none else None, sums, counts, *sizes, ignore_index, counters,
        *logits.stride(), *target.stride(), *(slope.stride() if gradient else (0, 0, 0, 0)),
        K=classes, DENSE=dense, MEAN=mean, INDEX_64=wide, BLOCK_M=block_m, BLOCK_K=block_k, COUNTERS=_COUNTERS,
    )  # fmt: skip
    if not none:
        launch(finish_kernel, 1, device, sums, counts, loss, tiles, counters, MEAN=mean, BLOCK=_AT_ONCE,
               COUNTERS=_COUNTERS)  # fmt: skip
    return loss, slope
