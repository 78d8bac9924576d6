"""No two threads of a block touch the same memory between two barriers, but to read it.

The emulations again, with a thread of the host for each thread of a block and real barriers (block.h), under
ThreadSanitizer. (Of the halo kernel, whose copies and products run beside the threads: test_halo_emulation.py.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from changed_sources import Change
from emulated import Case, assert_right, emulate

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


# Work on the wrong side of a barrier: (emulation, operator, file, what it says, the slip).
SLIPS = {
    "stage overwritten": (GEMM, "forward", "tile.h", "thread.store((step + 1) & 1)", "thread.store(step & 1)"),
    "pixels of the next step": (GEMM, "grad_weight", "tile.h", "thread.locate(step + 2)", "thread.locate(step + 1)"),
    "halo read at once": (
        *(FEW, "forward", "few_in.h"),
        *("thread.load()", "thread.load(), thread.template compute<true>()"),
    ),
    "slice overwritten": (
        *(FEW, "grad_input", "few_out.h"),
        *("thread.load(slice + 1)", "thread.load(slice + 1), thread.store(slice + 1)"),
    ),
    "rectangle overwritten": (
        *(FEW, "grad_weight", "few_grad_weight.h"),
        *("thread.load(number + 1)", "thread.load(number + 1), thread.store()"),
    ),
}  # fmt: skip
CHANGES = {
    name: {slip: Change(f"cuda/{file}", *change) for slip, (of, _, file, *change) in SLIPS.items() if of == name}
    for name in CASES
}


def run(program: Path, case: Case, *how: object, change: int = 0):
    result = emulate(program, case, *how, change=change)
    if "FATAL: ThreadSanitizer" in result.stderr:
        pytest.skip(result.stderr.strip())  # it does not run on this kernel
    return result


@pytest.fixture(scope="module")
def emulations(compile_emulation: Callable[..., Path]) -> dict[str, Path]:
    """Right, unless told which slip to make."""
    return {name: compile_emulation(name, *RACES, changes=changes) for name, changes in CHANGES.items()}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_threads_meet_before_they_read_what_others_wrote(
    emulations: dict[str, Path], name: str, operator: str
) -> None:
    for number, case in enumerate(CASES[name]):
        for way in WAYS[name][number % 2 :: 2]:
            assert_right(run(emulations[name], case, operator, *way))


@pytest.mark.parametrize("slip", SLIPS)
def test_races_are_found(emulations: dict[str, Path], slip: str) -> None:
    name, operator, *_ = SLIPS[slip]
    case = Case(13, 3 if name == FEW else 8, 8, 9, 40, 3, 3, padding=(1, 1))
    change = list(CHANGES[name]).index(slip) + 1
    for _ in range(3):  # it remembers a few accesses of each address only, so that one run may miss a race
        result = run(emulations[name], case, operator, *WAYS[name][0], change=change)
        if result.returncode == 66:
            break
    assert result.returncode == 66 and "data race" in result.stderr, result.stdout + result.stderr
