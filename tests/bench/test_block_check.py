"""The checker of the fused blocks passes what is right, and names what is wrong."""

from __future__ import annotations

import pytest
import torch

from bench import block_check, worker
from bench.block_cases import BY_NAME, CASES, Case
from bench.block_check import RESULTS, check
from bench.jobs import Job, Plan
from myconv2d import block_operators

CASE = Case(("both", "affine"), (3, 2), pool=True)
needs_library = pytest.mark.skipif(block_operators.unavailable() is not None, reason="no native library")


def test_every_case_has_a_name_of_its_own() -> None:
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=needs_library)])
def test_right_results_pass(backend: str) -> None:
    report = check(CASE, "fp32", backend)
    assert report.passed, report
    assert {(finding.operator, finding.result) for finding in report.findings} == {
        (operator, result) for operator, results in RESULTS.items() for result in results
    }
    assert 0 < report.of_bound <= 1


@pytest.mark.parametrize(("operator", "number"), [(name, i) for name in RESULTS for i in range(len(RESULTS[name]))])
def test_a_wrong_result_fails_by_name(operator: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is 1 % off, or another index."""
    right = block_check.overload

    def overload(name: str, backend: str):
        def run(*args):
            results = right(name, backend)(*args)
            if name != operator:
                return results
            one = isinstance(results, torch.Tensor)
            results = [results] if one else list(results)
            wrong = results[number]
            results[number] = wrong ^ 1 if wrong.dtype == torch.uint8 else wrong * 1.01 + 1e-3 * (wrong == 0)
            return results[0] if one else results

        return run

    monkeypatch.setattr(block_check, "overload", overload)
    report = check(CASE, "fp32", "reference")
    assert any(problem.startswith(RESULTS[operator][number]) for problem in report.problems), report


def test_what_is_raised_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def overload(name: str, backend: str):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(block_check, "overload", overload)
    assert check(CASE, "fp32", "reference").problems == ["a result raised RuntimeError: no kernel image"]


def test_a_job_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the backend does not serve are said to be not here."""
    job = Job("native", "cpu", "fp32", blocks=True)
    assert job.units() == [(name,) for name in BY_NAME]
    monkeypatch.setattr(
        block_check, "problem", lambda case, *where: None if case.kernel == (3, 3) else f"no {case.kernel}"
    )
    record = worker._blocks(Job("reference", "cpu", "fp32", blocks=True), str(CASES[0]))
    assert record["problems"] == [] and {"block", "grad_weight"} & {f["result"] for f in record["findings"]}
    other = next(name for name, case in BY_NAME.items() if case.kernel == (5, 5))
    assert worker._blocks(job, other) == {"problems": [], "not here": "no (5, 5)"}


def test_the_plan_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.jobs.backends.problem", lambda *args: None)
    jobs = [job for job in Plan("cuda").jobs if job.blocks]
    assert {(job.backend, job.device, job.arithmetic) for job in jobs} == {
        ("native", "cpu", "fp32"), *(("triton", "cuda", name) for name in ("fp32", "tf32", "bf16", "fp16"))
    }  # fmt: skip
    units = [unit for job in jobs if job.name.startswith("triton cuda tf32 blocks") for unit in job.units()]
    assert sorted(units) == sorted((name,) for name in BY_NAME)
