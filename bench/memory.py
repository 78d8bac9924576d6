"""The peak memory of a training step, in a process of its own: `python -m bench.memory CONTESTANT DEVICE`.

On the CPU it is the peak of the resident set above what was resident before the first step (Linux says both, and
forgets earlier peaks when asked to); on a GPU, the allocator's peak above what was allocated.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from . import ROOT
from .subjects import OURS, RIVAL

CONTESTANTS = {  # side, memory format
    "ours contiguous": (OURS, "contiguous"),
    "ours channels_last": (OURS, "channels_last"),
    "torch contiguous": (RIVAL, "contiguous"),
    "torch channels_last": (RIVAL, "channels_last"),
}
_STEPS = 3


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
    from colourize import networks

    from . import plain
    from .networks import TRAINED, trainer
    from .variants import Variant

    side, layout = CONTESTANTS[contestant]
    device = torch.device(device_name)
    create = networks.create if side == OURS else plain.create
    step = trainer(TRAINED[0], device, create, Variant(layout), ours=side == OURS).call
    nn.Conv2d(1, 1, 1, device=device)(
        torch.zeros(1, 1, 1, 1, device=device)
    ).sum().backward()  # loads libraries
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _resident("VmRSS")
    for number in range(_STEPS):
        step(number)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident("VmHWM")
    return peak - before


if __name__ == "__main__":
    print(measure(*sys.argv[1:]))
