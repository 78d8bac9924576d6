"""Arithmetic on vectors over the channels, in fp64 and in a fixed order: batch norm, its derivatives, sums of tiles.

One small launch each. Partial sums lie with the tiles innermost, so a program reads one channel's in wide loads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import ceil_div, launch, power_of_two
from .tuning import clamp


# The statistics of the whole from those of its tiles (count, rounded mean, sums of differences from that and of their
# squares; Chan, Golub, LeVeque 1983), and what the next block reads: gamma/√(var + eps) and beta − mean·scale.
# Up to BLOCK tiles in one go; more, one after another. One program per channel. Bound: latency.
@triton.jit(do_not_specialize=["tiles"])
def norm_finish(partial, gamma, beta, eps, out_scale, out_shift, out_mean, out_var, tiles,
                K: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    k = tl.program_id(0)
    means = partial + k.to(tl.int64) * tiles
    differences = partial + (K + k).to(tl.int64) * tiles
    squares = partial + (2 * K + k).to(tl.int64) * tiles
    counts = partial + tl.full((), 3 * K, tl.int64) * tiles
    count = tl.full((), 0.0, tl.float64)
    mean = tl.full((), 0.0, tl.float64)
    square = tl.full((), 0.0, tl.float64)
    for start in range(0, tiles, BLOCK):
        i = start + tl.arange(0, BLOCK)
        valid = i < tiles
        n = tl.load(counts + i, valid, other=0.0).to(tl.float64)
        m = tl.load(means + i, valid, other=0.0).to(tl.float64)
        d = tl.load(differences + i, valid, other=0.0).to(tl.float64)
        s = tl.load(squares + i, valid, other=0.0).to(tl.float64)
        here = tl.sum(n, 0)
        average = tl.sum(n * m + d, 0) / here
        m -= average
        s = tl.sum(s + m * (n * m + 2.0 * d), 0)  # about the average in place of the tile's own mean
        total = count + here
        apart = average - mean
        square += s + apart * apart * (count * here / total)
        mean += apart * (here / total)
        count = total
    var = square / tl.maximum(count, 1.0)
    scale = tl.load(gamma + k).to(tl.float64) / tl.sqrt(var + eps)
    shift = tl.load(beta + k).to(tl.float64) - mean * scale
    tl.store(out_scale + k, scale.to(out_scale.dtype.element_ty))
    tl.store(out_shift + k, shift.to(out_shift.dtype.element_ty))
    tl.store(out_mean + k, mean.to(tl.float32))
    tl.store(out_var + k, var.to(tl.float32))


def normalise(partial: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
    """out_scale, out_shift, mean, var (biased) of the partial statistics that block_forward.py leaves."""
    scale, shift = torch.empty_like(gamma), torch.empty_like(beta)
    mean, var = (gamma.new_empty(gamma.shape, dtype=torch.float32) for _ in range(2))
    outputs, tiles = gamma.shape[0], partial.shape[1]
    launch(norm_finish, outputs, gamma.device, partial, gamma, beta, eps, scale, shift, mean, var, tiles,
           K=outputs, BLOCK=at_once(tiles), num_warps=4)  # fmt: skip
    return scale, shift, mean, var


# One launch in place of the framework's five. Bound: latency.
@triton.jit(do_not_specialize=["outputs", "momentum", "unbias"])
def update_running(mean, var, running_mean, running_var, batches, momentum, unbias, outputs, BLOCK: tl.constexpr):
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = k < outputs
    for_mean = tl.load(running_mean + k, valid, other=0.0).to(tl.float32)
    for_var = tl.load(running_var + k, valid, other=0.0).to(tl.float32)
    for_mean += momentum * (tl.load(mean + k, valid, other=0.0) - for_mean)
    for_var += momentum * (tl.load(var + k, valid, other=0.0) * unbias - for_var)
    tl.store(running_mean + k, for_mean.to(running_mean.dtype.element_ty), valid)
    tl.store(running_var + k, for_var.to(running_var.dtype.element_ty), valid)
    if batches is not None and tl.program_id(0) == 0:
        tl.store(batches, tl.load(batches) + 1)


def update(
    mean: torch.Tensor,
    var: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    batches: torch.Tensor | None,
    momentum: float,
    unbias: float,
) -> None:
    """running += momentum·(new − running), in place; var is biased and `unbias` corrects it; batches += 1.

    All but `batches` (int64) are vectors over the channels without gaps.
    """
    outputs = mean.shape[0]
    launch(update_running, ceil_div(outputs, 128), mean.device, mean, var, running_mean, running_var, batches,
           momentum, unbias, outputs, BLOCK=128, num_warps=4)  # fmt: skip
    for changed in (running_mean, running_var, batches):
        if changed is not None and not changed.is_inference():
            torch.autograd.graph.increment_version(changed)


def at_once(tiles: int) -> int:
    """How many tiles' partial results a program reads before it adds them up."""
    return clamp(power_of_two(tiles), 32, 1024)


# Everything that scale, shift, mean and var depend on is y, whose gradient is grad + offset + slope·(y − mean) with
#   slope = −r³·gamma·(grad_scale − mean·grad_shift)/M,  offset = −r·gamma·grad_shift/M,  r = 1/√(var + eps)
# over M values; block_reference.block_backward has the same about 0 instead of the mean.
@triton.jit(do_not_specialize=["outputs"])
def norm_backward(grad_scale, grad_shift, gamma, mean, var, eps, count, out_offset, out_slope, grad_gamma, grad_beta,
                  outputs, BLOCK: tl.constexpr):  # fmt: skip
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = k < outputs
    to_scale = tl.zeros((BLOCK,), tl.float64)
    to_shift = tl.zeros((BLOCK,), tl.float64)
    if grad_scale is not None:
        to_scale += tl.load(grad_scale + k, valid, other=0.0).to(tl.float64)
    if grad_shift is not None:
        to_shift += tl.load(grad_shift + k, valid, other=0.0).to(tl.float64)
    factor = tl.load(gamma + k, valid, other=0.0).to(tl.float64)
    r = 1.0 / tl.sqrt(tl.load(var + k, valid, other=1.0).to(tl.float64) + eps)
    to_scale -= tl.load(mean + k, valid, other=0.0).to(tl.float64) * to_shift
    tl.store(out_offset + k, (-r * factor * to_shift / count).to(tl.float32), valid)
    tl.store(out_slope + k, (-r * r * r * factor * to_scale / count).to(tl.float32), valid)
    tl.store(grad_gamma + k, (r * to_scale).to(grad_gamma.dtype.element_ty), valid)
    tl.store(grad_beta + k, to_shift.to(grad_beta.dtype.element_ty), valid)


def through_norm(
    grad_scale: torch.Tensor | None,
    grad_shift: torch.Tensor | None,
    gamma: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    eps: float,
    count: int,
) -> tuple[torch.Tensor, ...]:
    """offset, slope (fp32), grad_gamma, grad_beta, each (K)."""
    offset, slope = (gamma.new_empty(gamma.shape, dtype=torch.float32) for _ in range(2))
    to_gamma, to_beta = torch.empty_like(gamma), torch.empty_like(gamma)
    outputs = gamma.shape[0]
    launch(norm_backward, ceil_div(outputs, 128), gamma.device, grad_scale, grad_shift, gamma, mean, var, eps,
           float(max(count, 1)), offset, slope, to_gamma, to_beta, outputs, BLOCK=128, num_warps=4)  # fmt: skip
    return offset, slope, to_gamma, to_beta


# Each row's sum over the tiles; row c of `partial` goes to scale[c], row C + c to shift[c]. Bound: latency.
@triton.jit(do_not_specialize=["tiles"])
def sum_tiles(partial, to_scale, to_shift, tiles, C: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.full((), 0.0, tl.float64)
    for start in range(0, tiles, BLOCK):
        i = start + tl.arange(0, BLOCK)
        values = tl.load(partial + row.to(tl.int64) * tiles + i, i < tiles, other=0.0)
        total += tl.sum(values.to(tl.float64), 0)
    if row < C:
        tl.store(to_scale + row, total.to(to_scale.dtype.element_ty))
    else:
        tl.store(to_shift + (row - C), total.to(to_shift.dtype.element_ty))


def scale_and_shift(partial: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The gradients of a feed's scale and shift from `partial` (2·C, tiles)."""
    to_scale, to_shift = torch.empty_like(scale), torch.empty_like(shift)
    rows, tiles = partial.shape
    launch(sum_tiles, rows, partial.device, partial, to_scale, to_shift, tiles, C=rows // 2, BLOCK=at_once(tiles),
           num_warps=4)  # fmt: skip
    return to_scale, to_shift
