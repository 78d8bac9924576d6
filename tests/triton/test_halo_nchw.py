"""The Triton kernels of images in NCHW: from where the images lie, unless the plan wants a copy."""

from __future__ import annotations

import math

import pytest
import torch
from problems import DEVICE, LAYOUTS, Case, Problem

from myconv2d import triton as kernels
from myconv2d.triton import gemm, grad_weight, tuning
from myconv2d.triton.launch import set_in

BOXES = ["halo_nchw", "halo_nchw", "grad_weight_nchw"]
LOADS = ["gather", "gather", "grad_weight_gather"]
STRIDED = ["gather", *["halo_nchw"] * 4, "grad_weight_gather"]
CASES = [
    (Case("odd", (2, 24, 7, 8), 24, (3, 3), padding=(1, 1)), BOXES),
    (Case("several blocks", (1, 72, 2, 16), 72, (2, 3), padding=(0, 1)), BOXES),
    (Case("dilation, groups", (2, 48, 5, 16), 32, (2, 3), (1, 1), (1, 2), (2, 2), 2), BOXES),
    (Case("no padding", (1, 16, 4, 24), 16, (1, 2), padding=(0, 0), dilation=(1, 8)), BOXES),
    (Case("5x5", (1, 16, 6, 8), 16, (5, 5), padding=(2, 2)), BOXES),
    (Case("1x1", (3, 32, 4, 8), 64, (1, 1)), BOXES),
    (Case("a row of several boxes", (1, 16, 2, 264), 16, (1, 3), padding=(0, 1)), BOXES),
    (Case("… under one tap", (1, 16, 2, 264), 16, (1, 1)), BOXES),
    (Case("… under taps far apart", (1, 16, 2, 264), 16, (1, 3), padding=(0, 20), dilation=(1, 20)), BOXES),
    (Case("strided", (1, 16, 9, 16), 32, (3, 3), (2, 2), (1, 1)), STRIDED),
    (Case("strided, even", (2, 32, 8, 16), 32, (3, 3), (2, 2), (1, 1)), STRIDED),
    (Case("8 → 7 columns", (2, 32, 5, 8), 32, (2, 2), padding=(1, 0)), ["halo_nchw", "gather", "grad_weight_gather"]),
    (Case("7 → 8 columns", (2, 32, 5, 7), 32, (2, 2), padding=(1, 1)), ["gather", "halo_nchw", "grad_weight_gather"]),
    (Case("8 columns of taps", (1, 16, 2, 16), 16, (1, 9), padding=(0, 4)), LOADS),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("case", "served_by"), CASES, ids=lambda value: value.name if isinstance(value, Case) else ""
)
def test_in_place(
    case: Case, served_by: list[str], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image is copied, whatever its rows."""
    if (why := kernels.unsupported(DEVICE, dtype)) is not None:
        pytest.skip(why)
    for module in (gemm, grad_weight):
        monkeypatch.setattr(module, "padded", lambda images: pytest.fail("copied"))
    with set_in(tuning.decisions, []) as served:
        Problem(case, dtype).check(allow_tf32=True)
    assert [decision.shape.kernel for decision in served] == served_by


@pytest.mark.parametrize("name", ["odd", "7 → 8 columns", "strided, even"])
def test_of_a_copy_where_the_plan_wants_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case, _ in CASES if case.name == name)
    copies = []
    for module in (gemm, grad_weight):
        padded = module.padded
        monkeypatch.setattr(
            module, "padded", lambda images, padded=padded: copies.append(images) or padded(images)
        )

    def of_copies(shape) -> list:
        return [plan for plan in tuning.near(shape) if plan.copied]

    with set_in(tuning.every, of_copies):
        Problem(case, torch.float16).check(allow_tf32=True)
    assert len(copies) == 1 + math.prod(case.stride) + 2


def test_images_laid_out_differently_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_weight, "padded", lambda images: pytest.fail("copied"))
    problem = Problem(CASES[0][0], torch.float16)
    problem.grad_output = LAYOUTS["channels_last"](problem.grad_output)
    with set_in(tuning.decisions, []) as served:
        problem.check(allow_tf32=True)
    assert [decision.shape.kernel for decision in served] == ["halo_nchw", "halo", "grad_weight_gather"]
    assert served[-1].note == "the two images are laid out differently"


def test_boxes_read_nothing_beyond_their_images() -> None:
    """NaN around what the copy engine loads: channels of other tensors, and pixels beyond the edge."""

    def surround(tensor: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (8, 8) * 4, value=float("nan"))[(slice(8, -8),) * 4]

    with set_in(tuning.decisions, []) as served:
        Problem(CASES[0][0], torch.float16, surround).check()
    assert [decision.shape.kernel for decision in served] == BOXES
