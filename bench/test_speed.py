"""`pytest bench --benchmark-only`: a part of the ruler's table for those who know pytest-benchmark.

A group is one pass of one case, its members are the implementations; options such as --benchmark-save,
--benchmark-compare and -k "unet and training" work as usual. It takes about two minutes. `python -m bench report`
measures the same, and all the rest, in turns: the figures that we quote are from there.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from .catalogue import choose, subjects
from .subjects import SETS, Contestant, Subject

_SUBJECTS = [
    subject
    for subject in choose(
        subjects(torch.device("cpu"), compiled=False), ("overhead", "fused", "unet-32px-n100", "ten")
    )
    if subject.kind != "memory"
]
_COMPETITORS = [
    pytest.param(subject, contestant, id=f"{subject}-{contestant.name}".replace(" ", "-"))
    for subject in _SUBJECTS
    for contestant in subject.contestants()
]


@pytest.mark.benchmark(max_time=0.25, min_rounds=5)
@pytest.mark.parametrize(("subject", "contestant"), _COMPETITORS)
def test_speed(benchmark, subject: Subject, contestant: Contestant) -> None:
    benchmark.group = str(subject)
    benchmark.extra_info |= {
        "implementation": contestant.name,
        "side": contestant.side,
        "flop": subject.flop(),
    }
    call, numbers = contestant.prepare().call, itertools.cycle(range(SETS))
    benchmark(lambda: call(next(numbers)))
