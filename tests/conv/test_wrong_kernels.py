"""Deliberately wrong kernels, each with one mistake that real kernels make: the checker must catch every one.

A check that has never failed proves nothing. Every mutant is the oracle but for one operator; it runs over
the same cases as the real backends, and the failures reported must be of that operator and no other. (The
same for one-line mistakes in the C++ sources: test_mutations.py.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import select
from bench.check import check
from bench.implementations import OPERATORS, ORACLE
from bench.operands import LAYOUTS

CASES = select("weird", "blocks", "empty")
conv2d, grad_input, grad_weight = ORACLE.conv2d, ORACLE.conv2d_grad_input, ORACLE.conv2d_grad_weight


class Mutant(NamedTuple):
    operator: str
    wrong: Callable
    dtype: torch.dtype = torch.float32
    layouts: tuple[str, ...] = ("contiguous",)


MUTANTS: dict[str, Mutant] = {}


def mutant(operator: str, dtype: torch.dtype = torch.float32, layouts: tuple[str, ...] = ("contiguous",)):
    def register(wrong: Callable) -> Callable:
        MUTANTS[wrong.__name__] = Mutant(operator, wrong, dtype, layouts)
        return wrong

    return register


def truncated(tensor: Tensor, bits: int) -> Tensor:
    """float32 with its last `bits` bits cut off."""
    return (tensor.float().contiguous().view(torch.int32) & -(1 << bits)).view(torch.float32)


@mutant("conv2d")
def off_by_one_halo(input, *rest):
    """The last row counts as padding."""
    last = max(0, input.shape[2] - 1)
    return conv2d(input.index_fill(2, torch.tensor([last]), 0), *rest)


@mutant("conv2d", layouts=("contiguous", "channels_last"))
def reads_its_halo_from_memory(input, weight, bias, stride, padding, dilation, groups):
    """No mask at the right border: what follows in memory is read."""
    n, c, h, w = input.shape
    if padding[1] and input.numel():
        input = input.as_strided((n, c, h, w + padding[1]), input.stride())
        input, padding = F.pad(input, (padding[1], 0)), (padding[0], 0)
    return conv2d(input, weight, bias, stride, padding, dilation, groups)


@mutant("conv2d")
def missing_group_offset(input, weight, bias, stride, padding, dilation, groups):
    """Every group reads the channels of the first."""
    first = input[:, : input.shape[1] // groups]
    return conv2d(first.repeat(1, groups, 1, 1), weight, bias, stride, padding, dilation, groups)


@mutant("conv2d")
def dropped_bias(input, weight, bias, *numbers):
    return conv2d(input, weight, None, *numbers)


@mutant("conv2d")
def swapped_kernel_axes(input, weight, *rest):
    return conv2d(input, weight.mT if weight.shape[2] == weight.shape[3] else weight, *rest)


@mutant("conv2d")
def swapped_dilation_axes(input, weight, bias, stride, padding, dilation, groups):
    output = conv2d(input, weight, bias, stride, padding, dilation, groups)
    swapped = conv2d(input, weight, bias, stride, padding[::-1], dilation[::-1], groups)
    return swapped if swapped.shape == output.shape else output


@mutant("conv2d")
def tail_tile_left_out(*args):
    """Only whole tiles of 16 pixels are written."""
    output = conv2d(*args)
    result = torch.empty_like(output)
    whole = output[0].numel() // 16 * 16 if len(output) else 0
    result.flatten(1)[:, :whole] = output.flatten(1)[:, :whole]
    return result


@mutant("conv2d")
def bfloat16_accumulator(input, weight, *rest):
    return conv2d(input.bfloat16(), weight.bfloat16(), None, *rest[1:]).float() + add(rest[0])


@mutant("conv2d", dtype=torch.bfloat16)
def bfloat16_between_taps(input, weight, bias, stride, padding, dilation, groups):
    """16-bit partial sums, one rounding for every kernel row."""
    total = None
    for row in range(weight.shape[2]):
        one_row = torch.zeros_like(weight)
        one_row[:, :, row] = weight[:, :, row]
        part = conv2d(input, one_row, bias if total is None else None, stride, padding, dilation, groups)
        total = part if total is None else total + part
    return total


@mutant("conv2d", dtype=torch.bfloat16)
def bias_added_after_the_rounding(input, weight, bias, *numbers):
    return conv2d(input, weight, None, *numbers) + add(bias)


@mutant("conv2d", dtype=torch.bfloat16)
def truncated_not_rounded(input, weight, bias, *numbers):
    wide = conv2d(input.float(), weight.float(), None if bias is None else bias.float(), *numbers)
    return truncated(wide, 16).bfloat16()


@mutant("conv2d")
def tf32_not_asked_for(input, weight, *rest):
    return conv2d(truncated(input, 13), truncated(weight, 13), *rest)


@mutant("conv2d", layouts=tuple(LAYOUTS))
def always_contiguous(*args):
    return conv2d(*args).contiguous()


@mutant("conv2d")
def rectifies_its_input_in_place(input, *rest):
    return conv2d(input.relu_(), *rest)


@mutant("conv2d")
def sums_in_any_order(input, weight, bias, *numbers):
    """As atomic additions do."""
    stride, padding, dilation, groups = numbers
    if groups > 1 or input.shape[1] < 2:
        return conv2d(input, weight, bias, *numbers)
    order = torch.randperm(input.shape[1])
    return conv2d(input[:, order], weight[:, order], bias, *numbers)


@mutant("conv2d_grad_input")
def unflipped_taps(grad_output, weight, *rest):
    """A convolution where a correlation belongs, or the other way about."""
    return grad_input(grad_output, weight.flip(2, 3), *rest)


@mutant("conv2d_grad_input")
def wrong_residue_class(grad_output, weight, input_size, stride, padding, dilation, groups):
    """At stride 2 the even columns get what belongs to the odd ones."""
    result = grad_input(grad_output, weight, input_size, stride, padding, dilation, groups)
    return result.roll(1, 3) if stride[1] == 2 else result


@mutant("conv2d_grad_input")
def class_without_taps_left_unwritten(grad_output, weight, input_size, stride, *rest):
    """Input pixels that no tap reaches have a gradient of zero, which must be written."""
    result = grad_input(grad_output, weight, input_size, stride, *rest)
    ones = torch.ones_like(grad_output), torch.ones_like(weight)
    reached = grad_input(*ones, input_size, stride, *rest) != 0
    return torch.where(reached, result, torch.empty_like(result))


@mutant("conv2d_grad_weight")
def lost_partial_sum(grad_output, input, *rest):
    """Of two threads that add to one place, one is lost: here the part of the last row of pixels."""
    last = max(0, grad_output.shape[2] - 1)
    wrong, _ = grad_weight(grad_output.index_fill(2, torch.tensor([last]), 0), input, *rest)
    return wrong, grad_weight(grad_output, input, *rest)[1]


@mutant("conv2d_grad_weight")
def lost_pixel(grad_output, input, *rest):
    """One of all pixels is missing from the sum."""
    part = grad_output.clone(memory_format=torch.contiguous_format)
    part.view(-1)[-1:] = 0
    return grad_weight(part, input, *rest)


_workspace: dict[tuple, Tensor] = {}


@mutant("conv2d_grad_weight")
def stale_workspace(*args):
    """The partial sums of the call before are still there."""
    fresh, grad_bias = grad_weight(*args)
    stale = _workspace.get(fresh.shape)
    _workspace[fresh.shape] = fresh
    return fresh if stale is None else fresh + stale, grad_bias


@mutant("conv2d_grad_weight")
def bias_gradient_of_one_image(grad_output, input, *rest):
    weights, grad_bias = grad_weight(grad_output, input, *rest)
    return weights, grad_output[0].sum((1, 2)) if len(grad_output) and len(grad_bias) else grad_bias


@mutant("conv2d_grad_weight")
def bias_gradient_not_asked_for(*args):
    return grad_weight(*args[:-1], True)


@mutant("conv2d_grad_weight", dtype=torch.float16)
def half_accumulator(grad_output, input, *rest):
    """Partial sums of each image are kept in 16 bits."""
    if len(input) == 0:
        return grad_weight(grad_output, input, *rest)
    parts = [grad_weight(g, x, *rest) for g, x in zip(grad_output.split(1), input.split(1), strict=True)]
    return tuple(sum(part) for part in zip(*parts, strict=True))


def add(bias: Tensor | None):
    return 0 if bias is None else bias[:, None, None]


def failed_operators(implementation, dtype: torch.dtype, layouts: tuple[str, ...]) -> set[str]:
    reports = [check(implementation, case, dtype, layout) for case in CASES for layout in layouts]
    return set().union(*(report.failed_operators for report in reports))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_caught(name: str) -> None:
    operator, wrong, dtype, layouts = MUTANTS[name]
    assert failed_operators(ORACLE._replace(name=name, **{operator: wrong}), dtype, layouts) == {operator}


def test_every_operator_has_mutants() -> None:
    assert {mutant.operator for mutant in MUTANTS.values()} == set(OPERATORS)


@pytest.mark.parametrize("dtype", sorted({mutant.dtype for mutant in MUTANTS.values()}, key=str), ids=str)
def test_the_right_kernel_passes(dtype: torch.dtype) -> None:
    assert failed_operators(ORACLE, dtype, tuple(LAYOUTS)) == set()


def test_tf32_passes_where_it_is_asked_for() -> None:
    mutant = ORACLE._replace(name="TF32", conv2d=tf32_not_asked_for)
    assert all(check(mutant, case, torch.float32, tf32=True).passed for case in CASES)
