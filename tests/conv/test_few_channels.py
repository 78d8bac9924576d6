"""The CPU kernels for few channels on one side, at the limits of their vectors, panels and windows."""

import itertools

import pytest
import torch

from bench.cases import Case
from bench.check import check
from bench.implementations import backend
from bench.operands import LAYOUTS
from myconv2d.native import cpu

pytestmark = pytest.mark.skipif(cpu.problem is not None, reason=str(cpu.problem))
ISAS = [name for name, runs_here in cpu.isas().items() if runs_here] if cpu.problem is None else []
TYPES = torch.float32, torch.bfloat16, torch.float16
CHANNELS = (1, 8), (2, 17), (3, 33), (4, 24), (3, 3), (2, 4), (1, 1), (40, 1), (9, 2), (33, 3), (16, 4)


def case(channels, size, kernel, batch=2, padding=None, groups=1, stride=(1, 1)) -> Case:
    padding = tuple(k // 2 for k in kernel) if padding is None else padding
    name = f"{channels}, {size}, {kernel}"
    channels = [groups * c for c in channels]
    return Case(name, batch, *channels, *size, kernel, padding=padding, groups=groups, stride=stride)


def problems(case: Case, isa) -> list[str]:
    """Of every instruction set, type and layout."""
    found = []
    for name, dtype, layout in itertools.product(ISAS, TYPES, LAYOUTS):
        isa(name)
        report = check(backend("native"), case, dtype, layout)
        found += [f"{name}: {report}"] * (not report.passed)
    return found


@pytest.mark.parametrize("width", [1, 7, 8, 15, 16, 17, 31, 33, 64])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_widths_around_vectors(channels, width, isa) -> None:
    assert problems(case(channels, (3, width), (3, 3)), isa) == []


@pytest.mark.parametrize("width", range(1, 7))
@pytest.mark.parametrize("height", range(1, 7))
def test_kernel_sizes(height, width, isa) -> None:
    for channels in (3, 9), (9, 3), (2, 2):
        assert problems(case(channels, (6, 19), (height, width)), isa) == []


@pytest.mark.parametrize("channels, groups", [((3, 64), 1), ((1, 33), 2)], ids=str)
@pytest.mark.parametrize("kernel", [(7, 7), (5, 6), (6, 5)], ids=str)
def test_stride_two(kernel, channels, groups, isa) -> None:
    for size in (1, 70), (24, 33), (9, 16):
        assert problems(case(channels, size, kernel, groups=groups, stride=(2, 2)), isa) == []


@pytest.mark.parametrize("channels", [(3, 40), (40, 3), (3, 3)], ids=str)
@pytest.mark.parametrize("size", [(1, 20), (2, 3), (301, 5), (9, 530)], ids=str)
def test_windows(channels, size, isa) -> None:
    """Of one row, of an odd number of rows at the end, many to an image, and rows longer than a window should be."""
    assert problems(case(channels, size, (3, 3), batch=1), isa) == []


@pytest.mark.parametrize("channels", [(3, 9), (9, 3), (1, 8)], ids=str)
def test_padding_and_groups(channels, isa) -> None:
    """Groups leave gaps between a pixel's channels; padding can outgrow the picture or be none."""
    assert problems(case(channels, (5, 18), (3, 3), groups=2), isa) == []
    assert problems(case(channels, (3, 4), (3, 5), padding=(5, 6)), isa) == []
    assert problems(case(channels, (7, 36), (3, 3), padding=(0, 0)), isa) == []


@pytest.mark.parametrize("channels", [(1, 40), (40, 1)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
def test_one_result_channel(channels, padding, isa) -> None:
    """Under 3×3 taps it is computed in groups of rows, which may end within, or reach out of, the image or a window."""
    for size in *itertools.product((1, 3, 6, 7), (16, 33)), (20, 200):
        if size[0] + 2 * padding >= 3:
            assert problems(case(channels, size, (3, 3), padding=(padding, padding)), isa) == []
    assert problems(case(channels, (9, 18), (3, 3), padding=(padding, padding), groups=2), isa) == []
