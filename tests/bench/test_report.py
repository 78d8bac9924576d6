"""Reports: what a row says, files that come back as they were, wrong results that are flagged, and the commands."""

from __future__ import annotations

import dataclasses
import json
import math
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
from bench.accuracy import BOUND, bounds, errors, holds
from bench.cases import CASES
from bench.compare import changes, summary
from bench.competition import compete
from bench.layers import layer
from bench.measure import StoppingRule
from bench.rows import Row, dump, geometric_means, load, whole_tags
from bench.subjects import OURS, RIVAL, Contestant, Ready, Subject, choose, subjects
from bench.tables import layer_cells, markdown, verdict

ONCE = StoppingRule(budget=0, min_rounds=5)
ROOFS = {"GF/s": 100.0, "GB/s": 10.0}


def row(case: str = "a", ours: float = 1e-3, rival: float = 2e-3, **options) -> Row:
    """A made-up row: ours and two rivals, with a little noise."""
    samples = {
        "ours contiguous": [ours * factor for factor in (0.99, 1, 1, 1, 1.01, 1, 1)],
        "torch contiguous": [1.5 * rival] * 7,
        "torch channels_last": [rival * factor for factor in (1, 0.99, 1, 1.01, 1, 1, 1)],
    }
    sides = {name: OURS if name.startswith("ours") else RIVAL for name in samples}
    accurate = {name: {"output": 1e-6} for name in samples}
    given = {"pass_name": "forward", "kind": "layer", "tags": ["t"], "flop": 10**6, "bytes": 10**5} | options
    return Row(case, sides=sides, samples=samples, errors=accurate, bounds={"output": BOUND}, **given)


def facts(**settings) -> dict:
    default = {"device": "cpu", "threads": 1, "isa": None, "clock": "wall clock", "quick": False}
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "settings": default | settings,
        "environment": {"commit": "0123", "processor": "a processor"},
        "roofs": ROOFS,
        "tags": ["t"],
    }


def test_a_row_compares_the_best_of_both_sides() -> None:
    one = row()
    assert (one.ours, one.rival) == ("ours contiguous", "torch channels_last")
    assert one.ratio == pytest.approx(2)
    assert one.rate("ours contiguous") == pytest.approx(1.0)
    assert one.share_of_roof("ours contiguous", ROOFS) == pytest.approx(0.01)
    assert one.holds and one.precise()
    assert math.isnan(dataclasses.replace(one, samples={}).ratio)


def test_geometric_means_are_of_whole_tags() -> None:
    rows = [row("a", rival=2e-3), row("b", rival=8e-3), row("c", tags=["u"])]
    assert whole_tags(rows, {("t", "forward"): 2, ("u", "forward"): 3}) == ["t"]
    assert geometric_means(rows, ["t"]) == [("t", "forward", 2, pytest.approx(4), pytest.approx(2))]


def test_accuracy_is_twice_the_rival_s_or_within_the_bound() -> None:
    allowed = {"output": BOUND}
    assert holds({"output": 1e-5}, {"output": 6e-6}, allowed)
    assert not holds({"output": 1e-5}, {"output": 4e-6}, allowed)
    assert holds({"output": 2e-6}, {"output": 1e-9}, allowed)
    assert not holds({}, {"output": 1.0}, allowed)
    assert not holds({"output": 0.9}, {"output": 0.5}, allowed)  # a wrong rival excuses nothing
    exact = {"output": torch.ones(2).double(), "grad x": torch.ones(2).double()}
    found = {"output": torch.tensor([1.0, float("nan")]), "grad x": torch.tensor([1.0, 1.001])}
    assert errors(found, exact, 0) == {"output": math.inf, "grad x": pytest.approx(1e-3, rel=1e-3)}
    assert (
        bounds(exact, 0)["grad x"] == BOUND < bounds(exact, 1)["grad x"] < bounds(exact, 5)["grad x"] < 4e-3
    )


def test_a_report_file_comes_back(tmp_path: Path) -> None:
    rows = [row("a"), row("b", tags=["t", "u"])]
    rows[1].errors["ours contiguous"]["output"] = math.inf
    rows[1].problems["ONNX Runtime"] = "ImportError: no module"
    path = tmp_path / "report.json"
    path.write_text(dump(rows, facts()))
    found, rest = load(path)
    assert found == rows
    assert rest == {"version": 1, **facts()}


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"version": 0, "rows": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is (not )?a report of"):
        load(path)


def test_tables_name_the_rival_and_what_does_not_hold() -> None:
    wrong = row("b", rival=5e-4)
    wrong.errors["ours contiguous"]["output"] = 1e-2
    wrong.problems["ONNX Runtime"] = "ImportError: no module"
    text = markdown([row("a"), wrong], facts())
    assert "torch channels_last" in text and "**no**" in text
    assert "Not there: ONNX Runtime (b, forward: ImportError: no module)." in text
    assert layer_cells(wrong, ROOFS)[-4:] == ("0.50", "1.0e-02", "1.0e-06", "**no**")
    assert verdict([row("a"), wrong], {}) == (
        "2 rows; 1 of 2 faster than the best rival; slowest: b, forward, 0.50×; accuracy does not hold in 1."
    )


def test_compare_tells_faster_slower_and_the_same() -> None:
    old = [row("a"), row("b"), row("c"), row("gone")]
    new = [row("a", ours=5e-4), row("b", ours=2e-3), row("c"), row("new")]
    found = changes(old, new)
    assert [(change.row.case, change.verdict) for change in found] == [
        ("a", "faster"),
        ("b", "slower"),
        ("c", "–"),
    ]
    assert found[0].faster == pytest.approx(2) and found[0].low <= 2 <= found[0].high
    assert [change.rival for change in found] == pytest.approx([1, 1, 1])
    assert len(summary(found)) == 2
    slower_machine = changes(old, [row("a", ours=2e-3, rival=4e-3)])
    assert (
        "machine" in summary(slower_machine)[-1] and "against them it is 1.000" in summary(slower_machine)[1]
    )


def test_the_command_compare(tmp_path: Path) -> None:
    for name, ours in (("old", 1e-3), ("new", 5e-4)):
        (tmp_path / name).write_text(dump([row(ours=ours)], facts(threads=1 if name == "old" else 2)))
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "old"), str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    assert "faster" in result.output and "threads 1 → 2" in result.output
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "old"), str(tmp_path / "none")])
    assert result.exit_code == 2 and "is not a report" in result.output


def test_the_command_draw(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    large = [row(f"c4-k8-{side}px-n1", tags=["large"], pixels=side**2) for side in (8, 16)]
    network = row("net", kind="network", pass_name="inference", tags=["networks"])
    path.write_text(dump([*large, network], facts() | {"tags": ["large", "networks"]}))
    result = CliRunner().invoke(app, ["draw", str(path)])
    assert result.exit_code == 0, result.output
    drawn = {file.stem.removeprefix("report-") for file in tmp_path.glob("*.png")}
    assert drawn == {"layers", "tags", "networks", "roofline", "sizes"}
    assert len(result.output.split(".png\n")) == 6
    result = CliRunner().invoke(app, ["draw", str(tmp_path / "none")])
    assert result.exit_code == 2 and "is not a report" in " ".join(result.output.split())


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


def test_a_report_from_a_gpu_says_how_it_was_timed() -> None:
    """Made-up numbers: µs, TF/s, the roof of the row's own precision, and what is cold."""
    told = facts(device="cuda", clock="CUDA events") | {
        "roofs": {
            "fp32 GF/s": 60e3,
            "tf32 GF/s": 400e3,
            "bf16 GF/s": 790e3,
            "fp16 GF/s": 790e3,
            "GB/s": 4300.0,
        }
    }
    rows = [row(ours=1e-5, rival=2e-5, flop=10**9, bytes=10**6, precision=p) for p in ("tf32", "bf16")]
    step = row(
        "net", ours=2e-4, rival=4e-4, pass_name="training step", kind="network", bytes=0, precision="tf32"
    )
    text = markdown([*rows, step], told)
    assert "| case | pass | ours | µs | ± | IQR | TF/s | GB/s | roof |" in text
    assert "| a tf32 | forward | contiguous | 10 | " in text and "| 100 | 100 | 25% |" in text  # of 400 TF/s
    assert "| a bf16 | forward | contiguous | 10 | " in text and "| 100 | 100 | 13% |" in text  # of 790 TF/s
    assert "**ours contiguous** | 200 µs |" in text
    for words in ("CUDA events", "L2 is overwritten (cold)", "(hot)", "cudnn.benchmark", "max-autotune"):
        assert words in text
    assert "ONNX" not in text
    assert "(tf32: fp32 tensors, products may round their factors to TF32; bf16: bf16 tensors" in text


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
