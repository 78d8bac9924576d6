"""Every backend that runs here × types × memory layouts, over the table's correctness cases, against the
oracle.

(Triton's kernels need a GPU or the interpreter: tests/triton. All backends on a GPU: `python -m bench
gpu-check`.)
"""

from __future__ import annotations

import pytest
import torch

from bench.cases import Case, select
from bench.check import check
from bench.implementations import backend
from bench.operands import LAYOUTS
from myconv2d.native import cpu

FLOATING = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
CASES = select("weird", "blocks", "empty")
ISAS = [name for name, runs_here in cpu.isas().items() if runs_here] if cpu.problem is None else []

needs_native = pytest.mark.skipif(cpu.problem is not None, reason=str(cpu.problem))


def problems(name: str, case: Case, dtype: torch.dtype) -> list[str]:
    reports = [check(backend(name), case, dtype, layout) for layout in LAYOUTS]
    return [str(report) for report in reports if not report.passed]


@needs_native
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_with_every_instruction_set(case: Case, dtype: torch.dtype, isa) -> None:
    found = {}
    for name in ISAS:
        isa(name)
        found[name] = problems("native", case, dtype)
    assert found == dict.fromkeys(ISAS, [])


@needs_native
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_integers_are_exact(case: Case, dtype: torch.dtype) -> None:
    assert problems("native", case, dtype) == []


@needs_native
@pytest.mark.parametrize("case", select("blocks", "odd"), ids=str)
def test_native_with_more_threads_than_processors(case: Case) -> None:
    torch.set_num_threads(5)
    assert problems("native", case, torch.float32) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference(case: Case, dtype: torch.dtype) -> None:
    assert problems("reference", case, dtype) == []
