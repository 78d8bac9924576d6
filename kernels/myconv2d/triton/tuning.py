"""Which plan serves a call; and, where that was asked for, the measuring of a better one (see measure.py)."""

from __future__ import annotations

import contextvars
import functools
import itertools
import operator
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from triton.runtime.errors import OutOfResources, PTXASError

from . import plans
from .launch import Gpu, ceil_div, fit
from .plans import Choice, Plan, Shape

PROGRAMS = 264  # fill the device twice over: grad_weight splits its reduction until it has about as many
SAMPLES, REPEATS = 20, 10  # timings of each candidate, and launches in each


def asked_for() -> bool:
    """Whether the environment asks for measuring."""
    return os.environ.get("MYCONV2D_TUNE", "") not in ("", "0")


OF_COPIES = {  # kernels of images in NCHW, and those of a copy
    "halo_nchw": "halo",
    "gather": "halo",
    "grad_weight_nchw": "grad_weight_halo",
    "grad_weight_gather": "grad_weight_halo",
}


def copied(shape: Shape) -> Shape | None:
    """`shape` with its images copied to channels_last, where a plan may ask for that."""
    if shape.layout != "contiguous":
        return None
    return shape._replace(kernel=OF_COPIES[shape.kernel], layout="channels_last")


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
    found = [shipped, *itertools.starmap(Plan, grid)]
    if of_copy := copied(shape):
        found += (plan._replace(copied=True) for plan in candidates(of_copy))
    return list(dict.fromkeys(found))


def near(shape: Shape) -> list[Plan]:
    """Of these, the shipped plan and those that differ from it in one number, and the shipped one of a copy: a dozen in
    place of hundreds."""
    shipped, *others = candidates(shape)
    outputs, channels = fit(shipped.block_n, max(shape.outputs, 32)), fit(shipped.block_c, shape.channels)
    alike = shipped._replace(block_n=outputs, block_c=channels)  # of this layer, the same kernel
    one_apart = [plan for plan in others if not plan.copied and sum(map(operator.ne, plan, alike)) == 1]
    of_copy = next((plan for plan in others if plan.copied), None)
    return [shipped, *one_apart, *filter(None, [of_copy])]


# Which plans are timed for a shape that has none of its own; None: that is not done.
requested: contextvars.ContextVar[Callable[[Shape], list[Plan]] | None] = contextvars.ContextVar(
    "requested", default=candidates if asked_for() else None
)


# Runs these plans of a shape, all of them, in place of the one that serves: for who looks at what would be launched.
every: contextvars.ContextVar[Callable[[Shape], list[Plan]] | None] = contextvars.ContextVar("every", default=None)


class Decision(NamedTuple):
    """A plan as it was chosen for one kernel; `note` says why it is this kernel."""

    shape: Shape
    choice: Choice
    note: str


decisions: contextvars.ContextVar[list[Decision] | None] = contextvars.ContextVar("decisions", default=None)


def serve(shape: Shape, device: torch.device, run: Callable[[Plan], None], note: str = "") -> None:
    """`run` with the plan that serves `shape`; measured first, where that was asked for and not done yet."""
    if (those := every.get()) is not None:
        for plan in those(shape):
            run(plan)
        return
    gpu = Gpu.of(device).name
    choice = plans.find(shape, gpu)
    worth_timing = requested.get()
    if worth_timing and device.type == "cuda" and choice.key != str(shape):
        if torch.cuda.is_current_stream_capturing():
            warn_once("a CUDA graph is being captured: its new shapes are not measured")
        else:
            measure(shape, worth_timing(shape), run, lambda action: device_time(action, device), gpu)
            choice = plans.find(shape, gpu)
    if (record := decisions.get()) is not None:
        record.append(Decision(shape, choice, note))
    run(choice.plan)


def measure(
    shape: Shape,
    worth_timing: Sequence[Plan],  # the shipped one first
    run: Callable[[Plan], None],
    timer: Callable[[Callable[[], None]], float],
    gpu: str,
) -> None:
    """Time these plans and remember the fastest. One that does not fit the device, or that its assembler refuses, is
    passed over.

    Raises:
        RuntimeError: so are all of them.
    """
    times: dict[Plan, float] = {}
    refusal: Exception | None = None
    for plan in worth_timing:
        try:
            times[plan] = timer(lambda plan=plan: run(plan))
        except (OutOfResources, PTXASError) as error:
            refusal = error
    if not times:
        kernel, *layer = shape.words
        plans_of = f"none of {len(worth_timing)} plans of the {kernel} kernel for {' '.join(layer)}"
        raise RuntimeError(f"myconv2d: {plans_of} can be launched on {gpu}; the last: {refusal}") from refusal
    best = min(times, key=times.__getitem__)
    plans.remember(gpu, {str(shape): best})
    shipped = f"{times[worth_timing[0]]:.1f} µs" if worth_timing[0] in times else "not possible here"
    said = f"{best}: {times[best]:.1f} µs, the best of {len(times)}; the shipped one: {shipped}"
    print(f"myconv2d: {shape}: {said}", file=sys.stderr)


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
