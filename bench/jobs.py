"""What `gpu-check` does, as a list of jobs: each is one process, so that a crash loses no other's results."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from myconv2d import backends
from myconv2d.native import cpu

from . import behaviours, block_cases
from .cases import select
from .operands import LAYOUTS
from .precision import PRECISIONS

ARITHMETICS = {  # names, as tables have them: element type, and whether TF32 is allowed
    **{name: precision[:2] for name, precision in PRECISIONS.items()},
    "fp64": (torch.float64, False),
}
CORRECTNESS = ("weird", "blocks", "empty")
_FEW = ("odd", "stride2-odd", "stride-dilation-groups", "depthwise-odd", "nine-channels", "deep")
_SANITIZED = ("odd", "stride2-odd", "depthwise-odd", "nine-channels", "halo-tiles")
_MAIN_LAYOUTS = ("contiguous", "channels_last", "permuted")
_TRITON_SHARDS = 4  # it compiles for every shape: most of its time goes by on one processor core


@dataclass(frozen=True)
class Job:
    """Cases × layouts through the checker, or the blocks' cases, or (arithmetic None) the behaviours: one backend, one
    device."""

    backend: str
    device: str
    arithmetic: str | None
    cases: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    isa: str | None = None
    note: str | None = None  # what is special about the cases
    tool: str | None = None  # of compute-sanitizer
    shard: tuple[int, int] = (0, 1)  # this one of so many
    blocks: bool = False

    @property
    def name(self) -> str:
        number, shards = self.shard
        shard = f"{number + 1}/{shards}" if shards > 1 else None
        what = self.arithmetic or "behaviours"
        blocks = "blocks" if self.blocks else None
        parts = self.backend, self.device, self.isa, what, blocks, self.note, self.tool, shard
        return " ".join(part for part in parts if part)

    def units(self) -> list[tuple[str, ...]]:
        """(case, layout), (block's case,) or (behaviour,), the most telling first: time may run out."""
        if self.arithmetic is None:
            return [(name,) for name in behaviours.names(self.device)]
        number, shards = self.shard
        if self.blocks:
            return [(name,) for name in block_cases.BY_NAME][number::shards]
        cases = [case.name for case in select(*self.cases)][number::shards]
        return [(case, layout) for layout in self.layouts for case in cases]


class Plan:
    """The jobs for this machine, the quickest first, and what cannot run on it (`missing`: name, reason)."""

    def __init__(self, device: str, quick: bool = False, cases: tuple[str, ...] = ()) -> None:
        """`quick` takes a few cases, types and layouts; `cases`, where given, replaces the table's.

        Raises:
            ValueError: no case is like one of `cases`.
        """
        self.device, self.quick = device, quick
        self.cases = cases or (_FEW if quick else CORRECTNESS)
        select(*self.cases)
        self.missing: dict[str, str] = {}
        jobs = [*self._native_cpu(), *(self._cpu() if device == "cpu" else self._cuda())]
        if not cases:
            jobs += self._blocks()
        if device != "cpu":
            jobs += [*self._sanitized(), *(() if quick or cases else self._large())]
        self.jobs = sorted(jobs, key=_length)

    def _lacks(self, backend: str, device: str, dtype: torch.dtype = torch.float32) -> bool:
        problem = backends.problem(backend, device, dtype)
        if problem is not None:
            self.missing[f"{backend} on {device}"] = problem
        return problem is not None

    def _table(self, backend: str, device: str, arithmetic: str, isa: str | None = None) -> Job:
        """Every layout in fp32, the main ones in other types."""
        layouts = tuple(LAYOUTS) if arithmetic == "fp32" else _MAIN_LAYOUTS
        return Job(backend, device, arithmetic, self.cases, _MAIN_LAYOUTS[:2] if self.quick else layouts, isa)

    def _native_cpu(self) -> Iterator[Job]:
        """The CPU library, with every instruction set that this processor has."""
        for isa, runs_here in {} if self._lacks("native", "cpu") else cpu.isas().items():
            if not runs_here:
                self.missing[f"native on cpu with {isa}"] = "this processor does not have it"
                continue
            for arithmetic in ("fp32", "bf16", "fp16", "fp64"):
                yield self._table("native", "cpu", arithmetic, isa)

    def _cpu(self) -> Iterator[Job]:
        yield self._table("reference", "cpu", "fp32")
        for backend in ("reference", "native"):
            if not self._lacks(backend, "cpu"):
                yield Job(backend, "cpu", None)

    def _cuda(self) -> Iterator[Job]:
        for backend in backends.BACKENDS:
            if self._lacks(backend, self.device):
                continue
            yield Job(backend, self.device, None)
            shards = _TRITON_SHARDS if backend == "triton" and not self.quick else 1
            for arithmetic in ("fp32", "tf32", "bf16") if self.quick else ARITHMETICS:
                for number in range(shards):
                    yield replace(self._table(backend, self.device, arithmetic), shard=(number, shards))

    def _blocks(self) -> Iterator[Job]:
        """The fused blocks: of the CPU library, and in Triton (on the CPU only in its interpreter)."""
        for backend, device in (("native", "cpu"), ("triton", self.device)):
            if self._lacks(backend, device):
                continue
            shards = _TRITON_SHARDS if device != "cpu" and not self.quick else 1
            for arithmetic, (dtype, tf32, _) in PRECISIONS.items():
                served = dtype == torch.float32 if backend == "native" else not backends.problem(backend, device, dtype)
                if not served or (tf32 and device == "cpu") or (self.quick and arithmetic == "fp16"):
                    continue
                for number in range(shards):
                    yield Job(backend, device, arithmetic, shard=(number, shards), blocks=True)

    def _large(self) -> Iterator[Job]:
        """Our kernels at working sizes."""
        for backend in ("native", "triton"):
            for arithmetic in () if self._lacks(backend, self.device) else ARITHMETICS:
                yield Job(backend, self.device, arithmetic, ("ten",), _MAIN_LAYOUTS[:2], note="large")

    def _sanitized(self) -> Iterator[Job]:
        """Our kernels under compute-sanitizer, over a few small cases.

        Triton's not under racecheck: its sums may leave two threads with results that differ in the last bit, which
        both write (https://github.com/triton-lang/triton/issues/7264), and its barriers are the compiler's.
        """
        if sanitizer() is None:
            self.missing["compute-sanitizer"] = "it is neither on PATH nor in /usr/local/cuda/bin"
            return
        for backend, tool in ("native", "memcheck"), ("native", "racecheck"), ("triton", "memcheck"):
            if self._lacks(backend, self.device) or (self.quick and tool == "racecheck"):
                continue
            for arithmetic in "fp32", "bf16":
                yield Job(backend, self.device, arithmetic, _SANITIZED, _MAIN_LAYOUTS[:2], tool=tool)


def _length(job: Job) -> int:
    """What takes long comes late, because of the deadline: the sanitizer and Triton's compiler are slow."""
    if job.tool is not None:
        return 1
    return 2 if job.backend == "triton" and job.arithmetic is not None else 0


def sanitizer() -> str | None:
    """compute-sanitizer's path."""
    known = Path("/usr/local/cuda/bin/compute-sanitizer")
    return shutil.which("compute-sanitizer") or (str(known) if known.exists() else None)
