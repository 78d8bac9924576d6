"""The halo kernel, run on the host thread by thread, equals a naive convolution (halo_emulation.cpp).

Its tensor-core instruction is played from the bits of its descriptors, and its asynchronous copies arrive as early and
as late as the hardware may have them (halo_machine.h). Address and alignment sanitizers watch every access.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from changed_sources import Change
from emulated import NOT_SERVED, SANITIZE, Case, assert_caught, assert_right, emulate

OPERATORS = ("forward", "grad_input")
TYPES = ("tf32", "16-bit")
ARRIVALS = ("early", "late")
WEIGHTS = ("contiguous", "channels_last", "permuted")  # layouts
AS_CHOSEN = 0, 0, 0, 0  # filters of a block, patches of a tile
TF32_BOUND = 2e-3  # of the largest result, as test_device.py has it


def layer(n: int, c: int, h: int, w: int, k: int) -> Case:
    return Case(n, c, h, w, k, 3, 3, padding=(1, 1))


CASES = {
    "one patch": layer(1, 32, 8, 8, 32),
    "32 to 64 @16": layer(2, 32, 16, 16, 64),
    "64 to 64 @8": layer(3, 64, 8, 8, 64),
    "128 to 32 @8": layer(2, 128, 8, 8, 32),
    "64 to 128": layer(1, 64, 9, 10, 128),
    "64 to 24, filters beyond whole groups": layer(2, 64, 7, 9, 24),
    "odd sides": layer(2, 24, 13, 11, 40),
    "a row": layer(2, 16, 1, 37, 16),
    "a column": layer(3, 16, 41, 1, 16),
    "a pixel": layer(5, 8, 1, 1, 8),
    "8 to 8: chunks and planes of zeros": layer(1, 8, 6, 5, 8),
    "40 to 72, a part of a block of channels": layer(1, 40, 10, 7, 72),
    "144 to 136, filters in parts": layer(1, 144, 5, 6, 136),
    "more tiles than blocks": layer(560, 8, 4, 3, 8),
}


def emulate_halo(
    program: Path,
    case: Case,
    operator: str,
    type: str,
    arrivals: str = "late",
    weight: str = "channels_last",
    tiling: tuple[int, int, int, int] = AS_CHOSEN,
):
    return emulate(program, case, operator, type, arrivals, weight, *tiling)


@pytest.fixture(scope="module")
def emulation(compile_emulation: Callable[..., Path]) -> Path:
    return compile_emulation("halo_emulation.cpp", "-O1", *SANITIZE)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", CASES)
def test_equals_naive_convolution(emulation: Path, operator: str, name: str) -> None:
    number = list(CASES).index(name)
    for turn, type in enumerate(TYPES):
        for arrivals in ARRIVALS:
            weight = WEIGHTS[(number + turn) % len(WEIGHTS)]
            assert_right(emulate_halo(emulation, CASES[name], operator, type, arrivals, weight))


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("columns", [32, 64, 128])
@pytest.mark.parametrize(
    "tile", [(1, 2, 2), (1, 1, 4), (1, 4, 1), (2, 1, 2), (4, 1, 1), (2, 1, 1), (1, 1, 1)], ids=str
)
def test_every_tile(emulation: Path, tile: tuple[int, int, int], columns: int, type: str) -> None:
    case, tiling = layer(3, 24, 17, 18, 32), (columns, *tile)
    for operator, arrivals in zip(OPERATORS, ARRIVALS, strict=True):
        result = emulate_halo(emulation, case, operator, type, arrivals, "contiguous", tiling)
        assert_right(result)
        assert f"{columns} of {case.K if operator == 'forward' else case.C} filters" in result.stdout


@pytest.mark.parametrize("seed", range(2))
def test_random_layers(emulation: Path, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(25):
        sides = draw.choice([1, 3, 8, 9, 15, 16, 17]), draw.choice([1, 2, 7, 8, 16, 19, 33])
        case = layer(draw.randint(1, 3), 8 * draw.randint(1, 9), *sides, 8 * draw.randint(1, 9))
        arrivals, weight, columns = draw.choice(ARRIVALS), draw.choice(WEIGHTS), draw.choice([0, 32, 64])
        operator, type = draw.choice(OPERATORS), draw.choice(TYPES)
        assert_right(emulate_halo(emulation, case, operator, type, arrivals, weight, (columns, 0, 0, 0)))


def test_filters_in_channels_last_are_read_in_place(emulation: Path) -> None:
    case = CASES["64 to 64 @8"]
    assert "filters in place" in emulate_halo(emulation, case, "forward", "16-bit").stdout
    assert "filters packed" in emulate_halo(emulation, case, "forward", "16-bit", weight="contiguous").stdout
    assert "filters packed" in emulate_halo(emulation, case, "grad_input", "16-bit").stdout


@pytest.mark.parametrize("operator", OPERATORS)
def test_tf32_keeps_the_bound_although_images_are_cut(emulation: Path, operator: str) -> None:
    for case in CASES["128 to 32 @8"], CASES["8 to 8: chunks and planes of zeros"]:
        said = emulate_halo(emulation, case, operator, "random").stdout
        error, of_products = map(float, said.split()[-2:])
        assert 1e-5 < error < TF32_BOUND  # and not that of fp32
        assert of_products < 2 * 2**-10  # of each result, as bench/oracle.py has it


def test_what_it_does_not_serve(emulation: Path) -> None:
    reasons = {
        "3x3 kernels": Case(1, 16, 9, 9, 16, 3, 3),  # without padding
        "not whole units": layer(1, 12, 9, 9, 16),
        "do not fit": layer(1, 512, 9, 9, 16),
        "nothing to compute": layer(0, 16, 9, 9, 16),
    }
    for reason, case in reasons.items():
        result = emulate_halo(emulation, case, "forward", "16-bit")
        assert result.returncode == NOT_SERVED and reason in result.stdout


# Wrong kernels, each a plausible slip in halo.h: what it says, the slip.
IMAGE = "operand(stages_ + multiplied_.stage * shape.tile.stage() + pixel * 16, {})"
FILTERS = "operand(filters_ + first_chunk * shape.filter_plane(), shape.{})"
WRONG = {
    "strides of chunks and rows swapped": (IMAGE.format("plane, columns * 16"), IMAGE.format("columns * 16, plane")),
    "halo as wide as its tile": ("shape.tile.halo_columns()", "shape.tile.columns()"),
    "patches a row apart": ("in_image / tile.across * patch_side", "in_image / tile.across"),
    "filters without padding": (FILTERS.format("filter_plane(), 8 * 16"), FILTERS.format("columns * 16, 8 * 16")),
    "filters in their own order": ("column_of(filter) * 16", "filter * 16"),
    "taps not turned": ("args_.turned ? halo_taps - 1 - tap : tap", "tap"),
    "descriptor in bytes": (FILTERS.format("filter_plane(), 8 * 16"), FILTERS.format("filter_plane(), 8 * 16 << 4")),
    "halo off by one": ("corner.x + column - 1", "corner.x + column"),
    "chunks multiplied twice": ("step_chunks * plane / 16", "plane / 16"),
    "sum of the tile before": ("multiplied_.block != 0", "true"),
    "bias of other filters": ("bias()[filter + i]", "bias()[i]"),
    "edge forgotten": ("y >= shape.height || x >= shape.width", "y >= shape.height || x >= shape.width - 1"),
    "copies not waited for": ("Machine::template wait<halo_stages - 2>()", "Machine::template wait<halo_stages - 1>()"),
    "copies not published": ("Machine::publish()", "void()"),
    "stage overwritten": ("stage == halo_stages - 1 ? 0 : stage + 1", "stage == halo_stages - 2 ? 0 : stage + 1"),
    "chunk of zeros left out": ("first_chunk + plane >= shape.chunks", "first_chunk + plane >= shape.chunks - 1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def wrong_emulation(compile_emulation: Callable[..., Path]) -> Path:
    changes = {slip: Change("cuda/halo.h", *change) for slip, change in WRONG.items()}
    return compile_emulation("halo_emulation.cpp", "-O1", changes=changes)


def emulate_slip(program: Path, operator: str, arrivals: str, change: int):
    case = layer(2, 72, 19, 18, 40)
    return emulate(program, case, operator, "16-bit", arrivals, "channels_last", 32, 1, 2, 2, change=change)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_no_slip_no_mistake(wrong_emulation: Path, operator: str, arrivals: str) -> None:
    assert_right(emulate_slip(wrong_emulation, operator, arrivals, 0))


@pytest.mark.parametrize(("change", "slip"), list(enumerate(WRONG, 1)))
def test_wrong_kernels_are_caught(wrong_emulation: Path, change: int, slip: str) -> None:
    operator = "grad_input" if slip == "taps not turned" else "forward"
    arrivals = "early" if slip == "stage overwritten" else "late"
    assert_caught(emulate_slip(wrong_emulation, operator, arrivals, change))
