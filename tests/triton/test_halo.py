"""The Triton kernels that load boxes of images in channels_last by the copy engine, from where the images lie or from a
copy. test_halo_nchw.py has those of NCHW."""

from __future__ import annotations

import pytest
import torch
from problems import DEVICE, HALO_CASES, LAYOUTS, Case, Problem, on_both

from myconv2d import triton as kernels
from myconv2d.triton import tuning
from myconv2d.triton.launch import set_in


@pytest.mark.parametrize(
    ("case", "layout", "dtype"), on_both(HALO_CASES, [torch.float32, torch.float16, torch.bfloat16])
)
def test_halo(case: Case, layout: str, dtype: torch.dtype) -> None:
    if (why := kernels.unsupported(DEVICE, dtype)) is not None:
        pytest.skip(why)
    with set_in(tuning.decisions, []) as served:
        Problem(case, dtype, LAYOUTS[layout]).check(allow_tf32=True)
    if layout == "channels_last" and case.stride == (1, 1):
        assert {decision.shape.kernel for decision in served} == {"halo", "grad_weight_halo"}


UNITS = "channels or strides are not whole units of 16 bytes"
COPIES = {  # layout, channels of each group, taps, padding → what is against boxes from where the images lie
    ("channels_last", 25, (2, 2), (1, 0)): UNITS,
    ("channels_last", 25, (1, 2), (0, 0)): UNITS,
    ("channels_last", 32, (2, 2), (1, 0)): None,
    ("permuted", 32, (2, 2), (1, 0)): "neither channels nor columns are innermost",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("copied", COPIES, ids=str)
def test_halo_of_a_copy(copied: tuple, groups: int, dtype: torch.dtype) -> None:
    """Images that lie wrong are copied, if they are read often enough. (The interpreter, too, refuses boxes that begin
    off 16 bytes.)"""
    layout, channels, taps, padding = copied
    against = COPIES[copied]
    case = Case("copied", (2, channels * groups, 5, 8), 32 * groups, taps, padding=padding, groups=groups)
    with set_in(tuning.decisions, []) as served:
        Problem(case, dtype, LAYOUTS[layout]).check(allow_tf32=True)
    forward, _, grad_weight = served
    boxes, often = "boxes by the copy engine", taps[0] * taps[1] >= 4
    assert forward.note == (boxes if against is None else f"{boxes}, from a copy: {against}" if often else against)
    assert (forward.shape.kernel == "halo") == (against is None or often)
    assert (grad_weight.shape.kernel == "grad_weight_halo") == (against is None or (often and channels >= 32))
