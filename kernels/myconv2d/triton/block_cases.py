"""The fused blocks' operators that compile_report.py compiles: those of the UNet's blocks, on meta tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from . import block, block_statistics
from .compile_cases import ARITHMETIC, Case

OPERATORS = ("block", "block_backward", "block_inference", "activate", "activate_backward")


class BlockLayer(NamedTuple):
    """A 3×3 block; `channels` and `enlarged` of each feed, which has scale and shift unless it has 1 channel."""

    channels: tuple[int, ...]
    outputs: int
    size: int  # of the image that is convolved
    enlarged: tuple[bool, ...] = (False, False)
    norm: bool = True
    pool: bool = False
    batch: int = 100

    def __str__(self) -> str:
        feeds = "+".join(f"{c}{'↑' if up else ''}" for c, up in zip(self.channels, self.enlarged, strict=False))
        return f"{feeds}→{self.outputs}{'↓' if self.pool else ''} @{self.size}"


UNET = (
    BlockLayer((1,), 32, 32, pool=True), BlockLayer((32,), 64, 16, pool=True), BlockLayer((64,), 64, 8),
    BlockLayer((64, 64), 32, 8), BlockLayer((32, 32), 24, 16, (True, False)),
    BlockLayer((24, 1), 24, 32, (True, False), norm=False), BlockLayer((32,), 3, 32, (True,)),
)  # fmt: skip


def blocks() -> Iterator[Case]:
    """Every operator of the UNet's blocks in every type that they take, and the update of the running statistics."""
    for layer, operator, arithmetic in itertools.product(UNET, OPERATORS, ("tf32", "fp32", "bf16", "fp16")):
        if layer.norm or not operator.startswith("activate"):
            yield case(layer, operator, arithmetic)
    yield Case("update", "64", "fp32", "", _update)


def case(layer: BlockLayer, operator: str, arithmetic: str, device: str = "meta") -> Case:
    matrix = () if arithmetic == "fp32" else ("wgmma", "mma")
    run = _calls(layer, arithmetic, device)[operator]
    return Case(operator, str(layer), arithmetic, "channels_last", run, matrix)


def _calls(layer: BlockLayer, arithmetic: str, device: str) -> dict[str, Callable[[], object]]:
    """The operators by name, on random tensors."""
    dtype, allow_tf32 = ARITHMETIC[arithmetic]
    options = {"allow_tf32": allow_tf32}

    def vectors(channels: int, count: int) -> list[torch.Tensor]:
        return [torch.empty(channels, device=device).uniform_(0.5, 1.5) for _ in range(count)]  # a variance is positive

    def image(channels: int, size: int) -> torch.Tensor:
        sizes = layer.batch, channels, size, size
        return torch.empty(sizes, dtype=dtype, device=device, memory_format=torch.channels_last).normal_()

    feeds = []
    for channels, enlarged in zip(layer.channels, layer.enlarged, strict=False):
        affine = vectors(channels, 2) if channels > 1 else (None, None)
        feeds += image(channels, layer.size // 2 if enlarged else layer.size), *affine, enlarged
    feeds += [None, None, None, False][: 4 * (2 - len(layer.channels))]
    tensors = feeds[0], feeds[3], feeds[4], feeds[7]
    weight = torch.empty(layer.outputs, sum(layer.channels), 3, 3, dtype=dtype, device=device).normal_()
    bias, gamma, beta, mean, var = vectors(layer.outputs, 5)
    eps, padding, affine = 1e-5, (1, 1), (bias, bias)
    if not layer.norm:
        gamma = beta = mean = var = None
    y, small = image(layer.outputs, layer.size), image(layer.outputs, layer.size // 2)
    window = torch.empty_like(small, dtype=torch.uint8).random_(4)
    raw, index = (small, window) if layer.pool else (y, y.new_empty(0, dtype=torch.uint8))
    wanted = [layer.channels[0] > 1, layer.channels[1:] > (1,), True]
    return {
        "block": lambda: block.block(*feeds, weight, bias, padding, gamma, beta, eps, layer.pool, **options),
        "block_backward": lambda: block.block_backward(
            raw, *affine, *feeds, weight, padding, gamma, mean, var, eps, y, index, layer.pool, True, wanted, **options
        ),
        "block_inference": lambda: block.block_inference(
            *tensors, weight, bias, padding, gamma, beta, mean, var, eps, True, layer.pool, **options
        ),
        "activate": lambda: block.activate(raw, *affine, False),
        "activate_backward": lambda: block.activate_backward(raw, raw, *affine, False),
    }


def _update() -> None:
    batches = torch.empty((), dtype=torch.int64, device="meta")
    vectors = (torch.empty(64, device="meta") for _ in range(4))
    block_statistics.update(*vectors, batches, 0.1, 1.0)
