"""The tensors of a case: random values, in any memory layout, in the middle of a buffer of canaries.

What lies around and between the elements of an operand is NaN (the largest number, for integers): a kernel
that reads beyond a tensor gives NaN, one that writes there is found by comparing the buffer with a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .cases import Case

_GUARD = 1024  # canaries on either side, in elements; keeps the operand itself aligned
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Format(NamedTuple):
    """Where the elements of a 4-D tensor lie; a vector has the gap, the offset and the repetition."""

    order: tuple[int, int, int, int] = (0, 1, 2, 3)  # axes, the outermost first
    gap: int = 1  # every gap-th element of each axis of something larger
    offset: int = 0  # elements off the alignment
    repeated: tuple[int, ...] = ()  # axes that are expanded: one value, stride 0


_CONTIGUOUS = Format()
_CHANNELS_LAST = Format((0, 2, 3, 1))
_PERMUTED = Format((3, 0, 2, 1))
_SLICED = Format(gap=2, offset=3)
_EXPANDED = Format(repeated=(0, 2))


class Layout(NamedTuple):
    input: Format
    weight: Format
    grad_output: Format
    bias: Format = _CONTIGUOUS

    @property
    def repeated(self) -> tuple[tuple[int, ...], ...]:
        """For each operand, the axes along which its values are all the same."""
        return tuple(format.repeated for format in self)


LAYOUTS = {
    "contiguous": Layout(_CONTIGUOUS, _CONTIGUOUS, _CONTIGUOUS),
    "channels_last": Layout(_CHANNELS_LAST, _CHANNELS_LAST, _CHANNELS_LAST),
    "mixed": Layout(_CHANNELS_LAST, _CONTIGUOUS, _PERMUTED),
    "permuted": Layout(_PERMUTED, _PERMUTED, _PERMUTED),
    "sliced": Layout(_SLICED, _SLICED, _SLICED, _SLICED),
    "expanded": Layout(_EXPANDED, _EXPANDED, _EXPANDED, _EXPANDED),
}


class Values(NamedTuple):
    """Of the operands: in the element type under test, contiguous."""

    input: Tensor
    weight: Tensor
    grad_output: Tensor
    bias: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Values:
        return Values(*map(function, self))


def draw(case: Case, dtype: torch.dtype, device: torch.device, repeated: Sequence[Sequence[int]]) -> Values:
    """Normal random values, so that no symmetry hides a mistake; small integers for integer types."""
    generator = torch.Generator(device).manual_seed(case.flop)
    sizes = case.input_size, case.weight_size, case.output_size, (case.out_channels,)

    def one(size: Sequence[int], axes: Sequence[int]) -> Tensor:
        drawn = [1 if axis in axes and extent else extent for axis, extent in enumerate(size)]
        if dtype.is_floating_point:
            values = torch.randn(drawn, generator=generator, device=device, dtype=torch.float64)
        else:
            low = -9 if dtype.is_signed else 0
            values = torch.randint(low, 10, drawn, generator=generator, device=device)
        return values.to(dtype).expand(size).contiguous()

    return Values(*map(one, sizes, repeated))


@dataclass(frozen=True)
class Operand:
    """A tensor within its buffer, and a copy of the buffer as it was."""

    tensor: Tensor
    buffer: Tensor
    before: Tensor

    def touched(self) -> bool:
        """Whether anybody wrote into the tensor or around it; puts everything back."""
        touched = not same_bits(self.buffer, self.before)
        if touched:
            self.buffer.copy_(self.before)
        return touched


def place(values: Tensor, format: Format, device: torch.device) -> Operand:
    """`values` on `device` in a memory format, with canaries around and between them."""
    dtype, size = values.dtype, values.shape
    strides, reach = [0] * values.dim(), 1
    for axis in reversed(format.order if values.dim() == 4 else range(values.dim())):
        if axis not in format.repeated:
            strides[axis] = reach * format.gap
            reach *= max(size[axis], 1) * format.gap
    canary = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max
    buffer = torch.full((2 * _GUARD + format.offset + reach,), canary, dtype=dtype, device=device)
    tensor = buffer.as_strided(size, strides, _GUARD + format.offset)
    for axis in format.repeated:  # one write to each place
        if axis < values.dim():
            values = values.narrow(axis, 0, min(1, size[axis]))
    tensor.as_strided(values.shape, strides).copy_(values)
    return Operand(tensor, buffer, buffer.clone())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one type and size are equal bit for bit, NaN and −0 included."""
    bits = _BITS[a.element_size()]
    return torch.equal(a.view(bits), b.view(bits))
