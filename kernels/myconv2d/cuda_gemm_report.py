"""What nvcc made of every kernel of the CUDA library, and what its implicit GEMM moves; no GPU needed.

`python -m bench gpu-code` prints the rows, beside those of cuda_report.py. Counted (csrc/cuda/gemm_launches.cpp), not
timed.
"""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

import torch

from .cuda_report import Layer, cuobjdump
from .native import cuda
from .sass import INSTRUCTION, loop, occupancy, widths

ARITHMETIC = {  # name → type, allow_tf32
    "tf32": (torch.float32, True),
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "fp64": (torch.float64, False),
}
LAYERS = (
    Layer(32, 64, 16), Layer(64, 64, 8), Layer(64, 32, 8), Layer(128, 32, 8), Layer(64, 24, 16), Layer(25, 24, 32),
    Layer(64, 64, 256, batch=1), Layer(64, 64, 32, stride=2), Layer(64, 64, 16, stride=2),
)  # fmt: skip
BY_LAYOUT = {"channels_last": LAYERS, "contiguous": (Layer(64, 64, 8), Layer(64, 64, 16, stride=2))}
ONLY_IN_DOUBLES = (Layer(1, 32, 32), Layer(3, 3, 32))  # other types have kernels for few channels


class Code(NamedTuple):
    """What one kernel uses."""

    registers: int  # per thread
    spills: int  # instructions that access local memory
    shared: int  # bytes per block, of a size known to the compiler
    matrix: str  # wgmma, mma, or fma where no tensor core is used; – without products
    loop: int  # instructions of the shortest loop around a product
    asynchronous: str  # global → shared: bytes per thread × instructions
    loads: str  # other global loads, likewise


class Row(NamedTuple):
    """One launch of one layer. `moved` counts what all blocks load, whole tiles, mostly from the L2 cache, and store;
    `floor` each tensor once, workspaces not at all."""

    kernel: str
    operator: str
    layer: Layer
    arithmetic: str
    layout: str
    blocks: int
    occupancy: int  # of 100 warps that a multiprocessor can hold
    moved: int  # bytes
    floor: int  # bytes
    code: Code

    @property
    def complaint(self) -> str | None:
        """What should not be."""
        if self.code.spills:
            return "spills registers"
        products = self.kernel.startswith(("correlate<", "grad_weight_partial<"))
        wanted = "–" if not products else "fma" if self.arithmetic == "fp32" else "mma"
        return None if not products or self.code.matrix == wanted else f"has no {wanted}"


def default_cases() -> Iterator[tuple[str, str, Layer]]:
    """The types, layouts and layers that are counted."""
    for arithmetic in ARITHMETIC:
        for layout, layers in BY_LAYOUT.items():
            for layer in layers:
                yield arithmetic, layout, layer
    for layer in ONLY_IN_DOUBLES:
        yield "fp64", "channels_last", layer


def report(cases: Iterable[tuple[str, str, Layer]] | None = None, arch: int = 90) -> Iterator[Row]:
    """A row for every launch of the implicit GEMM for these types, layouts and layers; for the handout's, if None."""
    codes = kernels(arch)
    for (arithmetic, layout, layer), operator in product(
        default_cases() if cases is None else cases, cuda.PASSES
    ):
        for kernel, (blocks, threads, moved, floor) in _launches(layer, arithmetic, layout, operator):
            code = codes[kernel]
            occupied = occupancy(arch, code.registers, code.shared, threads // 32)
            yield Row(kernel, operator, layer, arithmetic, layout, blocks, occupied, moved, floor, code)


def _launches(
    layer: Layer, arithmetic: str, layout: str, operator: str
) -> Iterator[tuple[str, tuple[int, ...]]]:
    dtype, allow_tf32 = ARITHMETIC[arithmetic]
    channels_last = layout == "channels_last"
    return cuda.gemm_launches(
        *layer.sizes,
        layer.numbers,
        dtype=dtype,
        allow_tf32=allow_tf32,
        channels_last=channels_last,
        pass_name=operator,
    )


@functools.cache
def kernels(arch: int = 90) -> dict[str, Code]:
    """Every kernel of the library by its name in C++: what was compiled for sm_ARCH, and for sm_ARCHa."""
    usage, sass = (_dump(option, arch) for option in ("-res-usage", "-sass"))
    return {_name(mangled): _read(usage[mangled], text, arch) for mangled, text in sass.items()}


def _dump(option: str, arch: int) -> dict[str, str]:
    """What cuobjdump says of each kernel: {mangled name: text}."""
    command = [cuobjdump() or "cuobjdump", option, str(cuda.path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for section in re.split(r"^arch = sm_", text, flags=re.MULTILINE)[1:]:
        if section.split()[0] in (f"{arch}", f"{arch}a"):
            for part in re.split(r"Function\s*:?\s+", section)[1:]:
                found[part.split()[0].rstrip(":")] = part
    return found


def _read(usage: str, sass: str, arch: int) -> Code:
    instructions = INSTRUCTION.findall(sass)
    operations = [operation for _, operation, _ in instructions]
    names = Counter(operation.split(".")[0] for operation in operations)
    by_unit = {"wgmma": ("HGMMA",), "mma": ("HMMA", "DMMA"), "fma": ("FFMA", "DFMA")}
    matrix = next((unit for unit, wanted in by_unit.items() if any(map(names.get, wanted))), "–")
    (registers,), (shared,) = (map(int, re.findall(rf"{name}:(\d+)", usage)) for name in ("REG", "SHARED"))
    return Code(
        registers,
        names["LDL"] + names["STL"],
        max(shared - 1024, 0) if arch >= 90 else shared,  # from there on with what the system takes
        matrix,
        loop(instructions),
        widths(operations, "LDGSTS") or "–",
        widths(operations, "LDG") or "–",
    )


def _name(mangled: str) -> str:
    """A kernel's name as in C++, without namespaces and arguments."""
    full = _demangle(mangled).removeprefix("void ")
    full = re.sub(r"(myconv2d|cuda|\(anonymous namespace\)|_GLOBAL__N__\w+)::", "", full)
    name = full.partition(">(")[0] + ">" if ">(" in full else full.partition("(")[0]
    return name.replace("> >", ">>")


def _demangle(name: str) -> str:
    """By the C++ library that torch brings along."""
    library, libc = ctypes.CDLL("libstdc++.so.6"), ctypes.CDLL(None)
    demangle, free = library.__cxa_demangle, libc.free
    demangle.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    if (address := demangle(name.encode(), None, None, None)) is None:
        raise ValueError(f"{name!r} is not a name that a C++ compiler wrote")
    try:
        return ctypes.string_at(address).decode()
    finally:
        free(address)
