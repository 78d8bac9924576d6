"""Compile every Triton kernel, of convolutions and of fused blocks, for sm_90, and print what the machine code holds.

`python -m myconv2d.triton.compile_report` needs no GPU. It fails if a kernel spills registers, if a tensor-core case
uses none of the instructions that it should (convolutions: wgmma), or if a shipped plan serves none of the cases. The
operators run on meta tensors with the launch intercepted, so what is compiled is exactly what a call would launch.

The cases come from the functions in SOURCES; what their kernels move is counted in traffic.py.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from triton.backends.compiler import GPUTarget

from . import plans
from .block_cases import blocks
from .compile_cases import ARITHMETIC, Case, convolutions
from .interpreter import INTERPRETED
from .launch import Gpu, assumed, intercept, set_in
from .machine_code import SM_80, SM_90, Code, compile_for, read
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--operator", action="append", help="only this one, such as grad_weight; may be repeated"
    )
    parser.add_argument(
        "--arithmetic", choices=ARITHMETIC, action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--arch", type=int, choices=(80, 90), default=90, help="compute capability × 10")
    options = parser.parse_args()
    if INTERPRETED:
        parser.error("TRITON_INTERPRET=1 is set: kernels are interpreted, not compiled")
    columns = (
        "{:24} {:17} {:14} {:5} {:13} {:>6} {:>5} {:>6} {:>7} {:>4} {:6} {:>4} {:>9} {:>5}  {:18} {:18} {}"
    )
    print(columns.format("kernel", "operator", "case", "", "layout", "progs", "regs", "spills", "shared", "occ%",
                         "matrix", "loop", "moved KB", "floor", "asynchronous", "loads", "plan"))  # fmt: skip
    unused = set(plans.shipped().plans)
    complaints = 0
    cases = [
        case
        for case in itertools.chain.from_iterable(source() for source in SOURCES)
        if case.operator in (options.operator or [case.operator])
        and case.arithmetic in (options.arithmetic or [case.arithmetic])
    ]
    for row in report(cases, SM_90 if options.arch == 90 else SM_80):
        case, code = row.case, row.code
        moved = ("–", "–") if row.moved is None else (row.moved // 1000, f"×{row.moved / row.floor:.3g}")
        print(columns.format(row.kernel, case.operator, case.task, case.arithmetic, case.layout, row.programs,
                             code.registers, code.spills, code.shared, code.occupancy, code.matrix, code.loop or "–",
                             *moved, code.asynchronous, code.loads, row.plan or "–"), flush=True)  # fmt: skip
        unused -= set(row.plan.split(", "))
        if row.complaint and (options.arch == 90 or code.spills):
            print(f"  ^ {row.complaint}")
            complaints += 1
    if options.operator or options.arithmetic or options.arch != 90:
        unused.clear()
    for key in sorted(unused):
        print(f"no case above is served by the shipped plan {key!r}")
    fine = "nothing spills" + ("; every tensor-core case has its instructions" if options.arch == 90 else "")
    print(f"{complaints} complaints" if complaints else fine)
    return 1 if complaints or unused else 0


if __name__ == "__main__":
    sys.exit(main())
