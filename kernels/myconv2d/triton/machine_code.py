"""Compiling a launch for a GPU that need not be there, and reading what the machine code holds."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from typing import NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from ..sass import INSTRUCTION, loop, occupancy, widths

NONE = "–"  # no such instruction
SM_80, SM_90 = (GPUTarget("cuda", arch, 32) for arch in (80, 90))


class Code(NamedTuple):
    """What one compiled kernel uses."""

    registers: int  # per thread
    spills: int  # instructions that access local memory
    shared: int  # bytes per program
    occupancy: int  # of 100: the warps that fit a multiprocessor, over those that it can hold
    matrix: str  # wgmma, mma, or fma where no tensor core is used
    loop: int  # instructions in the innermost loop that holds products; 0 if there is none
    asynchronous: str  # global → shared: boxes by the copy engine, or bytes per thread × instructions
    loads: str  # ordinary global loads, likewise


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


def read(compiled) -> Code:
    """What a result of `compile_for` uses, from its disassembly."""
    binary, metadata = compiled.asm["cubin"], compiled.metadata
    registers = int(re.search(r"REG:(\d+)", disassemble("-res-usage", binary))[1])
    instructions = INSTRUCTION.findall(disassemble("-sass", binary))
    operations = [operation for _, operation, _ in instructions]
    names = Counter(operation.split(".")[0] for operation in operations)
    if names["HGMMA"]:
        matrix = "wgmma"
    elif names["HMMA"] or names["DMMA"]:
        matrix = "mma"
    else:
        matrix = "fma" if names["FFMA"] or names["DFMA"] else NONE
    boxes = f"box × {names['UTMALDG']}" if names["UTMALDG"] else ""
    copies = widths(operations, "LDGSTS")
    return Code(
        registers,
        names["LDL"] + names["STL"],
        metadata.shared,
        occupancy(metadata.target.arch, registers, metadata.shared, metadata.num_warps),
        matrix,
        loop(instructions),
        ", ".join(filter(None, (boxes, copies))) or NONE,
        widths(operations, "LDG") or NONE,
    )


def disassemble(option: str, binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
