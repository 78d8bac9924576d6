"""Block sizes, by shape class: a function of the layer and the type, never of the batch size.

Defaults for H100 and H200 (132 multiprocessors), chosen by reasoning and by the compiler's report (no spills,
tensor cores where they exist), not by measurement. A measured table goes in front of these two functions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .launch import ceil_div, power_of_two

# Programs that fill the device twice over: grad_weight splits its reduction until it has about as many.
PROGRAMS = 264


def arithmetic(dtype: torch.dtype, allow_tf32: bool) -> str:
    """The arithmetic that serves a type: "half" (fp16, bf16), "tf32", "fp32" or "fp64"."""
    if dtype.itemsize == 2:
        return "half"
    if dtype == torch.float64:
        return "fp64"
    return "tf32" if allow_tf32 else "fp32"


class GatherPlan(NamedTuple):
    """Forward and grad_input: a tile of block_m pixels × block_n outputs, block_c channels a step."""

    block_m: int
    block_n: int
    block_c: int
    flat: bool  # reduce over taps·channels as one axis: for few channels
    warps: int
    stages: int


class GradWeightPlan(NamedTuple):
    """grad_weight: a tile of block_k outputs × block_c taps·channels, block_m pixels a step."""

    block_k: int
    block_c: int
    block_m: int
    flat: bool
    warps: int
    stages: int


def gather_plan(
    arithmetic: str, channels: int, outputs: int, taps: int, image: int, wide: bool
) -> GatherPlan:
    """`channels` → `outputs` of one group, `taps` = R·S, `image` = P·Q; `wide`: 16-byte loads and stores."""
    flat = channels < 16
    reduction = channels * taps if flat else channels
    block_n = clamp(power_of_two(outputs), 16, 64)
    if arithmetic in ("fp32", "fp64"):  # no tensor cores, or small ones: registers are the limit
        return GatherPlan(64, min(block_n, 32), 16, flat, warps=4, stages=2)
    block_c = clamp(power_of_two(reduction), 16, 64 if arithmetic == "half" else 32)
    block_m = 64 if image <= 64 else 128
    return GatherPlan(block_m, block_n, block_c, flat, warps=4 if wide else 8, stages=3)


def grad_weight_plan(arithmetic: str, channels: int, outputs: int, taps: int, wide: bool) -> GradWeightPlan:
    """`channels` → `outputs` of one group, `taps` = R·S; `wide`: 16-byte loads of both operands."""
    flat = channels < 32
    columns = channels * taps if flat else channels
    block_k = clamp(power_of_two(outputs), 16, 64)
    if arithmetic in ("fp32", "fp64"):
        return GradWeightPlan(
            min(block_k, 32), clamp(power_of_two(columns), 16, 32), 32, flat, warps=4, stages=2
        )
    block_c = clamp(power_of_two(columns), 16, 64)
    block_m = 64 if arithmetic == "half" and wide else 32
    return GradWeightPlan(block_k, block_c, block_m, flat, warps=4 if wide or block_k < 64 else 8, stages=3)


def column_tiles(plan: GradWeightPlan, channels: int, taps: int) -> int:
    """How many tiles of block_c cover the taps·channels."""
    if plan.flat:
        return ceil_div(channels * taps, plan.block_c)
    return ceil_div(channels, plan.block_c) * taps


def splits(tiles: int, steps: int) -> int:
    """In how many parts to reduce `steps` blocks of pixels, where there are `tiles` programs already."""
    return clamp(PROGRAMS // tiles, 1, ceil_div(steps, 4))


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
