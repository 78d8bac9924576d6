"""Compiling a launch for a GPU that need not be there, and reading what the machine code holds."""

from __future__ import annotations

import subprocess
import tempfile

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from .. import sass

SM_80, SM_90 = (GPUTarget("cuda", arch, 32) for arch in (80, 90))


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


def read(compiled) -> sass.Code:
    """What a result of `compile_for` uses, from its disassembly."""
    binary, metadata = compiled.asm["cubin"], compiled.metadata
    usage, text = disassemble("-res-usage", binary), disassemble("-sass", binary)
    code = sass.read(usage, text, metadata.target.arch)
    return code._replace(shared=metadata.shared)  # which Triton asks for at the launch


def disassemble(option: str, binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
