"""The partial sums of grad_weight and grad_bias: how many there are, and their sum in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import tuning
from .indexing import below
from .launch import ceil_div, fit, launch
from .plans import Plan


@triton.jit
def next_box(n, p, q, rows, columns, BOX_N: tl.constexpr, BOX_P: tl.constexpr, BOX_Q: tl.constexpr):
    """Where the box of pixels behind that at image n, row p and column q begins: columns first, images last."""
    q += BOX_Q
    next_p = q >= columns
    q = tl.where(next_p, 0, q)
    p += tl.where(next_p, BOX_P, 0)
    next_n = p >= rows
    p = tl.where(next_n, 0, p)
    n += tl.where(next_n, BOX_N, 0)
    return n, p, q


@triton.jit
def store_tap(partial_rows, sums, k, c, tap, K: tl.constexpr, C: tl.constexpr,
              BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Outputs k × channels c of one tap, into the rows of the workspace that are those of k."""
    tl.store(
        partial_rows[:, None] + (tap * C + c)[None, :],
        sums,
        below(k, K, BLOCK_K)[:, None] & below(c, C, BLOCK_C)[None, :],
    )


# Adds up the splits of BLOCK elements of grad_weight and grad_bias, always in the same order, and rounds
# once. Each lane keeps the sum of every BLOCK_SPLITS-th split: many loads are in flight. Bound: memory.
@triton.jit(do_not_specialize=["splits"])
def grad_weight_reduce(
    partial,  # (splits, K, R·S·C + 1), contiguous
    grad_weight,  # (K, C, R, S)
    grad_bias,  # (K), contiguous, or None
    splits,
    WEIGHT_K: tl.constexpr, WEIGHT_C: tl.constexpr, WEIGHT_R: tl.constexpr, WEIGHT_S: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = R * S * C + 1
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, BLOCK_SPLITS)
    sums = tl.zeros((BLOCK_SPLITS, BLOCK), partial.dtype.element_ty)
    elements = partial + split.to(tl.int64)[:, None] * (K * COLUMNS) + i[None, :]
    for first in range(0, splits, BLOCK_SPLITS):
        valid = (first + split < splits)[:, None] & (i < K * COLUMNS)[None, :]
        sums += tl.load(elements, valid, other=0.0)
        elements += BLOCK_SPLITS * K * COLUMNS
    total = tl.sum(sums, 0)

    k, j = i // COLUMNS, i % COLUMNS
    r, s, c = j // (S * C), j // C % S, j % C
    weight_offset = k * WEIGHT_K + c * WEIGHT_C + r * WEIGHT_R + s * WEIGHT_S
    in_weight = (k < K) & (j < COLUMNS - 1)
    tl.store(grad_weight + weight_offset, total.to(grad_weight.dtype.element_ty), in_weight)
    if grad_bias is not None:
        tl.store(grad_bias + k, total.to(grad_bias.dtype.element_ty), (k < K) & ~in_weight)


def tile(plan: Plan, arithmetic: str, outputs: int, columns: int) -> tuple[int, int]:
    """Outputs × taps·channels of one program: at least 64 of either on tensor cores, whose rows come 64 at a time."""
    block_k, block_j = fit(plan.block_n, outputs), fit(plan.block_c, columns)
    if max(block_k, block_j) < 64 and tuning.no_wgmma(arithmetic) is None:
        block_k = 64
    return block_k, block_j


def partial_sums(
    source: torch.Tensor, tiles: int, boxes: int, outputs: int, columns: int
) -> tuple[torch.Tensor, int]:
    """The workspace (splits, outputs, columns + 1), of which the last column is the bias; boxes of pixels per split."""
    boxes_per_split = ceil_div(boxes, tuning.splits(tiles, boxes))
    dtype = torch.float64 if source.dtype == torch.float64 else torch.float32
    return source.new_empty(
        (ceil_div(boxes, boxes_per_split), outputs, columns + 1), dtype=dtype
    ), boxes_per_split


def reduce_partial_sums(
    partial: torch.Tensor, grad_weight: torch.Tensor, grad_bias: torch.Tensor | None
) -> None:
    """Fill grad_weight (K, C, R, S) and grad_bias (K) from `partial`."""
    splits, outputs, columns = partial.shape
    _, channels, taps_h, taps_w = grad_weight.shape
    weight_k, weight_c, weight_r, weight_s = grad_weight.stride()
    launch(
        grad_weight_reduce, ceil_div(outputs * columns, 64), partial.device,
        partial, grad_weight, grad_bias, splits,
        WEIGHT_K=weight_k, WEIGHT_C=weight_c, WEIGHT_R=weight_r, WEIGHT_S=weight_s,
        K=outputs, C=channels, R=taps_h, S=taps_w, BLOCK=64, BLOCK_SPLITS=16,
    )  # fmt: skip
