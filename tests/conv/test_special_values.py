"""Infinities, NaN and numbers near the largest, as the docstring of `conv2d` has them: nothing is lost, nothing spreads
beyond a tile, and what other calls left behind is never read."""

import pytest
import torch

from myconv2d import ConvBlock, native, reference

pytestmark = pytest.mark.skipif(native.cpu.problem is not None, reason="the native library's own algorithms")

LAYERS = {  # in channels, out channels, kernel, stride, groups
    "Winograd": (16, 16, 3, 1, 1),
    "Winograd of 5x5": (16, 16, 5, 1, 1),
    "Winograd of stride 2": (32, 32, 3, 2, 1),
    "few in": (3, 32, 3, 1, 1),
    "few in of stride 2": (3, 32, 7, 2, 1),
    "few out": (16, 3, 3, 1, 1),
    "phases": (3, 8, 6, 2, 1),
    "direct": (17, 19, 1, 1, 1),
    "depthwise": (16, 16, 3, 1, 16),
    "small groups": (16, 16, 3, 1, 4),
}
REACH = 16  # pixels: more than any tile and kernel here


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    """(input, weight, grad_output, numbers)"""
    c, k, r, stride, groups = request.param
    numbers = [stride] * 2, [(r - 1) // 2] * 2, [1, 1], groups
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(2, c, 48, 48, generator=generator)
    weight = torch.randn(k, c // groups, r, r, generator=generator)
    grad_output = torch.randn(2, k, 48 // stride, 48 // stride, generator=generator)
    return input, weight, grad_output, numbers


@pytest.fixture(
    params=[name for name, here in native.cpu.isas().items() if here] if not native.cpu.problem else []
)
def isa(request):
    before = native.cpu.isa()
    native.cpu.use_isa(request.param)
    yield
    native.cpu.use_isa(before)


def backward(grad_output, input, weight, numbers):
    return torch.ops.myconv2d.conv2d_backward(grad_output, input, weight, *numbers, False)[:2]


def check_spread(result, exact, place):
    """Undefined where the exact sum is; elsewhere right, but for what is near the special value in its image."""
    undefined = ~result.isfinite()
    assert undefined[~exact.isfinite()].all()
    near = torch.zeros_like(undefined)
    y, x = place
    near[0, :, max(y - REACH, 0) : y + REACH, max(x - REACH, 0) : x + REACH] = True
    assert not undefined[~near].any()
    torch.testing.assert_close(result.double()[~near], exact[~near], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_spreads_no_further_than_a_tile(layer, isa, value):
    input, weight, grad_output, numbers = layer
    for images, operator, exactly, more in (
        (input, torch.ops.myconv2d.conv2d, reference.conv2d, ()),
        (grad_output, torch.ops.myconv2d.conv2d_grad_input, reference.conv2d_grad_input, (input.shape,)),
    ):
        stride, place = numbers[0][0], (8, 8)
        special = images.clone()
        special[0, 1, place[0], place[1]] = value
        rest = more or (None,)
        result = operator(special, weight, *rest, *numbers)
        exact = exactly(special.double(), weight.double(), *rest, *numbers)
        scaled = [p * stride if more else p // stride for p in place]
        check_spread(result, exact, scaled)


def test_a_64th_of_the_largest_is_finite(layer, isa):
    input, weight, grad_output, numbers = layer
    large, small = torch.finfo(torch.float32).max / 64, 1e-10
    signs = input.sign(), weight.sign(), grad_output.sign()
    x, w, g = (t * large for t in signs)
    a, b, c = (t * small for t in signs)
    results = torch.ops.myconv2d.conv2d(x, b, None, *numbers), torch.ops.myconv2d.conv2d(a, w, None, *numbers)
    results += backward(g, a, b, numbers) + backward(c, x, b, numbers) + backward(c, a, w, numbers)
    assert all(bool(result.isfinite().all()) for result in results)


@pytest.mark.parametrize("scale", [1.0, 1e17, 3e17], ids=str)
def test_statistics_of_large_images_overflow_no_earlier_than_the_frameworks(scale):
    """Squares are summed in float32 on both sides, ours task by task: at 1e17 the framework's variance is infinite."""
    images = (torch.randn(16, 8, 64, 64) * scale).contiguous(memory_format=torch.channels_last)
    block = ConvBlock(8, 16, 3)
    with torch.no_grad():
        result = block(images)
        exact = block.double()(images.double())
    torch.testing.assert_close(result.double(), exact, rtol=1e-4, atol=1e-4)


def test_what_was_left_behind_is_not_read(layer, isa):
    input, weight, grad_output, numbers = layer

    def run():
        return torch.ops.myconv2d.conv2d(input, weight, None, *numbers), *backward(
            grad_output, input, weight, numbers
        )

    before = run()
    nan = float("nan")
    backward(*(torch.full_like(t, nan) for t in (grad_output, input, weight)), numbers)
    torch.ops.myconv2d.conv2d(torch.full_like(input, nan), torch.full_like(weight, nan), None, *numbers)
    assert all(map(torch.equal, run(), before))
