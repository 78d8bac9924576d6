"""What nvcc made of the CUDA library's kernels for few channels and of its halo kernel, and the bytes they move; no GPU
needed.

`python -m bench gpu-code` prints the rows. The installed library is read with cuobjdump (the CUDA toolkit's, or the one
in Triton's package). Counted, not timed.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from . import operators  # noqa: F401 (loads the library)
from .native import Setting, cuda
from .sass import INSTRUCTION, loop, occupancy, widths
from .shapes import Numbers, output_size

TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# As the compiler writes them in names: element types, and for the halo kernel the arithmetic of mma.cuh.
ELEMENTS = {"fp32": "f", "bf16": "13__nv_bfloat16", "fp16": "6__half"}
ARITHMETICS = {"tf32": "4Tf32", "bf16": "4Bf16", "fp16": "4Fp16"}
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


class Code(NamedTuple):
    """What one kernel of the library uses."""

    registers: int  # per thread
    spills: int  # instructions that access local memory
    matrix: str  # wgmma, mma, or fma where no tensor core is used
    loop: int  # instructions of the shortest loop around a product
    asynchronous: str  # global → shared: bytes per thread × instructions
    loads: str  # global loads: bytes per thread × instructions, widest first


class Row(NamedTuple):
    """One kernel of one layer. `moved` counts what all blocks load and store, halos and filters as often as they are
    loaded, mostly from the L2 cache; `floor` each tensor once."""

    kernel: str
    operator: str
    layer: Layer
    arithmetic: str
    layout: str
    blocks: int
    shared: int  # bytes per block
    occupancy: int  # of 100 warps that a multiprocessor can hold
    moved: int  # bytes
    floor: int  # bytes
    code: Code

    @property
    def complaint(self) -> str | None:
        """What should not be."""
        if self.code.spills:
            return "spills registers"
        if self.kernel.startswith("halo") and self.code.matrix != "wgmma":
            return "does not use wgmma"
        return None


def cuobjdump() -> str | None:
    """NVIDIA's disassembler."""
    spec = importlib.util.find_spec("triton")
    packages = (spec.submodule_search_locations or []) if spec else []
    folders = [str(Path(folder) / "backends" / "nvidia" / "bin") for folder in packages]
    found = (shutil.which("cuobjdump", path=folder) for folder in (None, "/usr/local/cuda/bin", *folders))
    return next(filter(None, found), None)


def kernels(option: str, arch: int | str) -> dict[str, str]:
    """What cuobjdump says of each kernel: {mangled name: text}."""
    command = [cuobjdump() or "cuobjdump", option, "-arch", f"sm_{arch}", str(cuda.path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"Function\s*:?\s+", text)[1:]
    return {part.split()[0].rstrip(":"): part for part in parts}


def read(usage: str, sass: str) -> Code:
    instructions = INSTRUCTION.findall(sass)
    operations = [operation for _, operation, _ in instructions]
    names = Counter(operation.split(".")[0] for operation in operations)
    registers = re.findall(r"REG:(\d+)", usage)
    return Code(
        int(registers[0]),
        names["LDL"] + names["STL"],
        "wgmma" if names["HGMMA"] else "mma" if names["HMMA"] else "fma",
        loop(instructions),
        widths(operations, "LDGSTS") or "–",
        widths(operations, "LDG") or "–",
    )


def kernel_of(algorithm: str, operator: str, layer: Layer, filters: int) -> str:
    """Its name, and its number of filters where there is a kernel for each."""
    if algorithm == HALO:
        return f"halo<{filters}>"
    if algorithm == "few channels":
        return "few_grad_weight"
    if algorithm == "few in channels":
        return "few_in"
    return f"few_out<{layer.channels if operator == 'grad_input' else layer.outputs}>"


def mangled(kernel: str, arithmetic: str) -> str:
    """What of the kernel's name in the library tells it from all others."""
    base, _, filters = kernel.rstrip(">").partition("<")
    argument = f"NS0_{ARITHMETICS[arithmetic]}E" if base == "halo" else ELEMENTS[arithmetic]
    return f"{len(base)}{base}I{argument}" + (f"Li{filters}E" if filters else "")


def report(layers=LAYERS, arithmetic=tuple(TYPES), arch: int = 90) -> Iterator[Row]:
    """A row for every pass that a kernel for few channels serves, or the halo kernel in channels_last."""
    architectures = (arch, "90a") if arch == 90 else (arch,)
    usage, sass = (
        {name: text for each in architectures for name, text in kernels(option, each).items()}
        for option in ("-res-usage", "-sass")
    )
    found: dict[tuple[str, str], Code] = {}
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
                kernel = kernel_of(algorithm, operator, layer, cost.filters)
                if (kernel, name) not in found:
                    (full,) = (known for known in usage if mangled(kernel, name) in known)
                    found[kernel, name] = read(usage[full], sass[full])
                code = found[kernel, name]
                floor = (elements + (0 if operator == "grad_input" else layer.outputs)) * dtype.itemsize
                occupied = occupancy(arch, code.registers, cost.shared, cost.threads // 32)
                layout = "channels_last" if algorithm == HALO else "any"
                what = kernel, operator, layer, name, layout
                yield Row(*what, cost.blocks, cost.shared, occupied, cost.moved, floor, code)
