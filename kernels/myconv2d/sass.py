"""What NVIDIA's disassembly (SASS, from cuobjdump) says of a kernel; for cuda_code.py and triton/machine_code.py."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

# " /*0a10*/   @!P0 HGMMA.64x64x16.F32 R24, ..." → address, operation with its modifiers, operands
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)([^;]*)", re.MULTILINE)
NONE = "–"  # no such instruction
MATRIX = {"wgmma": ("HGMMA",), "mma": ("HMMA", "DMMA"), "fma": ("FFMA", "DFMA")}  # of products, the fastest first
PRODUCTS = {name for names in MATRIX.values() for name in names}


class Code(NamedTuple):
    """What one compiled kernel uses."""

    registers: int  # per thread
    spills: int  # instructions that access local memory
    shared: int  # bytes per program (block)
    matrix: str  # wgmma, mma, or fma where no tensor core is used; – without products
    loop: int  # instructions of the shortest loop around a product; 0 if there is none
    asynchronous: str  # global → shared: boxes by the copy engine, or bytes per thread × instructions
    loads: str  # ordinary global loads, likewise


def read(usage: str, sass: str, arch: int) -> Code:
    """One kernel, from what cuobjdump says with -res-usage and with -sass; shared memory as the compiler knows it."""
    instructions = INSTRUCTION.findall(sass)
    operations = [operation for _, operation, _ in instructions]
    names = Counter(operation.split(".")[0] for operation in operations)
    (registers,), (shared,) = (map(int, re.findall(rf"\b{name}:(\d+)", usage)) for name in ("REG", "SHARED"))
    boxes = f"box × {names['UTMALDG']}" if names["UTMALDG"] else ""
    return Code(
        registers,
        names["LDL"] + names["STL"],
        max(shared - 1024, 0) if arch >= 90 else shared,  # from there on with what the system takes
        next((unit for unit, wanted in MATRIX.items() if any(map(names.get, wanted))), NONE),
        loop(instructions),
        ", ".join(filter(None, (boxes, widths(operations, "LDGSTS")))) or NONE,
        widths(operations, "LDG") or NONE,
    )


class Multiprocessor(NamedTuple):
    """What the programs on one multiprocessor share (CUDA C++ Programming Guide, compute capabilities)."""

    shared: int  # bytes, of which each program takes 1 KB more than it asks for
    registers: int = 65536
    warps: int = 64
    programs: int = 32


MULTIPROCESSOR = {80: Multiprocessor(164 * 1024), 90: Multiprocessor(228 * 1024)}


def occupancy(arch: int, registers: int, shared: int, warps: int) -> int:
    """Per cent of a multiprocessor's warps that programs of this size fill. Registers come in 256 per warp."""
    whole = MULTIPROCESSOR[arch]
    programs = min(
        whole.registers // (-(-registers * 32 // 256) * 256) // warps,
        whole.shared // (shared + 1024),
        whole.warps // warps,
        whole.programs,
    )
    return 100 * programs * warps // whole.warps


def loop(instructions: list[tuple[str, str, str]]) -> int:
    """Length of the shortest backward branch around a product."""
    addresses = [int(address, 16) for address, _, _ in instructions]
    lengths = []
    for i, (_, operation, operands) in enumerate(instructions):
        target = re.search(r"0x([0-9a-f]+)", operands) if operation.startswith("BRA") else None
        if target and (start := int(target[1], 16)) < addresses[i]:
            body = [name for address, name, _ in instructions[:i] if int(address, 16) >= start]
            parts = {name.split(".")[0] for name in body}
            if "EXIT" not in parts and parts & PRODUCTS:
                lengths.append(len(body) + 1)
    return min(lengths, default=0)


def widths(operations: list[str], name: str) -> str:
    """Such as "16 B × 8, 4 B × 2"."""
    sizes = Counter(
        int(match[1]) // 8 if (match := re.search(r"\.U?(8|16|64|128)\b(?!B)", operation)) else 4
        for operation in operations
        if operation.split(".")[0] == name
    )
    return ", ".join(f"{size} B × {count}" for size, count in sorted(sizes.items(), reverse=True))
