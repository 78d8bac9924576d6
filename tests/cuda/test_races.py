"""No two threads of a block touch the same memory between two barriers, but to read it.

The emulations again, with a thread of the host for each thread of a block and real barriers (block.h), under
ThreadSanitizer. (Of the halo kernel, whose copies and products run beside the threads: test_halo_emulation.py.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from emulated import CSRC, Case, assert_right, emulate, with_slip

RACES = ("-O1", "-g1", "-fsanitize=thread", "-pthread", "-DSIDE_BY_SIDE", "-DSIMT_ONLY")
GEMM, FEW = "emulation.cpp", "few_emulation.cpp"
OPERATORS = ("forward", "grad_input", "grad_weight")

CASES = {  # of either emulation, small, as every block is begun with its threads
    GEMM: (
        Case(2, 8, 13, 11, 24, 3, 3, stride=(2, 2), padding=(1, 1), groups=2),
        Case(2, 16, 9, 7, 70, 3, 3, padding=(1, 1)),
    ),
    FEW: (
        Case(2, 3, 9, 17, 40, 3, 3, padding=(1, 1)),
        Case(2, 33, 9, 11, 3, 3, 3, padding=(1, 1)),
        Case(1, 3, 13, 15, 16, 7, 7, stride=(2, 2), padding=(3, 3)),
        Case(13, 3, 5, 6, 3, 3, 3, padding=(1, 1)),
    ),
}
WAYS = {  # of running them, in turns
    GEMM: [("simt", columns, "channels_last") for columns in (8, 32, 64)],
    FEW: [(type, "contiguous", "channels_last") for type in ("fp32", "16-bit")],
}


def run(program: Path, case: Case, *how: object):
    result = emulate(program, case, *how)
    if "FATAL: ThreadSanitizer" in result.stderr:
        pytest.skip(result.stderr.strip())  # it does not run on this kernel
    return result


@pytest.fixture(scope="module", params=CASES)
def emulation(request, compile_emulation: Callable[..., Path]) -> tuple[str, Path]:
    return request.param, compile_emulation(request.param, CSRC, *RACES)


@pytest.mark.parametrize("operator", OPERATORS)
def test_threads_meet_before_they_read_what_others_wrote(emulation: tuple[str, Path], operator: str) -> None:
    name, program = emulation
    for number, case in enumerate(CASES[name]):
        for way in WAYS[name][number % 2 :: 2]:
            assert_right(run(program, case, operator, *way))


# Work on the wrong side of a barrier: (emulation, operator, file, what it says, the slip).
SLIPS = {
    "stage overwritten": (GEMM, "forward", "tile.h", "store((step + 1) & 1)", "store(step & 1)"),
    "pixels of the next step": (GEMM, "grad_weight", "tile.h", "locate(step + 2)", "locate(step + 1)"),
    "halo read at once": (
        *(FEW, "forward", "few_in.h"),
        *("{ thread.load(); }", "{ thread.load(), thread.template compute<true>(); }"),
    ),
    "slice overwritten": (
        *(FEW, "grad_input", "few_out.h"),
        *("thread.load(slice + 1);", "thread.load(slice + 1), thread.store(slice + 1);"),
    ),
    "rectangle overwritten": (
        *(FEW, "grad_weight", "few_grad_weight.h"),
        *("thread.load(number + 1);", "thread.load(number + 1), thread.store();"),
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_races_are_found(compile_emulation: Callable[..., Path], tmp_path: Path, slip: str) -> None:
    name, operator, *change = SLIPS[slip]
    program = compile_emulation(name, with_slip(tmp_path, *change), *RACES)
    case = Case(13, 3 if name == FEW else 8, 8, 9, 40, 3, 3, padding=(1, 1))
    result = run(program, case, operator, *WAYS[name][0])
    assert result.returncode == 66 and "data race" in result.stderr, result.stdout + result.stderr
