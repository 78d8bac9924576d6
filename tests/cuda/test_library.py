"""What the compiler made of the CUDA kernels, read from the installed library once, and the reports that count their
launches; no GPU needed."""

from __future__ import annotations

import re

import pytest
import torch

import myconv2d.operators  # noqa: F401 (loads the libraries)
from myconv2d import cuda_code, cuda_gemm_report, cuda_report, native
from myconv2d.cuda_report import Layer, Row

if native.cuda.problem is not None:
    pytest.skip(native.cuda.problem, allow_module_level=True)
if cuda_code.cuobjdump() is None:
    pytest.skip("cuobjdump is neither in a CUDA toolkit nor in Triton's package", allow_module_level=True)

MATRIX = {
    "Bf16": "HMMA.16816.F32.BF16",
    "Fp16": "HMMA.16816.F32",
    "Tf32": "HMMA.1688.F32.TF32",
    "Fp64": "DMMA",
}
WGMMA = {"Bf16": "16.F32.BF16", "Fp16": "16.F32", "Tf32": "8.F32.TF32"}
FILTERS = 32, 64, 128  # of a block of the halo kernel
GEMM = Layer(64, 64, 8)
IMAGE, WEIGHT = 100 * 64 * 8 * 8, 64 * 64 * 9  # elements
HALO = re.compile(r"4haloINS0_4(\w{4})ELi(\d+)E")


def test_registers_and_shared_memory_suffice() -> None:
    kernels = cuda_code.dump("-res-usage")
    assert kernels
    for kernel, text in kernels.items():
        used = {name: int(n) for name, n in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}
        assert used["STACK"] == used["LOCAL"] == 0, f"{kernel} spills or keeps an array in local memory"
        if re.search(r"few_(in|out|grad_weight)I", kernel[1]):
            assert used["REG"] <= 128, f"{kernel}: two blocks of 256 threads no longer fit a multiprocessor"
        if HALO.search(kernel[1]):
            assert used["REG"] <= 128, f"{kernel}: a block of 512 threads no longer fits"
        assert used["REG"] <= 168, f"{kernel}: three blocks of 128 threads no longer fit a multiprocessor"
        assert used["SHARED"] <= 48 * 1024, kernel


def test_tensor_cores_where_they_belong() -> None:
    seen = set()
    for (architecture, name), sass in cuda_code.dump("-sass").items():
        matrix = set(re.findall(r"\b[HD]MMA[.\w]*", sass))
        if arithmetic := re.search(r"MmaTileINS0_4(\w{4})E", name):
            assert matrix, f"{name} for {architecture} does not use the tensor cores"
            assert all(instruction.startswith(MATRIX[arithmetic[1]]) for instruction in matrix)
            seen.add(arithmetic[1])
        else:
            assert not matrix, f"{name} for {architecture} must not round to TF32"
        if re.search(r"few_(in|out|grad_weight)I", name):
            assert "FFMA" in sass
            assert re.search(r"STG\.E\.128" if "few_inI" in name else r"LDG\.E\.128", sass), name
        elif "Tile" in name:
            assert "LDG.E" in sass and "STS.128" in sass
        assert not re.search(r"\b(LDL|STL)\b", sass), f"{name} for {architecture} uses local memory"
    assert seen == set(MATRIX)


def test_the_halo_kernel_keeps_the_tensor_cores_busy() -> None:
    """Nine products follow each other, waited for once; copies are asynchronous, results stored 16 bytes at a time."""
    seen = set()
    for (architecture, name), sass in cuda_code.dump("-sass").items():
        if (match := HALO.search(name)) is None:
            continue
        assert architecture == "sm_90a"
        arithmetic, filters = match.groups()
        products = re.findall(r"\bHGMMA\.[.\w]*", sass)
        assert products == [f"HGMMA.64x{filters}x{WGMMA[arithmetic]}"] * 9, name
        assert sass.count("WARPGROUP.DEPBAR") == 1, f"{name}: the compiler serialises the products"
        assert set(re.findall(r"\bLDGSTS[.\w]*", sass)) == {"LDGSTS.E.BYPASS.LTC128B.128"}
        assert "FENCE.VIEW.ASYNC" in sass
        assert set(re.findall(r"\bSTG[.\w]*", sass)) == {"STG.E.128"}
        seen.add((arithmetic, int(filters)))
    assert seen == {(arithmetic, filters) for arithmetic in WGMMA for filters in FILTERS}


def test_report_of_the_halo_kernel() -> None:
    layers = [Layer(64, 64, 32), Layer(128, 32, 8), Layer(64, 128, 32)]
    rows = list(cuda_report.report(layers))
    assert len(rows) == 3 * 2 * 3 and {row.arithmetic for row in rows} == {"tf32", "bf16", "fp16"}
    for row in rows:
        assert row.complaint is None and row.code.matrix == "wgmma" and row.code.loop > 9, row
        assert row.layout == "channels_last" and row.code.asynchronous.startswith("16 B"), row
        assert 0 < row.blocks <= 4 * 132 and row.code.shared <= 227 * 1024 and row.moved >= row.floor, row
    by_case = {(row.operator, row.layer, row.arithmetic): row for row in rows}
    wide = by_case["forward", layers[0], "bf16"]
    # 4 tiles of 16×16 an image read 17 rows and columns of them; 132 blocks all filters.
    assert wide.blocks == 132 and wide.kernel == "halo<Bf16, 64>"
    assert wide.moved == 2 * (100 * 34 * 34 * 64 + 132 * (9 * 64 * 64 + 64) + 100 * 32 * 32 * 64)
    # In fp32 the filters fit for half of the outputs at a time.
    assert by_case["forward", layers[2], "bf16"].kernel == "halo<Bf16, 128>"
    assert by_case["forward", layers[2], "tf32"].kernel == "halo<Tf32, 64>"


def test_report_of_the_kernels_for_few_channels() -> None:
    layers = [layer for layer in cuda_report.LAYERS if min(layer.channels, layer.outputs) <= 4]
    rows = list(cuda_report.report(layers))
    assert {row.kernel for row in rows} == {
        kernel
        for element in ("float", "__half", "__nv_bfloat16")
        for kernel in (
            *(f"few_in<{element}>", f"few_out<{element}, 1>"),
            *(f"few_out<{element}, 3>", f"few_grad_weight<{element}>"),
        )
    }
    assert {(row.operator, row.layer) for row in rows} == {
        (operator, layer) for operator in native.cuda.PASSES for layer in layers
    }
    for row in rows:
        assert row.code.spills == 0 and row.code.matrix == "fma" and row.code.loop > 0, row
        assert row.blocks > 0 and row.moved >= row.floor, row
        assert row.occupancy >= 25, row
        assert row.code.shared <= 99 * 1024, row
    forward = {(row.layer, row.arithmetic): row for row in rows if row.operator == "forward"}
    edge = forward[Layer(1, 32, 32), "fp32"]
    # 4 rectangles of 8 rows an image read 9, 10, 10 and 9 of them, and all filters each.
    assert edge.moved == 4 * (100 * 38 * 32 + 400 * (32 * 9 + 32) + 100 * 32 * 32 * 32)


def test_build_info_names_compiler_and_architectures() -> None:
    assert re.search(r"nvcc \d+\.\d+.* (80|90)", native.cuda.build_info())
    assert "90a-real" in native.cuda.build_info()


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built with CUDA")
def test_a_torch_without_cuda_gets_a_clear_error() -> None:
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    x, weight = torch.zeros(1, 2, 5, 5), torch.zeros(3, 2, 3, 3)
    with pytest.raises(RuntimeError, match="need a torch built with CUDA"):
        torch.ops.myconv2d.conv2d_cuda.default.redispatch(
            cuda, x, weight, None, [1, 1], [1, 1], [1, 1], 1, False
        )


def gemm_rows(arithmetic: str, layout: str, layer: Layer = GEMM) -> list[Row]:
    return list(cuda_gemm_report.report([(arithmetic, layout, layer)]))


def test_every_kernel_has_a_name_and_spills_nothing() -> None:
    found = cuda_code.kernels()
    tiles = {"SimtTile", "MmaTile<Tf32", "MmaTile<Bf16", "MmaTile<Fp16", "MmaTile<Fp64"}
    assert all(any(name.startswith(f"correlate<{tile}") for name in found) for tile in tiles)
    assert {"few_in<float>", "few_out<__half, 4>", "pack_filters<double>"} <= found.keys()
    assert not any(code.spills for code in found.values())


def test_launches_of_the_implicit_gemm_and_what_they_move() -> None:
    forward, packing, grad_input, partial, reduce = gemm_rows("bf16", "channels_last")
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
def test_the_implicit_gemm_s_layouts_classes_and_types(arithmetic: str) -> None:
    """In NCHW the filters are packed and no chunk is one load; a stride makes four classes of positions."""
    strided = Layer(64, 64, 16, stride=2)
    apart = [row.kernel for row in gemm_rows(arithmetic, "contiguous", strided)]
    assert [kernel.partition("<")[0] for kernel in apart] == [
        *("pack_filters", "correlate", "pack_filters", "correlate", "grad_weight_partial", "grad_weight_reduce")
    ]
    assert apart[1].endswith("false>")
    for row in gemm_rows(arithmetic, "channels_last", strided):
        assert row.complaint is None and row.moved >= row.floor > 0 and 0 < row.occupancy <= 100


def test_what_should_not_be_is_complained_about() -> None:
    row = gemm_rows("tf32", "channels_last")[0]
    assert row.complaint is None
    assert row._replace(code=row.code._replace(spills=1)).complaint == "spills registers"
    assert row._replace(code=row.code._replace(matrix="fma")).complaint == "has no mma"
