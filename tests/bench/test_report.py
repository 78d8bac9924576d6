"""Reports as they are made: who is measured, wrong results that are flagged, interruptions, and the command."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench import ROOT, competition
from bench import report as reporting
from bench.__main__ import app
from bench.accuracy import BOUND
from bench.cases import CASES
from bench.catalogue import choose, subjects
from bench.competition import compete
from bench.layers import layer
from bench.measure import StoppingRule
from bench.rows import Row, load
from bench.subjects import OURS, RIVAL, Contestant, Ready, Subject

ONCE = StoppingRule(budget=0, min_rounds=5)
ROOFS = {"GF/s": 100.0, "GB/s": 10.0}


def test_patterns_choose_by_name_and_tag() -> None:
    everything = subjects(torch.device("cpu"))
    assert {s.pass_name for s in choose(everything, ["c64-k64-8px-n100"])} == {
        *("forward", "grad_input", "grad_weight", "backward")
    }
    assert len(choose(everything, ["ten", "fused"])) == 4 * 10 + 2 * 5
    passes = [s.pass_name for s in choose(everything, ["ten:grad_weight", "ten:forward", "ten"])]
    assert passes[:20] == ["grad_weight"] * 10 + ["forward"] * 10 and len(passes) == 40
    assert not [s for s in everything if "weird" in s.tags]
    with pytest.raises(
        ValueError, match=r"--cases 'tenn' is like no name and no tag of a case; the tags are cnn, "
    ):
        choose(everything, ["ten", "tenn"])


def wrong_subject() -> Subject:
    """A layer in which ours is a thousandth off and one rival cannot be prepared."""
    right = layer(CASES["c3-k3-32px-n1"], "forward", torch.device("cpu"))

    def broken() -> Ready:
        raise ImportError("no such rival\nand more")

    def contestants() -> list[Contestant]:
        ours, *others = right.contestants()
        ready = ours.prepare()
        off = Ready(ready.call, lambda: {name: 1.001 * value for name, value in ready.results().items()})
        return [ours._replace(prepare=lambda: off), *others, Contestant("broken", RIVAL, broken)]

    return dataclasses.replace(right, contestants=contestants)


def test_a_wrong_result_and_a_missing_rival_are_said() -> None:
    found = compete(wrong_subject(), ONCE, excluded={"ONNX Runtime": "not asked"})
    assert found.holds is False
    assert 5e-4 < found.errors["ours contiguous"]["output"] < 2e-3
    assert found.errors["torch contiguous"]["output"] < BOUND
    assert found.problems == {"ONNX Runtime": "not asked", "broken": "ImportError: no such rival"}
    assert found.samples.keys() == found.errors.keys() == set(found.sides) - set(found.problems)
    assert all(len(samples) >= 5 and min(samples) > 0 for samples in found.samples.values())


def run_report(monkeypatch, tmp_path: Path, chosen, **settings) -> tuple[int, list[Row]]:
    monkeypatch.setattr(reporting, "subjects", lambda *args, **options: chosen)
    monkeypatch.setattr(reporting, "measure_roofs", lambda device, timer: ROOFS)
    monkeypatch.setattr(reporting, "environment", lambda device: {"commit": "0123"})
    asked = reporting.Settings(cases=["*"], budget=0.01, quick=True, out=tmp_path, **settings)
    status = reporting.report(asked)
    [path] = tmp_path.glob("*.json")
    return status, load(path)[0]


def test_a_report_with_a_wrong_result_fails(monkeypatch, tmp_path: Path, capsys) -> None:
    status, rows = run_report(monkeypatch, tmp_path, [wrong_subject()])
    assert status == 1
    assert [found.holds for found in rows] == [False]
    assert "accuracy does not hold in 1" in " ".join(capsys.readouterr().out.split())


def test_an_interrupted_report_writes_what_there_is(monkeypatch, tmp_path: Path, capsys) -> None:
    first = layer(CASES["c3-k3-32px-n1"], "forward", torch.device("cpu"))

    def interrupt() -> list[Contestant]:
        raise KeyboardInterrupt

    status, rows = run_report(
        monkeypatch, tmp_path, [first, dataclasses.replace(first, contestants=interrupt)]
    )
    assert status == 130
    assert [found.case for found in rows] == ["c3-k3-32px-n1"]
    assert "1 left out (interrupted)" in " ".join(capsys.readouterr().out.split())


def small(name: str = "c3-k3-32px-n1") -> Subject:
    return layer(CASES[name], "forward", torch.device("cpu"))


def test_every_row_is_on_the_disk_before_the_next_is_begun(monkeypatch, tmp_path: Path) -> None:
    """Whatever ends a report, even by force, leaves the rows that were finished."""
    seen = []

    def killed() -> list[Contestant]:
        [path] = tmp_path.glob("*.json")
        seen.append([found.case for found in load(path)[0]])
        assert "1 left out (it was still under way" in path.with_suffix(".md").read_text()
        return small().contestants()

    second = dataclasses.replace(small(), case="second", contestants=killed)
    assert run_report(monkeypatch, tmp_path, [small(), second])[0] == 0
    assert seen == [["c3-k3-32px-n1"]]


def test_a_report_is_added_to_row_by_row(monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    for options in ({}, {"precision": "bf16"}, {"contestants": ["* contiguous"]}):
        status, rows = run_report(monkeypatch, tmp_path, [small()], add=file, **options)
        assert status == 0
    assert [found.precision for found in rows] == ["fp32", "bf16"]
    assert rows[0].samples.keys() == {"ours contiguous", "torch contiguous"}  # measured anew
    assert "ours channels_last" in rows[1].samples
    text = file.with_suffix(".md").read_text()
    assert "fp32: TF32 off; bf16: bf16 tensors" in text and "| c3-k3-32px-n1 bf16 | forward |" in text
    assert "Not there: whoever is not asked (--contestants * contiguous)." in text
    file.write_text("[]")
    asked = reporting.Settings(cases=["*"], add=file, out=tmp_path)
    assert reporting.report(asked) == 2


def test_what_was_measured_otherwise_is_not_added_to(monkeypatch, tmp_path: Path, capsys) -> None:
    """One head cannot speak for the rows of other threads or another machine."""
    file = tmp_path / "all.json"
    run_report(monkeypatch, tmp_path, [small()], add=file)
    before = file.read_text()
    for part, name, value in (("settings", "threads", 99), ("environment", "processor", "another one")):
        told = json.loads(before)
        told[part][name] = value
        file.write_text(json.dumps(told))
        assert run_report(monkeypatch, tmp_path, [small()], add=file)[0] == 2
        said = " ".join(capsys.readouterr().out.split())
        assert f"its rows were measured with another {name}: {value}, now" in said
        assert json.loads(file.read_text()) == told


def test_commits_of_rows_that_are_kept_are_told(monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    run_report(monkeypatch, tmp_path, [small()], add=file)
    told = json.loads(file.read_text())
    told["environment"]["commit"] = "an earlier one"
    file.write_text(json.dumps(told))
    for case in ("second", "third"):
        assert run_report(monkeypatch, tmp_path, [dataclasses.replace(small(), case=case)], add=file)[0] == 0
        assert [one["commit"] for one in load(file)[1]["earlier"]] == ["an earlier one"]
    text = file.with_suffix(".md").read_text()
    assert f"at other commits: an earlier one ({told['date']})." in text


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "deep"):
        result = CliRunner().invoke(app, ["report", "--cases", "overhead", "--out", str(folder)])
        said = " ".join(result.output.replace("│", " ").split())  # of a frame as wide as the terminal
        assert result.exit_code == 2 and "is no folder" in said
    command = [sys.executable, "-m", "bench", "handout", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and "holds no run" in run.stderr and "Traceback" not in run.stderr


def test_subjects_are_made_in_the_precision_that_is_measured(monkeypatch, tmp_path: Path) -> None:
    bytes = {}
    for precision in ("fp32", "bf16"):
        file = tmp_path / f"{precision}.json"
        command = ["report", "--quick", "--cases", "c3-k3-32px-n1:forward", "--precision", precision]
        monkeypatch.setattr(reporting, "measure_roofs", lambda device, timer: ROOFS)
        result = CliRunner().invoke(app, [*command, "--add", str(file), "--out", str(tmp_path)])
        assert result.exit_code == 0, result.output
        [found] = load(file)[0]
        bytes[found.precision] = found.bytes
    assert bytes["fp32"] == 2 * bytes["bf16"] > 0


def test_a_wrong_row_of_before_does_not_fail_what_is_added(monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    assert run_report(monkeypatch, tmp_path, [wrong_subject()], add=file)[0] == 1
    second = dataclasses.replace(small(), case="second")
    status, rows = run_report(monkeypatch, tmp_path, [second], add=file)
    assert (status, [found.holds for found in rows]) == (0, [False, True])


def test_nothing_is_begun_when_the_time_is_up(monkeypatch, tmp_path: Path, capsys) -> None:
    status, rows = run_report(monkeypatch, tmp_path, [small(), wrong_subject()], minutes=1e-9)
    assert (status, rows) == (0, [])
    assert "0 rows, 2 left out (the time was up)" in " ".join(capsys.readouterr().out.split())


def test_what_does_not_fit_a_precision_is_left_out_with_its_reason(monkeypatch, tmp_path: Path) -> None:
    training = dataclasses.replace(small(), pass_name="training step")
    status, rows = run_report(monkeypatch, tmp_path, [training, small()], precision="fp16")
    assert status == 0 and [found.pass_name for found in rows] == ["forward"]
    [path] = tmp_path.glob("*-fp16-quick.md")
    assert "Not there: training step (fp16 needs a loss that is scaled)." in path.read_text()


def test_memory_is_sampled_by_processes(monkeypatch) -> None:
    sizes = iter([3.0, 1.0, 2.0])
    contestant = Contestant("ours", OURS, lambda: Ready(lambda _: next(sizes), dict))
    subject = Subject("m", "peak memory of a step", "memory", frozenset(), lambda: [contestant], unit="B")
    found = compete(subject, ONCE)
    assert found.samples == {"ours": [3.0, 1.0, 2.0]} and found.holds is None
    assert competition._PROCESSES == 3


def test_the_command_report_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "report", "--quick", "--threads", "1", "--out", str(tmp_path)]
    command += ["--cases", "c3-k3-32px-n1", "--cases", "overhead", "--isa", "portable"]
    environment = os.environ | {"PYTHONWARNINGS": "error::UserWarning"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    said = " ".join(run.stdout.split())
    assert "5 rows" in said
    assert "not there torch.compile: --quick" in said
    assert "not there ONNX Runtime: c3-k3-32px-n1, forward: cannot be held to portable" in said
    kinds = sorted(path.name.rpartition("-")[2] for path in tmp_path.iterdir())
    assert kinds == ["layers.png", "quick.json", "quick.md", "roofline.png"]
    [path] = tmp_path.glob("*.json")
    rows, found = load(path)
    assert (
        found["settings"]["isa"] == "portable"
        and found["environment"]["instruction set in use"] == "portable"
    )
    assert all(one.holds and one.ratio > 0 for one in rows)
    assert json.loads(path.read_text())["tags"] == ["overhead"]
    assert float(found["environment"]["load average before"]) >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases", "nothing-like-it"], "--cases 'nothing-like-it' is like no name"),
        (["--device", "cuda"], "finds no CUDA device"),
        (["--precision", "tf32"], "TF32 is an arithmetic of GPUs"),
        (["--cpu-time"], "needs --device cpu and --threads 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: list[str], message: str, tmp_path: Path) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is one")
    result = CliRunner().invoke(app, ["report", *options, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())
