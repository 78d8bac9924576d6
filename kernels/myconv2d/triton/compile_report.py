"""Every Triton kernel, of convolutions and of fused blocks, compiled for a GPU that need not be there; and read.

`python -m bench gpu-code` prints the rows. The operators run on meta tensors with the launch intercepted, so what is
compiled is exactly what a call would launch. The cases come from the functions in SOURCES; what their kernels move is
counted in traffic.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from triton.backends.compiler import GPUTarget

from .block_cases import blocks
from .compile_cases import Case, convolutions
from .launch import Gpu, assumed, intercept, set_in
from .machine_code import SM_90, Code, compile_for, read
from .traffic import WITHOUT_PRODUCTS, traffic
from .tuning import Decision, decisions

SOURCES: list[Callable[[], Iterable[Case]]] = [convolutions, blocks]


class Row(NamedTuple):
    """One kernel of one case. `moved` counts what its programs load and store, whole tiles, mostly from the L2 cache;
    `floor` each tensor once, workspaces not at all."""

    kernel: str
    case: Case
    plan: str  # the key of the plan
    programs: int
    moved: int | None  # bytes
    floor: int
    code: Code

    @property
    def complaint(self) -> str | None:
        """What should not be: spilled registers, or products without the instructions that the case wants."""
        if self.code.spills:
            return "spills registers"
        wanted = () if self.kernel in WITHOUT_PRODUCTS else self.case.matrix
        return f"has no {' or '.join(wanted)}" if wanted and self.code.matrix not in wanted else None


def report(cases: Iterable[Case], target: GPUTarget = SM_90) -> Iterator[Row]:
    """A row for every kernel that these cases launch, in the order of launching."""
    capability = divmod(target.arch, 10)
    for case in cases:
        launches: list[tuple] = []
        chosen: list[Decision] = []
        with (
            set_in(assumed, Gpu(capability, None)),
            set_in(decisions, chosen),
            set_in(intercept, lambda *launch, launches=launches: launches.append(launch)),
        ):
            case.run()
        for kernel, programs, arguments, options in launches:
            code = read(compile_for(target, kernel, *arguments, **options))
            moved, floor = traffic(kernel, programs, arguments, options)
            keys = ", ".join(dict.fromkeys(decision.choice.key for decision in chosen))
            yield Row(kernel.__name__, case, keys, programs, moved, floor, code)
