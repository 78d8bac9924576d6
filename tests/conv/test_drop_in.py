"""Where nn.Conv2d and F.conv2d are used, ours can stand: call forms, sizes, types, autocast, subclasses."""

import inspect
import itertools

import pytest
import torch
import torch.nn.functional as F
from listening import Listener
from torch import nn

import myconv2d
from myconv2d import MyConv2d, conv2d

LOW = [torch.bfloat16, torch.float16]


def tensors(dtype=torch.float64, groups=1):
    """input, weight, bias of small convolutions, with gradients where the type has them."""
    draw = [torch.randn(2, 4, 7, 6), torch.randn(6, 4 // groups, 3, 2), torch.randn(6)]
    if not (dtype.is_floating_point or dtype.is_complex):
        return [(3 * t).round().abs().to(dtype) for t in draw]
    return [t.to(dtype).requires_grad_() for t in draw]


def assert_same(ours, theirs, **tolerance):
    torch.testing.assert_close(ours, theirs, check_stride=True, **tolerance)


def test_signature():
    """Names, order and defaults of the arguments, as the framework's own documentation states them."""
    stated = F.conv2d.__doc__.strip().splitlines()[0]
    namespace = {}
    exec(f"def {stated.replace(' -> Tensor', '')}: pass", namespace)
    ours, theirs = (inspect.signature(f).parameters.values() for f in (conv2d, namespace["conv2d"]))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]
    assert inspect.signature(MyConv2d) == inspect.signature(nn.Conv2d)


@pytest.mark.parametrize("arguments", [
    (1, 0, 1, 1), ((2,), (1,), (2,)), ([2], [1], [1], 2), ((2, 1), (0, 3), (1, 2), 2), ([1, 2], [2, 1]),
    (torch.Size([2, 1]), torch.Size([1, 0])), (1, "same"), ((1, 1), "same", (2, 3)), ([1], "same", [3], 2),
    ((2, 3), "valid"), (2, "valid", 2), (torch.tensor(2), (torch.tensor(1), 0)),
], ids=str)  # fmt: skip
def test_call_forms(arguments):
    """Numbers, tuples, lists, sizes and words, by position and by keyword."""
    x, w, b = tensors(groups=arguments[3] if len(arguments) > 3 else 1)
    names = ("stride", "padding", "dilation", "groups")
    by_name = dict(zip(names, arguments, strict=False))
    expected = F.conv2d(x, w, b, *arguments)
    assert_same(conv2d(x, w, b, *arguments), expected)
    assert_same(conv2d(bias=b, weight=w, input=x, **by_name), expected)
    assert_same(conv2d(x[0], w, None, *arguments), F.conv2d(x[0], w, None, **by_name))


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (2, 3), (3, 4), (5, 2)], ids=str)
def test_same_padding(kernel):
    """Where the total is odd, the extra zeros go behind, as in the framework; every dilation."""
    x, w = torch.randn(2, 4, 7, 6, dtype=torch.float64), torch.randn(3, 4, *kernel, dtype=torch.float64)
    for dilation in itertools.product((1, 2, 3), repeat=2):
        output = conv2d(x, w, padding="same", dilation=dilation)
        assert output.shape[2:] == x.shape[2:]
        assert_same(output, F.conv2d(x, w, padding="same", dilation=dilation))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, (1, 3), "same"], ids=str)
def test_padding_modes(mode, padding):
    for options in ({}, {"dilation": 2, "kernel_size": 2}, {"bias": False, "groups": 2}):
        options = {
            "kernel_size": (3, 2),
            "padding": padding,
            "padding_mode": mode,
            "dtype": torch.float64,
        } | options
        ours, theirs = (module(4, 6, **options) for module in (MyConv2d, nn.Conv2d))
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 4, 8, 7, dtype=torch.float64, requires_grad=True)
        assert_same(ours(x), theirs(x))
        assert_same(ours(x[0]), theirs(x[0]))
        gradients = (torch.autograd.grad(m(x).sin().sum(), [x, *m.parameters()]) for m in (ours, theirs))
        for our, their in zip(*gradients, strict=True):
            assert_same(our, their)


EMPTY = {
    "no batch": ((0, 4, 6, 5), (6, 4, 3, 3), {}),
    "no batch, padded": ((0, 4, 6, 5), (6, 2, 3, 3), {"padding": 2, "groups": 2}),
    "no batch, no pixels": ((0, 4, 0, 6), (6, 4, 3, 3), {"padding": 1}),
    "no batch, small": ((0, 4, 2, 2), (6, 4, 3, 3), {}),
    "no out channels": ((2, 4, 6, 5), (0, 4, 3, 3), {}),
    "no pixels": ((2, 4, 0, 6), (6, 4, 3, 3), {}),
    "no pixels, 1x1": ((2, 4, 0, 0), (6, 4, 1, 1), {}),
    "no kernel": ((2, 4, 6, 6), (6, 4, 0, 3), {}),
    "nothing": ((0, 0, 0, 0), (0, 0, 0, 0), {}),
    "wrong channels": ((2, 0, 6, 6), (6, 4, 3, 3), {}),
}


@pytest.mark.parametrize("sizes", EMPTY.values(), ids=list(EMPTY))
def test_sizes_of_zero(sizes):
    """The framework's result, gradients included, or an error of its type."""
    x, w = (torch.randn(size, requires_grad=True) for size in sizes[:2])
    b = torch.randn(w.shape[0], requires_grad=True)
    try:
        expected = F.conv2d(x, w, b, **sizes[2])
    except RuntimeError as error:
        with pytest.raises(type(error)):
            conv2d(x, w, b, **sizes[2])
        return
    output = conv2d(x, w, b, **sizes[2])
    assert_same(output, expected)
    for our, their in zip(
        *(torch.autograd.grad(y.sum(), (x, w, b)) for y in (output, expected)), strict=True
    ):
        assert_same(our, their)


def test_documented_differences():
    """Where ours gives a result and the framework an error or another result (see conv2d's docstring)."""
    b = torch.randn(6)
    channels = conv2d(torch.empty(2, 0, 6, 6), torch.empty(6, 0, 3, 3), b)
    assert torch.equal(channels, b[:, None, None].expand(2, 6, 4, 4))
    assert F.conv2d(torch.empty(2, 0, 6, 6), torch.empty(6, 0, 3, 3), b).shape == (2, 0, 4, 4)
    pixels = conv2d(torch.empty(2, 4, 0, 6), torch.randn(6, 4, 3, 3), b, padding=2)
    assert torch.equal(pixels, b[:, None, None].expand(2, 6, 2, 8))
    with pytest.raises(RuntimeError, match="zero batch or zero channel"):
        F.conv2d(torch.empty(2, 4, 0, 6), torch.randn(6, 4, 3, 3), b, padding=2)


@pytest.mark.parametrize("dtype", [
    torch.float64, torch.float32, *LOW, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
], ids=str)  # fmt: skip
def test_types(dtype):
    x, w, b = tensors(dtype)
    tolerance = {"rtol": 1e-2, "atol": 3e-2} if dtype in LOW else {}
    assert_same(conv2d(x, w, b, 2, 1), F.conv2d(x, w, b, 2, 1), **tolerance)


def test_default_dtype_and_device():
    """Defaults of the framework apply to the module, and to nothing else."""
    try:
        torch.set_default_dtype(torch.float64)
        assert MyConv2d(2, 3, 1)(torch.randn(1, 2, 4, 4)).dtype == torch.float64
        assert conv2d(*(t.float() for t in tensors())).dtype == torch.float32
        torch.set_default_device("meta")
        module = MyConv2d(2, 3, 1)
        assert module.weight.device.type == "meta" and module(torch.randn(1, 2, 4, 4)).shape == (1, 3, 4, 4)
        assert conv2d(torch.ones(1, 1, 3, 3, device="cpu"), torch.ones(1, 1, 3, 3, device="cpu")).item() == 9
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_autocast(dtype):
    """Types of outputs and gradients under autocast for every mixture of input types, also switched off."""
    given = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
    for types in itertools.product(given, repeat=3):
        found = []
        for convolution in (F.conv2d, conv2d):
            operands = [t.detach().to(d).requires_grad_() for t, d in zip(tensors(), types, strict=True)]
            try:
                with torch.autocast("cpu", dtype):
                    output = convolution(*operands)
                gradients = torch.autograd.grad(output.float().sum(), operands)
                found.append((output.dtype, *(g.dtype for g in gradients)))
            except RuntimeError:
                found.append("error")
        assert found[0] == found[1], types
    x, w, b = tensors(torch.float32)
    with torch.autocast("cpu", dtype):
        assert conv2d(x.detach().long(), w.detach().long()).dtype == torch.int64
        expected = F.conv2d(x, w, b)
        torch.testing.assert_close(conv2d(x, w, b), expected, rtol=2e-2, atol=2e-2)
        with torch.autocast("cpu", enabled=False):
            assert conv2d(x, w, b).dtype == torch.float32
    with torch.autocast("cuda", dtype, enabled=torch.cuda.is_available()):
        assert conv2d(x, w, b).dtype == torch.float32


def test_requires_grad():
    """The output wants gradients when the framework's would."""
    for wanted in itertools.product((False, True), repeat=3):
        operands = [t.detach().requires_grad_(wants) for t, wants in zip(tensors(), wanted, strict=True)]
        assert conv2d(*operands).requires_grad == any(wanted)
        with torch.no_grad():
            assert not conv2d(*operands).requires_grad
        module = MyConv2d(4, 6, 3).requires_grad_(wanted[1])
        assert module(operands[0].float()).requires_grad == (wanted[0] or wanted[1])


def test_inference_mode():
    x, w, b = tensors()
    with torch.inference_mode():
        output = conv2d(x, w, b)
        assert output.is_inference() and not output.requires_grad
        inference = x.detach().clone()
    assert_same(conv2d(inference, w.detach(), b.detach()), F.conv2d(x, w, b).detach())
    for convolution in (F.conv2d, conv2d):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            convolution(inference, w)


class Tagged(torch.Tensor):
    """A subclass that notes who was called with it."""

    seen = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_tensor_subclasses():
    """Subclasses come out as they do of the framework's function; those that listen hear of the call."""
    x, w, b = tensors()
    for ours in ((x.as_subclass(Tagged), w, b), (x, w.as_subclass(Tagged), b), (x, w, b.as_subclass(Tagged))):
        Tagged.seen.clear()
        output = conv2d(*ours, stride=2, padding=1)
        assert type(output) is type(F.conv2d(*ours, stride=2, padding=1)) is Tagged
        assert Tagged.seen[0] is conv2d
        torch.testing.assert_close(output.as_subclass(torch.Tensor), F.conv2d(x, w, b, 2, 1))
        gradient = torch.autograd.grad(output.sum(), x)[0]
        torch.testing.assert_close(
            gradient.as_subclass(torch.Tensor), torch.autograd.grad(F.conv2d(x, w, b, 2, 1).sum(), x)[0]
        )
    assert type(conv2d(nn.Parameter(x.detach()), w)) is torch.Tensor

    with Listener() as listener:
        conv2d(x, w, b)
    assert listener.heard == [conv2d]


def test_memory_format_of_gradients():
    """channels_last in, channels_last out and back; a contiguous gradient does not change that."""
    last = {"memory_format": torch.channels_last}
    x, w, b = (t.float() for t in tensors())
    x, w = x.contiguous(**last).detach().requires_grad_(), w.contiguous(**last).detach().requires_grad_()
    output = conv2d(x, w, b)
    assert output.is_contiguous(**last)
    for gradient in (
        torch.ones(output.shape),
        torch.ones(output.shape).contiguous(**last),
        torch.ones(()).expand(output.shape),
    ):
        grad_input, grad_weight = torch.autograd.grad(output, (x, w), gradient, retain_graph=True)
        assert grad_input.is_contiguous(**last) and grad_weight.is_contiguous(**last)


def test_use_backend():
    """Nested, restored after errors, and passed on with one warning where a backend cannot serve."""
    x, w, b = tensors()
    with myconv2d.use_backend("reference"):
        assert "reference" in myconv2d.explain(x, w, b)
        with myconv2d.use_backend("auto"):
            assert "native" in myconv2d.explain(x, w, b)
        with pytest.raises(ZeroDivisionError), myconv2d.use_backend("native"):
            raise ZeroDivisionError
        assert "reference" in myconv2d.explain(x, w, b)
    myconv2d.backends.choose.cache_clear()
    with myconv2d.use_backend("triton"):
        with pytest.warns(UserWarning, match="triton cannot") as warned:
            for _ in range(3):
                assert_same(conv2d(x, w, b), F.conv2d(x, w, b))
        assert len(warned) == 1
    with pytest.raises(
        ValueError, match="unknown backend 'cudnn'; the backends are native, triton, reference"
    ):
        myconv2d.use_backend("cudnn").__enter__()
