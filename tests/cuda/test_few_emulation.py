"""The kernels for few channels, run on the host thread by thread, equal a naive convolution (few_emulation.cpp).

Address and alignment sanitizers watch every access, those to shared memory included.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from changed_sources import Change
from emulated import NOT_SERVED, SANITIZE, Case, assert_caught, assert_right, emulate

OPERATORS = ("forward", "grad_input", "grad_weight")
LAYOUTS = ("contiguous", "channels_last", "permuted", "expanded")
TYPES = ("fp32", "16-bit")

CASES = {
    "1 to 32": Case(2, 1, 32, 32, 32, 3, 3, padding=(1, 1)),
    "3 to 64": Case(1, 3, 19, 33, 64, 3, 3, padding=(1, 1)),
    "3 to 96": Case(1, 3, 9, 40, 96, 3, 3, padding=(1, 1)),
    "32 to 3": Case(2, 32, 16, 16, 3, 3, 3, padding=(1, 1)),
    "33 to 1, one channel beyond whole slices": Case(2, 33, 13, 11, 1, 3, 3, padding=(1, 1)),
    "3 to 3": Case(3, 3, 32, 31, 3, 3, 3, padding=(1, 1)),
    "small images together": Case(9, 4, 5, 6, 24, 3, 3, padding=(1, 1)),
    "more rectangles than blocks": Case(540, 1, 8, 8, 5, 3, 3, padding=(1, 1)),
    "no padding": Case(2, 2, 12, 13, 20, 3, 3),
    "7x7, stride 2": Case(1, 3, 29, 31, 16, 7, 7, stride=(2, 2), padding=(3, 3)),
    "7x7 to 3": Case(1, 20, 14, 35, 3, 7, 7, padding=(3, 3)),
    "two strides": Case(2, 4, 17, 20, 9, 3, 5, stride=(2, 3), padding=(1, 2)),
    "patches": Case(1, 3, 16, 24, 24, 4, 4, stride=(4, 4)),
    "stride beyond the kernel": Case(2, 3, 14, 15, 9, 2, 1, stride=(4, 3)),
    "dilation": Case(2, 3, 15, 14, 10, 3, 3, padding=(2, 3), dilation=(2, 3)),
    "stride and dilation": Case(2, 3, 15, 21, 10, 3, 3, stride=(2, 2), padding=(2, 2), dilation=(3, 2)),
    "padding beyond the kernel": Case(2, 8, 3, 4, 2, 3, 3, padding=(5, 4)),
    "1x1": Case(3, 3, 7, 9, 12, 1, 1),
    "one pixel": Case(1, 1, 1, 1, 5, 1, 1),
    "all channels few": Case(2, 4, 10, 9, 4, 5, 3, padding=(2, 1)),
}


@pytest.fixture(scope="module")
def emulation(compile_emulation: Callable[..., Path]) -> Path:
    return compile_emulation("few_emulation.cpp", "-O1", *SANITIZE)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_equals_naive_convolution(emulation: Path, operator: str, name: str) -> None:
    case, number = CASES[name], list(CASES).index(name)
    for type in TYPES:
        for turn in range(3):
            layouts = LAYOUTS[(number + turn) % 4], LAYOUTS[(number + turn * 2) % 4]
            result = emulate(emulation, case, operator, type, *layouts)
            if result.returncode == NOT_SERVED:  # grad_weight of few channels out, with a stride
                assert operator == "grad_weight" and case.C > 4 and case.stride != (1, 1)
            else:
                assert_right(result)


@pytest.mark.parametrize("seed", range(3))
def test_random_convolutions(emulation: Path, seed: int) -> None:
    draw = random.Random(seed)
    tried = 0
    while tried < 40:
        r, s = draw.choice([(3, 3), (draw.randint(1, 7), draw.randint(1, 7))])
        channels = [draw.randint(1, 4), draw.choice([1, 2, 4, 5, 8, 13, 16, 24, 33, 40])]
        draw.shuffle(channels)
        height, width = draw.choice([1, 2, 5, 8, 13, 16, 31]), draw.choice([1, 3, 7, 16, 17, 32, 33, 65])
        stride, dilation = ((draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 3])) for _ in range(2))
        padding = draw.randint(0, r), draw.randint(0, s)
        if height + 2 * padding[0] <= dilation[0] * (r - 1) or width + 2 * padding[1] <= dilation[1] * (s - 1):
            continue
        case = Case(draw.randint(1, 4), channels[0], height, width, channels[1], r, s, stride, padding, dilation)
        how = draw.choice(OPERATORS), draw.choice(TYPES), draw.choice(LAYOUTS), draw.choice(LAYOUTS)
        result = emulate(emulation, case, *how)
        if result.returncode != NOT_SERVED:
            assert_right(result)
            tried += 1


def test_channels_last_moves_16_bytes_at_a_time(emulation: Path) -> None:
    last = "channels_last", "channels_last"
    for type in TYPES:
        case = Case(2, 3, 16, 16, 32, 3, 3, padding=(1, 1))
        said = {operator: emulate(emulation, case, operator, type, *last).stdout for operator in OPERATORS}
        assert said["forward"].startswith("few in channels, 16-byte stores: 1")
        assert said["grad_input"].startswith("few out channels, 16-byte loads: 1")
        assert said["grad_weight"].startswith("few channels, 16-byte loads: 1")


# Wrong kernels, each a plausible slip: (operator that must fail, file, what it says, the slip).
WRONG = {
    "halo off by one": (
        *("forward", "few_channels.h"),
        *("first_row * h.step + h.origin + line", "first_row * h.step + h.origin + 1 + line"),
    ),
    "taps not turned round": ("grad_input", "few_channels.h", "tap_step = -tap_step", "tap_step = tap_step"),
    "a filter chunk too far": (
        *("forward", "few_in.h"),
        *("write(pixel, lane * chunk, args_.lanes.value * chunk, sum)",
          "write(pixel, lane * chunk + 4, args_.lanes.value * chunk, sum)"),
    ),
    "slice of the one before": (
        *("grad_input", "few_out.h"),
        *("filter_ + (first + c) * taps * most_few", "filter_ + c * taps * most_few"),
    ),
    "a lane forgotten": ("grad_input", "few_out.h", "lane < args_.lanes.value", "lane < args_.lanes.value - 1"),
    "lost rectangle": ("grad_weight", "few_grad_weight.h", "number + 1 < rectangles", "number + 2 < rectangles"),
    "halo of one image for all": (
        *("grad_weight", "few_channels.h"),
        *("static_cast<int64_t>(images) * grid.tile.images + image", "static_cast<int64_t>(images) * grid.tile.images"),
    ),
    "bias forgotten": ("grad_weight", "few_grad_weight.h", "group != 0", "group < 3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def wrong_emulation(compile_emulation: Callable[..., Path]) -> Path:
    changes = {slip: Change(f"cuda/{file}", *change) for slip, (_, file, *change) in WRONG.items()}
    return compile_emulation("few_emulation.cpp", changes=changes)


def emulate_slip(program: Path, operator: str, change: int):
    case = Case(290, 3, 5, 6, 40, 3, 3, padding=(1, 1))
    return emulate(program, case, operator, "fp32", "contiguous", "channels_last", change=change)


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_slip_no_mistake(wrong_emulation: Path, operator: str) -> None:
    assert_right(emulate_slip(wrong_emulation, operator, 0))


@pytest.mark.parametrize(("change", "slip"), list(enumerate(WRONG, 1)))
def test_wrong_kernels_are_caught(wrong_emulation: Path, change: int, slip: str) -> None:
    assert_caught(emulate_slip(wrong_emulation, WRONG[slip][0], change))
