"""The fused block's operators as any caller's: strides, effects, fakes, FLOPs, threads, problems in words."""

import functools

import pytest
import torch
from block_cases import (
    CASES,
    NO_NORM,
    NOT_KEPT,
    OVERLOADS,
    UPSAMPLED,
    Case,
    backward_arguments,
    composed,
    operator,
)
from torch.utils.flop_counter import FlopCounterMode

from myconv2d import block_operators
from myconv2d.operators import overload

LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "permuted": lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "sliced": lambda t: torch.stack([t, t + 1], -1).flatten(3)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", OVERLOADS)
@pytest.mark.parametrize(
    "case",
    [
        *(CASES[2], Case(("both", "affine"), (8, 9), 8, size=(8, 8), pool=True)),
        *(UPSAMPLED[3], CASES[-4], NOT_KEPT[-1]),
    ],
    ids=str,
)
def test_any_layout(suffix, case, layout):
    """Images and weights of any strides give what contiguous ones give."""

    def spread(args):
        images = [isinstance(a, torch.Tensor) and a.dim() == 4 and a.is_floating_point() for a in args]
        return [LAYOUTS[layout](a) if image else a for a, image in zip(args, images, strict=True)]

    args = case.arguments(torch.float32)
    for one, other in zip(
        operator("block", suffix)(*spread(args)), operator("block", suffix)(*args), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0 if suffix == "native" else 1e-5)
    given = backward_arguments(suffix, args, [True] * 3)
    strided = spread(given)
    for one, other in zip(
        operator("block_backward", suffix)(*strided), operator("block_backward", suffix)(*given), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", ["default", *OVERLOADS])
@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[13], CASES[-3], NOT_KEPT[1]], ids=str)
def test_opcheck(suffix, case):
    """Nothing but the declared effects, and fakes that agree with the results."""
    args = case.arguments(torch.float32)
    plain = args[0], args[3], args[4], *args[7:11], *NO_NORM, True, case.pool
    forward = suffix.replace("default", "reference")
    calls = {
        "block": args,
        "block_backward": backward_arguments(forward, args, [True] * 3),
        "block_inference": plain,
    }
    if case.norm:
        raw, _, _, scale, shift, _, _ = operator("block", forward)(*args)
        calls["activate"] = raw, scale, shift, True
        grad = operator("activate", forward)(raw, scale, shift, True)
        calls["activate_backward"] = grad, raw, scale, shift, True
    for name, arguments in calls.items():
        call = overload(name, None if suffix == "default" else suffix)
        report = torch.library.opcheck(call, arguments, test_utils=("test_schema", "test_faketensor"))
        assert set(report.values()) == {"SUCCESS"}, name


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_flops(case):
    """Those of the composition, forward and backward."""
    args = case.arguments(torch.float32)
    with FlopCounterMode(display=False) as ours:
        operator("block", None)(*args)
    operands = [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
    with FlopCounterMode(display=False) as theirs:
        output = composed(*operands)
    assert ours.get_total_flops() == theirs.get_total_flops() > 0
    given = backward_arguments("reference", case.arguments(torch.float32), [True] * 3)
    with FlopCounterMode(display=False) as ours:
        operator("block_backward", None)(*given)
    with FlopCounterMode(display=False) as theirs:
        output.sum().backward()
    assert ours.get_total_flops() == theirs.get_total_flops() > 0
    with FlopCounterMode(display=False) as ours:
        operator("block_inference", None)(args[0], args[3], args[4], *args[7:11], *NO_NORM, True, case.pool)
    assert ours.get_total_flops() * 2 == theirs.get_total_flops()


@pytest.mark.skipif("native" not in OVERLOADS, reason="no native blocks here")
@pytest.mark.parametrize("case", [Case(("both", "affine"), (32, 32), 32, size=(16, 16), batch=7, pool=True),
                                  Case(("both", "affine"), (24, 1), 24, size=(32, 32), batch=7),
                                  *NOT_KEPT], ids=str)  # fmt: skip
def test_deterministic(case):
    """The same bits from run to run, and from 1 thread to 2."""
    args = case.arguments(torch.float32)
    given = backward_arguments("native", args, [True] * 3)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append([*operator("block", "native")(*args), *operator("block_backward", "native")(*given)])
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_problems_in_words(monkeypatch):
    problem = functools.partial(block_operators.problem, "native")
    weight = torch.randn(8, 8, 3, 3)
    monkeypatch.setattr(block_operators, "unavailable", lambda: None)
    assert problem(weight, None) is None
    for tensors, words in (
        ((weight.double(),), "not torch.float64 on cpu"),
        ((weight, torch.randn(8, device="meta")), "on meta"),
        ((torch.randn(8, 8, 3, 5),), "not 3×5"),
    ):
        assert words in problem(*tensors)
    monkeypatch.setattr(block_operators, "unavailable", lambda: "not built")
    assert problem(weight) == "not built"
