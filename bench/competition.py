"""From a subject to its row: everybody is prepared and checked, then they are timed side by side."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch

from . import accuracy, precision
from .measure import StoppingRule, Timer, interleave, wall_clock
from .rows import Row
from .subjects import SETS, Ready, Subject
from .variants import forget_compiled

_PROCESSES = 3  # samples of a peak of memory: each is a process


def compete(
    subject: Subject,
    rule: StoppingRule,
    timer: Timer = wall_clock,
    excluded: Mapping[str, str] | None = None,
    only: Sequence[str] = ("*",),
) -> Row:
    """The row of a subject, in the precision that is pinned.

    Args:
        excluded: who cannot compete, and why; named in the row's `problems`, like whoever fails.
        only: patterns (shell style) of who is asked at all.
    """
    row = Row(
        subject.case,
        subject.pass_name,
        subject.kind,
        sorted(subject.tags),
        subject.flop(),
        subject.bytes,
        subject.pixels,
        subject.unit,
        subject.threads,
        precision.name(),
        subject.images,
    )
    with _threads(subject.threads):
        ready = _prepare(subject, row, excluded or {}, only)
        if subject.unit == "B":
            _sample_memory(ready, row)
        elif ready:
            calls = {name: contestant.call for name, contestant in ready.items()}
            row.samples = interleave(calls, row.sides, rule, sets=SETS, timer=timer)
    del ready
    forget_compiled()
    gc.collect()
    return row


def _prepare(
    subject: Subject, row: Row, excluded: Mapping[str, str], only: Sequence[str]
) -> dict[str, Ready]:
    exact = subject.exact() if subject.exact else {}
    row.bounds = accuracy.bounds(exact, subject.kinks, precision.current().bound)
    ready = {}
    for contestant in subject.contestants():
        if not any(fnmatchcase(contestant.name, pattern) for pattern in only):
            continue
        row.sides[contestant.name] = contestant.side
        if contestant.name in excluded:
            row.problems[contestant.name] = excluded[contestant.name]
            continue
        try:
            ready[contestant.name] = contestant.prepare()
            if exact:
                found = ready[contestant.name].results()
                row.errors[contestant.name] = accuracy.errors(found, exact, subject.kinks)
        except Exception as error:  # a compiler or a library that is missing, above all
            ready.pop(contestant.name, None)
            text = str(error).strip().partition("\n")[0]
            row.problems[contestant.name] = f"{type(error).__name__}: {text}"
    return ready


def _sample_memory(ready: dict[str, Ready], row: Row) -> None:
    for name, contestant in ready.items():
        try:
            row.samples[name] = [contestant.call(0) for _ in range(_PROCESSES)]
        except RuntimeError as error:
            row.problems[name] = str(error)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
