"""What nvcc made of every kernel of the CUDA library, by its name in C++; no GPU needed.

The installed library is read with cuobjdump: the CUDA toolkit's, or the one in Triton's package.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from .native import cuda
from .sass import Code, read


@functools.cache
def kernels(arch: int = 90) -> dict[str, Code]:
    """Every kernel that was compiled for sm_ARCH, and for sm_ARCHa."""
    usage, sass = dump("-res-usage"), dump("-sass")
    return {
        _name(mangled): read(usage[architecture, mangled], text, arch)
        for (architecture, mangled), text in sass.items()
        if architecture in (f"sm_{arch}", f"sm_{arch}a")
    }


def cuobjdump() -> str | None:
    """NVIDIA's disassembler."""
    spec = importlib.util.find_spec("triton")
    packages = (spec.submodule_search_locations or []) if spec else []
    folders = [str(Path(folder) / "backends" / "nvidia" / "bin") for folder in packages]
    found = (shutil.which("cuobjdump", path=folder) for folder in (None, "/usr/local/cuda/bin", *folders))
    return next(filter(None, found), None)


@functools.cache
def dump(option: str) -> dict[tuple[str, str], str]:
    """What cuobjdump says of each kernel: {(architecture, mangled name): text}."""
    command = [cuobjdump() or "cuobjdump", option, str(cuda.path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for section in re.split(r"^arch = ", text, flags=re.MULTILINE)[1:]:
        for part in re.split(r"Function\s*:?\s+", section)[1:]:
            found[section.split()[0], part.split()[0].rstrip(":")] = part
    return found


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
