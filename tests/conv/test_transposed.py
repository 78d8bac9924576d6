"""MyConvTranspose2d is nn.ConvTranspose2d: results, gradients, errors, compiled or not."""

import pytest
import torch
from torch import nn

from myconv2d import MyConvTranspose2d, use_backend

CASES = [
    (4, 6, 3, {}),
    (4, 6, 3, {"stride": 2, "padding": 1, "output_padding": 1}),
    (3, 1, (2, 5), {"stride": (1, 3), "padding": (0, 2), "bias": False}),
    (6, 4, 3, {"groups": 2, "dilation": 2, "padding": 1}),
    (5, 5, 4, {"stride": 3, "dilation": (1, 2), "output_padding": (2, 1), "groups": 5}),
    (3, 4, 3, {"stride": (1, 2), "dilation": (2, 4), "padding": 1, "output_padding": (1, 3)}),
    (3, 4, 2, {"stride": 1, "dilation": 3, "output_padding": 2, "bias": False}),
]


def pair(channels, outputs, kernel, options, dtype=torch.float64):
    torch.manual_seed(0)
    plain = nn.ConvTranspose2d(channels, outputs, kernel, **options).to(dtype)
    ours = MyConvTranspose2d(channels, outputs, kernel, **options).to(dtype)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


def results(layer, input):
    input = input.clone().requires_grad_()
    output = layer(input)
    return output, *torch.autograd.grad(output.sin().sum(), [input, *layer.parameters()])


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_and_gradients(case, layout, backend):
    ours, plain = pair(*case)
    input = torch.randn(2, case[0], 5, 4, dtype=torch.float64).contiguous(memory_format=layout)
    with use_backend(backend):
        found = results(ours, input)
    for mine, theirs in zip(found, results(plain, input), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_second_derivatives():
    ours, _ = pair(*CASES[1])
    input = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ours, input)


def test_one_picture_and_a_wanted_size():
    ours, plain = pair(4, 6, 3, {"stride": 2, "padding": 1})
    input = torch.randn(4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(input), plain(input))
    for wanted in ([10, 11], [6, 10, 11]):
        torch.testing.assert_close(ours(input, wanted), plain(input, wanted))
    for wrong, said in (([12, 11], "requested an output size"), ([1, 6, 10, 11], "must have 2 or 3 elements")):
        with pytest.raises(ValueError, match=said):
            ours(input, wrong)


def test_complex_numbers():
    """… whose derivatives are those of the conjugate."""
    ours, plain = pair(*CASES[3], dtype=torch.complex128)
    input = torch.randn(2, 6, 5, 4, dtype=torch.complex128, requires_grad=True)
    found = []
    for layer in (ours, plain):
        output = layer(input)
        loss = (output * output.conj()).real.sum() + output.imag.sum()
        found.append((output, *torch.autograd.grad(loss, [input, *layer.parameters()])))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_symbolic_trace():
    """torch.fx records one call of our function (of nn.ConvTranspose2d, one of the module)."""
    ours, plain = pair(*CASES[1])
    traced, input = torch.fx.symbolic_trace(nn.Sequential(ours, nn.ReLU())), torch.randn(2, 4, 5, 4).double()
    assert [n.target.__name__ for n in traced.graph.nodes if n.op == "call_function"] == ["conv_transpose2d"]
    torch.testing.assert_close(traced(input), plain(input).relu())


def test_jit_trace():
    ours, plain = pair(*CASES[1])
    input = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    with pytest.warns(torch.jit.TracerWarning, match="integer"):
        traced = torch.jit.trace(ours, input)
    for mine, theirs in zip(results(traced, input), results(plain, input), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_compiled_transforms():
    ours, plain = pair(*CASES[1])

    def gradients(layer, input):
        def loss(parameters):
            return torch.func.functional_call(layer, parameters, (input,)).sin().sum()

        return torch.func.grad(loss)(dict(layer.named_parameters()))

    compiled = torch.compile(lambda input: gradients(ours, input), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (4, 7):
        input = torch.randn(2, 4, size, 5, dtype=torch.float64)
        torch.testing.assert_close(compiled(input), gradients(plain, input))


def test_compiled():
    ours, plain = pair(*CASES[1], dtype=torch.float32)
    input = torch.randn(2, 4, 5, 4)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(results(compiled, input), results(plain, input), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_autocast_narrows_it():
    ours, _ = pair(*CASES[0], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.randn(1, 4, 5, 5)).dtype == torch.bfloat16


def test_wrong_channels_are_named():
    ours, _ = pair(*CASES[0])
    with pytest.raises(RuntimeError, match=r"\(N, 4, H, W\).*\[1, 3, 5, 5\]"):
        ours(torch.randn(1, 3, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [
    lambda layer, input: layer(None),
    lambda layer, input: layer(input.numpy()),
    lambda layer, input: layer(input.double()),
    lambda layer, input: layer(input[0, 0]),
    lambda layer, input: layer(input[:, :, :0]),
    lambda layer, input: (setattr(layer, "bias", nn.Parameter(layer.bias.double())), layer(input)),
    lambda layer, input: (setattr(layer, "padding", (9, 9)), layer(input)),
    lambda layer, input: (setattr(layer, "padding", (-1, 0)), layer(input)),
    lambda layer, input: (setattr(layer, "stride", (0, 1)), layer(input)),
    lambda layer, input: (setattr(layer, "dilation", (1, 0)), layer(input)),
    lambda layer, input: (setattr(layer, "groups", 0), layer(input)),
    lambda layer, input: (setattr(layer, "groups", 3), layer(input)),
    lambda layer, input: (setattr(layer, "output_padding", (1, 0)), layer(input)),
    lambda layer, input: (setattr(layer, "output_padding", (0, -1)), layer(input)),
    lambda layer, input: (setattr(layer, "bias", nn.Parameter(layer.bias[:1])), layer(input)),
    lambda layer, input: (setattr(layer, "weight", nn.Parameter(layer.weight[0])), layer(input)),
], ids=["None", "array", "type", "dimensions", "no pixels", "type of bias", "negative size", "negative padding",
        "no stride", "no dilation", "no groups", "groups", "output padding", "negative output padding",
        "a bias that would spread", "weight"])  # fmt: skip
def test_refused_as_the_framework_refuses(wrong):
    ours, plain = pair(*CASES[0], dtype=torch.float32)
    input = torch.randn(2, 4, 9, 8)
    with pytest.raises(Exception) as theirs:
        wrong(plain, input)
    with pytest.raises(theirs.type, match=r"conv_transpose2d|MyConvTranspose2d|should be the same"):
        wrong(ours, input)
