from __future__ import annotations

import atexit
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench import ROOT, gpu_check, jobs, worker
from bench.__main__ import app
from bench.catalogue import choose, subjects
from bench.charts import draw_all
from bench.check import Report
from bench.gpu_check import PARTS, Part, _Check
from bench.jobs import Plan
from bench.pool import Outcome, Pool
from bench.rows import load


def invoke(*arguments: str, parts: str = "correctness"):
    return CliRunner().invoke(app, ["gpu-check", "--parts", parts, *arguments])


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


def test_triton_has_a_temporary_folder_where_home_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "")  # so that it is as before afterwards
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    gpu_check.give_triton_a_folder()
    assert "TRITON_CACHE_DIR" not in os.environ and not at_exit
    monkeypatch.setenv("TRITON_HOME", str(tmp_path / "nowhere"))
    for _ in range(2):  # the second time it is named
        gpu_check.give_triton_a_folder()
        (folder,) = tmp_path.iterdir()
        assert os.environ["TRITON_CACHE_DIR"] == str(folder)
    (remove,) = at_exit
    remove()
    assert not folder.exists()


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
        assert {f"{backend} cuda behaviours", f"{backend} cuda fp32 memcheck"} <= names
        assert (f"{backend} cuda bf16 racecheck" in names) == (backend == "native")
        for arithmetic in jobs.ARITHMETICS:
            shards = [job for job in full.jobs if (job.backend, job.device, job.arithmetic, job.cases) ==
                      (backend, "cuda", arithmetic, jobs.CORRECTNESS)]  # fmt: skip
            assert sorted(sum((job.units() for job in shards), [])) == sorted(
                replace(shards[0], shard=(0, 1)).units()
            )
            assert {"contiguous", "channels_last", "permuted"} <= {layout for _, layout in shards[0].units()}
    assert len(quick.jobs) < len(full.jobs) / 2


def test_only_the_cpu_library_has_the_bound_of_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.backends, "problem", lambda *args: None)
    checked = []

    def check(implementation, *arguments, **options) -> Report:
        checked.append(implementation)
        return Report("nothing", ())

    monkeypatch.setattr(worker, "check", check)
    for job in Plan("cuda").jobs:
        if job.arithmetic == "fp32" and not job.blocks and job.backend == "native":
            worker._operators(job, "odd", "contiguous")
            assert checked[-1].winograd == (job.device == "cpu")
    assert {implementation.winograd for implementation in checked} == {True, False}


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


SMALL = Part("cases", 90, "tf32", ("c3-k3-32px-n1:forward",), ("--no-compile", "--budget", "0.02"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the processes that are begun here."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *parts: Part, minutes: float = 2):
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    options = ["--device", "cpu", "--out", str(tmp_path), "--minutes", str(minutes)]
    run = invoke(*options, parts="[!c]*" if parts[0].name[0] != "c" else "ca*")
    [path] = tmp_path.glob("*-gpu-check-cpu.json")
    return run, json.loads(path.read_text())


def test_parts_add_their_rows_to_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    half = SMALL._replace(name="cases in bf16", precision="bf16", contestants=("*contiguous",))
    run, result = run_parts(monkeypatch, tmp_path, SMALL, half)
    assert run.exit_code == 0, run.output
    assert [(row["part"], row["outcome"]) for row in result["parts"][1:]] == [
        ("cases", "done"),
        ("cases in bf16", "done"),
    ]
    [path] = tmp_path.glob("*-gpu-speed-cpu.json")
    rows, facts = load(path)
    assert [row.precision for row in rows] == ["fp32", "bf16"]
    pictures = {p.name.rpartition("-")[2] for p in tmp_path.glob("*.png")}
    assert pictures == {"layers.png", "roofline.png"}
    assert "PASSED, without correctness" in run.output
    told = {"roofs": {"fp32 GF/s": 60e3, "bf16 GF/s": 790e3, "GB/s": 4300.0}}
    told["settings"] = facts["settings"] | {"device": "cuda"}
    assert draw_all(rows, facts | told, tmp_path / "gpu")


def test_a_part_that_takes_too_long_is_ended_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "GRACE", 0.0)
    endless = SMALL._replace(name="cases without end", share=1, options=("--budget", "1000"))
    run, result = run_parts(monkeypatch, tmp_path, endless, SMALL)
    assert run.exit_code == 0, run.output
    outcomes = [row["outcome"] for row in result["parts"][1:]]
    assert outcomes[0].startswith("ended by force after 1 s") and outcomes[1] == "done"


def test_what_a_part_had_measured_when_it_was_ended_is_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, _ = run_parts(monkeypatch, tmp_path, SMALL)
    assert run.exit_code == 0, run.output
    pictures = sorted(tmp_path.glob("*.png"))
    for path in pictures:
        path.unlink()
    monkeypatch.setattr(gpu_check, "GRACE", 0.0)
    check = _Check("cpu", tmp_path, gpu_check.Console(quiet=True), 0.0)
    [check.speed] = [path.with_suffix("") for path in tmp_path.glob("*-gpu-speed-cpu.json")]
    assert check._report(SMALL, 0.1).startswith("ended by force")
    assert sorted(tmp_path.glob("*.png")) == pictures != []


def test_a_part_that_breaks_fails_the_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, result = run_parts(monkeypatch, tmp_path, SMALL._replace(cases=("no such case",)))
    assert run.exit_code == 1
    assert result["parts"][-1]["outcome"] == "FAILED: it ended with status 2"
    assert "cases: FAILED: it ended with status 2" in run.output
    [markdown_file] = tmp_path.glob("*-gpu-check-cpu.md")
    assert "**cases: FAILED: it ended with status 2**" in markdown_file.read_text()


def test_measured_plans_go_into_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = _Check("cpu", tmp_path, gpu_check.Console(quiet=True), 0.0)
    assert check._measure_plans(70) == "left out: plans are measured on a GPU"
    check.device = "cuda"
    monkeypatch.setattr(gpu_check.backends, "problem", lambda *asked: "no Triton")
    assert check._measure_plans(70) == "left out: no Triton"
    monkeypatch.setattr(gpu_check.backends, "problem", lambda *asked: None)
    asked = []

    def popen(command, env, stdout, **options):
        asked.append((command[1:], env["MYCONV2D_CACHE"]))
        return started([sys.executable, "-c", "import sys; print('measured'); sys.exit(3)"], env=env, stdout=stdout)

    started = gpu_check.subprocess.Popen
    monkeypatch.setattr(gpu_check.subprocess, "Popen", popen)
    log = check.plans.with_suffix(".txt")
    assert check._measure_plans(70) == f"FAILED: it ended with status 3, see {log.name}"
    options = ["--near", "--type", "fp32", "--minutes", "1.000"]
    assert asked == [(["-m", "myconv2d.triton.measure", *options], str(tmp_path))]
    assert log.read_text() == "measured\n"


class Clock:
    """Time that parts use up."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


def test_time_that_a_part_does_not_need_goes_to_those_behind_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, given = Clock(), []
    monkeypatch.setattr(gpu_check, "time", clock)
    used = {"correctness": 50.0, "a": 10.0, "b": 400.0, "c": 0.0}

    def correctness(self, jobs, missing, workers, seconds: float) -> str:
        return report(self, Part("correctness", 0, "fp32", ()), seconds)

    def report(self, part: Part, seconds: float) -> str:
        given.append((part.name, seconds))
        clock.now += used[part.name]
        return "done"

    monkeypatch.setattr(_Check, "_correctness", correctness)
    monkeypatch.setattr(_Check, "_report", report)
    monkeypatch.setattr(gpu_check, "CORRECTNESS", ("correctness", 100.0))
    monkeypatch.setattr(gpu_check, "PARTS", tuple(Part(name, 100.0, "fp32", ()) for name in "abc"))
    check = _Check("cpu", tmp_path, gpu_check.Console(quiet=True), deadline=400.0)
    assert check.run(["correctness", "a", "b", "c"], [], {}, 1) == 0
    assert given == [("correctness", 100.0), ("a", 350 / 3), ("b", 170.0)]
    assert check.result["parts"][-1]["outcome"] == "not begun: the time was up"


@pytest.mark.filterwarnings("ignore:myconv2d. torch.float32 convolutions on cuda are served by")
def test_the_parts_ask_for_what_there_is() -> None:
    assert sum((gpu_check.CORRECTNESS[1], gpu_check.PLANS[1], *(part.share for part in PARTS))) <= 9 * 60 + 60
    everything = subjects(torch.device("cuda"), compiled=True)
    for part in PARTS:
        found = choose(everything, part.cases)
        names = {contestant.name for contestant in found[0].contestants()}
        for pattern in part.contestants:
            assert any(gpu_check.fnmatchcase(name, pattern) for name in names), (part.name, pattern)
        command = part.command("cuda", Path("/out/x.json"), 70)
        assert command[command.index("--precision") + 1] == part.precision
        assert command[command.index("--minutes") + 1] == "1.000"


def test_the_files_need_not_lie_in_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    check = _Check("cpu", Path("results"), gpu_check.Console(quiet=True), 0.0)
    assert check.speed.parent == tmp_path / "results" != ROOT
