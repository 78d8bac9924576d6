"""What becomes of jobs whose processes crash, hang or never start; the processes here are short scripts."""

from __future__ import annotations

import sys
import textwrap
import time

import pytest

from bench import pool
from bench.jobs import Job
from bench.pool import Outcome, Pool

CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


def run(unit: dict[int, str], *, units: int = 3, minutes: float = 1, before: str = "", **options) -> Outcome:
    """One job of `units` units, of which some do something of their own; the others pass."""

    def command(job: Job, start: int, deadline: float) -> list[str]:
        lines = [before, "print('{\"ready\": true}', flush=True)"]
        for number in range(start, units):
            lines += [unit.get(number, ""), "print('{\"problems\": []}', flush=True)"]
        return [sys.executable, "-c", "\n".join(map(textwrap.dedent, lines))]

    job = Job("reference", "cpu", "fp32", ("odd", "primes", "1x1")[:units], ("contiguous",), **options)
    (outcome,) = Pool(2, time.time() + 60 * minutes, command=command).run([job])
    return outcome


def test_all_passed() -> None:
    outcome = run({})
    assert (outcome.passed, outcome.left_out, outcome.failures) == (3, 0, [])


def test_what_is_printed_besides_is_passed_over() -> None:
    assert run({1: "print('hello'); import sys; print('{', file=sys.stderr)"}).passed == 3


@pytest.mark.parametrize("unit", range(3))
def test_a_crash_costs_one_unit(unit: int) -> None:
    outcome = run({unit: CRASH})
    assert (outcome.passed, outcome.left_out) == (2, 0)
    words = f"reference cpu fp32: {', '.join(outcome.units[unit])}: brought its process down (SIGSEGV)"
    assert outcome.failures == [words]


def test_last_words_are_kept() -> None:
    outcome = run({0: "raise SystemExit('out of paper')"})
    assert outcome.failures == [
        "reference cpu fp32: odd, contiguous: brought its process down (exit status 1): out of paper"
    ]


def test_a_broken_device_gets_a_fresh_process() -> None:
    outcome = run({1: 'print(\'{"problems": ["wrong"]}\', flush=True); raise SystemExit(75)'})
    assert outcome.passed == 2
    assert len(outcome.failures) == 1


def test_what_cannot_start_is_said_once() -> None:
    outcome = run({}, before="raise SystemExit('no such module')")
    assert outcome.failures == [
        "reference cpu fp32: could not start: brought its process down (exit status 1): no such module"
    ]
    assert outcome.left_out == 3


def test_a_job_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "GRACE", 1.0)
    outcome = run({1: "import time; time.sleep(100)"}, minutes=0.01)
    assert outcome.passed == 1
    assert len(outcome.failures) == 1
    assert "did not end within 1 s after the time was up" in outcome.failures[0]
    assert outcome.left_out == 1


def test_once_the_time_is_up_no_process_is_started() -> None:
    outcome = run({}, before="raise SystemExit('started')", minutes=-1)
    assert (outcome.passed, outcome.left_out, outcome.failures) == (0, 3, [])


def test_it_gives_up_on_a_job_that_crashes_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_RESTARTS", 1)
    outcome = run({0: CRASH, 1: CRASH})
    assert outcome.failures[-1] == "reference cpu fp32: given up after 1 restarts"
    assert outcome.left_out == 1


def test_what_the_sanitizer_finds_fails_the_job() -> None:
    print_error = "print('========= COMPUTE-SANITIZER\\n========= Invalid __global__ write of size 4 bytes')"
    outcome = run({1: print_error, 2: "raise SystemExit(99)"}, tool="memcheck")
    assert outcome.failures == ["reference cpu fp32 memcheck: Invalid __global__ write of size 4 bytes"]


def test_a_sanitizer_that_cannot_be_used_is_no_failure() -> None:
    refusal = "print('========= Error: Device not supported'); raise SystemExit(1)"
    outcome = run({}, before=refusal, tool="memcheck")
    assert outcome.not_run == "Error: Device not supported"
    assert (outcome.failures, outcome.left_out) == ([], 0)
    outcome = run({0: refusal}, tool="memcheck")  # it says so at the first allocation
    assert (outcome.not_run, outcome.failures) == ("Error: Device not supported", [])
