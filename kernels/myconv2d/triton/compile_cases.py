"""The convolutions that compile_report.py compiles: calls of the operators on meta tensors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from .explanation import operators
from .loss import cross_entropy

OPERATORS = ("forward", "grad_input", "grad_weight")
ARITHMETIC = {  # name → type, allow_tf32
    "tf32": (torch.float32, True),
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "fp64": (torch.float64, False),
}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Layer(NamedTuple):
    """A 3×3 convolution with padding 1: channels → outputs on images size × size."""

    channels: int
    outputs: int
    size: int
    batch: int = 100
    stride: int = 1

    def __str__(self) -> str:
        return f"{self.channels}→{self.outputs} @{self.size}" + (
            f" /{self.stride}" if self.stride > 1 else ""
        )


HANDOUT = (
    Layer(1, 32, 32), Layer(32, 64, 16), Layer(64, 64, 8), Layer(64, 32, 8), Layer(128, 32, 8),
    Layer(32, 3, 16), Layer(64, 24, 16), Layer(3, 3, 32), Layer(25, 24, 32), Layer(64, 64, 256, batch=1),
)  # fmt: skip
STRIDED = Layer(64, 64, 32, stride=2), Layer(64, 64, 16, stride=2)
ODD = Layer(64, 64, 31, stride=2), Layer(64, 64, 15, stride=2)  # no boxes: 2 does not divide the size


class Case(NamedTuple):
    """One call of one operator, on meta tensors unless another device was asked for: `run` launches its kernels."""

    operator: str
    task: str
    arithmetic: str
    layout: str
    run: Callable[[], object]
    matrix: tuple[str, ...] = ()  # the instructions of which kernels with products must use one; () for any


def convolution(
    layer: Layer, operator: str, arithmetic: str, layout: str = "channels_last", device: str = "meta"
) -> Case:
    dtype, allow_tf32 = ARITHMETIC[arithmetic]
    batch, size = layer.batch, layer.size

    def tensor(*size: int) -> torch.Tensor:
        drawn = torch.empty(size, dtype=dtype, device=device).normal_()
        return drawn.contiguous(memory_format=LAYOUTS[layout])

    input, weight = tensor(batch, layer.channels, size, size), tensor(layer.outputs, layer.channels, 3, 3)
    numbers = (layer.stride, layer.stride), (1, 1), (1, 1), 1
    run = operators(input, weight, numbers, allow_tf32)[operator]
    matrix = ("wgmma",) if arithmetic in ("tf32", "bf16", "fp16") else ()
    return Case(operator, str(layer), arithmetic, layout, run, matrix)


# In NCHW; the last but one has rows that are no whole units of 16 bytes.
NCHW = (
    *STRIDED, Layer(1, 32, 32), Layer(32, 64, 16), Layer(64, 64, 8), Layer(64, 24, 16), Layer(64, 64, 14),
    Layer(64, 64, 256, batch=1),
)  # fmt: skip


def convolutions() -> Iterator[Case]:
    """The handout's layers and four strided ones, channels_last; a few of each in NCHW and in float64."""
    four = "tf32", "fp32", "bf16", "fp16"
    for layout, layers, arithmetic in (
        ("channels_last", HANDOUT + STRIDED, four),
        ("channels_last", ODD, ("tf32", "bf16", "fp16")),  # strict fp32 has no boxes whatever the size
        ("contiguous", NCHW, ("tf32", "bf16")),
        ("channels_last", (Layer(64, 64, 8),), ("fp64",)),
    ):
        yield from itertools.starmap(convolution, itertools.product(layers, OPERATORS, arithmetic, (layout,)))


def losses() -> Iterator[Case]:
    """The handout's loss and its gradient, of 24 classes."""
    target = torch.empty((100, 32, 32), dtype=torch.int64, device="meta")
    for layout, arithmetic in itertools.product(LAYOUTS, ("fp32", "bf16", "fp16")):
        logits = torch.empty((100, 24, 32, 32), dtype=ARITHMETIC[arithmetic][0], device="meta")
        logits = logits.contiguous(memory_format=LAYOUTS[layout])
        run = functools.partial(cross_entropy, logits, target, 1, -100, gradient=True)
        yield Case("cross_entropy", "24 classes @32", arithmetic, layout, run)
