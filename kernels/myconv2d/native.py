"""Finds and loads the compiled libraries; if one is missing or does not load, says why instead of failing."""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

FOLDER = Path(__file__).parent / "lib"
ADVICE = "reinstall with `pip install -e .` (or `pip install .`) where a C++20 compiler is present"


def _cut_off(library: Path) -> bool:
    """Whether an ELF file ends before its section headers, its last part: loading it would be fatal."""
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or not header.startswith(b"\x7fELF\x02\x01"):
        return False  # the loader says what it is instead
    (offset,), (size, count) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<HH", header, 58)
    return library.stat().st_size < offset + size * count


class NativeLibrary:
    """One shared library: `problem` is None once it is loaded, else the reason in words."""

    TYPES: tuple[torch.dtype, ...] = ()  # that it serves, in the order of `enum class Type` (csrc/conv2d.h)
    PASSES = ("forward", "grad_input", "grad_weight")  # of `enum class Pass` (csrc/c*/algorithm.h)

    def __init__(self, device: str) -> None:
        self.device = device
        self.path = FOLDER / f"libmyconv2d_{device}.so"
        self.problem: str | None = "not loaded yet"
        self.handle: ctypes.CDLL | None = None

    def load(self) -> None:
        """Loads the library, which registers its operators; never raises."""
        if not self.path.exists():
            left_out = FOLDER / f"{self.device}.txt"  # written by setup.py
            reason = left_out.read_text().strip() if left_out.exists() else ADVICE
            self.problem = f"{self.path.name} was not built: {reason}"
            return
        if _cut_off(self.path):
            self.problem = f"{self.path.name} is incomplete: {ADVICE}"
            return
        try:
            torch.ops.load_library(self.path)
            self.handle = ctypes.CDLL(str(self.path))
            self._bind()
        except (OSError, RuntimeError, AttributeError) as error:
            self.problem = f"{self.path.name} does not load ({str(error).splitlines()[0]}): {ADVICE}"
            return
        self.problem = None

    def _bind(self) -> None:
        """Declares the library's own functions; AttributeError if it is another version's and lacks one."""
        for name in ("build_info", "algorithm"):
            self._function(name).restype = ctypes.c_char_p

    def _function(self, name: str):
        return getattr(self.handle, f"myconv2d_{self.device}_{name}")

    def build_info(self) -> str:
        """Compiler, architectures and torch headers it was built with."""
        return self._function("build_info")().decode() if self.problem is None else self.problem

    @staticmethod
    def _conv(input_size, output_size, weight_size, numbers) -> ctypes.Array:
        """`struct Conv2d` (csrc/conv2d.h)."""
        fields = [*input_size, weight_size[0], *weight_size[2:], *output_size[2:]]
        fields += [*numbers.stride, *numbers.padding, *numbers.dilation, numbers.groups]
        return (ctypes.c_int64 * len(fields))(*fields)

    def algorithms(
        self, input_size, output_size, weight_size, numbers, dtype: torch.dtype, *setting: int
    ) -> dict[str, str]:
        """The algorithm of each pass; sizes are (N, C, H, W), (N, K, P, Q) and (K, C/groups, R, S)."""
        conv = self._conv(input_size, output_size, weight_size, numbers)
        type_index = self.TYPES.index(dtype)
        return {
            name: self._function("algorithm")(conv, type_index, index, *setting).decode()
            for index, name in enumerate(self.PASSES)
        }


class CpuLibrary(NativeLibrary):
    """The CPU library, whose kernels exist once per instruction set."""

    TYPES = (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    )

    def __init__(self) -> None:
        super().__init__("cpu")

    def _bind(self) -> None:
        super()._bind()
        for name in ("isa", "isa_built"):
            self._function(name).restype = ctypes.c_char_p
        self._function("isa_built").argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_int)]
        self._function("use_isa").argtypes = [ctypes.c_char_p]
        self._function("kept_memory").argtypes = [ctypes.POINTER(ctypes.c_int64)] * 2
        self._function("release_memory").restype = ctypes.c_int64
        asked = os.environ.get("MYCONV2D_ISA")
        if asked and asked != self.isa():
            warnings.warn(
                f"MYCONV2D_ISA={asked!r} is ignored: this machine runs {', '.join(self._usable())}; "
                f"{self.isa()!r} is in use",
                stacklevel=2,
            )

    def isa(self) -> str:
        """The instruction set in use: the processor's best, or what MYCONV2D_ISA names."""
        return self._function("isa")().decode()

    def isas(self) -> dict[str, bool]:
        """Every instruction set compiled in, the best first, and whether this processor has it."""
        found: dict[str, bool] = {}
        runs_here = ctypes.c_int()
        while name := self._function("isa_built")(len(found), ctypes.byref(runs_here)):
            found[name.decode()] = bool(runs_here.value)
        return found

    def use_isa(self, name: str) -> None:
        """Switches to another instruction set, for tests and measurements.

        Raises:
            ValueError: this build or this processor does not have it.
        """
        if not self._function("use_isa")(name.encode()):
            raise ValueError(
                f"instruction set {name!r} is not available; this machine runs {', '.join(self._usable())}"
            )

    def kept_memory(self) -> tuple[int, int] | None:
        """Bytes that are kept for large results, and how many of them are in use; None if malloc makes all results."""
        size, in_use = ctypes.c_int64(), ctypes.c_int64()
        kept = self._function("kept_memory")(ctypes.byref(size), ctypes.byref(in_use))
        return (size.value, in_use.value) if kept else None

    def release_memory(self) -> int:
        """Gives back what is kept and not in use; returns how many bytes."""
        return self._function("release_memory")()

    def _usable(self) -> list[str]:
        return [name for name, here in self.isas().items() if here]


class Setting(NamedTuple):
    """What decides on CUDA beside shape and type (csrc/cuda/halo_shape.h)."""

    allow_tf32: bool
    channels_last: bool  # images and results
    capability: int  # of the device, 90 for 9.0


class Cost(NamedTuple):
    """What a launch takes (csrc/cuda/cost.h); all zero for the implicit GEMM, which is not counted."""

    blocks: int
    threads: int  # of a block
    shared: int  # bytes, of a block
    filters: int  # of a block of the halo kernel, else 0
    moved: int  # bytes, by all blocks


class CudaLibrary(NativeLibrary):
    """The CUDA library; it loads, and says which kernel would serve a call, on machines without a GPU too.

    `algorithms` takes the fields of a `Setting` in the end, and raises TypeError without them.
    """

    TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

    def _bind(self) -> None:
        super()._bind()
        for name in ("halo_problem", "device_problem"):
            self._function(name).restype = ctypes.c_char_p
        numbers = ctypes.POINTER(ctypes.c_int64)
        asked = [numbers, *[ctypes.c_int] * 5]  # a convolution, type, pass, the fields of a Setting
        for name in ("algorithm", "halo_problem"):
            self._function(name).argtypes = asked
        self._function("cost").argtypes = [*asked, numbers]

    def device_problem(self) -> str | None:
        """Why the kernels cannot run on the current GPU, in words; None if they can."""
        said = self._function("device_problem")()
        return None if said is None else f"{self.path.name} cannot run here: {said.decode()} ({self.build_info()})"

    def halo_problem(self, *sizes, dtype: torch.dtype, pass_name: str, setting: Setting) -> str | None:
        """Why the halo kernel does not serve forward or grad_input; sizes and numbers as in `algorithms`."""
        conv, index = self._conv(*sizes), self.PASSES.index(pass_name)
        problem = self._function("halo_problem")(conv, self.TYPES.index(dtype), index, *setting)
        return None if problem is None else problem.decode()

    def cost(self, *sizes, dtype: torch.dtype, pass_name: str, setting: Setting) -> Cost:
        """Sizes and numbers as in `algorithms`."""
        counted = (ctypes.c_int64 * len(Cost._fields))()
        conv, index = self._conv(*sizes), self.PASSES.index(pass_name)
        self._function("cost")(conv, self.TYPES.index(dtype), index, *setting, counted)
        return Cost(*counted)

    def gemm_launches(
        self, *sizes, dtype: torch.dtype, allow_tf32: bool, channels_last: bool, pass_name: str
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Of each launch of the implicit GEMM: the kernel; blocks, threads of each, bytes moved, bytes of the tensors.

        Sizes and numbers as in `algorithms`; csrc/cuda/gemm_launches.cpp counts.
        """
        launch = self._function("gemm_launch")
        launch.restype = ctypes.c_char_p
        counted = (ctypes.c_int64 * 4)()
        setting = self.TYPES.index(dtype), allow_tf32, channels_last, self.PASSES.index(pass_name)
        for index in itertools.count():
            if (kernel := launch(self._conv(*sizes), *setting, index, counted)) is None:
                return
            yield kernel.decode(), tuple(counted)


cpu = CpuLibrary()
cuda = CudaLibrary("cuda")
