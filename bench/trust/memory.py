"""Whether a long training grows: the memory of the process after every epoch, and the slope of its second half.

An epoch is the same work each time, so after the first ones nothing has a reason to grow. The slope is fitted to the
second half; growth is that slope over an hour, beside the scatter of the samples around the line.
"""

from __future__ import annotations

import os
import time

import numpy as np
import torch
from torch import nn

import myconv2d

from .outcome import Outcome

_ALLOWED = 8 << 20  # bytes that the second half may grow by; an allocator's rest, not a leak


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(minutes: float) -> Outcome:
    """Trains blocks, plain layers and odd sizes for so long."""
    torch.manual_seed(0)
    model = nn.Sequential(
        myconv2d.ConvBlock(3, 16, resize="pool"), myconv2d.ConvBlock(16, 16, resize="upsample"),
        myconv2d.MyConv2d(16, 5, 3, padding=1),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    end, samples, steps = time.monotonic() + 60 * minutes, [], 0
    while time.monotonic() < end:
        for size in (16, 18, 32, 20, 46):  # scratch memory grows with the largest and must stay there
            images, target = torch.randn(4, 3, size, size), torch.randint(5, (4, size, size))
            optimizer.zero_grad()
            myconv2d.cross_entropy(model(images), target).backward()
            optimizer.step()
            steps += 1
        samples.append((time.monotonic(), _resident()))
    half = np.array(samples[len(samples) // 2 :], dtype=float)
    slope = np.polyfit(half[:, 0] - half[0, 0], half[:, 1], 1)[0] if len(half) > 2 else 0.0
    grown = slope * (half[-1, 0] - half[0, 0])
    mib = 1 << 20
    figure = (
        f"{steps:,} training steps: {half[-1, 1] / mib:.0f} MiB, {grown / mib:+.2f} MiB over the second half"
    )
    numbers = {"steps": steps, "resident": int(half[-1, 1]), "grown": round(grown), "minutes": minutes}
    problems = [f"a training grows: {figure}"] if grown > _ALLOWED else []
    return Outcome("memory", figure, numbers, problems)
