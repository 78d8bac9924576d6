"""The part of gpu-check that asks whether everything is right: every backend × type × layout on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .jobs import Job
from .pool import Outcome, Pool
from .tables import grid

_COLUMNS = ("job", "passed", "failed", "left out", "of bound", "error", "torch's", "seconds")
NOTE = (
    "Errors are the worst of all units: as a share of the bound that the ruler allows (bench/oracle.py), and "
    "relative to the largest exact value, ours and torch's own. Left out: never tried, for lack of time."
)


def run(
    jobs: Sequence[Job],
    workers: int,
    deadline: float,
    console: Console,
    save: Callable[[list[Outcome]], None],
) -> tuple[list[Outcome], bool]:
    """What became of the jobs, and whether they were interrupted; `save` is called with what is finished so far."""
    done: list[Outcome] = []
    lock = threading.Lock()  # jobs end in threads of their own
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=sum(len(job.units()) for job in jobs))

        def progress(job: Job) -> None:
            bar.update(task, advance=1, description=job.name)

        def finished(outcome: Outcome) -> None:
            with lock:
                done.append(outcome)
                save(done)
            if not console.is_terminal:  # where the bar is not shown until the end
                console.print(f"{escape(outcome.job.name)}: {outcome.passed} of {len(outcome.units)} passed")

        pool = Pool(workers, deadline, progress, finished)
        return pool.run(jobs), pool.interrupted


def findings(outcomes: Sequence[Outcome], missing: Mapping[str, str], interrupted: bool) -> dict[str, Any]:
    """Everything that the result files and the summary say of them."""
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
    return {
        "verdict": f"{verdict}: {checks} checks passed, {len(failures)} failed, {left_out} left out",
        "passed": passed,
        "jobs": [_row(outcome) for outcome in outcomes],
        "failures": failures,
        "not run": {**missing, **unusable, **not_here},
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


def table(result: Mapping[str, Any]) -> Table:
    """For the terminal."""
    table = Table(box=box.SIMPLE, padding=0)
    for column in _COLUMNS:
        table.add_column(column, no_wrap=column == "job", justify="left" if column == "job" else "right")
    for row in result["jobs"]:
        table.add_row(*map(escape, _texts(row)), style="red" if row["failed"] else None)
    return table


def markdown(result: Mapping[str, Any]) -> list[str]:
    """The lines of a result file."""
    lines = ["", "## Correctness", "", *grid(_COLUMNS, map(_texts, result["jobs"])), "", NOTE]
    for title, items in (
        ("Failures", result["failures"]),
        ("Not run", [": ".join(i) for i in result["not run"].items()]),
    ):
        lines += ["", f"### {title}", "", *("- " + " ".join(item.split()) for item in items or ["none"])]
    return lines
