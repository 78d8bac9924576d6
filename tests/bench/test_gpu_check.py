from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench import jobs
from bench.__main__ import app
from bench.jobs import Plan
from bench.pool import Outcome, Pool


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["gpu-check", *arguments])


def test_a_real_run_on_the_cpu(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--out", str(tmp_path), "--cases", "odd", "--cases", "stride2-odd")
    run = invoke(*options, "--only", "reference cpu fp32")
    assert run.exit_code == 0, run.output
    assert "PASSED: 12 checks passed, 0 failed, 0 left out" in run.output
    json_file, markdown_file = sorted(tmp_path.iterdir())
    result = json.loads(json_file.read_text())
    assert result["passed"]
    assert result["environment"]["torch"] == torch.__version__
    (row,) = result["jobs"]
    assert row["job"] == "reference cpu fp32"
    assert row["passed"] == 12
    assert 0 < row["of bound"] < 1
    assert 0 < row["error"] < 1e-6
    assert 0 < row["torch's"] < 1e-6
    assert "| reference cpu fp32 | 12 | 0 | 0 |" in markdown_file.read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    run = invoke("--out", str(tmp_path))
    assert run.exit_code == 2
    assert "gpu-check needs a CUDA device, and torch" in run.output
    assert not list(tmp_path.iterdir())


def test_failures_are_written_in_words_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Pool, todo: list[jobs.Job]) -> list[Outcome]:
        outcomes = [Outcome(job, job.units()) for job in todo]
        outcomes[0].records = [
            {"problems": ["output is wrong"], "findings": []},
            {"problems": [], "findings": []},
        ]
        outcomes[1].not_run = "Device not supported"
        return outcomes

    monkeypatch.setattr(Pool, "run", run)
    result = invoke("--device", "cpu", "--out", str(tmp_path), "--only", "reference*", "--cases", "odd")
    assert result.exit_code == 1
    assert "FAILED reference cpu fp32: odd, contiguous: output is wrong" in result.output
    assert "not run reference cpu behaviours: Device not supported" in result.output
    assert "FAILED: 1 checks passed, 1 failed, 4 left out" in result.output
    (markdown_file,) = tmp_path.glob("*.md")
    assert "- reference cpu fp32: odd, contiguous: output is wrong\n" in markdown_file.read_text()


def test_an_interrupted_run_is_written_and_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Pool, todo: list[jobs.Job]) -> list[Outcome]:
        self.interrupted = True
        return [Outcome(job, job.units(), [{"problems": []}]) for job in todo]

    monkeypatch.setattr(Pool, "run", run)
    result = invoke("--device", "cpu", "--out", str(tmp_path), "--only", "reference*")
    assert result.exit_code == 1
    assert "INTERRUPTED: 2 checks passed, 0 failed" in result.output
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--only", "no such job"), "No job is named like"),
        (("--cases", "unett"), "the tags are blocks, cnn, "),
    ],
)
def test_patterns_that_match_nothing(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    run = invoke("--device", "cpu", "--out", str(tmp_path), *arguments)
    assert run.exit_code == 2
    assert words in " ".join(run.output.split())


def test_the_plan_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.backends, "problem", lambda *args: None)
    monkeypatch.setattr(jobs, "sanitizer", lambda: "compute-sanitizer")
    full, quick = Plan("cuda"), Plan("cuda", quick=True)
    names = {job.name for job in full.jobs}
    for backend in ("native", "triton"):
        assert {
            f"{backend} cuda {tool}" for tool in ("behaviours", "fp32 memcheck", "bf16 racecheck")
        } <= names
        for arithmetic in jobs.ARITHMETICS:
            shards = [job for job in full.jobs if (job.backend, job.device, job.arithmetic, job.cases) ==
                      (backend, "cuda", arithmetic, jobs.CORRECTNESS)]  # fmt: skip
            assert sorted(sum((job.units() for job in shards), [])) == sorted(
                replace(shards[0], shard=(0, 1)).units()
            )
            assert {"contiguous", "channels_last", "permuted"} <= {layout for _, layout in shards[0].units()}
    assert len(quick.jobs) < len(full.jobs) / 2


def test_what_a_machine_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        jobs.backends, "problem", lambda name, *args: None if name == "reference" else f"no {name}"
    )
    monkeypatch.setattr(jobs, "sanitizer", lambda: None)
    plan = Plan("cuda")
    assert {job.backend for job in plan.jobs} == {"reference"}
    assert plan.missing == {
        "native on cpu": "no native",
        "native on cuda": "no native",
        "triton on cuda": "no triton",
        "compute-sanitizer": "it is neither on PATH nor in /usr/local/cuda/bin",
    }
