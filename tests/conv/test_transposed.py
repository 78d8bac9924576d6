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
    torch.testing.assert_close(ours(input, [10, 11]), plain(input, [10, 11]))
    with pytest.raises(ValueError, match="requested an output size"):
        ours(input, [12, 11])


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
