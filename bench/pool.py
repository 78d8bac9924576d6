"""Runs jobs in processes of their own, several at a time, and brings back whatever each of them found."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from . import ROOT
from .jobs import Job, sanitizer
from .worker import RESTART

GRACE = 60.0  # seconds that a unit may go on after the deadline
_RESTARTS = 5
_SANITIZER_FOUND = 99  # the exit status that compute-sanitizer is asked for
_UNUSABLE = re.compile("not supported|Unable to|Failed to initialize")  # the sanitizer, on this machine


@dataclass
class Outcome:
    """What became of a job: one record for every unit that was tried (see worker.py), in order."""

    job: Job
    units: list[tuple[str, ...]]
    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of the job as a whole
    not_run: str | None = None  # why it could not be run at all
    seconds: float = 0.0

    @property
    def failures(self) -> list[str]:
        """Everything that went wrong, in words."""
        tried = zip(self.units, self.records, strict=False)
        found = [f"{', '.join(unit)}: {problem}" for unit, record in tried for problem in record["problems"]]
        return [f"{self.job.name}: {problem}" for problem in (*found, *self.problems)]

    @property
    def passed(self) -> int:
        return sum(not record["problems"] and "not here" not in record for record in self.records)

    @property
    def left_out(self) -> int:
        """Units that were never tried."""
        return 0 if self.not_run else len(self.units) - len(self.records)


def command(job: Job, start: int, deadline: float) -> list[str]:
    """The command line of a job's process, from unit number `start` on."""
    description = json.dumps(dataclasses.asdict(job))
    run = [sys.executable, "-m", "bench.worker", description, str(start), str(deadline)]
    if job.tool is None:
        return run
    options = ["--tool", job.tool, "--error-exitcode", str(_SANITIZER_FOUND)]
    if job.tool == "memcheck":
        options += ["--report-api-errors", "no"]  # torch asks for things that it can do without
    return [str(sanitizer()), *options, *run]


class Pool:
    """`workers` processes at a time, none of which begins anything after `deadline` (seconds since 1970)."""

    def __init__(
        self,
        workers: int,
        deadline: float,
        progress: Callable[[Job], None] = lambda job: None,  # told of every unit that has been tried
        finished: Callable[[Outcome], None] = lambda outcome: None,
        command: Callable[[Job, int, float], list[str]] = command,
    ) -> None:
        self.workers, self.deadline = workers, deadline
        self.progress, self.finished, self.command = progress, finished, command
        self.interrupted = False
        self._processes: set[subprocess.Popen] = set()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Runs all jobs; on Ctrl-C it stops them and returns what they have found so far."""
        outcomes = [Outcome(job, job.units()) for job in jobs]
        with ThreadPoolExecutor(self.workers) as threads:
            futures = [threads.submit(self._run, outcome) for outcome in outcomes]
            try:
                for future in futures:
                    future.result()
            except KeyboardInterrupt:
                self.interrupted = True
                for process in tuple(self._processes):
                    _kill(process)
        return outcomes

    def _run(self, outcome: Outcome) -> None:
        """Runs one job to its end, in a fresh process after every unit that brings its process down."""
        begin = time.monotonic()
        for _ in range(1 + _RESTARTS):
            if self._attempt(outcome) or not outcome.left_out or time.time() > self.deadline:
                break
        else:
            outcome.problems.append(f"given up after {_RESTARTS} restarts")
        outcome.seconds = time.monotonic() - begin
        self.finished(outcome)

    def _attempt(self, outcome: Outcome) -> bool:
        """Runs the units that are left in one process; False if it ended early and another may go on."""
        if self.interrupted or time.time() > self.deadline:  # a process would start for nothing
            return True
        job, ready, chatter = outcome.job, False, []
        with tempfile.TemporaryFile("w+", errors="replace") as stderr:
            process = subprocess.Popen(
                self.command(job, len(outcome.records), self.deadline), stdout=subprocess.PIPE, stderr=stderr,
                text=True, errors="replace", cwd=ROOT, env=_environment(job), start_new_session=True,
            )  # fmt: skip
            self._processes.add(process)
            alarm = threading.Timer(max(0.0, self.deadline - time.time()) + GRACE, _kill, [process])
            alarm.start()
            for line in process.stdout:
                if not line.startswith("{"):
                    chatter.append(line.strip("= \n"))
                    continue
                record, ready = json.loads(line), True
                if "problems" in record:
                    outcome.records.append(record)
                    self.progress(job)
            status = process.wait()
            hung = alarm.finished.is_set()
            alarm.cancel()
            self._processes.remove(process)
            stderr.seek(0)
            last_words = [line for line in stderr.read().splitlines() if line.strip()][-1:]
        unusable = [line for line in chatter if _UNUSABLE.search(line)]
        if job.tool is not None and unusable and not outcome.passed:
            outcome.records, outcome.not_run = [], unusable[0]
            return True
        if status in (0, RESTART) or self.interrupted:
            return status != RESTART
        if job.tool is not None and status == _SANITIZER_FOUND:
            outcome.problems.append("; ".join(filter(None, chatter[1:6])))
            return True
        end = ": ".join([_how_it_ended(status, hung), *last_words])
        if not ready or not outcome.left_out:
            outcome.problems.append(f"{'ended badly' if ready else 'could not start'}: {end}")
            return True
        outcome.records.append({"problems": [end]})  # of the unit that was under way
        self.progress(job)
        return False


def _how_it_ended(status: int, hung: bool) -> str:
    if hung:
        return f"did not end within {GRACE:.0f} s after the time was up"
    status_in_words = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"brought its process down ({status_in_words})"


def _kill(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # compute-sanitizer's child too


def _environment(job: Job) -> dict[str, str]:
    kept = "MYCONV2D_CACHE"  # the measured plans are to be right, too
    environment = {k: v for k, v in os.environ.items() if k == kept or not k.startswith("MYCONV2D_")}
    paths = [str(ROOT), str(ROOT / "kernels"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # the reference's matrix products, the same every time
    if job.tool is not None:
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # so that every tensor has its own borders
    if job.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment
