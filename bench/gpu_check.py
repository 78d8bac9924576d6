"""`python -m bench gpu-check`: every backend × type × layout on this machine, and a dated result file."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from colourize.files import atomic_write

from .environment import environment
from .jobs import Job, Plan
from .pool import Outcome, Pool

_COLUMNS = ("job", "passed", "failed", "left out", "of bound", "error", "torch's", "seconds")
_NOTE = (
    "Errors are the worst of all units: as a share of the bound that the ruler allows (bench/oracle.py), and "
    "relative to the largest exact value, ours and torch's own. Left out: never tried, for lack of time."
)


def gpu_check(
    device: str, out: Path, quick: bool, only: str, cases: Sequence[str], workers: int, minutes: float
) -> int:
    """Runs the check and writes its result files.

    Returns:
        The exit status: 0 all passed, 1 not, 2 there is nothing to check.
    """
    console = Console(highlight=False)
    if device != "cpu" and not torch.cuda.is_available():
        why = "was built without CUDA" if torch.version.cuda is None else "finds none on this machine"
        console.print(
            f"gpu-check needs a CUDA device, and torch {torch.__version__} {why}; "
            "--device cpu tries everything but the device itself."
        )
        return 2
    try:
        plan = Plan(device, quick, tuple(cases))
    except ValueError as error:
        console.print(escape(str(error)))
        return 2
    jobs = [job for job in plan.jobs if fnmatchcase(job.name, only)]
    if not jobs:
        console.print(f"No job is named like {escape(repr(only))}.")
        return 2
    begin = time.time()
    outcomes, interrupted = _run(jobs, workers, begin + 60 * minutes, console)
    result = _result(device, outcomes, plan.missing, interrupted, time.time() - begin)
    console.print(_table(result), f"\n{_NOTE}\n")
    for name, reason in result["not run"].items():
        console.print(f"[yellow]not run[/] {escape(name)}: {escape(reason)}")
    for failure in result["failures"]:
        console.print(f"[red]FAILED[/] {escape(failure)}")
    written = _write(result, out)
    console.print(f"\n{result['verdict']}\n{written}")
    return 0 if result["passed"] else 1


def _run(jobs: list[Job], workers: int, deadline: float, console: Console) -> tuple[list[Outcome], bool]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=sum(len(job.units()) for job in jobs))

        def progress(job: Job) -> None:
            bar.update(task, advance=1, description=job.name)

        def finished(outcome: Outcome) -> None:
            if not console.is_terminal:  # where the bar is not shown until the end
                console.print(f"{escape(outcome.job.name)}: {outcome.passed} of {len(outcome.units)} passed")

        pool = Pool(workers, deadline, progress, finished)
        return pool.run(jobs), pool.interrupted


def _result(
    device: str, outcomes: list[Outcome], missing: dict[str, str], interrupted: bool, seconds: float
) -> dict[str, Any]:
    """Everything that the result files and the summary say."""
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    not_here = {
        f"{outcome.job.name}: {', '.join(unit)}": record["not here"]
        for outcome in outcomes
        for unit, record in zip(outcome.units, outcome.records, strict=False)
        if "not here" in record
    }
    unusable = {outcome.job.name: outcome.not_run for outcome in outcomes if outcome.not_run}
    checks = sum(outcome.passed for outcome in outcomes)
    left_out = sum(outcome.left_out for outcome in outcomes)
    passed = not failures and checks > 0 and not interrupted
    verdict = "PASSED" if passed else "INTERRUPTED" if interrupted else "FAILED"
    verdict += f": {checks} checks passed, {len(failures)} failed, {left_out} left out"
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "verdict": f"{verdict} ({seconds:.0f} s).",
        "passed": passed,
        "environment": environment(device),
        "jobs": [_row(outcome) for outcome in outcomes],
        "failures": failures,
        "not run": missing | unusable | not_here,
    }


def _row(outcome: Outcome) -> dict[str, Any]:
    findings = [finding for record in outcome.records for finding in record.get("findings", ())]

    def worst(key: str) -> float | None:
        return max((finding[key] for finding in findings if finding[key] is not None), default=None)

    numbers = outcome.passed, len(outcome.failures), outcome.left_out
    errors = worst("of bound"), worst("error"), worst("framework's error")
    return dict(zip(_COLUMNS, (outcome.job.name, *numbers, *errors, round(outcome.seconds, 1)), strict=True))


def _texts(row: dict[str, Any]) -> list[str]:
    *counts, of_bound, error, framework, seconds = row.values()
    errors = ("–" if value is None else f"{value:.2g}" for value in (of_bound, error, framework))
    return [*map(str, counts), *errors, f"{seconds:.0f}"]


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE, padding=0)
    for column in _COLUMNS:
        table.add_column(column, no_wrap=column == "job", justify="left" if column == "job" else "right")
    for row in result["jobs"]:
        table.add_row(*map(escape, _texts(row)), style="red" if row["failed"] else None)
    return table


def _markdown(result: dict[str, Any]) -> str:
    def rows(*cells: Sequence[str]) -> list[str]:
        return [
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
            for row in cells
        ]

    lines = [f"# GPU check, {result['date']}", "", f"**{result['verdict']}**", ""]
    lines += rows(("", ""), ("---", "---"), *result["environment"].items())
    lines += ["", *rows(_COLUMNS, ["---"] * len(_COLUMNS), *map(_texts, result["jobs"])), "", _NOTE]
    for title, items in (
        ("Failures", result["failures"]),
        ("Not run", [": ".join(i) for i in result["not run"].items()]),
    ):
        lines += ["", f"## {title}", "", *("- " + " ".join(item.split()) for item in items or ["none"])]
    return "\n".join([*lines, ""])


def _write(result: dict[str, Any], out: Path) -> str:
    card = result["environment"].get("card", "cpu").partition(",")[0]
    stamp = result["date"][:16].replace("T", "-").replace(":", "")
    stem = f"{stamp}-gpu-check-{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}"
    texts = {".json": json.dumps(result, indent=1, ensure_ascii=False) + "\n", ".md": _markdown(result)}
    for suffix, text in texts.items():
        atomic_write(out / (stem + suffix), lambda file, text=text: file.write(text.encode()))
    return f"Written: {out / stem}.json and .md"
