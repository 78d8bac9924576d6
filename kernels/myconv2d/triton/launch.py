"""What every launch needs: device guard, views by groups, strides as the kernels take them, offset width."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from . import interpreter  # noqa: F401  (repairs it before the first kernel is defined)

# Replaces the launch itself where somebody only looks at what would be launched: instead(kernel, programs, arguments,
# options). The tensors may be on the meta device then, which stands for the GPU `assumed`.
intercept: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("intercept", default=None)


class Gpu(NamedTuple):
    """What the choice of kernel and plan asks of a GPU."""

    capability: tuple[int, int]
    name: str | None  # None if nobody will ever measure on it

    @classmethod
    def of(cls, device: torch.device) -> Gpu:
        """That of `device`; the assumed one where there is none (the interpreter, the compiler)."""
        return _gpu(device) if device.type == "cuda" else assumed.get()


@functools.cache
def _gpu(device: torch.device) -> Gpu:
    return Gpu(torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device))


HOPPER = Gpu((9, 0), None)
assumed: contextvars.ContextVar[Gpu] = contextvars.ContextVar("assumed", default=HOPPER)


@contextlib.contextmanager
def set_in(variable: contextvars.ContextVar, value) -> Iterator:
    """Within the context, `variable` has this value, which the context yields."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


def launch(kernel, programs: int, device: torch.device, *arguments, **options) -> None:
    """Run `programs` instances of `kernel` on the current stream of `device`."""
    if (instead := intercept.get()) is not None:
        return instead(kernel, programs, arguments, options)
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with guard:
        kernel[(programs,)](*arguments, **options)


class Operand(NamedTuple):
    """An (N, G, C, H, W) view as the kernels take it: its strides n, g, c, h, w, all but c counted in `unit`.

    Triton knows of an integer argument only whether 16 divides it. With 24 channels innermost that loses the
    8 that does divide every pixel stride, and with it 16-byte accesses. So where the channel stride is 1, the
    others are passed divided by their common power of two (at most 16), which the kernel multiplies back as
    a constant.
    """

    tensor: torch.Tensor
    strides: tuple[int, int, int, int, int]
    unit: int
    wide: bool  # channels innermost and every pixel on a 16-byte boundary

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Operand:
        # A stride along an axis of size 1 is never used: it must not spoil the unit.
        n, g, _, h, w = (
            0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        c = tensor.stride(2)
        if c != 1:
            return cls(tensor, (n, g, c, h, w), 1, False)
        unit = math.gcd(16, n, g, h, w)
        wide = unit * tensor.element_size() % 16 == 0 and tensor.data_ptr() % 16 == 0
        return cls(tensor, (n // unit, g // unit, c, h // unit, w // unit), unit, wide)


def needs_64_bit(*tensors: torch.Tensor) -> bool:
    """True if an offset into any of the tensors, plus room for a tile, may not fit in 32 bits."""
    return any(_extent(tensor) >= 2**31 - 2**16 for tensor in tensors)


def _extent(tensor: torch.Tensor) -> int:
    return sum(size * abs(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def split_groups(tensor: torch.Tensor, dim: int, groups: int) -> torch.Tensor:
    """A view with axis `dim` split into (groups, size // groups)."""
    return tensor.unflatten(dim, (groups, tensor.shape[dim] // groups))


def pixel_box(pixels: int, rows: int, columns: int) -> tuple[int, int, int]:
    """A box (n, p, q) of `pixels` positions, powers of two: as wide as the image, then as tall, then deep."""
    box_q = min(power_of_two(columns), pixels)
    box_p = min(power_of_two(rows), pixels // box_q)
    return pixels // (box_q * box_p), box_p, box_q


def power_of_two(value: int) -> int:
    """The smallest power of two ≥ value."""
    return 1 << max(value - 1, 0).bit_length()


def fit(block: int, size: int) -> int:
    """`block`, or less where `size` needs less; 16 at least, which is what a matrix product takes."""
    return min(block, max(16, power_of_two(size)))


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
