"""Times several contestants side by side: A B C A B C …, until each median is known well enough.

One sample is a few calls in a row, as many as fill `SAMPLE` seconds, on operand sets that take turns; a call that is
not timed goes before them and gives caches and thread pools back to this contestant: before everybody's, or nobody's
where all calls are long. Every round begins with another
contestant, so that nobody always follows the same one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .stats import median, quartiles, standard_error

SAMPLE = 5e-3  # unless the timer says another, as one that times every call by itself does
_SETTLE = 20e-3  # longer calls settle by themselves; where one is shorter, all are given the untimed call
_FAR = 1.3  # who is slower than the best of his side by this is not sampled further

Call = Callable[[int], Any]  # works on the operand set of this number


class Timer(Protocol):
    def __call__(self, call: Call, numbers: Sequence[int]) -> float:
        """Seconds that one call takes, the mean over the sets `numbers`."""


def wall_clock(call: Call, numbers: Sequence[int]) -> float:
    begin = time.perf_counter()
    for number in numbers:
        call(number)
    return (time.perf_counter() - begin) / len(numbers)


def thread_time(call: Call, numbers: Sequence[int]) -> float:
    """Processor time of this thread, which must do all the work: for machines on which others compute too."""
    begin = time.thread_time()
    for number in numbers:
        call(number)
    return (time.thread_time() - begin) / len(numbers)


@dataclass(frozen=True)
class StoppingRule:
    """Rounds end when every standard error is below `precision` of its median, or the budget is used up."""

    precision: float = 0.01
    budget: float = 4.0  # seconds for all contestants together
    min_rounds: int = 7
    max_rounds: int = 400

    def precise(self, samples: Sequence[float]) -> bool:
        return standard_error(samples) <= self.precision * median(samples)

    def done(self, samples: Mapping[str, Sequence[float]], seconds: float) -> bool:
        rounds = max(map(len, samples.values()))
        if rounds < self.min_rounds:
            return False
        return rounds >= self.max_rounds or seconds >= self.budget or all(map(self.precise, samples.values()))


def interleave(
    contestants: Mapping[str, Call],
    sides: Mapping[str, str],
    rule: StoppingRule,
    *,
    sets: int = 1,
    timer: Timer = wall_clock,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call, sample by sample.

    Args:
        contestants: what to time, by name.
        sides: the side of each; of every side only the best, and who is close to it, is sampled to the end.
        sets: how many sets of operands there are.
    """
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    seconds = {name: _calibrate(call, sets, timer) for name, call in contestants.items()}
    sample, settle = getattr(timer, "sample", SAMPLE), min(seconds.values()) < _SETTLE
    counts = {name: max(1, min(2000, math.ceil(sample / max(s, 1e-7)))) for name, s in seconds.items()}
    running, rounds, begin = list(contestants), 0, clock()
    while True:
        turn = rounds % len(running)
        for name in running[turn:] + running[:turn]:
            if settle:
                timer(contestants[name], [rounds % sets])
            numbers = [(rounds + 1 + step) % sets for step in range(counts[name])]
            samples[name].append(timer(contestants[name], numbers))
        rounds += 1
        if rule.done({name: samples[name] for name in running}, clock() - begin):
            return samples
        if rounds >= rule.min_rounds:
            running = _close(running, sides, samples)


def _calibrate(call: Call, sets: int, timer: Timer) -> float:
    """Seconds of one call, after one on every set."""
    timer(call, range(sets))
    return timer(call, [0])


def _close(running: list[str], sides: Mapping[str, str], samples: Mapping[str, list[float]]) -> list[str]:
    """The best of every side, and all whose faster quarter comes near it."""
    best: dict[str, float] = {}
    for name in running:
        best[sides[name]] = min(best.get(sides[name], math.inf), median(samples[name]))
    return [name for name in running if quartiles(samples[name])[0] <= _FAR * best[sides[name]]]
