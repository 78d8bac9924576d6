"""Whether a long training grows: `colourize train` on the photographs, watched from outside.

All of it is in view: steps, validation, checkpoints, pictures drawn. After the first epoch nothing has a reason to grow
but the table of epochs, by a row each. The slope is fitted to the second half of the samples, since an allocator takes
its time to find its size.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from .. import ROOT
from .outcome import Outcome

_ALLOWED = 8 << 20  # bytes that the second half may grow by; an allocator's rest, not a leak
_EVERY = 0.5  # seconds between samples
_BEGINS = 600.0  # seconds within which the first epoch must end
_MIB = 1 << 20


def memory(minutes: float, pictures: int) -> Outcome:
    """Trains for so long after the first epoch, which has so many pictures."""
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        run = Path(folder) / "run"
        command = ["train", "classification", "unet", "--data", "photos", "--limit", str(pictures)]
        command += ["--epochs", "1000000", "--schedule", "constant", "--threads", "1", "--device", "cpu"]
        with open(Path(folder) / "output", "w+") as output:
            training = subprocess.Popen(
                [sys.executable, "-m", "colourize", *command, "--out", str(run)],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )
            try:
                samples = _watch(training, run / "metrics.csv", minutes)
            finally:
                training.kill()
                training.wait()
            output.seek(0)
            said = output.read()
        epochs = len((run / "metrics.csv").read_text().splitlines()) - 1 if samples else 0
    if not samples or time.monotonic() - samples[0][0] < 60 * minutes:
        return Outcome("memory", "the training ended by itself", problems=[said[-2000:]])
    half = np.array(samples[len(samples) // 2 :])
    grown = np.polyfit(half[:, 0] - half[0, 0], half[:, 1], 1)[0] * (half[-1, 0] - half[0, 0])
    figure = (
        f"{minutes:g} minutes of training, {epochs:,} epochs: {half[-1, 1] / _MIB:.0f} MiB, "
        f"{grown / _MIB:+.2f} MiB over the second half"
    )
    numbers = {
        "minutes": minutes,
        "pictures": pictures,
        "epochs": epochs,
        "resident": int(half[-1, 1]),
        "grown": round(grown),
        "largest": int(max(size for _, size in samples)),
        "samples MiB": [round(size / _MIB, 1) for _, size in samples[:: max(1, len(samples) // 60)]],
    }
    return Outcome("memory", figure, numbers, [f"it grows: {figure}"] if grown > _ALLOWED else [])


def _watch(training: subprocess.Popen, metrics: Path, minutes: float) -> list[tuple[float, int]]:
    """(time, bytes in memory) from the end of the first epoch on, until the time is up or the training ends."""
    samples: list[tuple[float, int]] = []
    begun = time.monotonic()
    while training.poll() is None:
        now = time.monotonic()
        if metrics.exists():
            samples.append((now, _resident(training.pid)))
        if now - begun > _BEGINS if not samples else now - samples[0][0] > 60 * minutes:
            break
        time.sleep(_EVERY)
    return samples


def _resident(process: int) -> int:
    fields = Path(f"/proc/{process}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
