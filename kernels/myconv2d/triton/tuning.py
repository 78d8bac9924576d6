"""Which plan serves a call; and, where that was asked for, the measuring of a better one (see measure.py)."""

from __future__ import annotations

import contextvars
import functools
import itertools
import os
import statistics
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from triton.runtime.errors import OutOfResources

from . import plans
from .launch import Gpu, ceil_div
from .plans import Choice, Plan, Shape

PROGRAMS = 264  # fill the device twice over: grad_weight splits its reduction until it has about as many
SAMPLES, REPEATS = 20, 10  # timings of each candidate, and launches in each


def asked_for() -> bool:
    """Whether the environment asks for measuring."""
    return os.environ.get("MYCONV2D_TUNE", "") not in ("", "0")


FROM_ENVIRONMENT = asked_for()
requested: contextvars.ContextVar[bool] = contextvars.ContextVar("requested", default=FROM_ENVIRONMENT)


class Decision(NamedTuple):
    """A plan as it was chosen for one kernel; `note` says why it is this kernel."""

    shape: Shape
    choice: Choice
    note: str


decisions: contextvars.ContextVar[list[Decision] | None] = contextvars.ContextVar("decisions", default=None)


def serve(shape: Shape, device: torch.device, run: Callable[[Plan], None], note: str = "") -> None:
    """`run` with the plan that serves `shape`; measured first, where that was asked for and not done yet."""
    gpu = Gpu.of(device).name
    choice = plans.find(shape, gpu)
    if requested.get() and device.type == "cuda" and choice.key != str(shape):
        if torch.cuda.is_current_stream_capturing():
            warn_once("a CUDA graph is being captured: its new shapes are not measured")
        else:
            measure(shape, run, lambda action: device_time(action, device), gpu)
            choice = plans.find(shape, gpu)
    if (record := decisions.get()) is not None:
        record.append(Decision(shape, choice, note))
    run(choice.plan)


def measure(
    shape: Shape, run: Callable[[Plan], None], timer: Callable[[Callable[[], None]], float], gpu: str
) -> None:
    """Time every candidate and remember the fastest. One that does not fit the device is passed over."""
    times: dict[Plan, float] = {}
    for plan in candidates(shape):
        try:
            times[plan] = timer(lambda plan=plan: run(plan))
        except OutOfResources:
            continue
    best = min(times, key=times.__getitem__)
    plans.remember(gpu, {str(shape): best})
    print(f"myconv2d: {shape}: {best}: {times[best]:.1f} µs, the best of {len(times)}", file=sys.stderr)


def candidates(shape: Shape) -> list[Plan]:
    """What is worth timing for `shape`, the shipped plan first."""
    shipped = plans.find(shape, None).plan
    tensor_cores = no_wgmma(shape.arithmetic) is None
    outputs = [size for size in (32, 64, 128) if size < 2 * max(shape.outputs, 32)]
    channels = [size for size in (16, 32, 64) if size < 2 * max(shape.channels, 16)]
    grid = itertools.product(
        (32, 64, 128, 256) if tensor_cores else (16, 32, 64),
        outputs,
        channels,
        (4, 8),
        (2, 3, 4) if tensor_cores else (2,),
    )
    return list(dict.fromkeys([shipped, *itertools.starmap(Plan, grid)]))


def device_time(action: Callable[[], None], device: torch.device) -> float:
    """Median microseconds of `action` on the device, in a CUDA graph: without the launches, caches hot."""
    with torch.cuda.device(device):
        action()  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(REPEATS):
                action()
        graph.replay()
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(SAMPLES)]
        for start, end in marks:
            start.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in marks) * 1000 / REPEATS


@functools.cache
def warn_once(message: str) -> None:
    warnings.warn(f"myconv2d: {message}", stacklevel=3)


def arithmetic(dtype: torch.dtype, allow_tf32: bool) -> str:
    """The arithmetic that serves a type: "half" (fp16, bf16), "tf32", "fp32" or "fp64"."""
    if dtype.itemsize == 2:
        return "half"
    if dtype == torch.float64:
        return "fp64"
    return "tf32" if allow_tf32 else "fp32"


def no_wgmma(arithmetic: str) -> str | None:
    """Why boxes by the copy engine are not worth it, in words: its shared memory is read by wgmma or not well."""
    return f"there is no wgmma in {arithmetic}" if arithmetic in ("fp32", "fp64") else None


def splits(tiles: int, steps: int) -> int:
    """In how many parts to reduce `steps` blocks of pixels, where there are `tiles` programs already."""
    return clamp(PROGRAMS // tiles, 1, ceil_div(steps, 4))


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
