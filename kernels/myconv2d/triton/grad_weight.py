"""grad_weight and grad_bias in one pass, split over the pixels, reduced in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..shapes import empty_beside
from . import tuning
from .grad_weight_gather import NOT_FLAT, grad_weight_gather
from .grad_weight_halo import grad_weight_halo
from .grad_weight_nchw import grad_weight_nchw
from .grad_weight_reduce import reduce_partial_sums
from .halo import BOXES, COPIED_FROM, padded, why_never, why_not_in_place
from .halo_nchw import IN_PLACE, is_nchw, why_not_rows
from .indexing import Axis, forward_axes
from .launch import Operand, split_groups
from .plans import Plan, Shape


def conv2d_grad_weight(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bias: bool,
    *,
    allow_tf32: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """grad_output (N, K, P, Q), input (N, C, H, W) → grad_weight (K, C/groups, R, S), grad_bias (K).

    Without `bias`, grad_bias is empty.
    """
    grad_weight = empty_beside(grad_output, input, weight_size)
    if grad_output.numel() == 0 or grad_weight.numel() == 0:
        return grad_weight.zero_(), grad_output.sum((0, 2, 3)) if bias else grad_output.new_empty(0)
    grad_bias = grad_output.new_empty(weight_size[0] if bias else 0)

    grad, source = split_groups(grad_output, 1, groups), split_groups(input, 1, groups)
    vertical, horizontal = forward_axes(stride, padding, dilation)
    arithmetic = tuning.arithmetic(input.dtype, allow_tf32)
    obstacle = tuning.no_wgmma(arithmetic) or why_never(source, vertical, horizontal) or why_never(grad)
    nchw = obstacle is None and (is_nchw(grad) or is_nchw(source))
    note = IN_PLACE if nchw else BOXES
    if nchw:
        obstacle = _why_not_rows(grad, source, vertical, horizontal, weight_size[3])
    elif obstacle is None and (misplaced := why_not_in_place(source) or why_not_in_place(grad)):
        if math.prod(weight_size[2:]) < COPIED_FROM * math.prod(stride) or weight_size[1] < NOT_FLAT:
            obstacle = misplaced
        else:
            grad, source, note = padded(grad), padded(source), f"{BOXES}, from copies: {misplaced}"
    if obstacle is not None:
        kernel, kernel_of_images = "grad_weight_gather", grad_weight_gather
        layout = "wide" if Operand.of(grad).wide and Operand.of(source).wide else "narrow"
    elif nchw:
        kernel, kernel_of_images = "grad_weight_nchw", grad_weight_nchw
    else:
        kernel, kernel_of_images, layout = "grad_weight_halo", grad_weight_halo, "channels_last"
    shape = Shape(
        kernel, arithmetic, "contiguous" if nchw else layout, weight_size[1], weight_size[0] // groups,
        tuple(weight_size[2:]), tuple(grad.shape[3:]), tuple(stride),
    )  # fmt: skip

    def run(plan: Plan) -> None:
        if plan.copied:
            sums, images = grad_weight_halo, (padded(grad), padded(source))
        else:
            sums, images = kernel_of_images, (grad, source)
        partial = sums(*images, weight_size, vertical, horizontal, bias, allow_tf32, plan)
        reduce_partial_sums(partial, grad_weight, grad_bias if bias else None)

    tuning.serve(shape, input.device, run, note=obstacle or note)
    return grad_weight, grad_bias


def _why_not_rows(
    grad: torch.Tensor, source: torch.Tensor, vertical: Axis, horizontal: Axis, taps: int
) -> str | None:
    """Why boxes cannot be loaded from where the images lie, at least one of them in NCHW."""
    if not (is_nchw(grad) and is_nchw(source)):
        return "the two images are laid out differently"
    return why_not_rows(source, vertical, horizontal, taps) or why_not_rows(grad, vertical, horizontal, taps)
