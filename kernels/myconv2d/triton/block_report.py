"""The fused blocks' kernels compiled for sm_90, and what their machine code holds; see compile_report.py.

`python -m myconv2d.triton.block_report` prints the table for the UNet's blocks, and fails if a kernel spills registers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch

from . import block
from .compile_report import ARITHMETIC, SM_90, compile_for, inspect, intercepted

PASSES = ("forward", "backward", "inference", "activate")


class BlockLayer(NamedTuple):
    """A 3×3 block; `channels` and `enlarged` of each feed, which has scale and shift unless it has 1 channel."""

    channels: tuple[int, ...]
    outputs: int
    size: int  # of the image that is convolved
    enlarged: tuple[bool, ...] = (False, False)
    norm: bool = True
    pool: bool = False
    batch: int = 100

    def __str__(self) -> str:
        feeds = "+".join(f"{c}{'↑' if up else ''}" for c, up in zip(self.channels, self.enlarged, strict=False))
        return f"{feeds}→{self.outputs}{'↓' if self.pool else ''} @{self.size}"


UNET = (
    BlockLayer((1,), 32, 32, pool=True), BlockLayer((32,), 64, 16, pool=True), BlockLayer((64,), 64, 8),
    BlockLayer((64, 64), 32, 8), BlockLayer((32, 32), 24, 16, (True, False)),
    BlockLayer((24, 1), 24, 32, (True, False), norm=False), BlockLayer((32,), 3, 32, (True,)),
)  # fmt: skip


class Row(NamedTuple):
    """What one compiled kernel uses; columns as in compile_report.Row."""

    kernel: str
    layer: BlockLayer
    arithmetic: str
    registers: int
    spills: int
    shared: int
    matrix: str
    asynchronous: str
    loads: str


def report(layers=UNET, passes=PASSES, arithmetic=("tf32", "fp32", "bf16", "fp16")) -> Iterator[Row]:
    """A row for every kernel that these passes launch, in the order of launching."""
    for layer in layers:
        for name in passes:
            for precision in arithmetic:
                yield from _rows(layer, name, precision)


def _rows(layer: BlockLayer, name: str, precision: str) -> Iterator[Row]:
    dtype, allow_tf32 = ARITHMETIC[precision]
    compiled = []

    def compile_instead(kernel, *arguments, **options) -> None:
        result = compile_for(SM_90, kernel, *arguments, **options)
        compiled.append((kernel.__name__, result.asm["cubin"], result.metadata.shared))

    with intercepted(compile_instead):
        _run(layer, name, dtype, allow_tf32)
    for kernel, binary, shared in compiled:
        yield Row(f"{name}: {kernel}", layer, precision, **inspect(binary), shared=shared)


def _run(layer: BlockLayer, name: str, dtype: torch.dtype, allow_tf32: bool) -> None:
    """One pass over one layer, of meta tensors."""

    def image(channels: int, size: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        tensor = torch.empty(layer.batch, channels, size, size, dtype=dtype, device="meta")
        return tensor.contiguous(memory_format=torch.channels_last)

    def vectors(channels: int, count: int = 2) -> list[torch.Tensor]:
        return [torch.empty(channels, device="meta") for _ in range(count)]

    feeds = []
    for channels, enlarged in zip(layer.channels, layer.enlarged, strict=False):
        affine = vectors(channels) if channels > 1 and name != "inference" else (None, None)
        feeds += image(channels, layer.size // 2 if enlarged else layer.size), *affine, enlarged
    feeds += [None, None, None, False][: 4 * (2 - len(layer.channels))]
    weight = torch.empty(layer.outputs, sum(layer.channels), 3, 3, dtype=dtype, device="meta")
    (bias, gamma, beta, mean, var), eps = vectors(layer.outputs, 5), 1e-5
    if not layer.norm:
        gamma = beta = mean = var = None
    y, small = image(layer.outputs, layer.size), image(layer.outputs, layer.size // 2)
    raw = small if layer.pool else y
    if name == "forward":
        block.block(*feeds, weight, bias, (1, 1), gamma, beta, eps, layer.pool, allow_tf32=allow_tf32)
    elif name == "backward":
        wanted = [layer.channels[0] > 1, len(layer.channels) > 1 and layer.channels[1] > 1, True]
        block.block_backward(raw, bias, bias, *feeds, weight, (1, 1), gamma, mean, var, eps, y,
                             small.to(torch.uint8), layer.pool, True, wanted, allow_tf32=allow_tf32)  # fmt: skip
    elif name == "inference":
        block.block_inference(feeds[0], feeds[3], feeds[4], feeds[7], weight, bias, (1, 1), gamma, beta, mean, var,
                              eps, True, layer.pool, allow_tf32=allow_tf32)  # fmt: skip
    elif layer.norm:
        block.activate(raw, bias, bias, False)
        block.activate_backward(raw, raw, bias, bias, False)


def main() -> int:
    columns = "{:34} {:14} {:10} {:>9} {:>6} {:>6} {:6} {:34} {}"
    print(columns.format(*Row._fields))
    spilling = 0
    for row in report():
        print(columns.format(*(str(field) for field in row)), flush=True)
        spilling += row.spills > 0
    print(f"{spilling} kernels spill registers" if spilling else "no kernel spills registers")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
