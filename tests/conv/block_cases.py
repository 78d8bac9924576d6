"""Cases of the fused block, and the block composed of the framework's own functions, which it is held to."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from myconv2d import block_operators
from myconv2d.operators import overload

OVERLOADS = ["reference", *(["native"] if block_operators.unavailable() is None else [])]
# Relative to the largest value. float32: a few times that of Winograd's F(4×4, 3×3).
BOUND = {torch.float64: 1e-11, torch.float32: 2e-5}
EPS = 1e-3
NO_NORM = None, None, None, None, 0.0  # of block_inference


class Case(NamedTuple):
    """One or two feeds of `channels`, each plain, "affine", "upsample" or "both"; the image is `size` after that."""

    feeds: tuple[str, ...]
    channels: tuple[int, ...]
    out_channels: int = 5
    size: tuple[int, int] = (6, 8)
    kernel: tuple[int, int] = (3, 3)
    padding: tuple[int, int] = (1, 1)
    bias: bool = True
    norm: bool = True
    pool: bool = False
    batch: int = 2

    def __str__(self) -> str:
        flags = [name for name in ("bias", "norm", "pool") if getattr(self, name)]
        size = "{}x{}".format(*self.size)
        kernel = "{}x{}p{}{}".format(*self.kernel, *self.padding)
        return "-".join([*self.feeds, *map(str, self.channels), str(self.out_channels), size, kernel, *flags])

    def arguments(self, dtype: torch.dtype) -> tuple:
        """Of the operator `block`; gammas of both signs, one of them zero."""

        def vector(count):
            return torch.randn(count).to(dtype)

        def feed(kind, channels):
            upsample = kind in ("upsample", "both")
            pixels = [s // 2 if upsample else s for s in self.size]
            tensor = torch.randn(self.batch, channels, *pixels).to(dtype)
            affine = (vector(channels), vector(channels)) if kind in ("affine", "both") else (None, None)
            return tensor, *affine, upsample

        feeds = [feed(*pair) for pair in zip(self.feeds, self.channels, strict=True)]
        if len(feeds) == 1:
            feeds.append((None, None, None, False))
        weight = torch.randn(self.out_channels, sum(self.channels), *self.kernel).to(dtype)
        gamma, beta = (vector(self.out_channels), vector(self.out_channels)) if self.norm else (None, None)
        if self.norm:
            gamma[0] = 0
        bias = vector(self.out_channels) if self.bias else None
        return *feeds[0], *feeds[1], weight, bias, list(self.padding), gamma, beta, EPS, self.pool


KINDS = ("plain", "affine", "upsample", "both")
CASES = [
    *(Case((a,), (3,), norm=norm, pool=pool)
      for a in KINDS for norm, pool in ((False, False), (True, False), (True, True))),
    *(Case((a, b), (3, 2), bias=a != b, pool=i % 2 == 0) for i, a in enumerate(KINDS) for b in KINDS),
    Case(("both", "plain"), (3, 2), norm=False),
    Case(("affine",), (4,), size=(7, 9), pool=True),  # the last row and column are not pooled
    Case(("plain",), (4,), size=(5, 6), padding=(0, 0), pool=True),
    Case(("plain",), (1,), size=(9, 8), kernel=(5, 5), padding=(2, 2), pool=True),
    Case(("affine",), (2,), kernel=(2, 4), padding=(1, 2)),
    Case(("upsample",), (2,), kernel=(4, 1), padding=(0, 3), pool=True),
    Case(("affine",), (9,), 3, kernel=(1, 6), padding=(0, 2)),
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


def wide(args):
    """The same numbers in float64."""
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def error(ours: Tensor, truth: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert ours.shape == truth.shape
    if truth.numel() == 0:
        return 0.0
    return ((ours.double() - truth.double()).abs().max() / truth.abs().max().clamp(min=1e-3)).item()


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
