"""What the tests of cross_entropy share: logits and targets, in any layout."""

from __future__ import annotations

import pytest
import torch

from myconv2d import native

needs_native = pytest.mark.skipif(native.cpu.problem is not None, reason=str(native.cpu.problem))
LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "sliced": lambda t: torch.cat([t, t], 3)[..., 1 : 2 * t.shape[3] : 2],
    "some of the classes": lambda t: torch.cat([t, t], 1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)[:, ::2],
    "expanded": lambda t: t[:1, :, :1].expand(t.shape),
}  # fmt: skip
REDUCTIONS = ["mean", "sum", "none"]


def problem(classes, size, ignored=0.2, spread=3.0):
    """Logits (N, classes, H, W), and a target (N, H, W) of which a share is ignored."""
    n, h, w = size
    target = torch.randint(classes, (n, h, w))
    target[torch.rand(n, h, w) < ignored] = -100
    return torch.randn(n, classes, h, w) * spread, target
