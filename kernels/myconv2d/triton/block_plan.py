"""Block sizes of the fused blocks' kernels: a function of the layer and the type, never of the batch size.

Chosen by reasoning and by the compiler's report (no spills, tensor cores where they exist), not by measurement.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .launch import power_of_two
from .tuning import clamp


class Plan(NamedTuple):
    """A tile of `positions` × `block` channels of the result; `depth` of the axis that is summed over a step."""

    positions: int
    block: int
    depth: int
    warps: int
    stages: int

    def reduction(self, channels: int, taps: int) -> tuple[bool, int]:
        """For one feed: whether taps·channels are one axis (few channels), and how much of it a step takes."""
        flat = channels < 16
        return flat, clamp(power_of_two(channels * taps if flat else channels), 16, self.depth)


def plan(dtype: torch.dtype, allow_tf32: bool, outputs: int, picture: int) -> Plan:
    """Of forward and grad_input, `outputs` being the channels of the result and `picture` its P·Q."""
    block = clamp(power_of_two(outputs), 16, 64)
    if dtype == torch.float32 and not allow_tf32:  # no tensor cores: registers are the limit
        return Plan(64, min(block, 32), 16, warps=4, stages=3)
    return Plan(64 if picture <= 64 else 128, block, 32, warps=8, stages=3)


def weight_plan(dtype: torch.dtype, allow_tf32: bool, outputs: int) -> Plan:
    """Of grad_weight: a step takes `positions`, a tile is `block` outputs × up to `depth` of the taps·channels."""
    block = clamp(power_of_two(outputs), 16, 64)
    if dtype == torch.float32 and not allow_tf32:
        return Plan(32, min(block, 32), 32, warps=4, stages=2)
    return Plan(64 if dtype.itemsize == 2 else 32, block, 64, warps=8, stages=3)


def precision(allow_tf32: bool) -> str:
    """Of fp32 products."""
    return "tf32" if allow_tf32 else "ieee"
