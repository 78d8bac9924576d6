"""The Triton kernels against the fp64 oracle: on the GPU if there is one, in Triton's interpreter if
TRITON_INTERPRET=1 (test_interpreter.py runs this file so, in a process of its own), and not at all otherwise.

Tolerances are bounds, not experience: |error| ≤ terms · 2ε · Σ|a·b| + half a unit in the result's last place.
"""

from __future__ import annotations

import itertools
import os
from typing import NamedTuple

import pytest
import torch

import myconv2d
from myconv2d import reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_interpreter.py runs these in the interpreter", allow_module_level=True)

from myconv2d import triton as kernels  # noqa: E402
from myconv2d.triton import gather, grad_weight_gather, grad_weight_halo, halo, tuning  # noqa: E402
from myconv2d.triton.launch import set_in  # noqa: E402

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


@pytest.mark.parametrize(("case", "layout"), on_both(CASES))
def test_cases(case: Case, layout: str) -> None:
    Problem(case, torch.float32, LAYOUTS[layout]).check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name", ["odd", "several blocks of channels", "stride, dilation, groups", "flat image"]
)
def test_types(name: str, dtype: torch.dtype) -> None:
    if (why := kernels.unsupported(DEVICE, dtype)) is not None:
        pytest.skip(why)
    Problem(by_name(name), dtype, LAYOUTS["channels_last"]).check()


@pytest.mark.parametrize(
    ("case", "layout", "dtype"), on_both(HALO_CASES, [torch.float32, torch.float16, torch.bfloat16])
)
def test_halo(case: Case, layout: str, dtype: torch.dtype) -> None:
    if (why := kernels.unsupported(DEVICE, dtype)) is not None:
        pytest.skip(why)
    with set_in(tuning.decisions, []) as served:
        Problem(case, dtype, LAYOUTS[layout]).check(allow_tf32=True)
    if layout == "channels_last" and case.stride == (1, 1):
        assert {decision.shape.kernel for decision in served} == {"halo", "grad_weight_halo"}


UNITS = "channels, rows or strides are not whole units of 16 bytes"
COLUMNS = "boxes would begin off units of 16 bytes"
COPIES = {  # layout, channels of each group, taps, padding → what is against boxes from where the images lie
    ("channels_last", 25, (2, 2), (1, 0)): UNITS,
    ("channels_last", 25, (1, 2), (0, 0)): UNITS,
    ("contiguous", 32, (2, 2), (1, 0)): COLUMNS,
    ("contiguous", 32, (4, 1), (1, 1)): COLUMNS,
    ("contiguous", 32, (1, 2), (0, 1)): COLUMNS,
    ("contiguous", 32, (2, 1), (1, 0)): None,
    ("permuted", 32, (2, 2), (1, 0)): "neither channels nor columns are innermost",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("copied", COPIES, ids=str)
def test_halo_of_a_copy(copied: tuple, groups: int, dtype: torch.dtype) -> None:
    """Images that lie wrong are copied, if they are read often enough. (The interpreter, too, refuses boxes that begin
    off 16 bytes.)"""
    layout, channels, taps, padding = copied
    against = COPIES[copied]
    case = Case("copied", (2, channels * groups, 5, 8), 32 * groups, taps, padding=padding, groups=groups)
    with set_in(tuning.decisions, []) as served:
        Problem(case, dtype, LAYOUTS[layout]).check(allow_tf32=True)
    forward, _, grad_weight = served
    boxes, often = "boxes by the copy engine", taps[0] * taps[1] >= 4
    assert forward.note == (boxes if against is None else f"{boxes}, from a copy: {against}" if often else against)
    assert (forward.shape.kernel == "halo") == (against is None or often)
    assert (grad_weight.shape.kernel == "grad_weight_halo") == (against is None or (often and channels >= 32))


@pytest.mark.parametrize("layout", ["permuted", "every second", "inner slice"])
@pytest.mark.parametrize("name", ["odd", "stride, dilation, groups"])
def test_layouts(name: str, layout: str) -> None:
    Problem(by_name(name), torch.float32, LAYOUTS[layout]).check()


def test_expanded_operands() -> None:
    problem = Problem(by_name("odd"), torch.float32)
    problem.grad_output = problem.grad_output[:1, :1, :1, :1].expand_as(problem.grad_output)  # as from sum()
    problem.input = problem.input[:, :1].expand_as(problem.input)
    problem.bias = problem.bias[:1].expand_as(problem.bias)
    problem.check()


@pytest.mark.parametrize("channels_last", [False, True])
def test_results_have_the_memory_format_of_the_operands(channels_last: bool) -> None:
    layout = LAYOUTS["channels_last" if channels_last else "contiguous"]
    problem = Problem(by_name("odd"), torch.float32, layout)
    for result in problem.results(kernels, allow_tf32=False)[:3]:
        assert result.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert result.is_contiguous() != channels_last


def test_64_bit_offsets_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in (
        Problem(by_name("stride, dilation, groups"), torch.float32),
        Problem(HALO_CASES[0], torch.float16, LAYOUTS["channels_last"]),
    ):
        narrow = problem.results(kernels, allow_tf32=False)
        with monkeypatch.context() as patch:
            for module in (gather, halo, grad_weight_gather, grad_weight_halo):
                patch.setattr(module, "needs_64_bit", lambda *tensors: True)
            wide = problem.results(kernels, allow_tf32=False)
        for a, b in zip(narrow, wide, strict=True):
            assert torch.equal(a, b)


def test_offsets_beyond_32_bits() -> None:
    """Two images 2³¹ elements apart: 4 GiB of address space, of which two pages are touched on the CPU."""
    problem = Problem(by_name("odd"), torch.float16)
    size, image = problem.input.shape, problem.input[0].numel()
    try:
        far_apart = torch.empty(2**31 + image, dtype=torch.float16, device=DEVICE)
    except RuntimeError as error:
        pytest.skip(f"no 4 GiB to be had: {error}")
    strides = 2**31, size[2] * size[3], size[3], 1
    problem.input = far_apart.as_strided(size, strides).copy_(problem.input)
    problem.check()


def test_one_box_of_pixels_per_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """More splits than the reduction adds up at a time."""
    monkeypatch.setattr(tuning, "splits", lambda tiles, steps: steps)
    Problem(by_name("many pixels"), torch.float32).check()


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs the programs in order")
def test_same_bits_from_run_to_run() -> None:
    problem = Problem(by_name("many pixels"), torch.float32)
    first, second = (problem.results(kernels, allow_tf32=False) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_garbage_beyond_the_masks_is_not_read() -> None:
    """NaN all around the operands: a load that is masked in vain would carry it into the sums."""

    def surround(tensor: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (2, 2) * tensor.dim(), value=float("nan"))[
            (slice(2, -2),) * tensor.dim()
        ]

    Problem(by_name("odd"), torch.float32, surround).check()
    Problem(by_name("stride, dilation, groups"), torch.float32, surround).check()


def test_boxes_read_nothing_beyond_their_images() -> None:
    """The same around what the copy engine loads: channels of other tensors, and pixels beyond the edge."""

    def surround(tensor: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(tensor, (8, 8) * 4, value=float("nan"))
        return padded.contiguous(memory_format=torch.channels_last)[(slice(8, -8),) * 4]

    with set_in(tuning.decisions, []) as served:
        Problem(HALO_CASES[0], torch.float16, surround).check()
    assert {decision.shape.kernel for decision in served} == {"halo", "grad_weight_halo"}


def test_explain_names_the_kernels_of_a_call() -> None:
    problem = Problem(by_name("odd"), torch.float32)
    with myconv2d.use_backend("triton"):
        said = myconv2d.explain(problem.input, problem.weight, problem.bias, *problem.geometry)
    assert said.startswith("triton serves this call")
    for operator in ("forward: gather", "grad_input: gather", "grad_weight: grad_weight_gather"):
        assert f"{operator} kernel (" in said
    assert said.count("shipped, not measured") == 3 or not INTERPRETED


def test_without_bias() -> None:
    problem = Problem(by_name("odd"), torch.float32)
    plain, with_zeros = (
        kernels.conv2d(problem.input, problem.weight, bias, *problem.geometry, allow_tf32=False)
        for bias in (None, torch.zeros_like(problem.bias))
    )
    assert torch.equal(plain, with_zeros)
    arguments = problem.grad_output, problem.input, problem.weight.shape, *problem.geometry
    with_bias, _ = kernels.conv2d_grad_weight(*arguments, True, allow_tf32=False)
    without_bias, nothing = kernels.conv2d_grad_weight(*arguments, False, allow_tf32=False)
    assert torch.equal(with_bias, without_bias)
    assert nothing.shape == (0,)


def test_empty_batch() -> None:
    problem = Problem(by_name("odd"), torch.float32)
    problem.input, problem.grad_output = problem.input[:0], problem.grad_output[:0]
    output, grad_input, weight, bias = problem.results(kernels, allow_tf32=False)
    assert output.shape == problem.grad_output.shape
    assert grad_input.shape == problem.input.shape
    assert torch.equal(weight, torch.zeros_like(problem.weight))
    assert torch.equal(bias, torch.zeros_like(problem.bias))


def test_nothing_to_sum_over() -> None:
    problem = Problem(by_name("odd"), torch.float32)
    problem.input, problem.weight = problem.input[:, :0], problem.weight[:, :0]
    output, grad_input, weight, bias = problem.results(kernels, allow_tf32=False)
    assert torch.equal(output, problem.bias[:, None, None].expand_as(output))
    assert grad_input.shape == problem.input.shape
    assert weight.shape == problem.weight.shape
    torch.testing.assert_close(bias, problem.grad_output.sum((0, 2, 3)))
