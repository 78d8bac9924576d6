"""The ruler itself: oracle, canaries, words. (What it catches: tests/conv/test_wrong_kernels.py.)"""

from __future__ import annotations

import itertools

import pytest
import torch

import myconv2d
from bench.cases import CASES, Case, select
from bench.check import check
from bench.implementations import FRAMEWORK, ORACLE, RESULTS, backend
from bench.operands import LAYOUTS, draw, place, same_bits
from bench.oracle import bound, problem
from myconv2d import native

CPU = torch.device("cpu")
ODD = CASES["odd"]


@pytest.mark.parametrize("case", select("weird", "blocks"), ids=str)
def test_the_oracle_agrees_with_the_framework_in_float64(case: Case) -> None:
    report = check(FRAMEWORK, case, torch.float64)
    assert report.passed, report


@pytest.mark.parametrize("format", {format for layout in LAYOUTS.values() for format in layout}, ids=str)
def test_operands_lie_among_canaries(format) -> None:
    values = draw(ODD, torch.float32, CPU, [format.repeated] * 4).input
    operand = place(values, format, CPU)
    assert torch.equal(operand.tensor, values)
    distinct = values.numel()
    for axis in format.repeated:
        assert operand.tensor.stride(axis) == 0
        distinct //= values.shape[axis]
    assert int((~operand.buffer.isnan()).sum()) == distinct
    assert not operand.touched()
    operand.buffer[0] = 1
    assert operand.touched()
    assert operand.buffer[0].isnan()


def test_same_bits_sees_nan_and_the_sign_of_zero() -> None:
    nan = torch.tensor([float("nan"), 0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(nan, torch.tensor([float("nan"), -0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_bound_is_near_the_error_of_one_rounding(dtype: torch.dtype) -> None:
    """So that it can tell a wrong kernel from a right one."""
    _, exact = problem(CASES["many-pixels-strided"], dtype, "contiguous", CPU)
    for result in exact.values():
        limit = bound(result, dtype, tf32=False, winograd=False)
        assert (
            limit <= 1.01 * torch.finfo(dtype).eps / 2 * result.value.abs() + 2e-6 * result.magnitude
        ).all()


def test_what_winograd_s_transforms_amplify() -> None:
    """The 24 in the bound, from the points that csrc/cpu/winograd.h evaluates polynomials at."""

    def amplified(points: list[float], taps: int) -> tuple[float, float]:
        """Of forward and grad_input; of grad_weight. The last point is infinity."""
        finite = torch.tensor(points, dtype=torch.float64)
        lagrange = [(p - finite[finite != p]).prod() for p in finite]
        denominators = torch.tensor([*lagrange, 1.0], dtype=torch.float64)

        def at_points(length: int) -> torch.Tensor:
            """A polynomial of so many coefficients at the points; at infinity, the last of them."""
            coefficients = torch.arange(length)
            return torch.cat([finite[:, None] ** coefficients, (coefficients == length - 1)[None].double()])

        inputs = torch.linalg.inv(at_points(taps + 3)).T * denominators[:, None]  # Bᵀ
        kernels, outputs = at_points(taps) / denominators[:, None], at_points(4)  # G, A

        def of(operand: torch.Tensor, result: torch.Tensor) -> float:
            squares = inputs.square().sum(1) * operand.square().sum(1)
            return (result.square() * squares[:, None]).sum(0).max().item()

        return of(kernels, outputs), of(outputs, kernels)

    near, far = 0.5**0.5, 2**0.5
    assert amplified([0, near, -near, far, -far], 3) == pytest.approx((21.375, 23.875))
    outer_taps = amplified([1 / 2, -1 / 2, 5 / 4, -5 / 4], 2)
    assert max(outer_taps) + 1 < 24  # with stride 2: the tap in between adds 1


@pytest.mark.parametrize("size", [3, 4, 8, 16])
@pytest.mark.parametrize("channels", [8, 64])
def test_winograd_errs_far_within_its_bound_and_not_too_far(channels: int, size: int) -> None:
    """In standard deviations, which do not depend on how many values there are."""
    if native.cpu.problem is not None:
        pytest.skip(native.cpu.problem)
    case = Case("drawn", 1, channels, channels, size, size, padding=(1, 1), bias=False)
    values, exact = problem(case, torch.float32, "contiguous", CPU)
    for operator in RESULTS:
        for name, result in backend("native").run(operator, case, values).items():
            if name != "grad_bias":
                deviation = (result.double() - exact[name].value).square().mean().sqrt()
                limit = bound(exact[name], torch.float32, tf32=False, winograd=True)
                assert 6 < limit.min() / deviation < 100, name


def test_the_ruler_knows_which_kernels_winograd_serves() -> None:
    """Kernels of two rows among them (fuzz found that: case 27142 of seed 2026)."""
    if native.cpu.problem is not None:
        pytest.skip(native.cpu.problem)
    served = set()
    for kernel in itertools.product(range(1, 10), repeat=2):
        weight, image = torch.zeros(64, 64, *kernel), torch.zeros(1, 64, 40, 40)
        if "Winograd" in str(myconv2d.explain(image, weight)):
            served.add(kernel)
            assert Case("drawn", 1, 64, 64, 40, 40, kernel).suits_winograd, kernel
    assert {(3, 3), (2, 5), (5, 5)} <= served


def test_integers_have_no_room_and_wrap_around() -> None:
    _, exact = problem(CASES["primes"], torch.int8, "contiguous", CPU)
    assert exact["grad_weight"].magnitude.max() > 127
    assert exact["grad_weight"].value.abs().max() <= 128
    assert bound(exact["grad_weight"], torch.int8, tf32=False, winograd=False).max() == 0


def test_a_report_in_words() -> None:
    def raising(*args):
        raise RuntimeError("out of luck\nand more")

    wrong = ORACLE._replace(
        name="wrong",
        conv2d=lambda *args: ORACLE.conv2d(*args).mul_(1.001),
        conv2d_grad_input=raising,
        conv2d_grad_weight=lambda *args: (
            ORACLE.conv2d_grad_weight(*args)[0].contiguous(),
            torch.zeros(4),
        ),
    )
    report = check(wrong, ODD, torch.float32, "channels_last")
    assert not report.passed
    assert report.failed_operators == set(RESULTS)
    what, output, grad_input, *grad_weight = str(report).splitlines()
    assert what == "wrong, odd, float32, channels_last, cpu: FAILED"
    assert (
        output.startswith("output is wrong in ")
        and " of 420 values: at (" in output
        and " times the bound" in output
    )
    assert grad_input == "grad_input raised RuntimeError: out of luck"
    assert grad_weight == [
        "grad_weight has strides (27, 9, 3, 1), not (27, 1, 9, 3)",
        "grad_bias has shape torch.Size([4]), not torch.Size([5])",
    ]


def test_a_passing_report_has_the_framework_s_error_beside_ours() -> None:
    report = check(ORACLE, ODD, torch.float32, beside=True)
    assert str(report) == "oracle, odd, float32, contiguous, cpu: passed"
    assert [finding.result for finding in report.findings] == [
        "output",
        "grad_input",
        "grad_weight",
        "grad_bias",
    ]
    for finding in report.findings:
        assert 0 <= finding.of_bound <= 1
        assert 0 <= finding.error < 1e-6
        assert 0 <= finding.framework_error < 1e-6


def test_the_framework_s_settings_are_left_as_they_were() -> None:
    before = torch.backends.cudnn.conv.fp32_precision, torch.are_deterministic_algorithms_enabled()
    check(ORACLE, ODD, torch.float32, tf32=True)
    assert (torch.backends.cudnn.conv.fp32_precision, torch.are_deterministic_algorithms_enabled()) == before
