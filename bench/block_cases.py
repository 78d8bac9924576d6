"""Small, odd cases of the fused block's operators: every kind of feed, and sizes that no tile divides."""

from __future__ import annotations

from typing import NamedTuple

import torch

EPS = 1e-3
KINDS = ("plain", "affine", "upsample", "both")


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


UPSAMPLED = (  # what the CPU computes at the low resolution, and its neighbours that it does not
    Case(("both",), (24,), 24, size=(6, 10)),
    Case(("upsample",), (24,), 40, size=(8, 8), norm=False),
    Case(("both", "affine"), (24, 1), 24, size=(14, 18), pool=True, batch=1),
    Case(("upsample", "plain"), (24, 2), 9, size=(16, 16), norm=False),
    Case(("both", "affine"), (40, 3), 40, size=(16, 8), batch=1),
    Case(("affine", "both"), (2, 24), 24, size=(8, 24), batch=1),
    Case(("both", "upsample"), (9, 5), 16, size=(8, 8), bias=False, pool=True),
    Case(("both",), (24,), 24, size=(2, 2)),
    Case(("both", "plain"), (24, 3), 3, size=(8, 8)),
)
CASES = (
    *UPSAMPLED,
    *(Case((kind,), (3,), norm=norm, pool=pool)
      for kind in KINDS for norm, pool in ((False, False), (True, False), (True, True))),
    *(Case((KINDS[i % 4], KINDS[(i + 1 + i // 4) % 4]), (3, 2), bias=i % 2 == 0, pool=i % 3 == 0) for i in range(8)),
    Case(("affine",), (4,), size=(7, 9), pool=True),  # the last row and column are not pooled
    Case(("plain",), (4,), size=(5, 6), padding=(0, 0), pool=True),
    Case(("plain",), (1,), 1, size=(9, 8), kernel=(5, 5), padding=(2, 2), pool=True),
    Case(("both",), (1,), 9, size=(8, 10), pool=True),  # the convolution need not be kept
    Case(("affine",), (2,), kernel=(2, 4), padding=(1, 2)),
    Case(("upsample",), (2,), kernel=(4, 1), padding=(0, 3), pool=True),
    Case(("affine",), (32,), 16, size=(4, 6), kernel=(1, 1), padding=(0, 0)),  # no halo
    Case(("both", "plain"), (24, 1), 3, size=(6, 4), norm=False),
    Case(("affine", "both"), (16, 24), 24, size=(4, 4), pool=True, batch=1),
    Case(("affine",), (5,), 40, size=(4, 4), batch=3),  # two blocks of outputs
    Case(("both",), (20,), 3, size=(18, 4), pool=True, batch=1),  # tall: several tiles, one of them in part
    Case(("affine",), (8,), 8, size=(1, 1), batch=5),
)  # fmt: skip
BY_NAME = {str(case): case for case in CASES}
