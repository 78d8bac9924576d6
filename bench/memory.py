"""The peak memory of a training step as a subject; a sample is a process: `python -m bench.memory CONTESTANT DEVICE`.

On the CPU it is the peak of the resident set above what was resident before the first step (Linux says both, and
forgets earlier peaks when asked to); on a GPU, the allocator's peak above what was allocated. What torch.compile needs
to compile is not counted: its first step comes before, and only the gradients and Adam's state, twice the weights, that
this leaves behind are spared it.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from colourize import networks

from . import ROOT, plain
from .networks import TRAINED, trainer
from .subjects import OURS, RIVAL, Contestant, Ready, Subject
from .variants import Variant, variants

_CASE = TRAINED[0]
_STEPS = 3


def step(device: torch.device, compiled: bool) -> Subject:
    """Peak of a training step above what was there before it."""

    def ready(name: str) -> Ready:
        return Ready(lambda _: peak_in_fresh_process(name, device), dict)

    def contestants() -> list[Contestant]:
        found = _contestants(device, compiled)
        return [Contestant(name, side, functools.partial(ready, name)) for name, (side, _) in found.items()]

    tags = frozenset({"networks", "memory"})
    return Subject(_CASE.name, "peak memory of a step", "memory", tags, contestants, unit="B")


def _contestants(device: torch.device, compiled: bool) -> dict[str, tuple[str, Variant]]:
    """Name → side and variant."""
    every = [variant for variant in variants(device, compiled) if not variant.graph]
    ours = {f"ours {variant.name}": (OURS, variant) for variant in every if not variant.compiled}
    return ours | {f"torch {variant.name}": (RIVAL, variant) for variant in every}


def peak_in_fresh_process(contestant: str, device: torch.device) -> float:
    """Bytes.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    command = [sys.executable, "-m", "bench.memory", contestant, str(device)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError((run.stderr.strip().splitlines() or ["it died without a word"])[-1])
    return float(run.stdout.split()[-1])


def _resident(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"this system does not say {field}")


def measure(contestant: str, device_name: str) -> int:
    """Bytes that the first steps need beyond the network and its operands."""
    device = torch.device(device_name)
    side, variant = _contestants(device, True)[contestant]
    create = networks.create if side == OURS else plain.create
    work = trainer(_CASE, device, create, variant, ours=side == OURS).call
    nn.Conv2d(1, 1, 1, device=device)(
        torch.zeros(1, 1, 1, 1, device=device)
    ).sum().backward()  # loads libraries
    if variant.compiled:
        work(0)
        gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        if variant.compiled:
            ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps of the compiler's would hide the step's
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _resident("VmRSS")
    for number in range(_STEPS):
        work(number)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident("VmHWM")
    return peak - before


if __name__ == "__main__":
    print(measure(*sys.argv[1:]))
