"""Runs numbered cases in a child process, as the code under test may end it, or never come back.

The child says which case it begins. When it dies (a signal) or gives no sign of life, that case has a problem like any
other, and a new child goes on behind it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

_PATIENCE = (
    300.0  # seconds without a sign of life, for cases of milliseconds on a machine that others use too
)
_ENOUGH = 20  # problems, after which more say nothing new


class Trial(NamedTuple):
    tried: int
    seconds: float
    problems: list[str]
    notes: dict[str, int]  # how often each was given


def watched(
    case: Callable[[int], tuple[str, str | None]],
    cases: int,
    minutes: float,
    first: int = 0,
    patience: float = _PATIENCE,
) -> Trial:
    """`case(i)` for i from `first` on returns (a note to be counted, the problem or None); it is picklable."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # for the children: who waits should not work
    context, begin, last = multiprocessing.get_context("spawn"), time.time(), first + cases
    problems, notes = [], {}
    index, done = first - 1, False
    while not done and index + 1 < last and len(problems) < _ENOUGH:
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(case, index + 1, last, begin + 60 * minutes, send))
        child.start()
        send.close()
        death = None
        try:
            while death is None and not done and len(problems) < _ENOUGH:
                try:
                    message = receive.recv() if receive.poll(patience) or receive.poll(patience) else None
                except EOFError:
                    child.join()
                    death = f"the process ended with {child.exitcode}"
                    continue
                if message is None:
                    death = f"no sign of life for {2 * patience:.0f} s"
                elif isinstance(message, int):
                    done, index = message < 0, max(index, message)
                    _tell(index - first, begin)
                else:
                    note, problem = message
                    notes[note] = notes.get(note, 0) + 1
                    if problem:
                        problems.append(f"case {index}: {problem}")
                        print(f"FAILED {problems[-1]}", flush=True)
        finally:
            child.kill()
            child.join()
        if death:
            problems.append(f"case {index}: {death}")
            print(f"FAILED {problems[-1]}", flush=True)
    return Trial(index + 1 - first, time.time() - begin, problems, notes)


def _tell(cases: int, begin: float) -> None:
    if cases and cases % 1000 == 0:
        print(f"{cases:,} cases, {cases / (time.time() - begin):.0f} a second", flush=True)


def _work(case, first: int, last: int, deadline: float, pipe) -> None:
    torch.set_num_threads(1)
    for index in range(first, last):
        if time.time() > deadline:
            break
        pipe.send(index)
        pipe.send(case(index))
    pipe.send(-1)
