"""The Triton kernels against the fp64 oracle, on a GPU or in Triton's interpreter (problems.py)."""

from __future__ import annotations

import pytest
import torch
from problems import CASES, DEVICE, HALO_CASES, INTERPRETED, LAYOUTS, Case, Problem, by_name, on_both

import myconv2d
from myconv2d import triton as kernels
from myconv2d.triton import (
    gather,
    grad_weight_gather,
    grad_weight_halo,
    grad_weight_nchw,
    halo,
    halo_nchw,
    tuning,
)
from myconv2d.triton.launch import set_in


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
        Problem(HALO_CASES[1], torch.float16),
    ):
        narrow = problem.results(kernels, allow_tf32=False)
        with monkeypatch.context() as patch:
            for module in (gather, halo, halo_nchw, grad_weight_gather, grad_weight_halo, grad_weight_nchw):
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
