"""The host's side of the kernels: residue classes, boxes, and what is said where Triton cannot serve."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch

from myconv2d import triton as kernels

pytest.importorskip("triton.language", reason="Triton is not installed")

from myconv2d.triton.grad_input import residue_classes
from myconv2d.triton.grad_weight import pixel_box
from myconv2d.triton.indexing import Axis
from myconv2d.triton.interpreter import INTERPRETED
from myconv2d.triton.launch import Operand


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6])
def test_residue_classes_visit_each_pair_of_position_and_tap_once(stride: int) -> None:
    size = 13
    for taps, padding, dilation in itertools.product((1, 2, 3, 5), (0, 1, 3), (1, 2, 3, 4)):
        expected = {
            (h, r, (h + padding - r * dilation) // stride)
            for h in range(size)
            for r in range(taps)
            if (h + padding - r * dilation) % stride == 0
        }
        visited = [
            (h, r, i * axis.stride + j * axis.step + axis.offset)
            for positions, reach, axis in residue_classes(taps, stride, padding, dilation)
            for i, h in enumerate(range(size)[positions])
            for j, r in enumerate(range(taps)[reach])
        ]
        assert sorted(visited) == sorted(expected)


def test_axis_leaves() -> None:
    assert not Axis(stride=1, step=1, offset=0).leaves(positions=6, taps=3, size=8)
    assert Axis(1, 1, 0).leaves(7, 3, 8)
    assert Axis(1, 1, -1).leaves(8, 3, 8)
    assert not Axis(1, -1, 2).leaves(6, 3, 8)
    assert Axis(1, -1, 1).leaves(6, 3, 8)
    assert not Axis(2, 2, 0).leaves(3, 2, 7)


@pytest.mark.parametrize(
    ("image", "box"),
    [
        ((8, 8), (1, 8, 8)),
        ((16, 16), (1, 4, 16)),
        ((1, 1), (64, 1, 1)),
        ((7, 5), (1, 8, 8)),
        ((2, 200), (1, 1, 64)),
    ],
)
def test_pixel_box(image: tuple[int, int], box: tuple[int, int, int]) -> None:
    assert pixel_box(64, *image) == box


@pytest.mark.parametrize(
    ("channels", "dtype", "unit", "wide"),
    [
        (24, torch.bfloat16, 8, True),
        (12, torch.bfloat16, 4, False),
        (12, torch.float32, 4, True),
        (25, torch.float32, 1, False),
    ],
)
def test_operand_unit(channels: int, dtype: torch.dtype, unit: int, wide: bool) -> None:
    images = torch.empty(2, channels, 7, 5, dtype=dtype).contiguous(memory_format=torch.channels_last)
    operand = Operand.of(images[:, None])
    assert (operand.unit, operand.wide) == (unit, wide)
    n, g, c, h, w = operand.strides
    assert (n * unit, c, h * unit, w * unit) == images.stride()
    assert Operand.of(images.contiguous()[:, None]).wide is False


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1")
def test_reasons() -> None:
    assert "TRITON_INTERPRET" in kernels.unsupported("cpu", torch.float32)
    assert "int32" in kernels.unsupported("cuda", torch.int32)
    assert "'mps'" in kernels.unsupported("mps", torch.float32)
    if not torch.cuda.is_available():
        assert "no CUDA device" in kernels.unsupported("cuda", torch.float32)


def test_reason_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton.language", None)
    kernels._missing.cache_clear()
    try:
        assert "Triton cannot be imported" in kernels.unsupported("cuda", torch.float32)
    finally:
        kernels._missing.cache_clear()
