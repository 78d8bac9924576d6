"""`python -m bench gpu-check`: what is right and what is fast on this GPU, in one command of a few minutes.

Parts, the most telling first: what is here; is it right (correctness.py); then speed, each part a `bench report` in a
process of its own that adds its rows to one file; and Triton's plans, measured and written beside it. Every part has
its share of the time that is left, so what one does not need goes to those behind it; one that goes on for too long is
ended by force. Results are written as they come: whatever ends the command, what was finished is on the disk.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape

from colourize.files import atomic_write
from myconv2d import backends

from . import ROOT, correctness
from .charts import draw_all
from .environment import environment
from .jobs import Job, Plan
from .names import dated
from .pool import Outcome
from .rows import load
from .tables import grid

GRACE = 20.0  # seconds that a part may go on for beyond its time
_START = 10.0  # seconds in which a process imports, finds its device and measures the roofs
CORRECTNESS = "correctness", 150.0
PLANS = "plans", 70.0  # Triton's in TF32, measured; most of it is compiling


class Part(NamedTuple):
    """A report; its share of the time is relative to those of the parts behind it (in seconds, of nine minutes)."""

    name: str
    share: float
    precision: str
    cases: tuple[str, ...]
    options: tuple[str, ...] = ("--no-compile",)
    contestants: tuple[str, ...] = ()

    def command(self, device: str, file: Path, seconds: float) -> list[str]:
        """The command line; on a CPU, where there is no TF32, fp32 stands in for it."""
        precision = "fp32" if (device, self.precision) == ("cpu", "tf32") else self.precision
        given = {"--device": device, "--precision": precision, "--add": str(file), "--out": str(file.parent)}
        given["--minutes"] = f"{max(seconds - _START, 1) / 60:.3f}"
        command = [sys.executable, "-m", "bench", "report", *self.options]
        for name, value in given.items():
            command += [name, value]
        for pattern in self.cases:
            command += ["--cases", pattern]
        for pattern in self.contestants:
            command += ["--contestants", pattern]
        return command


_LAYERS = "ten:forward", "ten:grad_weight", "ten:grad_input"
_STEPS = "unet-32px-n100:training step", "unet-32px-n100:inference", "unet-32px-n1:inference"
_LARGE = "kernelbench-2-1-17-31-46:forward", "c64-k64-256px-n16:forward", "fused-large:inference"
# All but the contiguous compiled, to save its compilation: these rows take the place of those of the part before, so
# whoever may be the best rival has to be there again.
_COMPILED = "ours*", "torch contiguous", "torch contiguous in a CUDA graph", "torch channels_last*"
PARTS = (
    Part("cases", 80, "tf32", _LAYERS, ("--no-compile", "--budget", "0.4")),
    Part("steps", 40, "tf32", _STEPS),
    Part("steps against torch.compile", 100, "tf32", _STEPS, (), _COMPILED),
    Part("throughput", 25, "tf32", ("throughput",), ("--no-compile", "--budget", "1")),
    Part("large", 30, "tf32", _LARGE, ("--no-compile", "--budget", "0.4")),
    Part("bf16", 55, "bf16", (*_STEPS, *_LAYERS), ("--no-compile", "--budget", "0.3")),
    Part("blocks", 20, "tf32", ("fused",), ("--no-compile", "--budget", "0.2")),
    Part("layers against torch.compile", 30, "tf32", ("ten:forward",), ("--budget", "0.4")),
)


def gpu_check(
    device: str,
    out: Path,
    quick: bool,
    only: str,
    cases: Sequence[str],
    workers: int,
    minutes: float,
    parts: Sequence[str] = (),
) -> int:
    """Runs the parts of which the name is like one of `parts` (shell style; none: all) and writes their files.

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
    names = [CORRECTNESS[0], *(part.name for part in PARTS)]
    names.insert(3, PLANS[0])
    chosen = [name for name in names if not parts or any(fnmatchcase(name, pattern) for pattern in parts)]
    if not chosen:
        console.print(f"No part is named like {escape(', '.join(parts))}; there are {', '.join(names)}.")
        return 2
    give_triton_a_folder()
    return _Check(device, out, console, time.time() + 60 * minutes).run(chosen, jobs, plan.missing, workers)


def give_triton_a_folder() -> None:
    """A temporary one, for this process and those of the parts, where none is named and home cannot be written to."""
    if "TRITON_CACHE_DIR" in os.environ:
        return
    with suppress(RuntimeError):  # nobody's home is known
        if os.access(os.environ.get("TRITON_HOME") or Path.home(), os.W_OK):
            return
    folder = tempfile.TemporaryDirectory(prefix="triton-")
    atexit.register(folder.cleanup)
    os.environ["TRITON_CACHE_DIR"] = folder.name


class _Check:
    """One run of the command: its clock, its files, and what is in them so far."""

    def __init__(self, device: str, out: Path, console: Console, deadline: float) -> None:
        self.device, self.console, self.deadline = device, console, deadline
        self.begin = time.time()
        facts = environment(device)
        card = re.sub(r"[^a-z0-9]+", "-", facts.get("card", "cpu").partition(",")[0].lower()).strip("-")
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        out = out.absolute()  # for parts run in another folder
        self.stem = dated(out, date, f"gpu-check-{card}")
        self.speed, self.plans = (
            self.stem.with_name(self.stem.name.replace("gpu-check", f"gpu-{what}", 1)) for what in ("speed", "plans")
        )
        self.result: dict[str, Any] = {"date": date, "environment": facts, "parts": [], "passed": True}

    def run(self, names: Sequence[str], jobs: list[Job], missing: dict[str, str], workers: int) -> int:
        shares = dict([CORRECTNESS, PLANS], **{part.name: part.share for part in PARTS})
        self._here()
        left = [shares[name] for name in names]
        try:
            for name in names:
                seconds = max(self.deadline - time.time(), 0) * left[0] / sum(left)
                left.pop(0)
                if name == CORRECTNESS[0]:
                    self._timed(name, lambda s=seconds: self._correctness(jobs, missing, workers, s))
                elif seconds < 1:
                    self._timed(name, lambda: "not begun: the time was up")
                elif name == PLANS[0]:
                    self._timed(name, lambda s=seconds: self._measure_plans(s))
                else:
                    [part] = (part for part in PARTS if part.name == name)
                    self._timed(name, lambda p=part, s=seconds: self._report(p, s))
        except KeyboardInterrupt:
            self._note("interrupted", 0.0, self.result.get("verdict", "by Ctrl-C"), failed=True)
        self.console.print(f"\n{escape(self._verdict())}\nWritten: {self.stem}.json and .md", soft_wrap=True)
        if self.speed.with_suffix(".md").exists():
            self.console.print(f"Written: {self.speed}.json, .md and pictures", soft_wrap=True)
        if self.plans.with_suffix(".txt").exists():
            self.console.print(f"Written: {self.plans}.txt, and the plans beside it", soft_wrap=True)
        return 0 if self.result["passed"] else 1

    def _verdict(self) -> str:
        failed = [f"{row['part']}: {row['outcome']}" for row in self.result["parts"] if row["failed"]]
        if failed:
            return "; ".join(failed)
        return self.result.get(
            "verdict", "PASSED, without correctness" if self.result["passed"] else "FAILED"
        )

    def _timed(self, name: str, work: Callable[[], str]) -> None:
        begin = time.time()
        outcome = work()
        failed = outcome.startswith(("FAILED", "INTERRUPTED"))
        self._note(name, time.time() - begin, outcome, failed)

    def _note(self, name: str, seconds: float, outcome: str, failed: bool = False) -> None:
        row = {"part": name, "seconds": round(seconds, 1), "failed": failed, "outcome": outcome}
        self.result["parts"].append(row)
        self.result["passed"] &= not failed
        self.console.print(f"{escape(name)}, {seconds:.0f} s: {escape(outcome)}", soft_wrap=True)
        self._write()

    def _here(self) -> None:
        """What is built and loads."""
        problems = {name: backends.problem(name, self.device, torch.float32) for name in backends.BACKENDS}
        lacking = [f"{name} is missing ({why})" for name, why in problems.items() if why]
        there = [name for name, why in problems.items() if not why]
        begin = time.time()
        self._note("build", time.time() - begin, "; ".join([f"{', '.join(there)} there", *lacking]))

    def _correctness(self, jobs: list[Job], missing: dict[str, str], workers: int, seconds: float) -> str:
        def save(outcomes: list[Outcome]) -> None:
            self.result |= correctness.findings(outcomes, missing, False) | {"passed": self.result["passed"]}
            self._write()

        deadline = time.time() + seconds
        outcomes, interrupted = correctness.run(jobs, workers, deadline, self.console, save)
        found = correctness.findings(outcomes, missing, interrupted)
        self.result |= found
        self.console.print(correctness.table(found), f"\n{correctness.NOTE}\n")
        for name, reason in found["not run"].items():
            self.console.print(f"[yellow]not run[/] {escape(name)}: {escape(reason)}")
        for failure in found["failures"]:
            self.console.print(f"[red]FAILED[/] {escape(failure)}")
        if interrupted:
            self.result["passed"] = False
            raise KeyboardInterrupt
        return found["verdict"]

    def _report(self, part: Part, seconds: float) -> str:
        status = self._run(part.command(self.device, self.speed.with_suffix(".json"), seconds), seconds)
        if status is None:
            self._draw()
            return f"ended by force after {seconds + GRACE:.0f} s; what it had measured is there"
        if status == 1:
            return "FAILED: a result of ours is not accurate"
        return "done" if status == 0 else f"FAILED: it ended with status {status}"

    def _measure_plans(self, seconds: float) -> str:
        """What was measured goes into a plan file in the folder, which MYCONV2D_CACHE names to use it."""
        if self.device == "cpu":
            return "left out: plans are measured on a GPU"
        if (problem := backends.problem("triton", self.device, torch.float32)) is not None:
            return f"left out: {problem}"
        minutes = f"{max(seconds - _START, 1) / 60:.3f}"
        command = [sys.executable, "-m", "myconv2d.triton.measure", "--near", "--type", "fp32", "--minutes", minutes]
        log = self.plans.with_suffix(".txt")
        with log.open("w") as said:
            status = self._run(command, seconds, {"MYCONV2D_CACHE": str(log.parent)}, said)
        if status is None:
            return f"ended by force after {seconds + GRACE:.0f} s; what it had measured is there"
        return f"done: {log.name}" if status == 0 else f"FAILED: it ended with status {status}, see {log.name}"

    def _run(
        self, command: list[str], seconds: float, settings: Mapping[str, str] | None = None, output: IO | None = None
    ) -> int | None:
        """A part's process to its end; its exit status, or None where it had to be killed."""
        paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | (settings or {})
        options = {"cwd": ROOT, "env": environment, "start_new_session": True}
        process = subprocess.Popen(command, stdout=output, stderr=output, **options)
        try:
            return process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
            return None
        except KeyboardInterrupt:
            _signal(process, signal.SIGINT)  # it writes what it has
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            _signal(process, signal.SIGKILL)
            raise

    def _draw(self) -> None:
        """The pictures of a report that could not draw them itself."""
        with suppress(ValueError):  # it had not measured anything
            rows, facts = load(self.speed.with_suffix(".json"))
            draw_all(rows, facts, self.speed)

    def _write(self) -> None:
        result = self.result
        lines = [f"# GPU check, {result['date']}", "", f"**{self._verdict()}**", ""]
        lines += grid(("", ""), result["environment"].items())
        lines += ["", f"## Parts ({time.time() - self.begin:.0f} s so far)", ""]
        cells = [(row["part"], str(row["seconds"]), row["outcome"]) for row in result["parts"]]
        lines += grid(("part", "seconds", "outcome"), cells)
        lines += ["", f"Speed: {self.speed.name}.md"]
        lines += correctness.markdown(result) if "jobs" in result else []
        texts = {
            ".json": json.dumps(result, indent=1, ensure_ascii=False) + "\n",
            ".md": "\n".join([*lines, ""]),
        }
        for suffix, text in texts.items():
            atomic_write(Path(f"{self.stem}{suffix}"), lambda file, text=text: file.write(text.encode()))


def _signal(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
