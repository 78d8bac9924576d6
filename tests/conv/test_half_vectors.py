"""Channels that end in half a vector (csrc/cpu/panel.cpp): two depths or two rows share one, an odd one is alone."""

import itertools

import pytest
import torch

from bench.cases import Case
from bench.check import check
from bench.implementations import backend
from myconv2d.native import cpu

pytestmark = pytest.mark.skipif(cpu.problem is not None, reason=str(cpu.problem))
ISAS = [name for name, runs_here in cpu.isas().items() if runs_here] if cpu.problem is None else []
CHANNELS = 8, 9, 18, 21, 24, 25, 36  # whole vectors and halves of 4, 8 and 16 lanes, full and not, odd and even


@pytest.mark.parametrize("channels", list(itertools.product(CHANNELS, repeat=2)), ids=str)
def test_every_width_and_depth(channels, isa) -> None:
    case = Case(f"{channels}", 2, *channels, 12, 13)
    for name, layout in itertools.product(ISAS, ("contiguous", "channels_last")):
        isa(name)
        report = check(backend("native"), case, torch.float32, layout)
        assert report.passed, f"{name}: {report}"
