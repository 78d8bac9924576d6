"""The Triton kernels that load boxes of images in channels_last by the copy engine, from where the images lie or from a
copy. test_halo_nchw.py has those of NCHW."""

from __future__ import annotations

import pytest
import torch
from problems import DEVICE, HALO_CASES, LAYOUTS, Case, Problem, on_both

from myconv2d import reference
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


STRIDED = [
    Case("boxes divide", (2, 32, 8, 16), 64, (3, 3), (2, 2), (1, 1)),
    Case("boxes do not, blocks of 16 channels", (3, 48, 10, 6), 24, (3, 3), (2, 2), (1, 1)),
    Case("1x1", (1, 16, 6, 4), 16, (1, 1), (2, 2)),
    Case("1x1, wide padding", (1, 16, 4, 4), 16, (1, 1), (2, 2), (3, 2)),
    Case("5x5", (1, 16, 6, 8), 16, (5, 5), (2, 2), (2, 3)),
    Case("even kernel", (1, 16, 6, 8), 16, (2, 4), (2, 2), (0, 1)),
    Case("dilation", (1, 16, 8, 10), 16, (3, 3), (2, 2), (2, 3), (2, 2)),
    Case("dilation along an axis", (1, 16, 8, 8), 16, (3, 2), (2, 2), (0, 1), (1, 2)),
    Case("rows alone", (1, 24, 8, 5), 16, (3, 3), (2, 1), (1, 1)),
    Case("columns alone", (2, 80, 3, 8), 16, (3, 3), (1, 2), (1, 0)),
    Case("three and four", (1, 16, 9, 8), 16, (3, 5), (3, 4), (2, 3)),
    Case("a row of several boxes", (1, 16, 2, 272), 16, (1, 3), (2, 2), (0, 1)),
    Case("one result", (2, 16, 2, 2), 16, (2, 2), (2, 2)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", STRIDED, ids=lambda case: case.name)
def test_strided(case: Case, dtype: torch.dtype) -> None:
    if (why := kernels.unsupported(DEVICE, dtype)) is not None:
        pytest.skip(why)
    with set_in(tuning.decisions, []) as served:
        Problem(case, dtype, LAYOUTS["channels_last"]).check(allow_tf32=True)
    assert {decision.shape.kernel for decision in served} == {"halo", "grad_weight_halo"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_no_tap_reads_may_be_infinite() -> None:
    """Not even times zero: a block of 64 channels would hold these 48 and 16 of the next column."""
    problem = Problem(Case("1x1", (2, 48, 8, 8), 16, (1, 1), (2, 2)), torch.float16, LAYOUTS["channels_last"])
    problem.input[:, :, 1::2] = float("nan")
    problem.input[:, :, :, 1::2] = float("inf")
    with set_in(tuning.decisions, []) as served:
        problem.check()
    assert served[0].shape.kernel == "halo"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1), (1, 2)], ids=str)
def test_what_is_not_finite_spoils_what_reads_it(stride: tuple[int, int]) -> None:
    size = 8 * stride[0], 8 * stride[1]
    case = Case("not finite", (1, 48, *size), 16, (3, 3), stride, (1, 1))
    problem = Problem(case, torch.float16, LAYOUTS["channels_last"])
    problem.input[0, 47, 5, 6], problem.input[0, 0, 0, 0] = float("inf"), float("nan")
    problem.grad_output[0, 3, 2, 4] = float("nan")
    with set_in(tuning.decisions, []) as served:
        actual = problem.results(kernels, allow_tf32=True)
    assert {decision.shape.kernel for decision in served} == {"halo", "grad_weight_halo"}
    for result, truth in zip(actual, problem.results(reference, torch.Tensor.double), strict=True):
        assert torch.equal(result.isfinite(), truth.isfinite())
        assert not truth.isfinite().all()


def test_strided_boxes_read_nothing_beyond_their_images() -> None:
    """NaN in channels of other tensors between the columns, and in the pixels around."""

    def surround(tensor: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(tensor, (8, 8) * 4, value=float("nan"))
        return padded.contiguous(memory_format=torch.channels_last)[(slice(8, -8),) * 4]

    with set_in(tuning.decisions, []) as served:
        Problem(STRIDED[1], torch.float16, surround).check()
    assert {decision.shape.kernel for decision in served} == {"halo", "grad_weight_halo"}


@pytest.mark.parametrize(("edge", "copied"), [(5, True), (3, False)])
def test_a_strided_image_is_copied_if_that_pays(edge: int, copied: bool) -> None:
    """9 taps of stride 2 read a pixel 2.25 times, 25 read it 6.25 times."""
    case = Case("strided copy", (1, 32, 6, 8), 32, (edge, edge), (2, 2), (1, 1))
    with set_in(tuning.decisions, []) as served:
        Problem(case, torch.float16, LAYOUTS["permuted"]).check()
    kernels_of_images = {served[0].shape.kernel, served[-1].shape.kernel}
    assert kernels_of_images == ({"halo", "grad_weight_halo"} if copied else {"gather", "grad_weight_gather"})


STRIDES_REFUSED = {  # input, groups → what is against boxes
    ((1, 16, 7, 8), 1): "a stride of 2×2 does not divide 7×8 pixels",
    ((1, 16, 8, 7), 1): "a stride of 2×2 does not divide 8×7 pixels",
    ((1, 24, 8, 8), 1): "a stride of columns takes steps of 16 channels, and 24 are no whole ones",
    ((1, 32, 8, 8), 2): "boxes of groups have no stride",
}


@pytest.mark.parametrize(("size", "groups"), STRIDES_REFUSED, ids=str)
def test_strides_of_ordinary_loads(size: tuple[int, int, int, int], groups: int) -> None:
    case = Case("refused", size, 32, (3, 3), (2, 2), (1, 1), groups=groups)
    with set_in(tuning.decisions, []) as served:
        Problem(case, torch.float16, LAYOUTS["channels_last"]).check()
    forward, *grad_input, grad_weight = served
    assert [decision.shape.kernel for decision in (forward, grad_weight)] == ["gather", "grad_weight_gather"]
    assert {decision.shape.kernel for decision in grad_input} == {"halo"}
    assert {forward.note, grad_weight.note} == {STRIDES_REFUSED[size, groups]}


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
