"""The CUDA kernels' blocks, run on the host thread by thread, equal a naive convolution (emulation.cpp).

This proves every index without a GPU: tiles, halos, groups, residue classes, strides of any layout, the
splits of grad_weight, the order of work between barriers and the fragments of the tensor-core instructions.
Address and alignment sanitizers watch every access.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from changed_sources import Change
from emulated import SANITIZE, Case, assert_caught, assert_right, emulate

OPERATORS = ["forward", "grad_input", "grad_weight"]
LAYOUTS = ["contiguous", "channels_last", "permuted", "expanded"]
WIDTHS = {"simt": (8, 32, 64), "tf32": (8, 32, 64), "16-bit": (8, 32, 64), "fp64": (8, 32)}  # of tiles

CASES = {
    "plain 3x3": Case(2, 16, 9, 11, 24, 3, 3, padding=(1, 1)),
    "one channel in": Case(2, 1, 13, 12, 9, 3, 3, padding=(1, 1)),
    "three channels out": Case(2, 10, 9, 8, 3, 3, 3, padding=(1, 1)),
    "more than one tile of everything": Case(3, 33, 11, 9, 70, 2, 2),
    "many splits": Case(3, 8, 29, 31, 8, 3, 3, padding=(1, 1)),
    "depthwise": Case(2, 6, 9, 8, 6, 3, 3, padding=(1, 1), groups=6),
    "groups": Case(2, 24, 7, 6, 18, 3, 2, padding=(1, 0), groups=3),
    "1x1": Case(3, 17, 5, 7, 12, 1, 1),
    "stride": Case(2, 8, 12, 13, 10, 3, 3, stride=(2, 3), padding=(1, 1)),
    "stride beyond the kernel": Case(2, 5, 14, 15, 9, 2, 3, stride=(4, 5)),
    "patches": Case(2, 8, 12, 12, 9, 4, 4, stride=(4, 4)),
    "dilation": Case(2, 8, 11, 12, 9, 3, 3, padding=(2, 3), dilation=(2, 3)),
    "stride and dilation share a factor": Case(
        2, 8, 15, 14, 7, 3, 3, stride=(4, 2), padding=(3, 1), dilation=(2, 2)
    ),
    "padding beyond the image": Case(1, 4, 2, 3, 5, 3, 3, padding=(5, 4)),
    "kernel as large as the image": Case(2, 7, 6, 5, 9, 6, 5),
    "huge stride on one output": Case(1, 4, 5, 6, 4, 3, 3, stride=(10**12, 10**12)),
    "huge dilation of one tap": Case(1, 4, 5, 6, 4, 1, 1, dilation=(10**12, 10**12)),
    "empty batch": Case(0, 4, 5, 6, 4, 3, 3),
    "no channels": Case(2, 0, 5, 6, 4, 3, 3),
}


@pytest.fixture(scope="module")
def emulation(compile_emulation: Callable[..., Path]) -> Path:
    return compile_emulation("emulation.cpp", *SANITIZE)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_equals_naive_convolution(emulation: Path, operator: str, name: str) -> None:
    case, number = CASES[name], list(CASES).index(name)
    for i, (arithmetic, widths) in enumerate(WIDTHS.items()):
        columns, layout = widths[(number + i) % len(widths)], LAYOUTS[(number + i) % len(LAYOUTS)]
        assert_right(emulate(emulation, case, operator, arithmetic, columns, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arithmetic", WIDTHS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tile_in_every_layout(emulation: Path, operator: str, arithmetic: str, layout: str) -> None:
    case = Case(2, 16, 10, 9, 34, 3, 2, stride=(2, 1), padding=(1, 1), dilation=(1, 2), groups=2)
    for columns in WIDTHS[arithmetic]:
        assert_right(emulate(emulation, case, operator, arithmetic, columns, layout))


def test_channels_last_is_read_in_place_16_bytes_at_a_time(emulation: Path) -> None:
    case = Case(2, 32, 6, 5, 16, 3, 3, padding=(1, 1))
    for arithmetic in WIDTHS:
        said = emulate(emulation, case, "forward", arithmetic, 8, "channels_last").stdout
        assert said == "filters in place, 16-byte loads: ok\n"
        said = emulate(emulation, case, "grad_input", arithmetic, 8, "channels_last").stdout
        assert said == "filters packed, 16-byte loads: ok\n"


def test_splits_follow_from_the_shape_and_are_many(emulation: Path) -> None:
    case = CASES["many splits"]
    output = [emulate(emulation, case, "grad_weight", "simt", 8, "contiguous").stdout for _ in range(2)]
    assert output[0] == output[1]
    assert int(output[0].split()[0]) > 10


# Wrong kernels, each a plausible slip: (operator that must fail, file, what it says, the slip).
WRONG = {
    "halo off by one": ("forward", "correlation.h", "-padding", "1 - padding"),
    "missing group offset": (
        *("forward", "correlate.h"),
        *("static_cast<int64_t>(group_) * shape.channels", "static_cast<int64_t>(0) * shape.channels"),
    ),
    "dropped bias": (
        *("forward", "correlate.h"),
        *("static_cast<Accumulator>(args_.bias[(first + n) * args_.bias_stride])", "Accumulator(0)"),
    ),
    "wrong residue": ("grad_input", "correlation.h", "residue + padding", "padding"),
    "lost pixel": (
        *("grad_weight", "grad_weight.h"),
        *("first_pixel_ + shape.split_pixels", "first_pixel_ + shape.split_pixels - 1"),
    ),
    "stage read too early": ("forward", "tile.h", "thread.multiply(step & 1)", "thread.multiply(~step & 1)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def wrong_emulation(compile_emulation: Callable[..., Path]) -> Path:
    changes = {slip: Change(f"cuda/{file}", *change) for slip, (_, file, *change) in WRONG.items()}
    return compile_emulation("emulation.cpp", "-DSIMT_ONLY", changes=changes)


def emulate_slip(program: Path, operator: str, change: int):
    case = Case(2, 8, 29, 13, 6, 3, 3, stride=(2, 2), padding=(1, 1), groups=2)
    return emulate(program, case, operator, "simt", 8, "contiguous", change=change)


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_slip_no_mistake(wrong_emulation: Path, operator: str) -> None:
    assert_right(emulate_slip(wrong_emulation, operator, 0))


@pytest.mark.parametrize(("change", "slip"), list(enumerate(WRONG, 1)))
def test_wrong_kernels_are_caught(wrong_emulation: Path, change: int, slip: str) -> None:
    assert_caught(emulate_slip(wrong_emulation, WRONG[slip][0], change))
