"""The fused blocks' Triton kernels where the copy engine loads what they read: on the GPU if there is one, else in
Triton's interpreter if TRITON_INTERPRET=1 (test_interpreter.py runs this file so). test_block.py has every kind of
block, most of them of few channels.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_interpreter.py runs these in the interpreter", allow_module_level=True)

from bench import block_check  # noqa: E402
from bench.block_cases import Case  # noqa: E402
from bench.block_check import BOUNDS, wide  # noqa: E402
from bench.precision import PRECISIONS  # noqa: E402
from colourize.precision import tf32_products  # noqa: E402
from myconv2d import block_reference  # noqa: E402
from myconv2d import triton as kernels  # noqa: E402
from myconv2d.operators import overload  # noqa: E402
from myconv2d.triton import plans, tuning  # noqa: E402
from myconv2d.triton.halo import BOXES  # noqa: E402
from myconv2d.triton.launch import set_in  # noqa: E402
from myconv2d.triton.plans import Choice, Plan  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
ENLARGED, POOLED = "a feed is enlarged", "the gradient is pooled"
UNITS, FEW = "channels or strides are not whole units of 16 bytes", "3 channels do not fill a step of 16"

# What is against boxes in forward, grad_input and grad_weight.
CASES = {
    Case(("plain",), (16,), 24, size=(3, 5), norm=False, batch=1): (None, None, None),
    Case(("affine",), (24,), 16, size=(3, 4), pool=True, batch=1): (None, POOLED, POOLED),
    Case(("affine",), (32,), 16, size=(1, 3), kernel=(1, 3), padding=(0, 1), batch=5): (None, None, None),
    Case(("plain", "affine"), (24, 16), 16, size=(4, 3), kernel=(3, 1), padding=(1, 0), batch=1): (None, None, None),
    Case(("both", "affine"), (16, 24), 16, size=(2, 4), kernel=(1, 1), padding=(0, 0)): (ENLARGED, None, ENLARGED),
    Case(("affine", "plain"), (16, 3), 3, size=(5, 4), batch=1): (FEW, FEW, FEW),
    Case(("affine",), (16,), 16, size=(6, 5), padding=(0, 0), bias=False, batch=1): (None, None, None),
    Case(("affine",), (16,), 16, size=(3, 4), kernel=(2, 4), padding=(3, 2), batch=1): (None, None, None),
    Case(("plain",), (18,), 18, size=(3, 4), kernel=(1, 3), padding=(0, 1), batch=1): (UNITS, UNITS, UNITS),
}  # fmt: skip


@pytest.mark.parametrize("arithmetic", ["tf32", "fp16", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators(case: Case, arithmetic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the reference in float64, and loaded as they should be. (The interpreter keeps all bits of TF32.)"""
    if (why := kernels.unsupported(DEVICE, PRECISIONS[arithmetic].dtype)) is not None:
        pytest.skip(why)
    if INTERPRETED:
        monkeypatch.setitem(BOUNDS, "tf32", BOUNDS["fp32"])
    with set_in(tuning.decisions, []) as served:
        report = block_check.check(case, arithmetic, "triton", DEVICE, repeats=1)
    assert report.passed, report
    against = dict(zip(("block_forward", "block_grad_input", "block_grad_weight"), CASES[case], strict=True))
    for shape, _, note in served:
        obstacle = against[shape.kernel]
        assert note == f"fused, {BOXES}" if obstacle is None else note == f"fused, ordinary loads: {obstacle}"
        assert shape.layout == ("boxes" if obstacle is None else "channels_last")


@pytest.mark.parametrize(
    "plan", [Plan(16, 16, 16, 1, 1), Plan(64, 32, 16, 4, 2), Plan(256, 16, 32, 8, 3)], ids=str
)
def test_any_plan_gives_the_right_results(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "find", lambda shape, gpu: Choice(plan, "", ""))
    case = Case(("affine", "plain"), (24, 16), 18, size=(3, 5), kernel=(1, 2), padding=(0, 1), batch=1)
    assert block_check.check(case, "fp16", "triton", DEVICE, repeats=1).passed


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("kind", ["plain", "affine"])
def test_what_is_not_finite_goes_where_it_should(kind: str, value: float) -> None:
    """And nowhere else: what is outside a picture, a tile or a feed meets nothing."""
    torch.manual_seed(0)
    case = Case((kind,), (24,), 24, size=(5, 6), norm=False, bias=True)
    args = list(case.arguments(torch.float32))
    args[0][0, 3, 4, 5] = args[0][1, 0, 0, 2] = value  # a corner and an edge
    if kind == "affine":
        args[1].abs_()
        args[2][7] = value  # a channel whose activation is nowhere finite
    grad = torch.randn(2, 24, 5, 6)
    grad[0, 5, 4, 0] = grad[1, 2, 3, 5] = value
    forward = *args[:10], [1, 1], None, None, 0.0, False
    backward = (
        grad,
        None,
        None,
        *args[:9],
        [1, 1],
        None,
        None,
        None,
        0.0,
        grad,
        torch.empty(0, dtype=torch.uint8),
    )
    backward = *backward, False, True, [True, False, True]
    with tf32_products(True):
        for name, given in (("block", forward), ("block_backward", backward)):
            on_device = (a.to(DEVICE) if isinstance(a, Tensor) else a for a in given)
            exact = getattr(block_reference, name)(*wide(given))
            for ours, truth in zip(overload(name, "triton")(*on_device), exact, strict=True):
                assert torch.equal(ours.cpu().isfinite(), truth.isfinite())
