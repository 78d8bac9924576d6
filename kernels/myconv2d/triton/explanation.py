"""Which kernels and plans would serve a convolution, in words, without running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..shapes import empty_beside, output_size
from .forward import conv2d
from .grad_input import conv2d_grad_input
from .grad_weight import conv2d_grad_weight
from .launch import Gpu, assumed, intercept, set_in
from .tuning import Decision, decisions

Numbers = tuple[Sequence[int], Sequence[int], Sequence[int], int]  # stride, padding, dilation, groups


def operators(
    input: torch.Tensor, weight: torch.Tensor, numbers: Numbers, allow_tf32: bool
) -> dict[str, Callable[[], object]]:
    """The three calls on these operands, by name; grad_output has the result's memory format."""
    grad_output = empty_beside(input, weight, output_size(input.shape, weight.shape, *numbers[:3]))
    bias = weight.new_empty(weight.shape[0])
    options = {"allow_tf32": allow_tf32}
    return {
        "forward": lambda: conv2d(input, weight, bias, *numbers, **options),
        "grad_input": lambda: conv2d_grad_input(grad_output, weight, input.shape, *numbers, **options),
        "grad_weight": lambda: conv2d_grad_weight(
            grad_output, input, weight.shape, *numbers, True, **options
        ),
    }


def explain(input: torch.Tensor, weight: torch.Tensor, numbers: Numbers, allow_tf32: bool) -> list[str]:
    """A line for each kernel of the three operators: its name, why it is this one, its plan and where that is from."""
    on_meta = (
        torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        for tensor in (input, weight)
    )
    lines: dict[str, None] = {}  # each once
    with set_in(assumed, Gpu.of(input.device)), set_in(intercept, lambda *launch: None):
        for name, run in operators(*on_meta, numbers, allow_tf32).items():
            served: list[Decision] = []
            with set_in(decisions, served):
                run()
            for shape, choice, note in served:
                lines[f"{name}: {shape.kernel} kernel ({note}), {choice}"] = None
    return list(lines)
