"""MyConv2d against the framework's own test material for nn.Conv2d: its ModuleInfo."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_utils import freeze_rng_state, noncontiguous_like

from myconv2d import MyConv2d

(MODULE_INFO,) = (info for info in module_db if info.module_cls is nn.Conv2d)
DTYPES = [*MODULE_INFO.dtypes, torch.bfloat16, torch.complex64]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def inputs(dtype=torch.float64, device="cpu", requires_grad=True):
    """(constructor arguments, constructor keyword arguments, input) of every module input."""
    for module_input in MODULE_INFO.module_inputs_func(
        MODULE_INFO, device, dtype, requires_grad, training=True
    ):
        made, forward = module_input.constructor_input, module_input.forward_input
        yield made.args, made.kwargs, forward.args[0]


def pair(args, kwargs, **more):
    """Ours and the framework's module with the same parameters."""
    with freeze_rng_state():
        ours = MyConv2d(*args, **kwargs, **more)
    with freeze_rng_state():
        theirs = nn.Conv2d(*args, **kwargs, **more)
    return ours, theirs


def pairs(dtype=torch.float64, device="cpu"):
    for args, kwargs, input in inputs(dtype, device):
        yield *pair(args, kwargs, dtype=dtype, device=device), input


def backward(module, input):
    """The output, and the gradients of input and parameters for one and the same direction."""
    output = module(input)
    with freeze_rng_state():
        direction = torch.randn_like(output)
    return output, *torch.autograd.grad(output, [input, *module.parameters()], direction)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results(place, dtype):
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    for ours, theirs, input in pairs(dtype, place.device):
        assert isinstance(ours, MODULE_INFO.module_cls)
        for our, their in zip(backward(ours, input), backward(theirs, input), strict=True):
            torch.testing.assert_close(our, their, **tolerance)


def test_same_initial_parameters():
    """Constructed from the same seed: the same parameters."""
    for ours, theirs, _ in pairs():
        for (our_name, our), (their_name, their) in zip(
            ours.named_parameters(), theirs.named_parameters(), strict=True
        ):
            assert our_name == their_name and torch.equal(our, their)


def test_repr_differs_in_the_class_name_only():
    for options in ({}, {"padding": "same"}, {"stride": 2, "groups": 2, "dilation": (2, 1), "bias": False},
                    {"padding": 2, "padding_mode": "reflect"}):  # fmt: skip
        ours, theirs = pair((4, 6, 3), options)
        assert repr(ours) == repr(theirs).replace("Conv2d", "MyConv2d")


def test_state_dict_interchanges(tmp_path):
    for ours, theirs, input in pairs():
        other = copy.deepcopy(theirs)
        nn.init.normal_(other.weight)
        torch.save(other.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert ours.load_state_dict(state).missing_keys == []
        torch.testing.assert_close(ours(input), other(input))
        theirs.load_state_dict(ours.state_dict(), strict=True)
        torch.testing.assert_close(theirs(input), ours(input))
        assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_copies():
    """deepcopy, pickle and a saved module compute the same to the bit and share nothing."""

    def saved(module):
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    for ours, _, input in pairs():
        expected = ours(input)
        for make_copy in (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), saved):
            other = make_copy(ours)
            assert type(other) is MyConv2d and repr(other) == repr(ours)
            assert torch.equal(other(input), expected)
            with torch.no_grad():
                other.weight.zero_()
            assert torch.equal(ours(input), expected)


def test_pickles_of_the_frameworks_module_load():
    for ours, theirs, input in pairs():
        ours.__setstate__(pickle.loads(pickle.dumps(theirs.__getstate__())))
        torch.testing.assert_close(ours(input), theirs(input))


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("input_format", FORMATS)
def test_memory_formats(place, input_format, weight_format):
    """Output and gradients come in the memory format that the framework's module gives them."""
    for ours, theirs, input in pairs(torch.float32, place.device):
        if input.dim() == 3 and input_format == "channels_last":
            continue
        input = input.detach().contiguous(memory_format=FORMATS[input_format]).requires_grad_()
        results = []
        for module in (ours, theirs):
            module.to(memory_format=FORMATS[weight_format])
            output = module(input)
            input.grad = None
            output.square().sum().backward()
            results.append((output, input.grad, module.weight.grad, module.bias.grad))
        for our, their in zip(*results, strict=True):
            assert (our.shape, our.stride()) == (their.shape, their.stride())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_conversion(dtype):
    for ours, theirs, input in pairs(torch.float32):
        ours.to(dtype), theirs.to(dtype)
        input = input.detach().to(dtype)
        output = ours(input)
        assert output.dtype == dtype
        torch.testing.assert_close(output, theirs(input), rtol=2e-2, atol=2e-2)
    assert MyConv2d(2, 3, 1).double().cpu().half().float().bfloat16().weight.dtype == torch.bfloat16


def test_layouts():
    """Every combination of layouts of input, gradient, weight and bias gives the same results."""

    def channels_last(tensor):
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    layouts = (torch.Tensor.contiguous, channels_last, noncontiguous_like)
    for ours, _, input in pairs():
        expected = backward(ours, input)
        with freeze_rng_state():
            direction = torch.randn_like(expected[0])
        for change in itertools.product(layouts, layouts, layouts, layouts[::2]):
            operands = (input, direction, ours.weight, ours.bias)
            x, g, w, b = (layout(t.detach()) for t, layout in zip(operands, change, strict=True))
            x, w, b = (t.requires_grad_() for t in (x, w, b))
            output = torch.func.functional_call(ours, {"weight": w, "bias": b}, (x,))
            results = output, *torch.autograd.grad(output, (x, w, b), g)
            for result, truth in zip(results, expected, strict=True):
                torch.testing.assert_close(result, truth)


def test_gradients(place):
    """gradcheck and gradgradcheck with respect to the input and every parameter."""
    for ours, _, input in pairs(torch.float64, place.device):
        parameters = dict(ours.named_parameters())

        def call(x, *values, module=ours, names=tuple(parameters)):
            return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

        assert torch.autograd.gradcheck(
            call, (input, *parameters.values()), check_forward_ad=True, fast_mode=True
        )
        assert torch.autograd.gradgradcheck(call, (input, *parameters.values()), fast_mode=True)


def test_factory_arguments():
    """device and dtype reach the parameters, and uninitialised parameters can be asked for (skip_init)."""
    for args, kwargs, _ in inputs():
        module = MyConv2d(*args, **kwargs, device="meta", dtype=torch.float16)
        assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.float16)}
        skipped = nn.utils.skip_init(MyConv2d, *args, **kwargs, dtype=torch.float64)
        assert skipped.weight.device.type == "cpu" and skipped.weight.dtype == torch.float64
        skipped.load_state_dict(nn.Conv2d(*args, **kwargs, dtype=torch.float64).state_dict())


def test_meta_device():
    """On "meta" the same sizes, types and strides as the framework's come out, nothing is computed."""
    for ours, theirs, input in pairs(torch.float32):
        ours.to("meta"), theirs.to("meta")
        input = input.detach().to("meta").requires_grad_()
        for our, their in zip(backward(ours, input), backward(theirs, input), strict=True):
            assert our.device.type == "meta"
            assert (our.shape, our.dtype, our.stride()) == (their.shape, their.dtype, their.stride())


def test_to_empty():
    for args, kwargs, input in inputs(torch.float32):
        module = MyConv2d(*args, **kwargs, device="meta").to_empty(device="cpu")
        module.load_state_dict(nn.Conv2d(*args, **kwargs).state_dict())
        assert module(input).device.type == "cpu"


def test_train_and_eval_do_not_differ():
    assert not MODULE_INFO.train_and_eval_differ
    for ours, _, input in pairs():
        assert torch.equal(ours.train()(input), ours.eval()(input))


def test_same_constructor_errors():
    """What nn.Conv2d's constructor refuses, ours refuses with the same words."""
    for args, options in [((3, 4, 3), {"groups": 2}), ((4, 3, 3), {"groups": 2}), ((4, 4, 3), {"groups": 0}),
                          ((4, 4, 3), {"padding": "full"}), ((4, 4, 3), {"padding": "same", "stride": 2}),
                          ((4, 4, 3), {"padding_mode": "mirror"}), ((4, 4), {}),
                          ((4, 4, 3), {"strides": 2})]:  # fmt: skip
        with pytest.raises((ValueError, TypeError)) as theirs:
            nn.Conv2d(*args, **options)
        with pytest.raises(theirs.type) as ours:
            MyConv2d(*args, **options)
        assert str(ours.value) == str(theirs.value)
