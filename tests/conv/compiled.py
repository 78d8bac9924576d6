"""The CPU kernels compiled from (changed) sources into a library of their own, as an Implementation for the
checker.

The portable kernels, float32 included, without the binding to torch: a table of three functions on plain
structs (csrc/cpu/kernels.h), called through ctypes.
"""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from bench.implementations import Implementation
from myconv2d.shapes import empty_beside, output_size

CSRC = Path(__file__).parents[2] / "csrc"
COMPILER = shutil.which("g++") or shutil.which("clang++")
_TYPES = {
    torch.float64: 0,
    torch.float32: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
}  # enum class Type
_NAMES = {
    torch.float64: ("f64", "double"),
    torch.float32: ("f32", "float"),
    torch.float16: ("f16", "float16"),
    torch.bfloat16: ("bf16", "bfloat16"),
}  # in C++
_TABLE = "_ZN8myconv2d8portable5tableE"
_NO_BLOCKS = """#include "kernels.h"
namespace myconv2d::portable { extern const BlockKernels block_kernels; const BlockKernels block_kernels{}; }
"""


class _Image(ctypes.Structure):  # ConstImage, Image
    _fields_ = [("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 4)]


class _Vector(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("stride", ctypes.c_int64)]


_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_ParallelFor = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, _Body)


class _Threads(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int64), ("parallel_for", _ParallelFor)]


class _KernelTable(ctypes.Structure):
    _numbers = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Threads))  # Conv2d, Type, Threads
    _fields_ = [
        ("isa", ctypes.c_char_p),
        ("forward", ctypes.CFUNCTYPE(None, *_numbers, _Image, _Image, _Vector, _Image)),
        ("grad_input", ctypes.CFUNCTYPE(None, *_numbers, _Image, _Image, _Image)),
        ("grad_weight", ctypes.CFUNCTYPE(None, *_numbers, _Image, _Image, _Image, ctypes.c_void_p)),
    ]


@_ParallelFor
def _two_tasks_at_a_time(tasks: int, context: int, body) -> None:
    for begin in range(0, tasks, 2):
        body(context, begin, min(begin + 2, tasks))


_THREADS = _Threads(2, _two_tasks_at_a_time)


def compiled(
    name: str,
    folder: Path,
    dtypes: Collection[torch.dtype],
    file: str | None = None,
    old: str = "",
    new: str = "",
) -> Implementation:
    """The kernels for `dtypes`, with `old` replaced by `new` in one file of csrc/; as they are if no file is given.

    Raises:
        LookupError: `old` is not in the file exactly once, so that this mutation no longer means anything.
    """
    objects = _objects(frozenset(dtypes))
    if file:
        text = (CSRC / file).read_text()
        if (found := text.count(old)) != 1:
            raise LookupError(
                f"{name}: {old!r} occurs {found} times in csrc/{file}; bring the mutation up to date"
            )
        _copy_sources(folder, dtypes)
        source = folder / "csrc" / file
        source.write_text(source.read_text().replace(old, new))
        for object in objects:
            if f"csrc/{file}" in object.with_suffix(".d").read_text():  # what it was compiled from
                objects = objects - {object} | {_object(folder / "csrc/cpu" / f"{object.stem}.cpp", "-O0")}
    library = folder / "kernels.so"
    subprocess.run([COMPILER, "-shared", *objects, "-o", library], check=True)
    return _implementation(name, _KernelTable.in_dll(ctypes.CDLL(str(library)), _TABLE))


@cache
def _objects(dtypes: frozenset[torch.dtype]) -> frozenset[Path]:
    """The sources as they are, each compiled."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    _copy_sources(folder, dtypes)
    sources = [path for path in (folder / "csrc/cpu").glob("*.cpp") if path.name != "dispatch.cpp"]
    return frozenset(_object(source, "-O0") for source in sources)


def _object(source: Path, level: str) -> Path:
    object = source.with_suffix(".o")
    flags = ["-std=c++20", level, "-w", "-fPIC", "-fwrapv", "-MMD"]
    if not COMPILER.endswith("clang++"):
        flags += ["-fno-gnu-unique"]  # else all libraries of this process share the first one's static tables
    isa = ("-DMYCONV2D_ISA=portable", "-DMYCONV2D_VECTOR_BYTES=16")
    subprocess.run([COMPILER, *flags, *isa, "-c", source, "-o", object], check=True)
    return object


def _copy_sources(folder: Path, dtypes: Collection[torch.dtype]) -> None:
    """Without fused blocks, which test_block_operators.py tests, and other types: most of the time to compile."""
    shutil.copytree(CSRC, folder / "csrc")
    cpu = folder / "csrc" / "cpu"
    (cpu / "block.cpp").write_text(_NO_BLOCKS)
    for dtype in set(_TYPES) - set(dtypes):
        enumerator, type = _NAMES[dtype]
        for file, text in (("kernels.cpp", f"case Type::{enumerator}: return call({type}{{}});"),
                           ("families.h", f"family(how, {type})")):  # fmt: skip
            source = (cpu / file).read_text()
            assert source.count(text) == 1, text
            (cpu / file).write_text(source.replace(text, ""))


def _implementation(name: str, table: _KernelTable) -> Implementation:
    def conv2d(input, weight, bias, *numbers):
        output = empty_beside(input, weight, output_size(input.shape, weight.shape, *numbers[:3]))
        add = _Vector(None, 0) if bias is None else _Vector(bias.data_ptr(), bias.stride(0))
        common = _common(input.shape, weight.shape, numbers, input.dtype)
        table.forward(*common, _image(input), _image(weight), add, _image(output))
        return output

    def grad_input(grad_output, weight, input_size, *numbers):
        result = empty_beside(grad_output, weight, input_size)
        common = _common(input_size, weight.shape, numbers, weight.dtype)
        table.grad_input(*common, _image(grad_output), _image(weight), _image(result))
        return result

    def grad_weight(grad_output, input, weight_size, *numbers_and_bias):
        *numbers, bias = numbers_and_bias
        result = empty_beside(grad_output, input, weight_size)
        grad_bias = input.new_empty(weight_size[0] if bias else 0)
        common = _common(input.shape, weight_size, numbers, input.dtype)
        to_bias = grad_bias.data_ptr() if bias else None
        table.grad_weight(*common, _image(grad_output), _image(input), _image(result), to_bias)
        return result, grad_bias

    return Implementation(name, conv2d, grad_input, grad_weight, winograd=True)


def _image(tensor: Tensor) -> _Image:
    return _Image(tensor.data_ptr(), (ctypes.c_int64 * 4)(*tensor.stride()))


def _common(input_size, weight_size, numbers, dtype: torch.dtype) -> tuple:
    """The struct Conv2d of conv2d.h, the Type, the Threads."""
    stride, padding, dilation, groups = numbers
    _, _, p, q = output_size(input_size, weight_size, stride, padding, dilation)
    out_channels, _, r, s = weight_size
    fields = (*input_size, out_channels, r, s, p, q, *stride, *padding, *dilation, groups)
    conv = (ctypes.c_int64 * len(fields))(*fields)
    return ctypes.cast(conv, ctypes.c_void_p), _TYPES[dtype], ctypes.byref(_THREADS)
