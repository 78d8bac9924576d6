"""What follows from the rows of a report: ratios, files that come back as they were, tables, comparisons, pictures."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench.__main__ import app
from bench.accuracy import BOUND, bounds, errors, holds
from bench.compare import changes, summary
from bench.rows import Row, dump, geometric_means, load, whole_tags
from bench.subjects import OURS, RIVAL
from bench.tables import layer_cells, markdown, verdict

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
        bounds(exact, 0)["grad x"] == BOUND < bounds(exact, 1)["grad x"] < bounds(exact, 5)["grad x"] < 8e-3
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


def test_the_machine_is_judged_by_rivals_that_both_reports_have() -> None:
    old, new = row("a"), row("a")
    old.samples["torch contiguous compiled"] = [1e-3] * 9
    old.sides["torch contiguous compiled"] = RIVAL
    assert old.rival == "torch contiguous compiled" != new.rival
    assert [change.rival for change in changes([old], [new])] == pytest.approx([1])
    assert math.isnan(changes([dataclasses.replace(old, samples={"ours contiguous": [1e-3] * 9})], [new])[0].rival)


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
    words = result.output.replace("│", " ").split()  # of a frame as wide as the terminal
    assert result.exit_code == 2 and "is not a report" in " ".join(words)
