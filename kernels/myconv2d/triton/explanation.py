"""Which kernels and plans would serve a convolution, in words, without running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..shapes import empty_beside, output_size
from . import block
from .forward import conv2d
from .grad_input import conv2d_grad_input
from .grad_weight import conv2d_grad_weight
from .halo import BOXES
from .launch import Gpu, assumed, intercept, set_in
from .tuning import Decision, copied, decisions

Numbers = tuple[Sequence[int], Sequence[int], Sequence[int], int]  # stride, padding, dilation, groups


def operators(
    input: torch.Tensor, weight: torch.Tensor, numbers: Numbers, allow_tf32: bool
) -> dict[str, Callable[[], object]]:
    """The three calls on these operands, by name; grad_output has the result's memory format."""
    grad_output = empty_beside(input, weight, output_size(input.shape, weight.shape, *numbers[:3])).normal_()
    bias = weight.new_empty(weight.shape[0]).normal_()
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
    return _served(operators(*map(_on_meta, (input, weight)), numbers, allow_tf32), input.device)


def explain_block(*arguments, allow_tf32: bool) -> list[str]:
    """The arguments of the operator `block` → what is copied first, and a line for each kernel of both passes with a
    plan of its own. Backward is that of what requires a gradient, and of the parameters."""
    tensors = [_on_meta(a) if isinstance(a, torch.Tensor) else a for a in arguments]
    feeds, (weight, bias, padding, gamma, _, eps, _) = tensors[:8], tensors[8:]
    wanted = [any(t is not None and t.requires_grad for t in feed) for feed in (arguments[:3], arguments[4:7])]
    results: list[torch.Tensor] = []

    def forward() -> None:
        results[:] = block.block(*tensors, allow_tf32=allow_tf32)

    def backward() -> None:
        raw, full, index, scale, shift, mean, var = results
        norm = (scale, shift), (gamma, mean, var)
        through, statistics = norm if gamma is not None else ((None, None), (None, None, None))
        y = full if full.numel() else raw
        block.block_backward(raw, *through, *feeds, weight, padding, *statistics, eps, y, index, full.numel() > 0,
                             bias is not None, [*wanted, True], allow_tf32=allow_tf32)  # fmt: skip

    images = {"input": tensors[0], "skip": tensors[4]}
    copied = [name for name, t in images.items() if t is not None and block.dense(t) is not t]
    calls = {"forward": forward, "backward": backward}
    return [f"{name}: copied to channels_last first" for name in copied] + _served(calls, arguments[0].device)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _served(calls: dict[str, Callable[[], object]], device: torch.device) -> list[str]:
    """A line for each decision of the calls, which are on meta tensors."""
    lines: dict[str, None] = {}  # each once
    with set_in(assumed, Gpu.of(device)), set_in(intercept, lambda *launch: None):
        for name, run in calls.items():
            served: list[Decision] = []
            with set_in(decisions, served):
                run()
            for shape, choice, note in served:
                if choice.plan.copied:
                    shape, note = copied(shape), f"{BOXES}, from a copy: so the plan wants it"
                lines[f"{name}: {shape.kernel} kernel ({note}), {choice}"] = None
    return list(lines)
