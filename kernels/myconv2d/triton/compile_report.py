"""Compile every kernel for sm_90 on a machine that needs no GPU, and read what the machine code holds.

`python -m myconv2d.triton.compile_report` prints the table for the handout's layers, and fails if any kernel
spills registers. The operators run on meta
tensors with the launch intercepted, so what is compiled is exactly what a call would launch.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from .forward import conv2d
from .grad_input import conv2d_grad_input
from .grad_weight import conv2d_grad_weight
from .interpreter import INTERPRETED
from .launch import intercept

SM_90 = GPUTarget("cuda", 90, 32)
OPERATORS = ("forward", "grad_input", "grad_weight")
ARITHMETIC = {  # name → type, allow_tf32
    "tf32": (torch.float32, True),
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "fp64": (torch.float64, False),
}

INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", re.MULTILINE)


class Layer(NamedTuple):
    """A 3×3 convolution with padding 1: channels → outputs on images size × size."""

    channels: int
    outputs: int
    size: int
    batch: int = 100

    def __str__(self) -> str:
        return f"{self.channels}→{self.outputs} @{self.size}"


HANDOUT = (
    Layer(1, 32, 32), Layer(32, 64, 16), Layer(64, 64, 8), Layer(64, 32, 8), Layer(128, 32, 8),
    Layer(32, 3, 16), Layer(64, 24, 16), Layer(3, 3, 32), Layer(25, 24, 32), Layer(64, 64, 256, batch=1),
)  # fmt: skip


class Row(NamedTuple):
    """What one compiled kernel uses."""

    kernel: str
    layer: Layer
    arithmetic: str
    registers: int  # per thread
    spills: int  # instructions that access local memory
    shared: int  # bytes per program
    matrix: str  # wgmma, mma, or fma where no tensor core is used
    asynchronous: str  # global → shared copies: bytes per thread × instructions, widest first
    loads: str  # ordinary global loads, likewise


def report(
    layers=HANDOUT,
    operators=OPERATORS,
    arithmetic=tuple(a for a in ARITHMETIC if a != "fp64"),
    memory_format: torch.memory_format = torch.channels_last,
) -> Iterator[Row]:
    """A row for every kernel that these operators launch, in the order of launching."""
    for layer, operator, name in itertools.product(layers, operators, arithmetic):
        for kernel, binary, shared in compiled(operator, layer, *ARITHMETIC[name], memory_format):
            yield Row(kernel, layer, name, **inspect(binary), shared=shared)


def compiled(
    operator: str, layer: Layer, dtype: torch.dtype, allow_tf32: bool, memory_format: torch.memory_format
) -> list[tuple[str, bytes, int]]:
    """Kernel name, machine code and shared memory of every launch of one operator on one layer."""

    def tensor(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device="meta").contiguous(memory_format=memory_format)

    batch, size = layer.batch, layer.size
    input, weight = tensor(batch, layer.channels, size, size), tensor(layer.outputs, layer.channels, 3, 3)
    bias, grad_output = weight.new_empty(layer.outputs), tensor(batch, layer.outputs, size, size)
    geometry = (1, 1), (1, 1), (1, 1), 1
    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: conv2d(input, weight, bias, *geometry, allow_tf32=allow_tf32),
        "grad_input": lambda: conv2d_grad_input(
            grad_output, weight, input.shape, *geometry, allow_tf32=allow_tf32
        ),
        "grad_weight": lambda: conv2d_grad_weight(
            grad_output, input, weight.shape, *geometry, True, allow_tf32=allow_tf32
        ),
    }
    results = []

    def compile_instead(kernel, *arguments, **options) -> None:
        result = compile_for(SM_90, kernel, *arguments, **options)
        results.append((f"{operator}: {kernel.__name__}", result.asm["cubin"], result.metadata.shared))

    with intercepted(compile_instead):
        calls[operator]()
    return results


@contextmanager
def intercepted(instead: Callable) -> Iterator[None]:
    token = intercept.set(instead)
    try:
        yield
    finally:
        intercept.reset(token)


def compile_for(target: GPUTarget, kernel, *arguments, **options):
    """Triton's own specialisation and compilation of one launch, for a device that need not be there."""
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, keywords = bind(*arguments, **options)
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, keywords, bound, specialization, backend.parse_options(keywords)
    )
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=parsed.__dict__)


def inspect(binary: bytes) -> dict[str, int | str]:
    """Registers, spills, matrix instruction and loads, from the disassembly."""
    usage = disassemble("-res-usage", binary)
    instructions = INSTRUCTION.findall(disassemble("-sass", binary))
    names = Counter(instruction.split(".")[0] for instruction in instructions)
    if names["HGMMA"]:
        matrix = "wgmma"
    elif names["HMMA"] or names["DMMA"]:
        matrix = "mma"
    else:
        matrix = "fma" if names["FFMA"] or names["DFMA"] else "–"
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "spills": names["LDL"] + names["STL"],
        "matrix": matrix,
        "asynchronous": widths(instructions, "LDGSTS"),
        "loads": widths(instructions, "LDG"),
    }


def widths(instructions: list[str], name: str) -> str:
    """Such as "16 B × 8, 4 B × 2"."""
    sizes = Counter(
        int(match[1]) // 8 if (match := re.search(r"\.U?(8|16|64|128)\b(?!B)", instruction)) else 4
        for instruction in instructions
        if instruction.split(".")[0] == name
    )
    return ", ".join(f"{size} B × {count}" for size, count in sorted(sizes.items(), reverse=True)) or "–"


def disassemble(option: str, binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--operator", choices=OPERATORS, action="append", help="default: all")
    parser.add_argument("--arithmetic", choices=ARITHMETIC, action="append", help="default: all but fp64")
    parser.add_argument("--nchw", action="store_true", help="contiguous tensors instead of channels_last")
    options = parser.parse_args()
    if INTERPRETED:
        parser.error("TRITON_INTERPRET=1 is set: kernels are interpreted, not compiled")
    columns = "{:32} {:12} {:10} {:>9} {:>6} {:>6} {:6} {:24} {}"
    print(columns.format(*Row._fields))
    rows = report(
        operators=options.operator or OPERATORS,
        arithmetic=options.arithmetic or [a for a in ARITHMETIC if a != "fp64"],
        memory_format=torch.contiguous_format if options.nchw else torch.channels_last,
    )
    spilling = 0
    for row in rows:
        print(columns.format(*(str(field) for field in row)), flush=True)
        spilling += row.spills > 0
    print(f"{spilling} kernels spill registers" if spilling else "no kernel spills registers")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
