"""Every Triton kernel, of convolutions and of fused blocks, compiled for a GPU that need not be there; and read.

`python -m bench gpu-code` prints the rows. The operators run on meta tensors with the launch intercepted, so what is
compiled is exactly what a call would launch. The cases come from the functions in SOURCES; what their kernels move is
counted in traffic.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from triton.backends.compiler import GPUTarget

from ..sass import NONE, Code, occupancy
from .block_cases import blocks
from .compile_cases import Case, convolutions, losses
from .launch import Gpu, assumed, intercept, set_in
from .machine_code import SM_90, compile_for, read
from .traffic import WITHOUT_PRODUCTS, traffic, why_synchronous
from .tuning import Decision, decisions

SOURCES: list[Callable[[], Iterable[Case]]] = [convolutions, blocks, losses]


class Row(NamedTuple):
    """One kernel of one case. `moved` counts what its programs load and store, whole tiles, mostly from the L2 cache;
    `floor` each tensor once, workspaces not at all."""

    kernel: str
    case: Case
    plan: str  # the key of the plan; empty for a kernel before the first that has one
    programs: int
    occupancy: int  # of 100 warps that a multiprocessor can hold
    moved: int | None  # bytes
    floor: int
    code: Code
    why_synchronous: str | None  # what excuses wgmma without asynchronous loads

    @property
    def asynchronous(self) -> str:
        """The asynchronous loads, or why there are none."""
        if self.code.matrix == "wgmma" and self.code.asynchronous == NONE and self.why_synchronous:
            return f"none: {self.why_synchronous}"
        return self.code.asynchronous

    @property
    def complaint(self) -> str | None:
        """What should not be: spilled registers; products without the instructions that the case wants; wgmma without
        asynchronous loads, and no reason."""
        if self.code.spills:
            return "spills registers"
        wanted = () if self.kernel in WITHOUT_PRODUCTS else self.case.matrix
        if wanted and self.code.matrix not in wanted:
            return f"has no {' or '.join(wanted)}"
        if self.code.matrix == "wgmma" and self.asynchronous == NONE:
            return "has no asynchronous loads"
        return None


def report(cases: Iterable[Case], target: GPUTarget = SM_90) -> Iterator[Row]:
    """A row for every kernel that these cases launch, in the order of launching."""
    capability = divmod(target.arch, 10)
    for case in cases:
        launches: list[tuple] = []
        chosen: list[Decision] = []

        def keep(*launch, launches=launches, chosen=chosen) -> None:
            launches.append((chosen[-1].choice.key if chosen else "", *launch))

        with (
            set_in(assumed, Gpu(capability, None)),
            set_in(decisions, chosen),
            set_in(intercept, keep),
        ):
            case.run()
        for key, kernel, programs, arguments, options in launches:
            compiled = compile_for(target, kernel, *arguments, **options)
            code = read(compiled)
            occupied = occupancy(target.arch, code.registers, code.shared, compiled.metadata.num_warps)
            moved, floor = traffic(kernel, programs, arguments, options)
            excuse = why_synchronous(kernel, arguments, options)
            yield Row(kernel.__name__, case, key, programs, occupied, moved, floor, code, excuse)
