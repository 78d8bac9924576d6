"""Convolutions for the Triton kernels, their operands, and the fp64 oracle: on the GPU if there is one, in Triton's
interpreter if TRITON_INTERPRET=1 (test_interpreter.py runs the files so, in processes of their own); otherwise the
tests that import this are left out.

Tolerances are bounds, not experience: |error| ≤ terms · 2ε · Σ|a·b| + half a unit in the result's last place.
"""

from __future__ import annotations

import itertools
import os
from typing import NamedTuple

import pytest
import torch

from myconv2d import reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_interpreter.py runs these in the interpreter", allow_module_level=True)

from myconv2d import triton as kernels  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"


class Case(NamedTuple):
    name: str
    input: tuple[int, int, int, int]
    outputs: int
    taps: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


CASES = [
    Case("odd", (2, 3, 7, 6), 5, (3, 3), padding=(1, 1)),
    Case("blocks divide", (1, 32, 8, 8), 16, (3, 3), padding=(1, 1)),
    Case("several blocks of channels", (1, 70, 4, 3), 36, (2, 1)),
    Case("one channel", (2, 1, 9, 8), 3, (3, 3), padding=(1, 1)),
    Case("even kernel, wide padding", (1, 4, 6, 5), 4, (2, 4), padding=(4, 3)),
    Case("kernel as large as image", (2, 3, 5, 4), 6, (5, 4)),
    Case("1x1", (2, 20, 5, 7), 18, (1, 1)),
    Case("1x1 image, deep batch", (70, 5, 1, 1), 3, (1, 1)),
    Case("flat image", (1, 2, 1, 37), 3, (1, 5), padding=(0, 2)),
    Case("stride, dilation, groups", (1, 20, 9, 7), 18, (3, 2), (2, 3), (1, 0), (1, 2), 2),
    Case("stride beyond the kernel", (2, 3, 11, 10), 4, (3, 2), (4, 3), (1, 0)),
    Case("stride and dilation share a factor", (1, 3, 13, 12), 4, (3, 3), (4, 2), (2, 3), (2, 4)),
    Case("depthwise", (2, 6, 8, 7), 6, (3, 3), (2, 1), (2, 1), (2, 1), 6),
    Case("depthwise multiplier", (1, 3, 6, 6), 9, (3, 3), padding=(1, 1), groups=3),
    Case("many pixels", (2, 4, 17, 12), 4, (3, 3), padding=(1, 1)),
]
LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "every second": lambda t: t.repeat_interleave(2, 1).repeat_interleave(2, 3)[:, ::2, :, ::2],
    "inner slice": lambda t: torch.nn.functional.pad(t, (1, 2, 2, 1, 1, 3))[:, 1:-3, 2:-1, 1:-2],
}


# What the halo kernels serve, and what is just beyond: 16 channels or more, and rows on 16-byte boundaries.
HALO_CASES = [
    Case("halo: odd image", (2, 24, 7, 5), 24, (3, 3), padding=(1, 1)),
    Case("halo: boxes divide", (2, 32, 4, 16), 64, (3, 3), padding=(1, 1)),
    Case("halo: several blocks of channels and outputs", (1, 72, 2, 8), 72, (1, 2), padding=(0, 1)),
    Case("halo: deep batch", (5, 16, 2, 4), 16, (1, 1)),
    Case("halo: even kernel, dilation, groups", (2, 48, 5, 8), 32, (2, 2), (1, 1), (1, 2), (2, 1), 2),
    Case("halo: strided", (2, 16, 9, 16), 32, (3, 3), (2, 2), (1, 1)),
    Case("halo: a row of several boxes", (1, 16, 2, 136), 16, (1, 3), padding=(0, 1)),
]


class Problem:
    """Operands of one case in one type and layout, and the three results by a given implementation."""

    def __init__(self, case: Case, dtype: torch.dtype, layout=LAYOUTS["contiguous"]) -> None:
        generator = torch.Generator().manual_seed(0)

        def random(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)

        channels = case.input[1]
        self.geometry = case.stride, case.padding, case.dilation, case.groups
        self.input = layout(random(*case.input))
        self.weight = layout(random(case.outputs, channels // case.groups, *case.taps))
        self.bias = random(case.outputs)
        output = reference.conv2d(self.input, self.weight, None, *self.geometry)
        self.grad_output = layout(random(*output.shape))
        group_outputs, taps = case.outputs // case.groups, case.taps[0] * case.taps[1]
        pixels = output[:, 0].numel()
        self.terms = channels // case.groups * taps + 1, group_outputs * taps, pixels, pixels

    def results(self, operators, of=lambda tensor: tensor, **options) -> tuple[torch.Tensor, ...]:
        """output, grad_input, grad_weight, grad_bias, of the operands after `of`."""
        input, weight, bias, grad_output = map(of, (self.input, self.weight, self.bias, self.grad_output))
        return (
            operators.conv2d(input, weight, bias, *self.geometry, **options),
            operators.conv2d_grad_input(grad_output, weight, input.shape, *self.geometry, **options),
            *operators.conv2d_grad_weight(grad_output, input, weight.shape, *self.geometry, True, **options),
        )

    def check(self, allow_tf32: bool = False) -> None:
        """`allow_tf32`: products with 10 bits of each factor on a GPU; the interpreter keeps all."""
        actual = self.results(kernels, allow_tf32=allow_tf32)
        tf32 = 2**-10 if allow_tf32 and self.input.dtype == torch.float32 and not INTERPRETED else 0
        exact = self.results(reference, torch.Tensor.double)
        magnitude = self.results(reference, lambda tensor: tensor.double().abs())
        for result, truth, sum_of_sizes, terms in zip(actual, exact, magnitude, self.terms, strict=True):
            assert result.dtype == self.input.dtype
            assert result.shape == truth.shape
            epsilon = torch.finfo(torch.float64 if result.dtype == torch.float64 else torch.float32).eps
            rounding = torch.finfo(result.dtype).eps / 2 * truth.abs() + torch.finfo(result.dtype).tiny
            bound = (2 * terms * epsilon + 2 * tf32) * sum_of_sizes + rounding
            assert ((result.double() - truth).abs() <= bound).all()


def by_name(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def on_both(cases: list[Case], *others: list) -> list[tuple]:
    """Cases × both layouts × `others`: all of them on a GPU, every second one in the interpreter, which is slow."""
    every = itertools.product(enumerate(cases), enumerate(("contiguous", "channels_last")), *map(enumerate, others))
    chosen = (values for values in every if not INTERPRETED or sum(i for i, _ in values) % 2 == 0)
    return [pytest.param(*(v for _, v in values), id=f"{values[0][1].name}-" + "-".join(str(v) for _, v in values[1:]))
            for values in chosen]  # fmt: skip
