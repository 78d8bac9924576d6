"""Kernels compile without a GPU, use tensor cores and the copy engine where they should, and spill nothing.

A part of what `python -m bench gpu-code` goes through, chosen to take seconds.
"""

from __future__ import annotations

import functools
import itertools

import pytest

pytest.importorskip("triton.language", reason="Triton is not installed")

from myconv2d.triton.interpreter import INTERPRETED

if INTERPRETED:
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, not compiled", allow_module_level=True)

from myconv2d.sass import NONE, occupancy
from myconv2d.triton import compile_report, gather, gemm, halo, halo_nchw, plans, tuning
from myconv2d.triton.compile_cases import OPERATORS, Case, Layer, convolution
from myconv2d.triton.compile_report import Row, report
from myconv2d.triton.launch import intercept, set_in
from myconv2d.triton.machine_code import SM_80, SM_90, compile_for
from myconv2d.triton.traffic import traffic
from myconv2d.triton.tuning import Decision, decisions

MIDDLE = Layer(64, 64, 8)


def rows(
    layer: Layer, operator: str, arithmetic: str, layout: str = "channels_last", target=SM_90
) -> list[Row]:
    return list(report([convolution(layer, operator, arithmetic, layout)], target))


@pytest.mark.parametrize(
    ("layer", "layout"),
    [(MIDDLE, "channels_last"), (MIDDLE, "contiguous"), (MIDDLE._replace(size=16, stride=2), "channels_last")],
    ids=str,
)
@pytest.mark.parametrize("arithmetic", ["tf32", "bf16"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_boxes_by_the_copy_engine_and_wgmma(layer: Layer, operator: str, arithmetic: str, layout: str) -> None:
    found = rows(layer, operator, arithmetic, layout)
    mains = found[:-1] if operator == "grad_weight" else found  # without the reduction
    assert len(mains) == (layer.stride**2 if operator == "grad_input" else 1)
    for main in mains:
        assert ("nchw" if layout == "contiguous" else "halo") in main.kernel
        assert main.code.asynchronous.startswith("box")
        assert main.code.matrix == "wgmma"
    assert [row.complaint for row in found] == [None] * len(found)


@pytest.mark.parametrize(
    ("layer", "operator", "arithmetic", "matrix"),
    [
        (MIDDLE, "forward", "fp32", "fma"),
        (MIDDLE, "grad_weight", "fp32", "fma"),
        (MIDDLE, "forward", "fp64", "mma"),
        (Layer(1, 32, 32), "forward", "bf16", "wgmma"),
        (Layer(3, 3, 32), "grad_weight", "tf32", "wgmma"),
        (Layer(64, 64, 15, stride=2), "forward", "bf16", "wgmma"),
        (Layer(64, 64, 15, stride=2), "grad_weight", "bf16", "wgmma"),
    ],
    ids=str,
)
def test_ordinary_loads_elsewhere(layer: Layer, operator: str, arithmetic: str, matrix: str) -> None:
    main = rows(layer, operator, arithmetic)[0]
    assert "halo" not in main.kernel
    assert main.code.matrix == matrix
    assert main.complaint is None


def test_the_halo_kernel_is_worth_having(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer instructions a step, and fewer registers, than the gather kernel with the same tile."""
    layer = Layer(64, 64, 16)
    boxes = rows(layer, "forward", "tf32")[0].code
    monkeypatch.setattr(gemm, "why_never", lambda *arguments: "for comparison")
    loads = rows(layer, "forward", "tf32")[0].code
    assert 0 < boxes.loop < loads.loop
    assert boxes.registers < loads.registers


@pytest.mark.parametrize("arithmetic", ["tf32", "bf16"])
def test_nchw_in_place_moves_less_than_a_copy_of_it(arithmetic: str) -> None:
    """Even without what the copy itself moves; and a step of three taps has fewer instructions than three steps."""
    case = convolution(Layer(64, 64, 16), "forward", arithmetic, "contiguous")
    (in_place,) = report([case])
    with set_in(tuning.every, lambda shape: [plan for plan in tuning.near(shape) if plan.copied]):
        (of_copy,) = report([case])
    assert (in_place.kernel, of_copy.kernel) == ("halo_nchw_gemm", "halo_gemm")
    assert in_place.moved < of_copy.moved
    assert in_place.code.loop < 3 * of_copy.code.loop


@pytest.mark.parametrize("layer", [MIDDLE, *(MIDDLE._replace(size=size, stride=2) for size in (15, 16))], ids=str)
def test_64_bit_offsets_spill_nothing(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gather, halo, halo_nchw):
        monkeypatch.setattr(module, "needs_64_bit", lambda *tensors: True)
    for layout in ("channels_last", "contiguous"):
        assert rows(layer, "forward", "bf16", layout)[0].complaint is None


@pytest.mark.parametrize(("operator", "arithmetic"), [("forward", "bf16"), ("grad_weight", "tf32")])
def test_a100(operator: str, arithmetic: str) -> None:
    """Compute capability 8.0 has neither wgmma nor a copy engine for tensors: ordinary loads serve."""
    main = rows(MIDDLE, operator, arithmetic, target=SM_80)[0]
    assert "halo" not in main.kernel
    assert (main.code.matrix, main.code.spills) == ("mma", 0)
    assert main.code.asynchronous.startswith("16 B")


def test_24_channels_are_read_16_bytes_at_a_time() -> None:
    """24 is no multiple of 16, Triton's own unit of alignment: this is what Operand.unit is for."""
    main = rows(Layer(24, 64, 16, stride=2), "forward", "bf16")[0]
    assert main.code.asynchronous.startswith("16 B")
    assert "," not in main.code.asynchronous


@pytest.mark.parametrize(
    ("layer", "operator", "arithmetic", "layout", "reason"),
    [
        (Layer(1, 32, 32), "forward", "tf32", "channels_last", "one step"),
        (Layer(32, 3, 16), "grad_input", "bf16", "contiguous", "one step"),
        (Layer(3, 3, 32), "grad_weight", "fp16", "channels_last", "pieces of 2 bytes"),
        (Layer(64, 64, 16, stride=2), "forward", "bf16", "contiguous", "pieces of 2 bytes"),
        (Layer(64, 64, 16, stride=2), "forward", "tf32", "contiguous", None),
        (Layer(25, 24, 32), "forward", "bf16", "channels_last", None),
        (MIDDLE, "forward", "bf16", "contiguous", None),
        (MIDDLE._replace(size=14), "forward", "bf16", "contiguous", "pieces of 2 bytes"),
        (Layer(16, 16, 8), "grad_weight", "bf16", "channels_last", None),
    ],
    ids=str,
)
def test_wgmma_has_asynchronous_loads_or_a_reason(
    layer: Layer, operator: str, arithmetic: str, layout: str, reason: str | None
) -> None:
    main = rows(layer, operator, arithmetic, layout)[0]
    assert (main.code.matrix, main.why_synchronous, main.complaint) == ("wgmma", reason, None)
    assert (main.code.asynchronous == NONE) == (reason is not None)
    assert main.asynchronous == (main.code.asynchronous if reason is None else f"none: {reason}")


def launches(case: Case) -> list[tuple]:
    seen: list[tuple] = []
    with set_in(intercept, lambda *launch: seen.append(launch)):
        case.run()
    return seen


def test_the_batch_size_is_not_part_of_the_kernel() -> None:
    binaries = []
    for batch in (100, 7):
        ((kernel, _, arguments, options),) = launches(
            convolution(MIDDLE._replace(batch=batch), "forward", "bf16")
        )
        binaries.append(compile_for(SM_90, kernel, *arguments, **options).asm["cubin"])
    assert binaries[0] == binaries[1]


@functools.cache
def first_cases() -> dict[str, Case]:
    """Of the report's cases, the first that each shipped plan serves."""
    found: dict[str, Case] = {}
    for case in itertools.chain.from_iterable(source() for source in compile_report.SOURCES):
        seen: list[Decision] = []
        with set_in(decisions, seen):
            launches(case)
        for decision in seen:
            found.setdefault(decision.choice.key, case)
    return found


@pytest.mark.parametrize("key", plans.shipped().plans)
def test_the_kernels_of_every_shipped_plan_compile(key: str) -> None:
    found = list(report([first_cases()[key]]))
    assert key in {row.plan for row in found}
    assert [row.complaint for row in found] == [None] * len(found)


def test_traffic() -> None:
    ((kernel, programs, arguments, options),) = launches(convolution(MIDDLE, "forward", "bf16"))
    moved, floor = traffic(kernel, programs, arguments, options)
    image = weight_of_a_tap = 64 * 64 * 2  # bytes: 8×8 pixels of 64 channels, and 64 outputs of 64 channels
    assert moved == 100 * 9 * (image + weight_of_a_tap) + 100 * image
    assert floor == 100 * image + 9 * weight_of_a_tap + 64 * 2 + 100 * image


def test_traffic_of_a_stride() -> None:
    """A box for each tap, as without; of the image, what it is, however it is described."""
    ((kernel, programs, arguments, options),) = launches(convolution(Layer(64, 64, 16, stride=2), "forward", "bf16"))
    moved, floor = traffic(kernel, programs, arguments, options)
    result = weight_of_a_tap = 64 * 64 * 2
    assert moved == 100 * 9 * (result + weight_of_a_tap) + 100 * result
    assert floor == 100 * 4 * result + 9 * weight_of_a_tap + 64 * 2 + 100 * result


def test_traffic_of_nchw() -> None:
    """A box serves the three columns of a row of taps; grad_weight loads both images for each of nine taps."""
    image = weight_of_a_tap = 64 * 64 * 2
    ((kernel, programs, arguments, options),) = launches(convolution(MIDDLE, "forward", "bf16", "contiguous"))
    moved, _ = traffic(kernel, programs, arguments, options)
    assert moved == 100 * 3 * (image + 3 * weight_of_a_tap) + 100 * image
    (kernel, programs, arguments, options), _ = launches(convolution(MIDDLE, "grad_weight", "bf16", "contiguous"))
    moved, _ = traffic(kernel, programs, arguments, options)
    partial = programs // 9 * 64 * (9 * 64 + 1) * 4  # written once, by all programs together
    assert moved == 100 * 9 * 2 * image + partial


def test_what_spills_has_no_wgmma_or_loads_nothing_ahead_is_complained_about() -> None:
    main, reduction = rows(MIDDLE, "grad_weight", "bf16")
    assert main._replace(code=main.code._replace(spills=1)).complaint == "spills registers"
    assert main._replace(code=main.code._replace(matrix="mma")).complaint == "has no wgmma"
    waiting = main._replace(code=main.code._replace(asynchronous=NONE))
    assert (waiting.complaint, waiting.asynchronous) == ("has no asynchronous loads", NONE)
    assert waiting._replace(why_synchronous="one step").complaint is None
    assert reduction.code.matrix == "–"
    assert reduction.complaint is None


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "percent"),
    [
        (128, 0, 4, 25),  # 65536 registers hold 16 warps of 128
        (129, 0, 4, 18),  # 136 with the rounding: 15 warps, 3 programs
        (32, 0, 1, 50),  # 32 programs at most
        (32, 72 * 1024, 4, 18),  # 228 KB hold 3 programs of 73
        (16, 0, 8, 100),
    ],
)
def test_occupancy(registers: int, shared: int, warps: int, percent: int) -> None:
    assert occupancy(90, registers, shared, warps) == percent
