"""Forward and grad_input, told as one gather (see gather.py): which of the kernels serves, with which plan."""

from __future__ import annotations

import torch

from . import tuning
from .gather import gather
from .halo import BOXES, COPIED_FROM, halo, padded, why_never, why_not_in_place
from .halo_nchw import IN_PLACE, halo_nchw, is_nchw, why_not_rows
from .indexing import Axis
from .launch import Operand
from .plans import Plan, Shape


def gemm(
    source: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    result: torch.Tensor,
    vertical: Axis,
    horizontal: Axis,
    allow_tf32: bool,
) -> None:
    """Fill `result` (N, G, K, P, Q) from `source` (N, G, C, H, W), `weight` (G, K, C, R, S), `bias` (G·K).

    All are views with any strides and none is empty.
    """
    arithmetic = tuning.arithmetic(source.dtype, allow_tf32)
    taps = weight.shape[3:]
    obstacle = tuning.no_wgmma(arithmetic) or why_never(source, vertical, horizontal)
    nchw = obstacle is None and is_nchw(source)
    note = IN_PLACE if nchw else BOXES
    if nchw:
        obstacle = why_not_rows(source, vertical, horizontal, taps[1])
    elif obstacle is None and (misplaced := why_not_in_place(source)):
        if taps.numel() < COPIED_FROM * vertical.stride * horizontal.stride:
            obstacle = misplaced
        else:
            source, note = padded(source), f"{BOXES}, from a copy: {misplaced}"
    if obstacle is not None:
        kernel, kernel_of_images = "gather", gather
        layout = "wide" if Operand.of(source).wide and Operand.of(result).wide else "narrow"
    elif nchw:
        kernel, kernel_of_images = "halo_nchw", halo_nchw
    else:
        kernel, kernel_of_images, layout = "halo", halo, "channels_last"
    shape = Shape(
        kernel, arithmetic, "contiguous" if nchw else layout, weight.shape[2], weight.shape[1], tuple(taps),
        tuple(result.shape[3:]), (vertical.stride, horizontal.stride),
    )  # fmt: skip

    def run(plan: Plan) -> None:
        serving, images = (halo, padded(source)) if plan.copied else (kernel_of_images, source)
        serving(images, weight, bias, result, vertical, horizontal, allow_tf32, plan)

    tuning.serve(shape, result.device, run, note=obstacle or note)
