"""3×3 convolutions of stride 2 by minimal filtering (csrc/cpu/strided.h), at the edges of tiles, on both parities."""

import itertools

import pytest
import torch

import myconv2d
from bench.cases import Case
from bench.check import check
from bench.implementations import backend
from bench.operands import LAYOUTS
from myconv2d.native import cpu

pytestmark = pytest.mark.skipif(cpu.problem is not None, reason=str(cpu.problem))
ISAS = [name for name, runs_here in cpu.isas().items() if runs_here] if cpu.problem is None else []
TYPES = torch.float32, torch.bfloat16, torch.float16
SIZES = (32, 31), (29, 30), (33, 40)  # tiles of 4×4 outputs, full and not


def case(size: tuple[int, int], padding: tuple[int, int], channels: tuple[int, int], groups: int = 1) -> Case:
    in_channels, out_channels = (groups * c for c in channels)
    name = f"{channels}, {size}, {padding}"
    return Case(name, 8, in_channels, out_channels, *size, stride=(2, 2), padding=padding, groups=groups)


def algorithms(case: Case) -> list[str]:
    input, weight = torch.empty(case.input_size), torch.empty(case.weight_size)
    words = str(myconv2d.explain(input, weight, None, *case.numbers))
    return [line.partition(": ")[2] for line in words.splitlines()[1:]]


def problems(case: Case, isa, types=TYPES[:1], layouts=("contiguous", "channels_last")) -> list[str]:
    assert all(name.startswith("Winograd F(4x4, 3x3) of stride 2") for name in algorithms(case))
    found = []
    for name, dtype, layout in itertools.product(ISAS, types, layouts):
        isa(name)
        report = check(backend("native"), case, dtype, layout)
        found += [f"{name}: {report}"] * (not report.passed)
    return found


@pytest.mark.parametrize("padding", itertools.product(range(4), repeat=2), ids=str)
def test_paddings(padding, isa) -> None:
    """An odd padding and an even one begin grad_input's tiles at another row."""
    for size in SIZES:
        assert problems(case(size, padding, (16, 17)), isa) == []


@pytest.mark.parametrize("channels", [(16, 16), (17, 33), (33, 40), (16, 129)], ids=str)
def test_channels(channels, isa) -> None:
    assert problems(case((31, 32), (1, 1), channels), isa) == []


def test_types_layouts_groups(isa) -> None:
    assert problems(case((31, 32), (1, 0), (16, 24), groups=2), isa, TYPES, LAYOUTS) == []


def test_what_it_is_not_for() -> None:
    """Few tiles, whose kernels cost more to transform than they save, and tiles that lie mostly beyond the edge."""
    forward, grad_input, grad_weight = algorithms(case((16, 16), (1, 1), (64, 64)))
    assert forward == grad_input != grad_weight
    assert grad_weight.startswith("direct")
    assert all(name.startswith("direct") for name in algorithms(case((9, 9), (1, 1), (64, 64))))
