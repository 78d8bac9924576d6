"""The implicit GEMM's launches as cuda_gemm_report.py counts them, and every kernel of the library; no GPU needed."""

from __future__ import annotations

import pytest

import myconv2d.operators  # noqa: F401 (loads the libraries)
from myconv2d import cuda_code, cuda_gemm_report, native
from myconv2d.cuda_report import Layer, Row

if native.cuda.problem is not None:
    pytest.skip(native.cuda.problem, allow_module_level=True)
if cuda_code.cuobjdump() is None:
    pytest.skip("cuobjdump is neither in a CUDA toolkit nor in Triton's package", allow_module_level=True)

LAYER = Layer(64, 64, 8)
IMAGE, WEIGHT = 100 * 64 * 8 * 8, 64 * 64 * 9  # elements


def rows(arithmetic: str, layout: str, layer: Layer = LAYER) -> list[Row]:
    return list(cuda_gemm_report.report([(arithmetic, layout, layer)]))


def test_every_kernel_has_a_name_and_spills_nothing() -> None:
    found = cuda_code.kernels()
    tiles = {"SimtTile", "MmaTile<Tf32", "MmaTile<Bf16", "MmaTile<Fp16", "MmaTile<Fp64"}
    assert all(any(name.startswith(f"correlate<{tile}") for name in found) for tile in tiles)
    assert {"few_in<float>", "few_out<__half, 4>", "pack_filters<double>"} <= found.keys()
    assert not any(code.spills for code in found.values())


def test_launches_and_what_they_move() -> None:
    forward, packing, grad_input, partial, reduce = rows("bf16", "channels_last")
    assert (forward.kernel, forward.operator) == ("correlate<MmaTile<Bf16, 128, 64>, true>", "forward")
    # 50 blocks of 128 pixels × 64 filters: 9 taps × 64 channels × 192 rows each, 2 bytes an element
    assert (forward.blocks, forward.moved) == (50, 50 * 9 * 64 * 192 * 2 + (IMAGE + 64) * 2)
    assert forward.floor == (2 * IMAGE + WEIGHT + 64) * 2
    assert (packing.kernel, packing.moved) == ("pack_filters<__nv_bfloat16>", 2 * WEIGHT * 2)
    assert grad_input.moved == forward.moved - 64 * 2
    splits = partial.blocks // 9  # 9 tiles of 64 taps·channels × 64 outputs
    assert partial.moved == 9 * IMAGE * 2 * 2 + splits * (WEIGHT + 64) * 4
    assert reduce.moved == splits * (WEIGHT + 64) * 4 + (WEIGHT + 64) * 2
    assert {row.code.matrix for row in (forward, grad_input, partial)} == {"mma"}


@pytest.mark.parametrize("arithmetic", cuda_gemm_report.ARITHMETIC)
def test_layouts_classes_and_types(arithmetic: str) -> None:
    """In NCHW the filters are packed and no chunk is one load; a stride makes four classes of positions."""
    strided = Layer(64, 64, 16, stride=2)
    apart = [row.kernel for row in rows(arithmetic, "contiguous", strided)]
    assert [kernel.partition("<")[0] for kernel in apart] == [
        *("pack_filters", "correlate", "pack_filters", "correlate", "grad_weight_partial", "grad_weight_reduce")
    ]
    assert apart[1].endswith("false>")
    for row in rows(arithmetic, "channels_last", strided):
        assert row.complaint is None and row.moved >= row.floor > 0 and 0 < row.occupancy <= 100


def test_what_should_not_be_is_complained_about() -> None:
    row = rows("tf32", "channels_last")[0]
    assert row.complaint is None
    assert row._replace(code=row.code._replace(spills=1)).complaint == "spills registers"
    assert row._replace(code=row.code._replace(matrix="fma")).complaint == "has no mma"
