"""Triton's cross-entropy compiles for sm_90 without a GPU and spills nothing; its operators work on fake tensors."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("triton.language", reason="Triton is not installed")

from myconv2d.triton.interpreter import INTERPRETED

if INTERPRETED:
    pytest.skip("TRITON_INTERPRET=1: kernels are interpreted, not compiled", allow_module_level=True)

from myconv2d.triton import MOST_CLASSES, cross_entropy
from myconv2d.triton.compile_cases import Case, losses
from myconv2d.triton.compile_report import report


def test_the_handout_s_loss() -> None:
    found = list(report(losses()))
    assert [row.complaint for row in found] == [None] * len(found)
    assert [row.kernel for row in found] == ["count_kernel", "cross_entropy_kernel", "finish_kernel"] * 6


@pytest.mark.parametrize("classes", [3, MOST_CLASSES])
@pytest.mark.parametrize("reduction, gradient", [(0, False), (2, True)])
def test_other_numbers_of_classes(classes, reduction, gradient) -> None:
    logits = torch.empty((2, classes, 64, 64), device="meta")
    target = torch.empty((2, 64, 64), dtype=torch.uint8, device="meta")
    run = functools.partial(cross_entropy, logits, target, reduction, 0, gradient=gradient)
    case = Case("cross_entropy", f"{classes} classes", "fp32", "contiguous", run)
    assert [row.complaint for row in report([case]) if row.complaint] == []


def test_half_precision_on_fake_tensors() -> None:
    """The loss is float32, the gradient of the logits' type and strides."""
    logits = torch.empty((2, 24, 8, 8), dtype=torch.bfloat16, device="meta", memory_format=torch.channels_last)
    target = torch.empty((2, 8, 8), dtype=torch.int64, device="meta")
    loss, gradient = torch.ops.myconv2d.cross_entropy_with_gradient(logits, target, 1, -100)
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert gradient.dtype == torch.bfloat16 and gradient.stride() == logits.stride()
