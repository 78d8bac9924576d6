"""The CUDA library's launches of its kernels for few channels and of its halo kernel: their machine code, and the bytes
they move; no GPU needed.

`python -m bench gpu-code` prints the rows. Read (cuda_code.py) and counted (csrc/cuda/cost.h), not timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from . import operators  # noqa: F401 (loads the library)
from .cuda_code import kernels
from .native import Setting, cuda
from .sass import Code, occupancy
from .shapes import Numbers, output_size

TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ELEMENTS = {"fp32": "float", "bf16": "__nv_bfloat16", "fp16": "__half"}  # names in C++
ARITHMETICS = {"tf32": "Tf32", "bf16": "Bf16", "fp16": "Fp16"}  # of mma.cuh, for the halo kernel
HALO = "halo by wgmma"


class Layer(NamedTuple):
    """A convolution of square images and kernels, padded to keep the size (over the stride)."""

    channels: int
    outputs: int
    size: int
    batch: int = 100
    kernel: int = 3
    stride: int = 1

    def __str__(self) -> str:
        extra = f" {self.kernel}×{self.kernel}/{self.stride}" if (self.kernel, self.stride) != (3, 1) else ""
        return f"{self.channels}→{self.outputs} @{self.size}{extra}"

    @property
    def numbers(self) -> Numbers:
        pad = self.kernel // 2
        return Numbers((self.stride, self.stride), (pad, pad), (1, 1), 1)

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of input, output and weight."""
        input_size = self.batch, self.channels, self.size, self.size
        weight_size = self.outputs, self.channels, self.kernel, self.kernel
        return input_size, output_size(input_size, weight_size, *self.numbers[:3]), weight_size


LAYERS = (
    Layer(1, 32, 32), Layer(3, 32, 32), Layer(3, 64, 32), Layer(3, 3, 32), Layer(32, 3, 16), Layer(32, 3, 32),
    Layer(64, 3, 256, batch=1), Layer(3, 64, 224, batch=8, kernel=7, stride=2),
    Layer(32, 64, 16), Layer(64, 64, 8), Layer(64, 32, 8), Layer(128, 32, 8), Layer(64, 24, 16), Layer(64, 64, 32),
    Layer(64, 128, 32), Layer(64, 64, 256, batch=1),
)  # fmt: skip


class Row(NamedTuple):
    """One launch of one layer. `moved` counts what all blocks load, halos and filters as often as they are loaded,
    mostly from the L2 cache, and store; `floor` each tensor once, workspaces not at all."""

    kernel: str  # its name in C++
    operator: str
    layer: Layer
    arithmetic: str
    layout: str
    blocks: int
    occupancy: int  # of 100 warps that a multiprocessor can hold
    moved: int  # bytes
    floor: int  # bytes
    code: Code
    wanted: str | None  # the instruction that its products should use; None without products

    @property
    def complaint(self) -> str | None:
        """What should not be."""
        if self.code.spills:
            return "spills registers"
        return None if self.wanted in (None, self.code.matrix) else f"has no {self.wanted}"


def report(layers=LAYERS, arithmetic=tuple(TYPES), arch: int = 90) -> Iterator[Row]:
    """A row for every pass that a kernel for few channels serves, or the halo kernel in channels_last."""
    codes = kernels(arch)
    for layer in layers:
        sizes, numbers = layer.sizes, layer.numbers
        elements = sum(torch.Size(size).numel() for size in sizes)
        for name in arithmetic:
            dtype, setting = TYPES[name], Setting(name == "tf32", True, arch)
            algorithms = cuda.algorithms(sizes[0], sizes[1], sizes[2], numbers, dtype, *setting)
            for operator, algorithm in algorithms.items():
                cost = cuda.cost(*sizes, numbers, dtype=dtype, pass_name=operator, setting=setting)
                if not cost.blocks or (name == "tf32" and algorithm != HALO):
                    continue  # not counted, or a row of fp32: few channels have no TF32
                kernel = _kernel(algorithm, operator, layer, name, cost.filters)
                code = codes[kernel]._replace(shared=cost.shared)  # which the compiler does not know
                occupied = occupancy(arch, code.registers, code.shared, cost.threads // 32)
                floor = (elements + (0 if operator == "grad_input" else layer.outputs)) * dtype.itemsize
                layout, wanted = ("channels_last", "wgmma") if algorithm == HALO else ("any", "fma")
                what = kernel, operator, layer, name, layout
                yield Row(*what, cost.blocks, occupied, cost.moved, floor, code, wanted)


def _kernel(algorithm: str, operator: str, layer: Layer, arithmetic: str, filters: int) -> str:
    """Its name in C++; `filters` of a block of the halo kernel."""
    if algorithm == HALO:
        return f"halo<{ARITHMETICS[arithmetic]}, {filters}>"
    element = ELEMENTS[arithmetic]
    if algorithm == "few channels":
        return f"few_grad_weight<{element}>"
    if algorithm == "few in channels":
        return f"few_in<{element}>"
    return f"few_out<{element}, {layer.channels if operator == 'grad_input' else layer.outputs}>"
