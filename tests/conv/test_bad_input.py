"""Mistakes: refused with the framework's type of error, in words that name the argument, before any work."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.implementations import OPERATORS
from myconv2d import ConvBlock, conv2d, explain

x, w, b = torch.randn(2, 4, 7, 6), torch.randn(6, 4, 3, 3), torch.randn(6)
halves = torch.randn(6, 2, 3, 3)  # the weight of two groups


def sizes(first, second, **options):
    return (torch.zeros(first), torch.zeros(second)), options


# What is wrong: (positional arguments, keyword arguments, what the message must name)
MISTAKES = {
    # numbers
    **{f"{name} {value!r}": ((x, w, b), {name: value}, name)
       for name in ("stride", "padding", "dilation")
       for value in (None, 1.0, True, 1j, [1.0, 1], (True, 1), (None, 1), ("1", "1"), {1, 2}, {1: 2},
                     range(1, 3), np.array([1, 2]), torch.tensor(1.0), torch.tensor([1, 2]), (1, 1, 1), (), [],
                     [[1], [1]], -1, (1, -1), (-1,), -(2**62))},
    **{f"{name} {value!r}": ((x, w, b), {name: value}, name)
       for name in ("stride", "dilation") for value in (0, (0, 1), (1, 0), "1", "same")},
    **{f"padding {value!r}": ((x, w, b), {"padding": value}, "padding") for value in ("full", "SAME", "")},
    **{f"groups {value!r}": ((x, halves, b), {"groups": value}, "groups")
       for value in (None, 2.0, "2", True, (2,), [2], 0, -1, 4, 100, torch.tensor(2.0))},
    "same padding, strided": ((x, w, b, 2, "same"), {}, "stride"),
    "same padding, strided one way": ((x, w, b), {"padding": "same", "stride": (1, 2)}, "stride"),
    "same padding, dilation 0": ((x, w, b), {"padding": "same", "dilation": 0}, "dilation"),
    "same padding, stride 0": ((x, w, b), {"padding": "same", "stride": 0}, "stride"),
    # things that are no tensors
    **{f"input {type(value).__name__}": ((value, w), {}, "input")
       for value in (None, [1.0], 1.0, x.numpy(), "x")},
    **{f"weight {type(value).__name__}": ((x, value), {}, "weight")
       for value in (None, [1.0], 1.0, w.numpy())},
    **{f"bias {type(value).__name__}": ((x, w, value), {}, "bias")
       for value in ([1.0] * 6, 1.0, b.numpy(), True)},
    # calls
    "no weight": ((x,), {}, "weight"),
    "nothing": ((), {}, "input"),
    "unknown name": ((x, w), {"strides": 1}, "strides"),
    "an argument twice": ((x, w), {"weight": w}, "weight"),
    "too many": ((x, w, b, 1, 0, 1, 1, 1), {}, "arguments"),
    # axes
    **{f"input {n}-d": ((torch.zeros((4,) * n), w), {}, "input") for n in (0, 1, 2, 5)},
    **{f"weight {n}-d": ((x, torch.zeros((4,) * n)), {}, "weight") for n in (0, 1, 2, 3, 5)},
    "input and weight 3-d": ((torch.zeros(4, 4, 4), torch.zeros(4, 4, 4)), {}, "weight"),
    **{f"bias of {size}": ((x, w, torch.zeros(size)), {}, "bias")
       for size in ((), (1,), (5,), (7,), (1, 6), (6, 1), (0,))},
    # channels
    "too many channels": (*sizes((2, 5, 7, 6), (6, 4, 3, 3)), "channels"),
    "unbatched, too few channels": (*sizes((3, 7, 6), (6, 4, 3, 3)), "channels"),
    "channels for one group": (*sizes((2, 4, 7, 6), (6, 4, 3, 3), groups=2), "channels"),
    "odd out channels": (*sizes((2, 4, 7, 6), (5, 2, 3, 3), groups=2), "groups"),
    "fewer out channels than groups": (*sizes((2, 4, 7, 6), (1, 2, 3, 3), groups=2), "groups"),
    # pictures and kernels
    "kernel too high": (*sizes((2, 4, 2, 6), (6, 4, 3, 3)), "Kernel size"),
    "kernel too wide": (*sizes((2, 4, 7, 6), (6, 4, 3, 9), padding=(9, 1)), "Kernel size"),
    "kernel dilated too far": (*sizes((2, 4, 7, 6), (6, 4, 3, 3), dilation=4), "Kernel size"),
    "no rows": (*sizes((2, 4, 0, 6), (6, 4, 3, 3)), "input size"),
    "no kernel": (*sizes((2, 4, 7, 6), (6, 4, 0, 3)), "kernel"),
    "no out channels": (*sizes((2, 4, 7, 6), (0, 4, 3, 3)), "weight"),
    # types, layouts and devices
    **{f"input {dtype}": ((x.to(dtype), w, b), {}, "type")
       for dtype in (torch.float64, torch.float16, torch.int64, torch.complex64, torch.bool)},
    **{f"weight {dtype}": ((x, w.to(dtype), b), {}, "type")
       for dtype in (torch.float64, torch.bfloat16, torch.uint8)},
    **{f"bias {dtype}": ((x, w, b.to(dtype)), {}, "bias")
       for dtype in (torch.float64, torch.float16, torch.int64)},
    **{f"all {dtype}": (tuple(t.abs().to(dtype) for t in (x, w, b)), {}, str(dtype))
       for dtype in (torch.bool, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn)},
    "sparse input": ((x.to_sparse(), w), {}, "input"),
    "sparse weight": ((x, w.to_sparse()), {}, "weight"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=list(MISTAKES))
def test_refused_as_the_framework_refuses(mistake):
    arguments, options, named = mistake
    with pytest.raises(Exception) as theirs:
        F.conv2d(*arguments, **options)
    for call in (conv2d, explain):
        with pytest.raises(theirs.type) as ours:
            call(*arguments, **options)
        assert issubclass(ours.type, (RuntimeError, TypeError))
        assert named in str(ours.value), ours.value


def test_numbers_beyond_64_bits():
    """Values that no C++ integer holds (the framework says ValueError)."""
    for name in ("stride", "padding", "dilation"):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            conv2d(x, w, b, **{name: 2**64})


def test_memory_that_no_machine_has():
    """Results too large to allocate, and sizes that overflow, are errors of the call."""
    for options in ({"padding": 2**40}, {"padding": 2**62}, {"padding": 2**61}, {"dilation": 2**62}):
        for convolution in (F.conv2d, conv2d):
            with pytest.raises(RuntimeError):
                convolution(x, w, b, **options)


def test_a_stride_beyond_the_picture():
    """Only the first output is there; its gradients too."""
    input, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
    truth = conv2d(input, weight, b, stride=1)[:, :, :1, :1]
    expected = torch.autograd.grad(truth.sum(), (input, weight))
    for stride in (10**6, 2**62):
        output = conv2d(input, weight, b, stride=stride)
        torch.testing.assert_close(output, truth)
        for one, other in zip(torch.autograd.grad(output.sum(), (input, weight)), expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["input", "weight", "bias"])
def test_devices_are_not_mixed(name):
    """Each tensor on "meta" while the others are not; on real devices the framework refuses as well."""
    operands = {"input": x, "weight": w, "bias": b}
    operands[name] = operands[name].to("meta")
    with pytest.raises(RuntimeError, match="same device.* meta"):
        conv2d(**operands)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["input", "weight", "bias"])
def test_real_devices_are_not_mixed(name):
    operands = {"input": x, "weight": w, "bias": b}
    operands[name] = operands[name].cuda()
    for convolution in (F.conv2d, conv2d):
        with pytest.raises(RuntimeError):
            convolution(**operands)


def test_blocks():
    with pytest.raises(ValueError, match="resize must be None, 'pool' or 'upsample', got 'pooling'"):
        ConvBlock(3, 4, resize="pooling")
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 4"):
        ConvBlock(3, 4)(torch.randn(1, 3, 8, 8), skip=torch.randn(1, 1, 8, 8))
    with pytest.raises(TypeError, match="argument 'input' must be Tensor, not NoneType"):
        ConvBlock(3, 4)(None)
    with pytest.raises(RuntimeError, match="should be the same kind of dense tensor.* torch.sparse_coo"):
        ConvBlock(3, 4)(torch.randn(1, 3, 8, 8).to_sparse())


ONE = (1, 1)
GOOD = {
    "conv2d": (x, w, b, ONE, (0, 0), ONE, 1),
    "conv2d_grad_input": (torch.randn(2, 6, 5, 4), w, [2, 4, 7, 6], ONE, (0, 0), ONE, 1),
    "conv2d_grad_weight": (torch.randn(2, 6, 5, 4), x, [6, 4, 3, 3], ONE, (0, 0), ONE, 1, True),
}
ZERO = torch.zeros
WRONG = [  # (operator, which argument, its wrong value)
    *((operator, 3, value) for operator in OPERATORS for value in ((0, 1), (1, 0), (-1, 1), (2, 2, 2), ())),
    *((operator, 4, value) for operator in OPERATORS for value in ((-1, 0), (0, -5), (1, 1, 1), ())),
    *((operator, 5, value) for operator in OPERATORS for value in ((0, 1), (-1, 1), (9, 9), (1, 1, 1))),
    *((operator, 6, value) for operator in OPERATORS for value in (0, -1, 2, 3)),
    *(("conv2d", 0, ZERO(size)) for size in ((4, 7, 6), (2, 5, 7, 6), (2, 4, 2, 6), (2, 4, 7, 2))),
    *(("conv2d", 1, ZERO(size)) for size in ((6, 4, 3), (6, 5, 3, 3), (6, 4, 0, 3), (6, 4, 8, 3))),
    *(("conv2d", 2, ZERO(size)) for size in ((5,), (7,), (1, 6), ())),
    ("conv2d", 1, w.double()), ("conv2d", 2, b.double()), ("conv2d", 0, x.bool()),
    *(("conv2d_grad_input", 0, ZERO(size))
       for size in ((2, 6, 5, 5), (2, 6, 4, 4), (3, 6, 5, 4), (2, 5, 5, 4), (6, 5, 4))),
    *(("conv2d_grad_input", 2, size)
       for size in ([2, 4, 7, 7], [2, 4, 8, 6], [2, 5, 7, 6], [3, 4, 7, 6], [1, 4, 7, 6],
                                                  [2, 4, 7], [2, 4, -7, 6], [2, 4, 0, 0], [-2, 4, 7, 6])),
    *(("conv2d_grad_weight", 0, ZERO(size))
       for size in ((2, 6, 5, 5), (2, 7, 5, 4), (3, 6, 5, 4), (6, 5, 4))),
    *(("conv2d_grad_weight", 1, ZERO(size))
       for size in ((2, 4, 7, 7), (2, 5, 7, 6), (3, 4, 7, 6), (4, 7, 6))),
    *(("conv2d_grad_weight", 2, size)
       for size in ([6, 4, 3], [6, 5, 3, 3], [7, 4, 3, 3], [6, 4, 2, 3], [6, 4, 3, 4],
                                                   [6, 4, 0, 3], [6, 4, -3, 3], [-6, 4, 3, 3])),
    ("conv2d_grad_weight", 1, x.double()), ("conv2d_grad_input", 1, w.half()),
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["native", "default"])
@pytest.mark.parametrize("operator, index, value", WRONG)
def test_operators_never_leave_their_operands(suffix, operator, index, value):
    """Called with sizes that do not agree, they refuse to read or write out of bounds."""
    call = getattr(getattr(torch.ops.myconv2d, operator), suffix)
    arguments = list(GOOD[operator])
    call(*arguments)
    arguments[index] = value
    with pytest.raises(RuntimeError):
        call(*arguments)


@pytest.mark.parametrize("value", [2**62, 2**63 - 1])
@pytest.mark.parametrize("name", ["padding", "dilation"])
@pytest.mark.parametrize("grad", [False, True])
def test_numbers_that_overflow_are_refused(name, value, grad):
    """Sizes are counted in 64 bits; what does not fit there must not wrap round to a size that does."""
    with pytest.raises((RuntimeError, OverflowError)):
        conv2d(x, w.clone().requires_grad_(grad), b, **{name: value})
