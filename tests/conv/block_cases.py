"""Cases of the fused block, and the block composed of the framework's own functions, which it is held to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.block_cases import EPS, KINDS, UPSAMPLED, Case
from bench.block_check import BOUNDS, error, wide
from myconv2d import block_operators
from myconv2d.operators import overload

__all__ = ["BOUND", "CASES", "EPS", "KINDS", "NO_NORM", "NOT_KEPT", "ORDER", "OVERLOADS", "POSITIONS", "UPSAMPLED",
           "Case", "backward_arguments", "composed", "convolution", "error", "image", "operator", "wide"]  # fmt: skip
OVERLOADS = ["reference", *(["native"] if block_operators.unavailable() is None else [])]
BOUND = {torch.float64: 1e-11, torch.float32: BOUNDS["fp32"]}  # relative to the largest value
NO_NORM = None, None, None, None, 0.0  # of block_inference


# Pooled blocks whose convolution the native backend does not keep: each kind of feed, all numbers of channels, sizes
# with rows and columns that are not pooled, paddings of all kinds, bands that end in the middle of an image.
NOT_KEPT = [
    Case(("plain",), (1,), 32, size=(32, 32), batch=3, pool=True),
    Case(("affine",), (1,), 9, size=(7, 9), pool=True),
    Case(("plain",), (1,), 16, size=(5, 7), padding=(3, 2), bias=False, pool=True),
    Case(("both",), (2,), 19, size=(40, 18), pool=True),
    Case(("plain",), (3,), 27, size=(9, 6), padding=(0, 0), pool=True),
    Case(("both", "affine"), (3, 1), 44, size=(6, 50), batch=1, pool=True),
]
CASES = [
    *(Case((a,), (3,), norm=norm, pool=pool)
      for a in KINDS for norm, pool in ((False, False), (True, False), (True, True))),
    *(Case((a, b), (3, 2), bias=a != b, pool=i % 2 == 0) for i, a in enumerate(KINDS) for b in KINDS),
    *UPSAMPLED,
    Case(("both", "plain"), (3, 2), norm=False),
    Case(("affine",), (4,), size=(7, 9), pool=True),  # the last row and column are not pooled
    Case(("plain",), (4,), size=(5, 6), padding=(0, 0), pool=True),
    Case(("plain",), (1,), size=(9, 8), kernel=(5, 5), padding=(2, 2), pool=True),
    *NOT_KEPT,
    Case(("affine",), (2,), kernel=(2, 4), padding=(1, 2)),
    Case(("upsample",), (2,), kernel=(4, 1), padding=(0, 3), pool=True),
    Case(("affine",), (9,), 3, kernel=(1, 6), padding=(0, 2)),
    Case(("both", "affine"), (5, 3), 1, size=(14, 18), pool=True),
    Case(("affine",), (1,), 8, size=(9, 20), pool=True),
    Case(("plain",), (8,), 1, size=(7, 33), norm=False),
    Case(("both", "affine"), (17, 15), 24, size=(14, 12), pool=True),
    Case(("both", "affine"), (16, 16), 16, size=(16, 16)),
    Case(("affine",), (32,), 16, size=(8, 8), batch=3),
    Case(("both", "plain"), (24, 1), 24, size=(16, 16), norm=False),
    Case(("affine",), (8,), 8, size=(1, 1), batch=5),
    Case(("affine",), (8,), 8, size=(2, 3), pool=True, batch=1),
]  # fmt: skip
ORDER = (  # of the gradients of block_backward, among the arguments of block
    "input", "scale", "shift", "skip", "skip_scale", "skip_shift", "weight", "bias", "gamma", "beta"
)  # fmt: skip
POSITIONS = (0, 1, 2, 4, 5, 6, 8, 9, 11, 12)


def operator(name: str, suffix: str):
    """The operator on one backend; skips the test where that does not serve the weight."""
    call = overload(name, suffix)
    weight = {"block": 8, "block_backward": 11, "block_inference": 4}.get(name)
    if suffix != "native" or weight is None:
        return call

    def checked(*args):
        if (why_not := block_operators.problem("native", args[weight])) is not None:
            pytest.skip(why_not)
        return call(*args)

    return checked


def backward_arguments(suffix: str, args: tuple, wanted: list[bool]) -> tuple:
    """Arguments of block_backward after a forward pass, with random gradients."""
    raw, full, index, scale, shift, mean, var = operator("block", suffix)(*args)
    norm, pool = args[11] is not None, args[14]
    grads = (
        torch.randn_like(raw),
        *((torch.randn_like(scale), torch.randn_like(shift)) if norm else (None, None)),
    )
    statistics = (mean, var) if norm else (None, None)
    weight, bias, padding, gamma, _, eps, _ = args[8:]
    y = full if pool else raw
    after = eps, y, index, pool, bias is not None, wanted
    return *grads, *args[:8], weight, padding, gamma, *statistics, *after


def convolution(suffix: str, args: tuple, raw: Tensor, full: Tensor) -> Tensor:
    """What `block` convolved, which is raw or full; or, where it is not kept, what it is without pooling."""
    if not args[14]:
        return raw
    kept = suffix != "native" or block_operators.keeps_full(args[8])
    assert (full.numel() > 0) == kept
    return full if kept else operator("block", suffix)(*args[:14], False)[0]


def image(tensor: Tensor, scale: Tensor | None, shift: Tensor | None, upsample: bool) -> Tensor:
    if scale is not None:
        tensor = F.relu(tensor * scale[:, None, None] + shift[:, None, None])
    return F.interpolate(tensor, scale_factor=2, mode="nearest") if upsample else tensor


def composed(*args) -> Tensor:
    """convolution → batch norm → ReLU → max-pool in the framework's own functions; the arguments of `block`."""
    weight, bias, padding, gamma, beta, eps, pool = args[8:]
    x = image(*args[:4])
    if args[4] is not None:
        x = torch.cat((x, image(*args[4:8])), 1)
    y = F.conv2d(x, weight, bias, padding=padding)
    if gamma is None:
        return y
    y = F.relu(F.batch_norm(y, None, None, gamma, beta, training=True, eps=eps))
    return F.max_pool2d(y, 2) if pool else y
