"""The fused blocks' kernels compile for sm_90 without a GPU, use the matrix units where they should, spill nothing."""

from __future__ import annotations

import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

pytest.importorskip("triton.language", reason="Triton is not installed")

from myconv2d.triton.interpreter import INTERPRETED

if INTERPRETED:
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, not compiled", allow_module_level=True)

from myconv2d import block_operators, triton
from myconv2d.operators import overload
from myconv2d.triton import block_forward, block_grad_input, block_grad_weight, tuning
from myconv2d.triton.block_cases import OPERATORS, UNET, BlockLayer, case
from myconv2d.triton.compile_report import Row, report
from myconv2d.triton.launch import intercept, set_in
from myconv2d.triton.plans import Plan
from myconv2d.triton.traffic import MOVED, traffic

FULL = BlockLayer((64,), 64, 8)


def rows(layer: BlockLayer, *operators: str, arithmetic: str) -> list[Row]:
    """Those of the kernels with products; nothing that is compiled gives a complaint."""
    found = list(report(case(layer, operator, arithmetic) for operator in operators))
    assert [row.complaint for row in found] == [None] * len(found)
    return [row for row in found if row.kernel in MOVED]


def launches(layer: BlockLayer, *operators: str) -> list[tuple]:
    seen: list[tuple] = []
    with set_in(intercept, lambda *launch: seen.append(launch)):
        for operator in operators:
            case(layer, operator, "bf16").run()
    return seen


@pytest.mark.parametrize("arithmetic", ["tf32", "bf16", "fp16"])
def test_boxes_by_the_copy_engine_and_wgmma(arithmetic: str) -> None:
    found = rows(FULL, "block", "block_backward", "block_inference", arithmetic=arithmetic)
    assert [row.code.matrix for row in found] == ["wgmma"] * 4
    for row in found:
        assert row.code.asynchronous.startswith("box") and " boxes" in row.plan, row


@pytest.mark.parametrize("operator", ["block", "block_inference"])
def test_boxes_are_worth_having(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer instructions a step than ordinary loads with the same plan."""
    with set_in(tuning.every, lambda shape: [Plan(64, 64, 64, 4, 3)]):
        (boxes,) = rows(FULL, operator, arithmetic="bf16")
        monkeypatch.setattr(block_forward, "why_not", lambda *arguments: "for comparison")
        (loads,) = rows(FULL, operator, arithmetic="bf16")
    assert boxes.code.asynchronous.startswith("box") and not loads.code.asynchronous.startswith("box")
    assert 0 < boxes.code.loop < loads.code.loop


@pytest.mark.parametrize(
    ("layer", "operator", "arithmetic"),
    [(UNET[4], "block", "tf32"), (UNET[1], "block_backward", "bf16"), (UNET[1], "block_backward", "tf32")], ids=str
)  # fmt: skip
def test_ordinary_loads_elsewhere(layer: BlockLayer, operator: str, arithmetic: str) -> None:
    """Both operands are computed as they are loaded, and still come by 16-byte copies while wgmma works."""
    for row in rows(layer, operator, arithmetic=arithmetic):
        assert row.code.matrix == "wgmma"
        copies = {int(a): int(b) for a, b in re.findall(r"(\d+) B × (\d+)", row.code.asynchronous)}
        # Triton 3.8 copies vectors (4 bytes) and the pool's index (8 bytes) this way too, in each of three stages.
        # An image in such pieces would take 12 of them in place of the fewest copies of 16 bytes, 6.
        assert copies[16] >= 6 and copies.pop(4, 0) <= 9 and copies.pop(8, 0) <= 3 and set(copies) == {16}, row


@pytest.mark.parametrize(
    ("layer", "arithmetic"),
    [(UNET[0], "tf32"), (UNET[4], "bf16"), (UNET[5], "tf32"), (UNET[6], "bf16")], ids=str
)  # fmt: skip
def test_other_blocks_use_tensor_cores_and_spill_nothing(layer: BlockLayer, arithmetic: str) -> None:
    found = rows(layer, "block", "block_backward", arithmetic=arithmetic)
    assert {row.code.matrix for row in found} <= {"wgmma", "mma"}


def test_strict_fp32_spills_nothing() -> None:
    found = rows(UNET[3], "block", "block_backward", arithmetic="fp32")
    assert {row.code.matrix for row in found} == {"fma"}


def test_elementwise_kernels_spill_nothing() -> None:
    assert rows(FULL, "activate", "activate_backward", arithmetic="bf16") == []


def test_launches() -> None:
    """As block.py says: of a block with two feeds, forward 2, backward 8, inference 1."""
    assert [kernel.__name__ for kernel, *_ in launches(UNET[3], *OPERATORS)] == [
        *("block_forward", "norm_finish"),
        *("norm_backward", "block_grad_input", "sum_tiles", "block_grad_input", "sum_tiles"),
        *("block_grad_weight", "block_grad_weight", "block_weight_reduce"),
        *("block_forward", "activate_kernel", "activate_backward_kernel", "sum_tiles"),
    ]


def test_traffic() -> None:
    """Of 64 channels at 8×8 and a batch of 100, in which a program has one image."""
    image = weight_of_a_tap = 64 * 64 * 2  # bytes
    (forward, _), (_, to_input, _, to_weight, _) = launches(FULL, "block"), launches(FULL, "block_backward")
    moved, floor = traffic(*forward)
    statistics = (3 * 64 + 1) * 100 * 4
    assert moved == 100 * 9 * (image + weight_of_a_tap) + 100 * image + statistics
    assert floor == 100 * image + 9 * weight_of_a_tap + 100 * image + 4 * 64 * 4  # scale, shift, bias, gamma
    moved, _ = traffic(*to_input)  # of y's gradient two images are read, of the feed one more, for the ReLU
    assert moved == 100 * (9 * (2 * image + weight_of_a_tap) + image) + 100 * image + 2 * 64 * 100 * 4
    kernel, programs, arguments, options = to_weight
    moved, _ = traffic(*to_weight)  # one tap a program
    splits = programs // 9
    partial = splits * 64 * 9 * 64 * 4
    per_split = dict(zip(kernel.arg_names, arguments, strict=False))["tiles_per_split"]
    assert moved == programs * per_split * 3 * image + partial


def test_64_bit_offsets_spill_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (block_forward, block_grad_input, block_grad_weight):
        monkeypatch.setattr(module, "needs_64_bit", lambda *tensors: True)
    found = rows(FULL, "block", "block_backward", arithmetic="bf16")
    assert [row.code.matrix for row in found] == ["wgmma"] * 3


def test_choice_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors that say they are on a GPU: triton by itself, native never, and in words why not."""
    monkeypatch.setattr(triton, "_unsupported_gpu", lambda: None)
    choose = block_operators.choose
    with FakeTensorMode():
        weight, x = (torch.empty(size, device="cuda") for size in ((8, 3, 5, 5), (2, 3, 8, 8)))
        vector = torch.empty(8, device="cuda")
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert choose(weight.to(dtype), x.to(dtype), vector) == ("triton", "first choice on cuda")
        assert "not torch.float64" in choose(weight.double(), x.double())[1]
        assert "on cuda:0 and on cpu" in choose(weight, torch.empty(2, 3, 8, 8))[1]
        assert "float32 on the CPU, not torch.float32 on cuda" in choose(weight, x, wanted="native")[1]
        assert choose(weight, x, wanted="reference") == (None, "backend 'reference' has no fused kernels")
        raw, full, index, *vectors = overload("block", "triton")(
            x, None, None, True, None, None, None, False, weight, vector, [2, 2], vector, vector, 1e-5, True
        )
        assert full.shape == (2, 8, 16, 16) and raw.shape == index.shape == (2, 8, 8, 8)
        assert raw.device.type == "cuda" and [v.shape for v in vectors] == [(8,)] * 4
    monkeypatch.setattr(triton, "_unsupported_gpu", lambda: "torch sees no CUDA device")
    with FakeTensorMode():
        assert choose(torch.empty(8, 3, 5, 5, device="cuda")) == (None, "torch sees no CUDA device")
