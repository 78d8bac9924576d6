"""The fused block's Triton kernels against the reference in float64, and networks of blocks against plain modules: on
the GPU if there is one, else in Triton's interpreter if TRITON_INTERPRET=1 (test_interpreter.py runs this file so).

The interpreter's bfloat16 is wrong, so that type waits for a GPU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_interpreter.py runs these in the interpreter", allow_module_level=True)

sys.path.append(str(Path(__file__).parents[1] / "conv"))

from block_cases import EPS, NO_NORM  # noqa: E402
from block_modules import Net, Plain, PlainNet, close, same_state  # noqa: E402

from bench import block_check  # noqa: E402
from bench.block_cases import CASES, Case  # noqa: E402
from bench.block_check import BOUNDS, error, wide  # noqa: E402
from bench.precision import PRECISIONS  # noqa: E402
from myconv2d import ConvBlock, block_operators, block_reference, explain_block, use_backend  # noqa: E402
from myconv2d.operators import overload  # noqa: E402
from myconv2d.triton import (  # noqa: E402
    block_forward,
    block_grad_input,
    block_grad_weight,
    block_statistics,
    plans,
    unsupported,
)
from myconv2d.triton.plans import Choice, Plan  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"


def products(case: Case) -> int:
    """Under one tap."""
    return case.batch * case.size[0] * case.size[1] * sum(case.channels) * case.out_channels


# What is large for the CPU's sake takes the interpreter minutes, and has its like among the small ones.
SERVED = [case for case in CASES if not INTERPRETED or products(case) <= 25_000]
BOUND = {torch.float32: BOUNDS["fp32"], torch.float16: BOUNDS["fp16"], torch.bfloat16: BOUNDS["bf16"]}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def usable(dtype: torch.dtype) -> torch.dtype:
    if (why := unsupported(DEVICE, dtype)) is not None:
        pytest.skip(why)
    return dtype


def run(name: str, *args):
    """The operator on the device, brought back."""
    args = (a.to(DEVICE) if isinstance(a, Tensor) else a for a in args)
    results = overload(name, "triton")(*args)
    return [r.cpu() for r in results] if isinstance(results, (list, tuple)) else results.cpu()


def check(actual: Tensor, expected: Tensor, bound: float, name: str = "") -> None:
    assert actual.is_contiguous(memory_format=torch.channels_last) or actual.dim() != 4 or "weight" in name
    assert error(actual, expected) < bound, name


@pytest.mark.parametrize(
    ("case", "arithmetic"),
    [
        *((case, "fp32") for case in SERVED),
        *((case, name) for case in SERVED[-7:] for name in ("tf32", "fp16", "bf16")),
    ],
    ids=str,
)
def test_operators(case: Case, arithmetic: str) -> None:
    """All five against the reference in float64."""
    usable(PRECISIONS[arithmetic].dtype)
    if INTERPRETED and arithmetic == "tf32":
        pytest.skip("the interpreter multiplies fp32 as it is")
    report = block_check.check(case, arithmetic, "triton", DEVICE, repeats=1 if INTERPRETED else 2)
    assert report.passed, report
    assert {finding.operator for finding in report.findings} >= {"block", "block_backward", "block_inference"}


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 5, 7), (1, 1, 1, 1), (0, 4, 3, 3), (3, 70, 4, 3)], ids=str)
def test_activate(size: tuple[int, ...], upsample: bool, dtype: torch.dtype) -> None:
    raw = torch.randn(size).to(usable(dtype))
    scale, shift = torch.randn(size[1]), torch.randn(size[1])
    output = run("activate", raw, scale, shift, upsample)
    check(output, block_reference.activate(*wide((raw, scale, shift)), upsample), BOUND[dtype])
    given = torch.randn_like(output), raw, scale, shift
    exact = block_reference.activate_backward(*wide(given), upsample)
    for one, other in zip(run("activate_backward", *given, upsample), exact, strict=True):
        check(one, other, BOUND[dtype])


@pytest.mark.parametrize("fill", [None, float("nan"), float("inf")], ids=str)
def test_pooling_chooses_as_the_framework_does(fill: float | None) -> None:
    """Ties, signs, zero gammas, not-a-numbers: of the activation, as max_pool2d."""
    input = torch.randint(-1, 2, (2, 4, 5, 6)).float()
    if fill is not None:
        input[torch.rand(input.shape) < 0.1] = fill
    gamma = torch.tensor([1.0, -1.0, 2.0, 0.0 if fill is None else -0.5])
    identity = torch.eye(4)[:, :, None, None]
    args = input, None, None, False, None, None, None, False, identity, None, [0, 0]
    raw, full, index, *_ = run("block", *args, gamma, torch.zeros(4), EPS, True)
    key = full * gamma.sign()[:, None, None]
    best, where = F.max_pool2d(key, 2, return_indices=True)
    torch.testing.assert_close(raw * gamma.sign()[:, None, None], best, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(index, (2 * (where // 6 % 2) + where % 6 % 2).to(torch.uint8))
    pooled = run("block_inference", input, False, None, False, identity, None, [0, 0], *NO_NORM, False, True)
    torch.testing.assert_close(pooled, F.max_pool2d(full, 2), rtol=0, atol=0, equal_nan=True)


def test_statistics_of_a_large_mean() -> None:
    """A variance far below the squared mean is that of the values, not of its own rounding; over many tiles."""
    args = list(Case(("plain",), (3,), 4, size=(17, 18)).arguments(torch.float32))
    args[9] = torch.full((4,), 3000.0)
    raw, _, _, scale, _, mean, var = run("block", *args)
    exact = raw.double().var((0, 2, 3), correction=0)
    check(mean, raw.double().mean((0, 2, 3)), 1e-7)
    check(var, exact, 1e-6)
    check(scale, args[11].double() * (exact + EPS).rsqrt(), 1e-6)


def test_more_tiles_than_the_last_kernels_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_statistics, "at_once", lambda tiles: 2)
    test_operators(Case(("affine",), (3,), 4, size=(17, 8)), "fp32")


@pytest.mark.parametrize("plan", [Plan(16, 16, 16, 1, 1), Plan(32, 128, 64, 4, 2), Plan(256, 32, 16, 8, 3)], ids=str)
def test_any_plan_gives_the_right_results(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "find", lambda shape, gpu: Choice(plan, "", ""))
    test_operators(Case(("both", "affine"), (17, 3), 18, size=(6, 4), pool=True, batch=1), "fp32")


@pytest.mark.parametrize("pool", [False, True])
def test_empty_batch(pool: bool) -> None:
    args = Case(("both", "affine"), (3, 2), batch=0, pool=pool).arguments(torch.float32)
    results = run("block", *args)
    for ours, exact in zip(results, block_reference.block(*args), strict=True):
        torch.testing.assert_close(ours, exact)
    raw, full, index, scale, shift, mean, var = results
    given = raw, scale, shift, *args[:8], args[8], args[10], args[11], mean, var, EPS, full if pool else raw, index
    given = *given, pool, True, [True] * 3
    for ours, exact in zip(run("block_backward", *given), block_reference.block_backward(*given), strict=True):
        torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize("layout", ["permuted", "sliced"])
def test_any_layout(layout: str) -> None:
    def spread(tensor: Tensor) -> Tensor:
        if layout == "permuted":
            return tensor.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
        return torch.stack([tensor, tensor + 1], -1).flatten(3)[..., ::2]

    args = Case(("both", "affine"), (3, 2), pool=True).arguments(torch.float32)
    strided = [spread(a) if isinstance(a, Tensor) and a.dim() == 4 else a for a in args]
    for one, other in zip(run("block", *args), run("block", *strided), strict=True):
        assert torch.equal(one, other)


def test_64_bit_offsets_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def results() -> list[Tensor]:
        network = blocks(("pool", "upsample"))
        x = torch.ones(1, 3, 4, 4, device=DEVICE).cumsum(3).requires_grad_()
        with use_backend("triton"):
            output = network(x)
        return [output, *torch.autograd.grad(output.square().sum(), [x, *network.parameters()])]

    narrow = results()
    for module in (block_forward, block_grad_input, block_grad_weight):
        monkeypatch.setattr(module, "needs_64_bit", lambda *tensors: True)
    assert all(torch.equal(a, b) for a, b in zip(narrow, results(), strict=True))


def blocks(resizes) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(ConvBlock(3, 3, resize=resize) for resize in resizes)).to(DEVICE)


@pytest.mark.parametrize("training", [True, False])
def test_network(training: bool) -> None:
    """Pending images from block to block: losses, gradients and statistics are those of plain modules."""
    ours = Net().to(DEVICE).train(training)
    theirs = PlainNet(ours).train(training)
    for _ in range(2):
        x = torch.randn(2, 3, 4, 8, device=DEVICE, requires_grad=training)
        with use_backend("triton"), torch.set_grad_enabled(training):
            assert ours.down.hindrance(x) is None
            outputs = ours(x), theirs(x)
        close(*outputs)
        if training:
            pairs = [torch.autograd.grad(output.square().mean(), [x, *net.parameters()])
                     for output, net in zip(outputs, (ours, theirs), strict=True)]  # fmt: skip
            for one, other in zip(*pairs, strict=True):
                close(one, other)
    same_state(ours, theirs)


@pytest.mark.parametrize("change", [{"momentum": None}, {"num_batches_tracked": None}, {"momentum": 1.0}], ids=str)
def test_running_statistics(change: dict) -> None:
    ours = ConvBlock(3, 4).to(DEVICE)
    for name, value in change.items():
        setattr(ours.norm, name, value)
    theirs, versions = Plain(ours), [b._version for b in ours.buffers()]
    for _ in range(2):
        x = torch.randn(2, 3, 3, 4, device=DEVICE)
        with use_backend("triton"), torch.no_grad():
            close(ours(x), theirs(x))
        same_state(ours, theirs)
    assert all(b._version > before for b, before in zip(ours.buffers(), versions, strict=True))


def test_second_derivatives() -> None:
    ours, results = ConvBlock(3, 4, resize="pool").to(DEVICE), []
    x = torch.randn(2, 3, 4, 4, device=DEVICE, requires_grad=True)
    for block in (ours, Plain(ours)):
        with use_backend("triton"):
            (first,) = torch.autograd.grad(block(x).square().mean(), x, create_graph=True)
            results.append(torch.autograd.grad(first.square().sum(), [x, *block.parameters()], materialize_grads=True,
                                               allow_unused=True))  # fmt: skip
    for one, other in zip(*results, strict=True):
        close(one, other)


def test_autocast_keeps_vectors_wide() -> None:
    """Images of 16 bits, parameters, statistics and their gradients of 32."""
    dtype = torch.float16 if INTERPRETED else torch.bfloat16
    block = ConvBlock(3, 8, resize="pool").to(DEVICE)
    plain = Plain(block)
    x = torch.randn(2, 3, 6, 6, device=DEVICE, requires_grad=True)
    with use_backend("triton"), torch.autocast(DEVICE, dtype):
        assert "triton serves this block, fused" in explain_block(block, x)
        image = block(x, pending=True)
        output = image.materialise()
    assert image.tensor.dtype == output.dtype == dtype
    assert image.scale.dtype == image.shift.dtype == torch.float32
    expected = plain(x)
    close(output.float(), expected, 20 * torch.finfo(dtype).eps / 1e-4)
    pairs = [torch.autograd.grad(o.square().mean(), [x, *m.parameters()])
             for o, m in ((output.float(), block), (expected, plain))]  # fmt: skip
    for parameter, one, other in zip([x, *block.parameters()], *pairs, strict=True):
        assert one.dtype == parameter.dtype == torch.float32
        close(one, other, 100 * torch.finfo(dtype).eps / 1e-4)
    same = [b.dtype for b in block.buffers()]
    assert same == [b.dtype for b in plain.buffers()]


def test_autocast_of_a_network() -> None:
    """Down, up with a skip, and a convolution without batch norm, whose bias stays wide too."""
    dtype = torch.float16 if INTERPRETED else torch.bfloat16
    ours = Net().to(DEVICE)
    theirs = PlainNet(ours)
    x = torch.randn(1, 3, 4, 4, device=DEVICE, requires_grad=True)
    with use_backend("triton"), torch.autocast(DEVICE, dtype):
        output = ours(x)
    assert output.dtype == dtype
    expected, bound = theirs(x), 100 * torch.finfo(dtype).eps / 1e-4
    close(output.float(), expected, bound)
    grads = torch.autograd.grad(output.float().sum(), [x, *ours.parameters()])
    for one, other in zip(grads, torch.autograd.grad(expected.sum(), [x, *theirs.parameters()]), strict=True):
        assert one.dtype == torch.float32
        close(one, other, bound)


def test_default_operator_and_words() -> None:
    block = ConvBlock(3, 4, kernel_size=5).to(DEVICE)  # which the CPU's fused kernels do not serve
    x = torch.randn(1, 3, 6, 6, device=DEVICE)
    with use_backend("triton"):
        said = explain_block(block, x)
        assert said.startswith("triton serves this block, fused: asked for (not yet run on a GPU")
        assert "\nforward: block_forward kernel (fused, ordinary loads: " in said
        assert "\nbackward: block_grad_weight kernel" in said
        assert "not torch.float64" in explain_block(block.double(), x.double())
    weight = torch.randn(4, 3, 3, 3, device=DEVICE)
    assert block_operators.problem("triton", weight, x) is None
    assert "one type" in block_operators.problem("triton", weight, x.half())
    expected = "triton" if DEVICE == "cuda" else "native"
    assert block_operators.choose(weight, x)[0] == expected
