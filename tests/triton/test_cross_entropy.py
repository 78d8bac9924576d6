"""Triton's cross-entropy against the framework's in float64: on the GPU if there is one, else in Triton's interpreter
if TRITON_INTERPRET=1 (test_interpreter.py runs this file so)."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_interpreter.py runs these in the interpreter", allow_module_level=True)

sys.path.append(str(Path(__file__).parents[1] / "conv"))

from losses import LAYOUTS, REDUCTIONS, problem  # noqa: E402

import myconv2d  # noqa: E402
from myconv2d import loss  # noqa: E402
from myconv2d.triton import cross_entropy, unsupported  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
BOUND = {torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of the gradient, which is at most 1


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def check(logits, target, reduction, ignore_index=-100):
    """The loss in float32, the gradient in the logits' type and strides; the same loss without a gradient."""
    if (why := unsupported(DEVICE, logits.dtype)) is not None:
        pytest.skip(why)
    logits, target = logits.to(DEVICE), target.to(DEVICE)
    found, gradient = cross_entropy(logits, target, REDUCTIONS_OF[reduction], ignore_index, gradient=True)
    alone, none = cross_entropy(logits, target, REDUCTIONS_OF[reduction], ignore_index, gradient=False)
    exact = logits.double().requires_grad_()
    exact_loss = F.cross_entropy(exact, target.long(), reduction=reduction, ignore_index=ignore_index)
    (exact_gradient,) = torch.autograd.grad(exact_loss.sum(), exact)
    assert found.dtype == torch.float32 and found.shape == exact_loss.shape and none is None
    assert gradient.dtype == logits.dtype and gradient.stride() == torch.empty_like(logits).stride()
    torch.testing.assert_close(found.double(), exact_loss, rtol=4e-6, atol=4e-6, equal_nan=True)
    scale = exact_gradient.nan_to_num(0).abs().max().item() if exact.numel() else 0.0
    bound = BOUND[logits.dtype] * scale + 1e-45
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=bound, equal_nan=True)
    assert torch.equal(alone.nan_to_num(-1), found.nan_to_num(-1))


INF, NAN = float("inf"), float("nan")
REDUCTIONS_OF = {"none": 0, "mean": 1, "sum": 2}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, reduction) -> None:
    logits, target = problem(24, (2, 9, 8))
    check(LAYOUTS[layout](logits), target, reduction)
    check(LAYOUTS[layout](logits), target.clamp(0).byte(), reduction)
    check(logits, target.transpose(1, 2).contiguous().transpose(1, 2), reduction)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(
    "classes, size", [(1, (1, 1, 1)), (2, (3, 1, 65)), (25, (1, 33, 31)), (313, (2, 5, 7)), (1024, (1, 2, 3))]
)
def test_classes_and_types(classes, size, dtype) -> None:
    logits, target = problem(classes, size)
    for reduction in REDUCTIONS:
        check(logits.to(dtype), target, reduction)
        check(LAYOUTS["channels_last"](logits.to(dtype)), target, reduction)


def test_many_pixels(monkeypatch) -> None:
    """More tiles than are added up at once, and more pixels than the programs count at once."""
    from myconv2d.triton import loss as module

    monkeypatch.setattr(module, "_AT_ONCE", 16)
    monkeypatch.setattr(module, "_COUNTERS", 2)
    check(*problem(24, (1, 60, 50)), "mean")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_does_not_count(reduction) -> None:
    """A class can be ignored; where nothing counts the mean is NaN and the gradient zero; also where nothing is."""
    logits, target = problem(5, (2, 4, 9), ignored=0)
    check(logits, target, reduction, ignore_index=3)
    check(logits, torch.full_like(target, 255), reduction, ignore_index=255)
    check(logits[:0], target[:0], reduction)


@pytest.mark.parametrize("values", [(88.0, -88.0), (1e30, -1e30), (-INF,), (INF,), (NAN,)], ids=str)
def test_extreme_logits(values) -> None:
    for value in values:
        logits, target = problem(4, (1, 3, 30))
        logits[torch.rand(logits.shape) < 0.15] = value
        logits[0, :, 1, 5] = value
        for reduction in REDUCTIONS:
            check(logits, target, reduction)


def test_a_class_that_there_is_not_is_seen() -> None:
    logits, target = (t.to(DEVICE) for t in problem(3, (1, 4, 4), ignored=0))
    for wrong in (3, 7, -1):
        target[0, 1, 2] = wrong
        found, gradient = cross_entropy(logits, target, 1, -100, gradient=True)
        assert found.isnan() and gradient[0, :, 1, 2].isnan().all() and gradient.isnan().sum() == 3


@pytest.fixture
def served(monkeypatch):
    """The public function's calls end in Triton's kernels, as they do on a GPU."""
    if INTERPRETED:
        monkeypatch.setattr(loss, "_has_kernel", lambda logits: True)
        monkeypatch.setattr(loss, "_WITH_GRADIENT", functools.partial(cross_entropy, gradient=True))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", BOUND)
def test_public_function(dtype, reduction, autocast, served) -> None:
    """The types of the framework's own: the loss has the logits', under autocast float32."""
    if (why := unsupported(DEVICE, dtype)) is not None:
        pytest.skip(why)
    logits, target = (t.to(DEVICE) for t in problem(24, (2, 9, 8)))
    found = []
    for f in (myconv2d.cross_entropy, F.cross_entropy):
        x = logits.to(dtype).requires_grad_()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            value = f(x, target, reduction=reduction)
        gradients = [torch.autograd.grad(3 * value.sum(), x, retain_graph=True)[0] for _ in range(2)]
        assert torch.equal(*gradients)
        found.append((value, gradients[0]))
    torch.testing.assert_close(*found, rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=1e-4)
