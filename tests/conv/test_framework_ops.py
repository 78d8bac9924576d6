"""conv2d against the framework's own test material for nn.functional.conv2d: its OpInfo."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import noncontiguous_like
from torch.utils._pytree import tree_map_only

from myconv2d import conv2d

(OPINFO,) = (op for op in op_db if op.name == "nn.functional.conv2d")
DTYPES = sorted(OPINFO.dtypes, key=str)
FLOATING = [dtype for dtype in DTYPES if dtype.is_floating_point or dtype.is_complex]
WIDE = {torch.int64: torch.int64, torch.complex64: torch.complex128, torch.complex128: torch.complex128}


def samples(device, dtype, requires_grad=False):
    """(input, weight, bias, keyword arguments) of every sample input and reference input."""
    for sample in OPINFO.reference_inputs(device, dtype, requires_grad=requires_grad):
        yield sample.input, *sample.args, sample.kwargs


def changed(change, *operands):
    """Leaves of their own graph, each `change`d."""
    return [None if t is None else change(t.detach()).requires_grad_(t.requires_grad) for t in operands]


def layout_of(tensor):
    """The strides that tell something: those of axes with more than one step."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def results(convolution, operands, kwargs, direction):
    """The output, and the gradients that reach the operands."""
    output = convolution(*operands, **kwargs)
    if output.requires_grad:
        output.backward(direction.to(output.dtype))
    return [output, *(t.grad for t in operands if t is not None and t.requires_grad)]


def compare(operands, kwargs, change=lambda t: t):
    """Outputs and gradients of our convolution and the framework's, against the framework's in float64.

    Ours errs at most twice as much as the framework's, or by a few roundings of the largest Σ|products|.
    """
    dtype = operands[0].dtype
    wide = changed(lambda t: t.to(WIDE.get(dtype, torch.float64)), *operands)
    output = F.conv2d(*wide, **kwargs)
    direction = torch.randn_like(output) if output.requires_grad else output
    truths = results(F.conv2d, wide, kwargs, direction)
    scales = results(F.conv2d, changed(torch.abs, *wide), kwargs, direction.abs())
    ours = results(conv2d, changed(change, *operands), kwargs, direction)
    theirs = results(F.conv2d, changed(change, *operands), kwargs, direction)
    for our, their, truth, scale in zip(ours, theirs, truths, scales, strict=True):
        assert (our.dtype, our.shape, layout_of(our)) == (their.dtype, their.shape, layout_of(their)), kwargs
        if our.dtype == torch.int64:
            assert torch.equal(our, their), kwargs
            continue
        our_error, their_error = ((t.to(truth.dtype) - truth).abs().max() for t in (our, their))
        floor = 2 * torch.finfo(our.dtype).eps * scale.max()
        assert our_error <= 2 * their_error + floor, (
            f"{kwargs}: error {our_error}, the framework's {their_error}"
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_and_gradients(place, dtype):
    if dtype == torch.int64 and place.device == "cuda":
        pytest.skip("the framework has no integer convolutions on the GPU")
    count = 0
    for *operands, kwargs in samples(place.device, dtype, requires_grad=dtype != torch.int64):
        compare(operands, kwargs)
        count += 1
    assert count >= 30


@pytest.mark.parametrize("layout", ["noncontiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_other_layouts(place, dtype, layout):
    def channels_last(tensor):
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    for *operands, kwargs in samples(place.device, dtype, requires_grad=True):
        compare(operands, kwargs, channels_last if layout == "channels_last" else noncontiguous_like)


def test_frozen_operands(place):
    """Gradients for every subset of the operands."""
    for *operands, kwargs in samples(place.device, torch.float64):
        for wanted in itertools.product((False, True), repeat=2 if operands[2] is None else 3):
            some = [t.detach().requires_grad_(wants) for t, wants in zip(operands, wanted, strict=False)]
            compare([*some, *operands[len(some) :]], kwargs)


@pytest.mark.parametrize("index", range(len(list(OPINFO.error_inputs("cpu")))))
def test_errors(place, index):
    error = list(OPINFO.error_inputs(place.device))[index]
    sample = error.sample_input
    with pytest.raises(error.error_type, match=error.error_regex) as theirs:
        F.conv2d(sample.input, *sample.args, **sample.kwargs)
    with pytest.raises(error.error_type, match=error.error_regex) as ours:
        conv2d(sample.input, *sample.args, **sample.kwargs)
    assert ours.type is theirs.type


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_lazy_conjugates_and_negatives(place, dtype):
    """Views that carry a pending conjugation or negation (test_conjugated_samples, test_neg_view)."""
    assert OPINFO.test_conjugated_samples and OPINFO.test_neg_view

    def negative_view(tensor):
        return torch._neg_view(-tensor)

    def conjugate_view(tensor):
        return tensor.conj().resolve_conj().conj()

    for view in (negative_view, conjugate_view) if dtype.is_complex else (negative_view,):
        for input, weight, bias, kwargs in samples(place.device, dtype, requires_grad=True):
            operands = (input, weight, bias)
            plain = conv2d(*operands, **kwargs)
            viewed = [None if t is None else view(t) for t in operands]
            assert any(t.is_neg() or t.is_conj() for t in viewed if t is not None)
            output = conv2d(*viewed, **kwargs)
            torch.testing.assert_close(output, plain)
            wanted = [t for t in operands if t is not None]
            expected = torch.autograd.grad(plain.abs().sum(), wanted)
            torch.testing.assert_close(torch.autograd.grad(output.abs().sum(), wanted), expected)


def test_copy_on_write_inputs_stay_shared(place):
    """Reading an operand materialises no lazy copy of it (supports_cow_input_no_materialize)."""
    assert (
        OPINFO.supports_cow_input_no_materialize_forward and OPINFO.supports_cow_input_no_materialize_backward
    )
    for *operands, kwargs in samples(place.device, torch.float32):
        lazy = tree_map_only(torch.Tensor, torch._lazy_clone, operands)
        for tensor in lazy:
            if tensor is not None:
                tensor.requires_grad_()
        output = conv2d(*lazy, **kwargs)
        output.backward(torch._lazy_clone(torch.ones_like(output)))
        assert all(torch._C._is_cow_tensor(t) for t in lazy if t is not None), kwargs


def test_samples_as_lists():
    """The numbers as lists, and every argument by keyword."""
    for input, weight, bias, kwargs in samples("cpu", torch.float64):
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in kwargs.items()}
        output = conv2d(input=input, weight=weight, bias=bias, **lists)
        torch.testing.assert_close(output, F.conv2d(input, weight, bias, **kwargs))
