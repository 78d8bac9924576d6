"""`python -m bench report`: measures the chosen subjects, and writes samples, tables and pictures."""

from __future__ import annotations

import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from colourize.files import atomic_write

from . import precision, tables
from .catalogue import choose, subjects
from .charts import draw_all
from .competition import compete
from .environment import environment, load_average
from .measure import StoppingRule, Timer, thread_time, wall_clock
from .names import dated
from .roofs import measure_roofs
from .rows import PASSES, Row, dump, incompatible, load, merged, other_commits, whole_tags
from .subjects import Subject
from .variants import quiet

_DEFAULT = ("networks", "overhead", "fused", "ten", "handout", "large", "wide")
_DEFAULT += ("strided", "dilated", "grouped", "depthwise", "kernels")
_QUICK = ("unet-32px-n100", "overhead", "ten")
_QUICK_MINUTES = 0.75
_SHARES = {"layer": 1.0, "overhead": 1.0, "block": 2.0, "network": 8.0, "memory": 0.0}  # of the budget


@dataclass
class Settings:
    """What `report` was asked for."""

    device: str = "cpu"
    cases: Sequence[str] = ()  # patterns; none: everything but what is only for correctness or huge
    quick: bool = False
    threads: int | None = None
    isa: str | None = None
    compiled: bool = True
    budget: float = 3.0  # seconds for one pass of a layer
    cpu_time: bool = False  # of the one thread, in place of the wall clock
    precision: str = "fp32"
    contestants: Sequence[str] = ()  # patterns; none: everybody
    minutes: float | None = None  # then nothing new is begun
    add: Path | None = None  # an earlier report's .json, whose rows are kept unless measured anew
    out: Path = Path("bench/results")
    excluded: Mapping[str, str] = field(default_factory=dict)  # contestants that cannot compete, and why


def report(settings: Settings) -> int:
    """Runs the measurement and writes its files.

    Returns:
        The exit status: 0 done; 1 a result of ours is not accurate; 2 nothing to measure; 130 interrupted, with all
        that was measured so far in the files.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    quiet()
    if problem := _unusable(settings):
        console.print(escape(problem))
        return 2
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with precision.pinned(settings.precision):
        return _report(settings, console)


def _report(settings: Settings, console: Console) -> int:
    not_compiled = _why_not_compiled(settings)
    everything = subjects(torch.device(settings.device), compiled=not not_compiled)
    try:
        earlier, told = load(settings.add) if settings.add and settings.add.exists() else ([], {})
        chosen = choose(everything, settings.cases or (_QUICK if settings.quick else _DEFAULT))
    except ValueError as error:
        console.print(escape(str(error)))
        return 2
    if settings.quick:
        chosen = [s for s in chosen if s.kind != "memory" and s.threads is None]
    reasons = {s: precision.unfit(s.kind, s.pass_name, settings.precision) for s in chosen}
    chosen = [subject for subject in chosen if reasons[subject] is None]
    roofs = told.get("roofs") or measure_roofs(settings.device, _timer(settings))
    facts = _facts(settings, not_compiled, roofs, sorted(set(filter(None, reasons.values()))))
    if told and (problem := incompatible(told, facts)):
        console.print(escape(f"--add {settings.add}: {problem}"))
        return 2
    if told:
        facts["earlier"] = other_commits(told, facts)
    counts = Counter((tag, subject.pass_name) for subject in everything for tag in subject.tags)
    stem = settings.add.with_suffix("") if settings.add else _stem(facts, settings.out)
    new: list[Row] = []
    rows: list[Row] = []

    def save(stopped: str | None) -> None:
        rows[:] = merged(earlier, new)
        facts["settings"] |= {"left_out": len(chosen) - len(new), "why_left_out": _STOPPED.get(stopped)}
        facts["tags"] = whole_tags(rows, counts)
        write(rows, facts, stem)

    save("under way")  # a folder that cannot be written is better known before
    stopped = _measure(chosen, settings, console, new, save)
    pictures = draw_all(rows, facts, stem)
    _summarise(rows, facts, console)
    written = stem.with_suffix(".json"), stem.with_suffix(".md"), *pictures
    console.print("Written:", *map(escape, map(str, written)), sep="\n  ")
    if stopped == "interrupted":
        return 130
    return 1 if any(row.holds is False for row in new) else 0


def _why_not_compiled(settings: Settings) -> str | None:
    """Why torch.compile is not among the rivals, if it is not."""
    if settings.quick or not settings.compiled:
        return "--quick" if settings.quick else "--no-compile"
    return settings.excluded.get("torch.compile")


def _unusable(settings: Settings) -> str | None:
    """Why the report cannot be made here."""
    if settings.cpu_time and (settings.device != "cpu" or settings.threads != 1):
        return "--cpu-time is the time of one thread: it needs --device cpu and --threads 1"
    if settings.device != "cpu" and not torch.cuda.is_available():
        return f"--device {settings.device}: torch {torch.__version__} finds no CUDA device here"
    if problem := precision.missing(settings.precision, settings.device):
        return f"--precision {settings.precision}: {problem}"
    if settings.isa:
        from myconv2d.native import cpu

        usable = [name for name, here in cpu.isas().items() if here] if cpu.problem is None else []
        if settings.isa not in usable:
            here = ", ".join(usable) or f"nothing ({cpu.problem})"
            return f"--isa {settings.isa} cannot be used: this build and this processor run {here}"
    return None


_STOPPED = {
    None: None,
    "interrupted": "interrupted",
    "time": "the time was up",
    "under way": "it was still under way when this was written",
}


def _measure(
    chosen: Sequence[Subject],
    settings: Settings,
    console: Console,
    rows: list[Row],
    save: Callable[[str | None], None],
) -> str | None:
    """Measures into `rows`, and saves after every one: a report that is killed leaves what it had.

    Returns:
        Why there are not more rows: "interrupted", "time", or nothing.
    """
    minutes = _QUICK_MINUTES if settings.quick and settings.minutes is None else settings.minutes
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bar = Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    )
    stopped = None
    with bar:
        task = bar.add_task("", total=len(chosen))
        try:
            for subject in chosen:
                if time.monotonic() > deadline:
                    stopped = "time"
                    break
                bar.update(task, description=escape(str(subject)))
                timer = _timer(settings, cold=subject.kind == "layer")
                only = settings.contestants or ("*",)
                rows.append(compete(subject, _rule(subject, settings), timer, settings.excluded, only))
                save("under way")
                bar.update(task, advance=1)
                if not console.is_terminal:
                    console.print(_line(rows[-1], len(rows), len(chosen)))
        except KeyboardInterrupt:
            stopped = "interrupted"
    save(stopped)
    return stopped


def _rule(subject: Subject, settings: Settings) -> StoppingRule:
    budget = (settings.budget / 10 if settings.quick else settings.budget) * _SHARES[subject.kind]
    return StoppingRule(budget=budget, min_rounds=5 if settings.quick else 7)


def _timer(settings: Settings, cold: bool = False) -> Timer:
    """cold: on a GPU, with nothing in the L2, as single kernels are timed."""
    if settings.device == "cpu":
        return thread_time if settings.cpu_time else wall_clock
    from .cuda import EventTimer

    return EventTimer(cold)


def _line(row: Row, number: int, total: int) -> str:
    wrong = " INACCURATE" if row.holds is False else ""
    return escape(
        f"[{number}/{total}] {row.title} {PASSES[row.pass_name]}: {row.ratio:.2f}× {row.rival}{wrong}"
    )


def _facts(
    settings: Settings, not_compiled: str | None, roofs: Mapping[str, float], unfit: Sequence[str]
) -> dict[str, Any]:
    """Everything in a report file besides its rows."""
    asked = {
        "device": settings.device,
        "cases": list(settings.cases),
        "quick": settings.quick,
        "threads": torch.get_num_threads(),
        "isa": settings.isa,
        "clock": _clock(settings),
        "precision": settings.precision,
        "contestants": list(settings.contestants),
        "unfit": list(unfit),
        "not_compiled": not_compiled,
        "budget": settings.budget,
    }
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "settings": asked,
        "environment": environment(settings.device) | _rivals() | load_average(),
        "roofs": roofs,
    }


def _clock(settings: Settings) -> str:
    if settings.device != "cpu":
        return "CUDA events"
    return "processor time" if settings.cpu_time else "wall clock"


def _rivals() -> dict[str, str]:
    """What the rivals are, beside torch's version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        onnx_runtime = version("onnxruntime")
    except PackageNotFoundError:
        onnx_runtime = "not installed"
    return {"torch's instruction set": torch.backends.cpu.get_cpu_capability(), "ONNX Runtime": onnx_runtime}


def _summarise(rows: Sequence[Row], facts: dict[str, Any], console: Console) -> None:
    networks = [row for row in rows if row.kind in ("network", "memory", "overhead")]
    units = tables.UNITS[facts["settings"]["device"]]
    if networks:
        console.print(
            tables.console_table(
                tables.NETWORK_COLUMNS, tables.network_cells(networks, units), 3, ("±", "IQR")
            )
        )
    if facts["tags"]:
        console.print(tables.console_table(tables.MEAN_COLUMNS, tables.mean_cells(rows, facts["tags"])))
    for name, why in tables.not_there(rows, facts["settings"]).items():
        console.print(f"[yellow]not there[/] {escape(name)}: {escape(why)}")
    console.print(escape(tables.verdict(rows, facts["settings"])))


def _stem(facts: Mapping[str, Any], out: Path) -> Path:
    """A name that says when, on what and how, without a suffix."""
    settings = facts["settings"]
    what = facts["environment"].get("card", "cpu").partition(",")[0]
    words = ["speed", what]
    words += [tables.threads(settings) if settings["device"] == "cpu" else None, settings["isa"]]
    words += [settings["precision"] if settings["precision"] != "fp32" else None]
    words += ["quick" if settings["quick"] else None]
    return dated(out, facts["date"], re.sub(r"[^a-z0-9]+", "-", "-".join(filter(None, words)).lower()).strip("-"))


def write(rows: Sequence[Row], facts: dict[str, Any], stem: Path) -> None:
    """The samples and the tables."""
    texts = {".json": dump(rows, facts), ".md": tables.markdown(rows, facts)}
    for suffix, text in texts.items():
        atomic_write(stem.with_suffix(suffix), lambda file, text=text: file.write(text.encode()))
