"""The host's side of the kernels: residue classes, boxes, descriptors, and what is said where Triton cannot serve."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import pytest
import torch

from myconv2d import triton as kernels

pytest.importorskip("triton.language", reason="Triton is not installed")

from myconv2d.triton.grad_input import residue_classes
from myconv2d.triton.halo import (
    CHANNELS_LAST,
    aligned,
    described_weight,
    padded,
    strides,
    why_never,
    why_not_in_place,
)
from myconv2d.triton.halo_nchw import MOST_COLUMNS, Row, is_nchw, why_not_rows
from myconv2d.triton.indexing import Axis
from myconv2d.triton.interpreter import INTERPRETED
from myconv2d.triton.launch import Gpu, Operand, assumed, pixel_box, set_in


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


def images(*size: int, channels_last: bool = True, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=dtype).contiguous(memory_format=layout)[:, None]


@pytest.mark.parametrize(
    ("tensor", "axis", "reason"),
    [
        (images(2, 24, 7, 5), Axis(1, 1, -1), None),
        (images(2, 24, 7, 8, channels_last=False), Axis(1, -1, 1), None),
        (images(2, 24, 7, 8, channels_last=False), Axis(1, 32, 0), None),
        (images(2, 24, 7, 8, channels_last=False), Axis(1, -33, 0), "far apart"),
        (images(2, 32, 4, 6), Axis(2, 1, -1), None),
        (images(2, 32, 4, 6, channels_last=False), Axis(2, 1, -1), "in NCHW boxes have no stride"),
        (images(2, 32, 7, 6), Axis(2, 1, -1), "a stride of 2×2 does not divide 7×6 pixels"),
        (images(2, 32, 4, 5), Axis(2, 1, -1), "a stride of 2×2 does not divide 4×5 pixels"),
        (images(2, 24, 4, 6), Axis(2, 1, -1), "steps of 16 channels, and 24 are no whole ones"),
        (
            images(2, 64, 4, 6).unflatten(2, (2, 32)).squeeze(1),
            Axis(2, 1, -1),
            "boxes of groups have no stride",
        ),
        (images(2, 8, 7, 5), Axis(1, 1, -1), "8 channels do not fill"),
        (images(2, 25, 7, 5), Axis(1, 1, -1), "units of 16 bytes"),
        (images(2, 20, 7, 5), Axis(1, 1, -1), "units of 16 bytes"),
        (images(2, 20, 7, 5, dtype=torch.float32), Axis(1, 1, -1), None),
        (images(2, 24, 7, 5, channels_last=False), Axis(1, 1, -1), "units of 16 bytes"),
        (images(2, 24, 7, 16, channels_last=False)[..., :12], Axis(1, 1, -1), "units of 16 bytes"),
        (images(2, 24, 7, 16, channels_last=False)[..., ::2], Axis(1, 1, -1), "innermost"),
        (images(1, 24, 7, 5).expand(2, 1, 24, 7, 5), Axis(1, 1, -1), "units of 16 bytes"),
        (images(2, 25, 7, 8)[:, :, 1:], Axis(1, 1, -1), "units of 16 bytes"),
    ],
)
def test_what_the_copy_engine_can_load(tensor: torch.Tensor, axis: Axis, reason: str | None) -> None:
    """Under three taps."""
    in_place = why_not_rows(tensor, axis, axis, 3) if is_nchw(tensor) else why_not_in_place(tensor)
    said = why_never(tensor, axis, axis) or in_place
    assert said is None if reason is None else reason in said
    with set_in(assumed, Gpu((8, 9), None)):
        assert "no copy engine" in why_never(tensor, axis, axis)


def test_too_many_columns_of_taps() -> None:
    tensor = images(2, 24, 7, 8, channels_last=False)
    axis = Axis(1, 1, 0)
    assert why_not_rows(tensor, axis, axis, MOST_COLUMNS) is None
    assert "columns of taps" in why_not_rows(tensor, axis, axis, MOST_COLUMNS + 1)


@pytest.mark.parametrize("unit", [4, 8])
@pytest.mark.parametrize("widest", [16, 64, 256])
def test_every_result_is_owned_by_a_box_that_holds_what_it_reads(widest: int, unit: int) -> None:
    for taps, step, offset in itertools.product((1, 2, 3, 5), (1, 2, -1, 16, -16), (-9, -1, 0, 1, 5)):
        for size, positions in ((8, 8), (64, 64), (72, 70), (264, 300)):
            row = Row.cut(Axis(1, step, offset), taps, size, positions, widest, unit)
            assert row.base % unit == 0 and row.owned % unit == 0
            assert row.width <= 256 and row.width == 1 << row.width.bit_length() - 1
            for q, tap in itertools.product(range(positions), range(taps)):
                first, read = q // row.owned * row.owned, q + tap * step + offset
                held = range(first + row.base, first + row.base + row.width)
                assert read in held or not 0 <= read < size


@pytest.mark.parametrize("size", [(2, 24, 7, 8), (1, 24, 1, 8), (1, 24, 1, 1)], ids=str)
def test_strides_of_a_descriptor_grow(size: tuple[int, ...]) -> None:
    tensor = images(*size).permute(CHANNELS_LAST)
    found = strides(tensor)
    assert found[-1] == 1 and found == sorted(found, reverse=True)
    assert all(a == b for a, b, n in zip(found, tensor.stride(), tensor.shape, strict=True) if n > 1)
    assert aligned(tensor)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("channels", [25, 32])
def test_of_a_copy_it_can_load_everything(channels: int, channels_last: bool) -> None:
    tensor = images(2, channels, 7, 5, channels_last=channels_last)[..., 1:].normal_()
    copy = padded(tensor)
    assert torch.equal(copy[:, :, :channels], tensor)
    assert copy.shape[2] == 32 and not copy[:, :, channels:].any()
    assert copy.stride(2) == 1 and why_not_in_place(copy) is None


def test_weights_are_copied_only_where_neither_axis_is_innermost() -> None:
    weight = images(32, 24, 3, 3).movedim(1, 0)  # (G, K, C, R, S)
    view, channels_last = described_weight(weight)
    assert (view.data_ptr(), tuple(view.shape), channels_last) == (weight.data_ptr(), (1, 3, 3, 32, 24), True)
    view, channels_last = described_weight(weight.transpose(1, 2))  # as grad_input has it
    assert (view.data_ptr(), tuple(view.shape), channels_last) == (
        weight.data_ptr(),
        (1, 3, 3, 32, 24),
        False,
    )
    weight = weight.contiguous()
    view, channels_last = described_weight(weight)
    assert (view.data_ptr() == weight.data_ptr(), tuple(view.shape), channels_last) == (
        False,
        (1, 3, 3, 32, 24),
        True,
    )


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
    pixels = torch.empty(2, channels, 7, 5, dtype=dtype).contiguous(memory_format=torch.channels_last)
    operand = Operand.of(pixels[:, None])
    assert (operand.unit, operand.wide) == (unit, wide)
    n, g, c, h, w = operand.strides
    assert (n * unit, c, h * unit, w * unit) == pixels.stride()
    assert Operand.of(pixels.contiguous()[:, None]).wide is False


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1")
def test_reasons() -> None:
    assert "TRITON_INTERPRET" in kernels.unsupported("cpu", torch.float32)
    assert "int32" in kernels.unsupported("cuda", torch.int32)
    assert "'mps'" in kernels.unsupported("mps", torch.float32)
    if not torch.cuda.is_available():
        assert "no CUDA device" in kernels.unsupported("cuda", torch.float32)


def test_reason_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler() -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    driver = SimpleNamespace(get_current_target=no_compiler)
    monkeypatch.setattr("triton.runtime.driver", SimpleNamespace(active=driver))
    said = kernels._no_launcher()
    assert said.startswith("Triton cannot start kernels") and said.endswith("(Failed to find C compiler.)")
    driver.get_current_target = lambda: None
    assert kernels._no_launcher() is None


def test_reason_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton.language", None)
    kernels._missing.cache_clear()
    try:
        assert "Triton cannot be imported" in kernels.unsupported("cuda", torch.float32)
    finally:
        kernels._missing.cache_clear()
