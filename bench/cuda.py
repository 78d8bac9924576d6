"""The GPU's part of the ruler: times by events, with a cold or a hot L2, and CUDA graphs.

Tested without a GPU on a device of the tests' own (tests/bench/test_cuda.py), which counts in its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from colourize.step import WARM_UPS, CudaGraph

from .measure import Call


class EventTimer:
    """A `Timer` by CUDA events. `cold` overwrites the L2 before every call: right for single kernels, while the
    tensors of a whole step come from the kernel before."""

    sample = 1e-3  # seconds: the flushes between the calls take longer than they

    def __init__(self, cold: bool) -> None:
        self.cold = cold
        size = 2 * torch.cuda.get_device_properties("cuda").L2_cache_size
        self.flush = torch.empty(size, dtype=torch.int8, device="cuda") if cold else None

    def __call__(self, call: Call, numbers: Sequence[int]) -> float:
        events = []
        for number in numbers:
            if self.flush is not None:
                self.flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call(number)
            end.record()
            events.append((begin, end))
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in events) / 1e3 / len(events)


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """Captures a call; the function returned replays it and returns the same tensors, filled anew."""
    graph, results = CudaGraph(), []
    for _ in range(WARM_UPS):
        graph.warm_up(call)
    graph.capture(lambda: results.append(call()))

    def replay() -> Any:
        graph.replay()
        return results[0]

    return replay
