"""`python -m bench gpu-code`: what the compilers made of the GPU kernels, in one dated table. No GPU is needed.

Triton's kernels are compiled as a call on the GPU would compile them (myconv2d.triton.compile_report); the CUDA library
is read as it is installed (myconv2d.cuda_code, of which cuda_report and cuda_gemm_report ask). Counted, not timed.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from colourize.files import atomic_write
from myconv2d import cuda_code, cuda_gemm_report, cuda_report
from myconv2d.native import cuda
from myconv2d.sass import Code
from myconv2d.triton import compile_report, plans
from myconv2d.triton.compile_cases import Case
from myconv2d.triton.interpreter import INTERPRETED
from myconv2d.triton.machine_code import SM_80, SM_90, knobs

from .environment import environment
from .names import free
from .tables import grid

TARGETS = {80: SM_80, 90: SM_90}

_COLUMNS = (
    *("kernel", "operator", "case", "type", "layout", "programs", "registers", "spills", "shared, bytes"),
    *("occupancy", "matrix", "loop", "moved, KB", "over floor", "asynchronous loads", "other loads", "plan"),
)
_FORM = "{:24} {:17} {:16} {:5} {:13} {:>8} {:>9} {:>6} {:>13} {:>9} {:6} {:>4} {:>9} {:>10}  {:18} {:24} {}"
_NOTES = """\
Compiled for sm_{arch} and read from the machine code; nothing here was timed. Registers are those of a thread. Spills
are instructions that access local memory. Occupancy is of the warps that a multiprocessor can hold. Matrix is the
instruction of the products: wgmma and mma on tensor cores, fma without. Loop is the length of the innermost loop with
products, in instructions, where there is one. Loads are bytes of a thread × instructions, and boxes of the copy
engine. Moved is what all programs load and store, whole tiles, mostly from the L2 cache; the floor is every tensor
once, without workspaces. Copies by the framework (of a weight in another layout; of an image of 25 channels, whose
pixels are padded to 16 bytes) are not counted.

Where wgmma has no asynchronous loads, the reason stands in their place. *One step*: the loop has one, so nothing is
left to load while it multiplies; the programs beside it on the multiprocessor do. *Pieces of 2 bytes*: what lies
together in memory is less than the 4 bytes that an asynchronous copy takes.

By default, blocks and convolutions are Triton's, but a convolution of 1 to 4 channels on one side is the CUDA library's
(few channels): Triton's rows of such convolutions stand in where that library is not built. The implicit GEMM stands in
for Triton, on any GPU from sm_80 on: its products are mma.sync, and the loads of the next step, ordinary ones, wait in
registers while this one is multiplied."""

_NOTHING_SPILLS = "nothing spills"
_ON_HOPPER = "; every case for tensor cores has their instructions; wgmma has asynchronous loads, or a reason"


@dataclass(frozen=True)
class Chosen:
    """Which kernels to look at; an empty sequence is all of them."""

    arch: int = 90
    operators: Sequence[str] = ()
    types: Sequence[str] = ()

    def takes(self, operator: str, type: str) -> bool:
        return operator in (self.operators or (operator,)) and type in (self.types or (type,))

    @property
    def everything(self) -> bool:
        return not (self.operators or self.types)


Line = tuple[tuple[str, ...], str | None]  # cells, and a complaint


def problem(chosen: Chosen) -> str | None:
    """Why there can be no table."""
    if INTERPRETED:
        return "TRITON_INTERPRET=1 is set: Triton's kernels are interpreted, not compiled"
    if cuda.problem is not None:
        return cuda.problem
    if cuda_code.cuobjdump() is None:
        return "cuobjdump is neither in a CUDA toolkit nor in Triton's package"
    known = {(case.operator, case.arithmetic) for case in _cases()}
    for option, given, names in zip(
        ("--operator", "--type"), (chosen.operators, chosen.types), zip(*known, strict=True), strict=True
    ):
        if unknown := set(given) - set(names):
            there = ", ".join(sorted(set(names)))
            return f"{option} {', '.join(sorted(unknown))} is in no case; there are {there}"
    return None


def _cases() -> Iterator[Case]:
    return itertools.chain.from_iterable(source() for source in compile_report.SOURCES)


def gpu_code(chosen: Chosen, out: Path) -> int:
    """Prints a line for every kernel; writes the table of all of them as gpu-code-sm_ARCH-DATE.md into `out`.

    Returns:
        The exit status: 1 if a kernel spills registers, or, on sm_90, a case for tensor cores lacks their instructions
        or a shipped plan serves none of the cases.
    """
    facts = _facts()
    tables: list[str] = []
    complaints: list[str] = []
    unserving = set(plans.shipped().plans)
    print(_FORM.format(*_COLUMNS))
    parts: dict[str, Callable[[Chosen], Iterator[Line]]] = {
        "Triton": _triton,
        "CUDA C++, few channels and halo": _few_and_halo,
        "CUDA C++, implicit GEMM": _gemm,
        "CUDA C++, every kernel as it is built": _built,
    }
    for title, lines in parts.items():
        cells = []
        for line, complaint in lines(chosen):
            print(_FORM.format(*line), flush=True)
            cells.append(line)
            unserving.discard(line[-1])
            if complaint:
                complaints.append(f"{', '.join(line[:5])}: {complaint}")
        tables += ["", f"## {title}", "", *grid(_COLUMNS, cells)]
    if chosen.everything and chosen.arch == 90:
        complaints += [f"no case is served by the shipped plan {key!r}" for key in sorted(unserving)]
    verdict = complaints or [_NOTHING_SPILLS + _ON_HOPPER * (chosen.arch == 90)]
    print(*verdict, sep="\n")
    if chosen.everything:
        date = datetime.date.today().isoformat()
        head = [f"# Machine code of the GPU kernels, {date}", "", f"**{'; '.join(verdict)}.**", ""]
        head += [_NOTES.format(arch=chosen.arch), "", *grid(("", ""), list(facts.items()))]
        file = free(out / f"{date}-gpu-code-sm{chosen.arch}").with_suffix(".md")
        atomic_write(file, lambda stream: stream.write("\n".join([*head, *tables, ""]).encode()))
        print(f"Written: {file}")
    return 1 if complaints else 0


def _triton(chosen: Chosen) -> Iterator[Line]:
    cases = (case for case in _cases() if chosen.takes(case.operator, case.arithmetic))
    for row in compile_report.report(cases, TARGETS[chosen.arch]):
        case, code = row.case, row.code._replace(asynchronous=row.asynchronous)
        what = row.kernel, case.operator, case.task, case.arithmetic, case.layout, str(row.programs)
        used = _code(code, f"{row.occupancy} %", *_moved(row.moved, row.floor))
        complaint = row.complaint if chosen.arch == 90 or code.spills else None
        yield (*what, *used, row.plan or "–"), complaint


def _few_and_halo(chosen: Chosen) -> Iterator[Line]:
    return _cuda(chosen, cuda_report.report(arch=chosen.arch))


def _gemm(chosen: Chosen) -> Iterator[Line]:
    return _cuda(chosen, cuda_gemm_report.report(arch=chosen.arch))


def _cuda(chosen: Chosen, rows: Iterable[cuda_report.Row]) -> Iterator[Line]:
    for row in rows:
        if chosen.takes(row.operator, row.arithmetic):
            what = row.kernel, row.operator, str(row.layer), row.arithmetic, row.layout, str(row.blocks)
            used = _code(row.code, f"{row.occupancy} %", *_moved(row.moved, row.floor))
            yield (*what, *used, "–"), row.complaint


def _built(chosen: Chosen) -> Iterator[Line]:
    """Without a layer: no operator, programs, occupancy and traffic."""
    for name, code in cuda_code.kernels(chosen.arch).items() if chosen.everything else ():
        yield (name, *"–––––", *_code(code, "–", "–", "–"), "–"), "spills registers" if code.spills else None


def _code(code: Code, occupancy: str, *moved: str) -> tuple[str, ...]:
    used = str(code.registers), str(code.spills), str(code.shared), occupancy, code.matrix
    return *used, str(code.loop or "–"), *moved, code.asynchronous, code.loads


def _moved(moved: int | None, floor: int) -> tuple[str, str]:
    return ("–", "–") if moved is None else (f"{moved // 1000}", f"{moved / floor:.2f}×")


def _facts() -> dict[str, str]:
    wanted = "commit", "torch", "triton", "native library (CUDA)"
    there = environment("cpu")
    tools = {"ptxas": knobs.nvidia.ptxas, "cuobjdump": knobs.nvidia.cuobjdump}
    return {name: there[name] for name in wanted} | {
        f"{name} (Triton's)": tool.version for name, tool in tools.items()
    }
