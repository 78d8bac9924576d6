"""The operators of the fused block against the framework's own functions in float64, for every backend there is."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from block_cases import (
    BOUND,
    CASES,
    EPS,
    NO_NORM,
    NOT_KEPT,
    ORDER,
    OVERLOADS,
    POSITIONS,
    UPSAMPLED,
    Case,
    backward_arguments,
    composed,
    convolution,
    error,
    image,
    operator,
    wide,
)

PLACES = [
    *(pytest.param(suffix, torch.float32, id=f"{suffix}-float32") for suffix in OVERLOADS),
    pytest.param("reference", torch.float64, id="reference-float64"),
]
each_place = pytest.mark.parametrize(("suffix", "dtype"), PLACES)
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def is_channels_last(tensor):
    return tensor.stride() == torch.empty(tensor.shape, memory_format=torch.channels_last).stride()


@each_case
@each_place
def test_block(suffix, dtype, case):
    """(raw, scale, shift) stands for the activated, pooled image; raw comes from where index says."""
    args = case.arguments(dtype)
    raw, full, index, scale, shift, mean, var = operator("block", suffix)(*args)
    truth = wide(args)
    convolved = composed(*truth[:11], None, None, EPS, False)
    y = convolution(suffix, args, raw, full)
    assert error(y, convolved) < BOUND[dtype]
    assert all(is_channels_last(t) for t in (raw, full, index) if t.numel())
    if not case.norm:
        assert all(t.numel() == 0 for t in (full, index, scale, shift, mean, var))
        return
    assert error(mean, convolved.mean((0, 2, 3))) < BOUND[dtype]
    assert error(var, convolved.var((0, 2, 3), correction=0)) < BOUND[dtype]
    assert error(image(raw, scale, shift, False), composed(*truth)) < BOUND[dtype] * 5
    assert mean.dtype == var.dtype == dtype
    if not case.pool:
        assert full.numel() == index.numel() == 0
        return
    windows = y[:, :, : 2 * raw.shape[2], : 2 * raw.shape[3]].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    windows = windows.movedim(3, 4).flatten(4)  # (N, K, P/2, Q/2, 4)
    signs = args[11].sign()[:, None, None]
    assert torch.equal(raw * signs, (windows * signs[..., None]).amax(4))
    assert torch.equal(raw, windows.gather(4, index.long()[..., None])[..., 0])
    assert index.dtype == torch.uint8


@each_case
@each_place
def test_block_backward(suffix, dtype, case):
    """The gradients that autograd finds through the framework's functions, from the same y and index."""
    args = case.arguments(dtype)
    given = backward_arguments(suffix, args, [True, True, True])
    ours = operator("block_backward", suffix)(*given)

    grad_raw, grad_scale, grad_shift = given[:3]
    truth = [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in wide(args)]
    y = composed(*truth[:11], None, None, EPS, False)
    loss = (y * grad_raw.double()).sum() if not case.pool else 0.0
    if case.pool:
        rows = 2 * torch.arange(grad_raw.shape[2])[:, None] + given[18].long() // 2
        columns = 2 * torch.arange(grad_raw.shape[3]) + given[18].long() % 2
        pooled = y.flatten(2).gather(2, (rows * y.shape[3] + columns).flatten(2))
        loss = (pooled * grad_raw.double().flatten(2)).sum()
    if case.norm:
        scale = truth[11] * (y.var((0, 2, 3), correction=0) + EPS).rsqrt()
        shift = truth[12] - y.mean((0, 2, 3)) * scale
        loss = loss + (scale * grad_scale.double()).sum() + (shift * grad_shift.double()).sum()
    operands = [truth[i] for i in POSITIONS]
    found = iter(torch.autograd.grad(loss, [t for t in operands if t is not None]))
    errors = {}
    for name, operand, gradient in zip(ORDER, operands, ours, strict=True):
        if operand is None:
            assert gradient.numel() == 0, name
            continue
        expected = next(found)
        assert gradient.dtype == dtype
        if name in ("input", "skip"):
            assert is_channels_last(gradient), name
        if name == "bias" and case.norm:
            assert not gradient.any()  # raw is seen through scale and shift only
        else:
            errors[name] = error(gradient, expected)
    assert max(errors.values()) < BOUND[dtype], errors


@each_place
@pytest.mark.parametrize("wanted", [*itertools.product([True, False], repeat=3)], ids=str)
def test_only_what_is_wanted(suffix, dtype, wanted):
    cases = (CASES[1], CASES[0], Case(("both", "affine"), (3, 2), pool=True), UPSAMPLED[2], *NOT_KEPT[-3:])
    for case in cases:
        args = case.arguments(dtype)
        given = backward_arguments(suffix, args, [True] * 3)
        everything = operator("block_backward", suffix)(*given)
        some = operator("block_backward", suffix)(*given[:-1], list(wanted))
        for i, (one, other) in enumerate(zip(some, everything, strict=True)):
            if wanted[0 if i < 3 else 1 if i < 6 else 2]:
                assert torch.equal(one, other)
            else:
                assert one.numel() == 0


@each_place
@pytest.mark.parametrize("case", [Case(("affine",), (3,), pool=True), NOT_KEPT[1]], ids=str)
def test_missing_gradients_of_vectors_are_zero(suffix, dtype, case):
    args = case.arguments(dtype)
    given = backward_arguments(suffix, args, [True] * 3)
    zeros = [torch.zeros_like(g) for g in given[1:3]]
    for one, other in zip(
        operator("block_backward", suffix)(given[0], None, None, *given[3:]),
        operator("block_backward", suffix)(given[0], *zeros, *given[3:]),
        strict=True,
    ):
        assert torch.equal(one, other)


@each_place
@pytest.mark.parametrize(("channels", "out_channels"), [(4, 4), (2, 20)])
def test_first_of_equals_wins(suffix, dtype, channels, out_channels):
    """Pooling chooses as max_pool2d does of the activation: ties, signs, zero gammas, not-a-numbers."""
    identity = torch.eye(channels, dtype=dtype).repeat(out_channels // channels, 1)[:, :, None, None]
    weight = F.pad(identity, (1, 1, 1, 1))  # 3×3
    for fill in (None, float("nan"), float("inf")):
        input = torch.randint(-1, 2, (3, channels, 9, 10)).to(dtype)  # many ties
        if fill is not None:
            input[torch.rand(input.shape) < 0.1] = fill
        gamma = torch.tensor([1.0, -1.0, 2.0, 0.0 if fill is None else -0.5], dtype=dtype)
        gamma = gamma.repeat(out_channels // 4)
        plain = (input, None, None, False, None, None, None, False, weight, None, [1, 1])
        args = *plain, gamma, torch.zeros_like(gamma), EPS, True
        raw, full, index, *_ = operator("block", suffix)(*args)
        full = convolution(suffix, args, raw, full)
        if fill is None:  # else a fast algorithm may spread it
            torch.testing.assert_close(full, composed(*plain, None, None, EPS, False))
        key = full * gamma.sign()[:, None, None]
        best, where = F.max_pool2d(key, 2, return_indices=True)
        torch.testing.assert_close(raw * gamma.sign()[:, None, None], best, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(index, (2 * (where // 10 % 2) + where % 10 % 2).to(torch.uint8))


@each_place
def test_statistics_of_a_large_mean(suffix, dtype):
    """A variance far below the squared mean is that of the values, not of its own rounding."""
    args = list(Case(("plain",), (8,), 8, size=(32, 32)).arguments(dtype))
    args[9] = torch.full((8,), 3000.0, dtype=dtype)
    raw, _, _, scale, _, mean, var = operator("block", suffix)(*args)
    assert error(mean, raw.double().mean((0, 2, 3))) < 1e-6
    assert error(var, raw.double().var((0, 2, 3), correction=0)) < 1e-5
    assert error(scale, args[11].double() * (raw.double().var((0, 2, 3), correction=0) + EPS).rsqrt()) < 1e-5


@each_place
def test_constant_channels(suffix, dtype):
    """A variance of zero: the shift is beta, gradients are finite."""
    case = Case(("plain",), (8,), 8, size=(6, 6))
    args = list(case.arguments(dtype))
    args[8] = torch.zeros_like(args[8])
    raw, _, _, scale, shift, mean, var = operator("block", suffix)(*args)
    assert torch.equal(var, torch.zeros_like(var))
    torch.testing.assert_close(mean, args[9])
    torch.testing.assert_close(image(raw, scale, shift, False), composed(*args), atol=1e-4, rtol=1e-4)
    grads = operator("block_backward", suffix)(*backward_arguments(suffix, args, [True] * 3))
    assert all(grad.isfinite().all() for grad in grads)


@each_place
@pytest.mark.parametrize("pool", [False, True])
def test_empty_batch(suffix, dtype, pool):
    """Mean and variance of nothing are zero, and so are all gradients of parameters."""
    args = Case(("both", "affine"), (8, 8), 8, batch=0, pool=pool).arguments(dtype)
    raw, _, _, scale, shift, mean, var = operator("block", suffix)(*args)
    assert raw.shape == ((0, 8, 3, 4) if pool else (0, 8, 6, 8))
    assert torch.equal(mean, torch.zeros_like(mean)) and torch.equal(var, mean)
    torch.testing.assert_close(scale, args[11] / EPS**0.5)
    torch.testing.assert_close(shift, args[12])
    given = backward_arguments(suffix, args, [True] * 3)
    grads = operator("block_backward", suffix)(*given)
    assert grads[0].shape == args[0].shape and grads[3].shape == args[4].shape
    assert torch.equal(grads[6], torch.zeros_like(args[8]))
    output = operator("block_inference", suffix)(*args[0:1], True, args[4], False, *args[8:11], *NO_NORM, True, pool)
    assert output.shape == raw.shape


@each_case
@each_place
@pytest.mark.parametrize("relu", [True, False])
def test_block_inference(suffix, dtype, case, relu):
    args = case.arguments(dtype)
    plain = (args[0], None, None, args[3], args[4], None, None, args[7], *args[8:11])
    norm = NO_NORM
    if case.norm:
        generator = torch.Generator().manual_seed(0)
        mean, var = torch.rand(2, case.out_channels, generator=generator).to(dtype)
        norm = args[11], args[12], mean, var, EPS
    output = operator("block_inference", suffix)(args[0], args[3], args[4], *args[7:11], *norm, relu, case.pool)
    truth = composed(*wide(plain), None, None, EPS, False)
    if case.norm:
        gamma, beta, mean, var = (vector.double() for vector in norm[:4])
        truth = F.batch_norm(truth, mean, var, gamma, beta, eps=EPS)
    truth = F.relu(truth) if relu else truth
    assert error(output, F.max_pool2d(truth, 2) if case.pool else truth) < BOUND[dtype]
    assert is_channels_last(output)


@each_place
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize(
    "size", [(2, 3, 5, 7), (1, 1, 1, 1), (3, 33, 8, 8), (0, 4, 3, 3), (2, 24, 16, 15)], ids=str
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_activate(suffix, dtype, upsample, size, layout):
    raw, scale, shift = (torch.randn(s).to(dtype) for s in (size, size[1], size[1]))
    raw = raw.contiguous(memory_format=layout)
    output = operator("activate", suffix)(raw, scale, shift, upsample)
    operands = [t.requires_grad_() for t in wide((raw, scale, shift))]
    truth = image(*operands, upsample)
    assert error(output, truth) < BOUND[dtype] and is_channels_last(output)
    grad = torch.randn_like(output).contiguous(memory_format=layout)
    ours = operator("activate_backward", suffix)(grad, raw, scale, shift, upsample)
    assert is_channels_last(ours[0])
    for one, expected in zip(ours, torch.autograd.grad(truth, operands, grad.double()), strict=True):
        assert error(one, expected) < BOUND[dtype]
