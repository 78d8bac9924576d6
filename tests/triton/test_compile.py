"""Every kernel compiles for sm_90 without a GPU, uses the matrix units where it should, spills nothing."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton.language", reason="Triton is not installed")

from myconv2d.triton.interpreter import INTERPRETED

if INTERPRETED:
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, not compiled", allow_module_level=True)

from myconv2d.triton import compile_report, gather, grad_weight
from myconv2d.triton.compile_report import OPERATORS, Layer, Row, report

MATRIX = {"tf32": "wgmma", "bf16": "wgmma", "fp16": "wgmma", "fp64": "mma", "fp32": "fma"}


def rows(operator: str, arithmetic: str, layer: Layer, memory_format=torch.channels_last) -> list[Row]:
    return list(report([layer], [operator], [arithmetic], memory_format))


@pytest.mark.parametrize("arithmetic", MATRIX)
@pytest.mark.parametrize("operator", OPERATORS)
def test_tensor_core_layer(operator: str, arithmetic: str) -> None:
    main, *reduction = rows(operator, arithmetic, Layer(64, 64, 8))
    assert main.matrix == MATRIX[arithmetic]
    assert main.asynchronous != "–"
    assert main.spills == 0
    assert [row.spills for row in reduction] == [0] * (operator == "grad_weight")


@pytest.mark.parametrize("arithmetic", ["tf32", "bf16"])
@pytest.mark.parametrize("layer", [Layer(1, 32, 32), Layer(25, 24, 32)], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_edge_layers_use_tensor_cores_and_spill_nothing(operator: str, layer: Layer, arithmetic: str) -> None:
    main = rows(operator, arithmetic, layer)[0]
    assert main.matrix in ("wgmma", "mma")
    assert main.spills == 0


@pytest.mark.parametrize("operator", OPERATORS)
def test_contiguous_tensors_spill_nothing(operator: str) -> None:
    main = rows(operator, "bf16", Layer(64, 64, 8), torch.contiguous_format)[0]
    assert main.matrix == "wgmma"
    assert main.spills == 0


@pytest.mark.parametrize("operator", OPERATORS)
def test_64_bit_offsets_spill_nothing(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gather, grad_weight):
        monkeypatch.setattr(module, "needs_64_bit", lambda *tensors: True)
    main = rows(operator, "bf16", Layer(64, 64, 8))[0]
    assert main.matrix == "wgmma"
    assert main.spills == 0


def test_24_channels_are_read_16_bytes_at_a_time() -> None:
    """24 is no multiple of 16, Triton's own unit of alignment: this is what Operand.unit is for."""
    main = rows("grad_input", "bf16", Layer(64, 24, 16))[0]
    assert main.asynchronous.startswith("16 B")
    assert "," not in main.asynchronous


def test_the_batch_size_is_not_part_of_the_kernel() -> None:
    """Batches that fill their blocks share one kernel, and all the others share another."""
    layer = Layer(32, 16, 8)
    binaries = [
        compile_report.compiled(
            "forward", layer._replace(batch=batch), torch.bfloat16, False, torch.channels_last
        )
        for batch in (100, 64, 7)
    ]
    assert binaries[0] == binaries[1] == binaries[2]  # 64 pixels an image: the blocks of 64 always divide
