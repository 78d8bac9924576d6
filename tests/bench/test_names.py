"""What was saved is never overwritten: the names of result files are new ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import presets
from bench.__main__ import app
from bench.names import dated, free
from bench.trust.outcome import Outcome, newest


def test_a_name_is_taken_by_a_file_of_any_kind(tmp_path: Path) -> None:
    stem = dated(tmp_path / "results", "2026-01-02T03:04:05+00:00", "speed")
    assert stem == tmp_path / "results" / "2026-01-02-0304-speed"
    (tmp_path / "speed-quick.json").touch()
    (tmp_path / "speed-tags.png").touch()
    assert free(tmp_path / "speed") == tmp_path / "speed"
    (tmp_path / "speed.md").touch()
    assert free(tmp_path / "speed") == tmp_path / "speed-2"
    (tmp_path / "speed-2.json").touch()
    assert free(tmp_path / "speed") == tmp_path / "speed-3"


@pytest.mark.parametrize(
    "line",
    [
        "report --quick --cases overhead --budget 0.01",
        "epoch --data photos --limit 20 --epochs 2 --rounds 1",
        "presets best-mean --data photos --limit 20 --epochs 1",
        "gpu-check --device cpu --parts correctness --cases odd --only reference*fp32",
    ],
)
def test_two_runs_in_a_minute_keep_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(presets, "_megapixel", lambda *_: {})
    found: list[dict[str, bytes]] = []
    for _ in range(2):
        run = CliRunner().invoke(app, [*line.split(), "--out", str(tmp_path)])
        assert run.exit_code == 0, run.output
        found.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    first, both = found
    assert len(both) == 2 * len(first) > 0
    assert {name: both[name] for name in first} == first


def test_of_two_checks_in_a_minute_the_later_is_the_newest(tmp_path: Path) -> None:
    for second in ("first", "second"):
        Outcome("fuzz", second).report(tmp_path)
    times = {"first": "2026-01-02T03:04:05+00:00", "second": "2026-01-02T03:04:06+00:00"}
    for path in tmp_path.glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"date": times[content["figure"]]}))
    assert newest(tmp_path)["fuzz"]["figure"] == "second"
