"""Every backend that runs here × types × memory layouts, over the table's correctness cases, against the oracle.

(Triton's kernels need a GPU or the interpreter: tests/triton. All backends on a GPU: `python -m bench gpu-check`.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    before = cpu.isa()
    cpu.use_isa(name)
    try:
        yield
    finally:
        cpu.use_isa(before)


def problems(backend_name: str, case: Case, dtype: torch.dtype) -> list[str]:
    reports = [check(backend(backend_name), case, dtype, layout) for layout in LAYOUTS]
    return [str(report) for report in reports if not report.passed]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_with_every_instruction_set(case: Case, dtype: torch.dtype) -> None:
    if cpu.problem is not None:
        pytest.skip(cpu.problem)
    found = {}
    for isa, runs_here in cpu.isas().items():
        if runs_here:
            with instruction_set(isa):
                found[isa] = problems("native", case, dtype)
    assert found
    assert not any(found.values()), found


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_integers_are_exact(case: Case, dtype: torch.dtype) -> None:
    if cpu.problem is not None:
        pytest.skip(cpu.problem)
    assert not problems("native", case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference(case: Case, dtype: torch.dtype) -> None:
    assert not problems("reference", case, dtype)
