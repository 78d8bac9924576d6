"""The CPU kernels for depthwise convolutions and small groups, at the limits of their vectors, windows and caches."""

import itertools

import pytest
import torch

from bench.cases import Case
from bench.check import check
from bench.implementations import OPERATORS, backend
from myconv2d.native import cpu

pytestmark = pytest.mark.skipif(cpu.problem is not None, reason=str(cpu.problem))
ISAS = [name for name, runs_here in cpu.isas().items() if runs_here] if cpu.problem is None else []
LAYOUTS = "contiguous", "channels_last"
GROUPS = (16, 1), (37, 1), (16, 2), (8, 4), (6, 8)  # how many, of how many channels


def case(groups, width, kernel, stride=(1, 1), dilation=(1, 1)) -> Case:
    count, of = groups
    padding = tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True))
    numbers = dict(kernel=kernel, padding=padding, stride=stride, dilation=dilation, groups=count)
    return Case(f"{groups}, {width}, {numbers}", 2, count * of, count * of, 6, width, **numbers)


def problems(case: Case, isa) -> list[str]:
    """Of every instruction set and layout."""
    found = []
    for name, layout in itertools.product(ISAS, LAYOUTS):
        isa(name)
        report = check(backend("native"), case, torch.float32, layout)
        found += [f"{name}: {report}"] * (not report.passed)
    return found


@pytest.mark.parametrize("width", [1, 3, 6, 7, 8, 9, 13, 15, 16, 17, 31])
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_widths_around_windows(groups, width, isa) -> None:
    assert problems(case(groups, width, (3, 3)), isa) == []


@pytest.mark.parametrize("kernel", [(5, 5), (7, 7), (3, 4), (1, 1), (2, 9)], ids=str)
@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_kernels_strides_dilations(groups, kernel, isa) -> None:
    assert problems(case(groups, 8, kernel), isa) == []
    assert problems(case(groups, 17, kernel, stride=(2, 2)), isa) == []
    assert problems(case(groups, 15, kernel, stride=(1, 3)), isa) == []
    assert problems(case(groups, 15, kernel, dilation=(1, 2)), isa) == []


@pytest.mark.parametrize("operator", OPERATORS[:2])
@pytest.mark.parametrize("groups", [16, 4])
@pytest.mark.parametrize("name", ISAS)
def test_what_is_stored_past_the_caches_is_the_same(name, groups, operator, isa) -> None:
    """The batch moves more than the caches hold, an image of it does not; 13 pixels leave windows that overlap."""
    isa(name)
    images = torch.randn(2, 16, 20001, 13).to(memory_format=torch.channels_last)
    weight = torch.randn(16, 16 // groups, 3, 3)
    assert 2 * images.nbytes > 32 << 20 > images.nbytes

    def run(images):
        numbers = [1, 1], [1, 1], [1, 1], groups
        if operator == "conv2d":
            return torch.ops.myconv2d.conv2d(images, weight, None, *numbers)
        return torch.ops.myconv2d.conv2d_grad_input(images, weight, images.shape, *numbers)

    assert torch.equal(run(images), torch.cat([run(image) for image in images.split(1)]))
