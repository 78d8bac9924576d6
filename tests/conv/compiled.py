"""The CPU kernels compiled from sources with changes into a library of their own, as Implementations for the
checker.

The portable kernels, float32 included, without the binding to torch: a table of three functions on plain
structs (csrc/cpu/kernels.h), called through ctypes.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from changed_sources import Change, switch, with_changes
from torch import Tensor

from bench.implementations import Implementation
from myconv2d.shapes import empty_beside, output_size

COMPILER = shutil.which("g++") or shutil.which("clang++")
_TYPES = {torch.float32: 1, torch.bfloat16: 3}  # enum class Type
DTYPES = tuple(_TYPES)
_LEFT_OUT = {"f64": "double", "f16": "float16"}
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


class Kernels:
    """The kernels for `DTYPES` in one library, and versions of them with one change each; see changed_sources.py."""

    def __init__(self, changes: Mapping[str, Change]) -> None:
        self._numbers = {name: number for number, name in enumerate(changes, 1)}
        with tempfile.TemporaryDirectory() as folder:
            library = _library(with_changes(changes, Path(folder)))
        self._active = ctypes.c_int.in_dll(library, "active_change")
        self._table = _KernelTable.in_dll(library, _TABLE)
        self.unchanged = _implementation("unchanged", self._table)

    @contextmanager
    def changed(self, name: str) -> Iterator[Implementation]:
        self._active.value = self._numbers[name]
        try:
            yield _implementation(name, self._table)
        finally:
            self._active.value = 0


def _library(csrc: Path) -> ctypes.CDLL:
    """Without fused blocks, which test_block_operators.py tests, and other types: most of the time to compile."""
    cpu = csrc / "cpu"
    (cpu / "dispatch.cpp").unlink()
    (cpu / "block.cpp").write_text(_NO_BLOCKS)
    for enumerator, type in _LEFT_OUT.items():
        for file, text in (("kernels.cpp", f"case Type::{enumerator}: return call({type}{{}});"),
                           ("families.h", f"family(how, {type})")):  # fmt: skip
            source = (cpu / file).read_text()
            assert source.count(text) == 1, text
            (cpu / file).write_text(source.replace(text, ""))
    flags = ["-std=c++20", "-O0", "-w", "-fPIC", "-shared", "-fwrapv", *switch(csrc)]
    isa = ("-DMYCONV2D_ISA=portable", "-DMYCONV2D_VECTOR_BYTES=16")
    if not COMPILER.endswith("clang++"):
        flags += ["-fno-gnu-unique"]  # else the process's own portable kernels and these share static tables
    path = cpu / "kernels.so"
    subprocess.run([COMPILER, *flags, *isa, *sorted(cpu.glob("*.cpp")), "-o", path], check=True)
    return ctypes.CDLL(str(path))


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
