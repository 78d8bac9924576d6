"""What a convolution must do besides being right: gradients, graphs, streams, devices … one function for
each.

Every function takes the device, has the backend already chosen for it by its caller (`myconv2d.use_backend`),
and fails with an AssertionError. `NotHere` says why something cannot be tried on this machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myconv2d import MyConv2d, backends, cross_entropy
from myconv2d.operators import overload

from .operands import same_bits

_BEHAVIOURS: dict[str, Callable[[torch.device], None]] = {}
_CUDA_ONLY: set[str] = set()


class NotHere(Exception):
    """This cannot be tried here; the message is the reason."""


def behaviour(function: Callable[[torch.device], None]) -> Callable[[torch.device], None]:
    _BEHAVIOURS[function.__name__.replace("_", " ")] = function
    return function


def on_cuda(function: Callable[[torch.device], None]) -> Callable[[torch.device], None]:
    _CUDA_ONLY.add(function.__name__.replace("_", " "))
    return behaviour(function)


def names(device: str) -> list[str]:
    """The behaviours that there are for a device."""
    return [name for name in _BEHAVIOURS if torch.device(device).type == "cuda" or name not in _CUDA_ONLY]


def try_out(name: str, device: torch.device) -> None:
    """Runs one; raises AssertionError (or whatever went wrong) or NotHere."""
    torch.manual_seed(0)
    _BEHAVIOURS[name](device)


_LAYERS = (  # arguments of nn.Conv2d
    dict(in_channels=6, out_channels=8, kernel_size=3, padding=1),
    dict(in_channels=6, out_channels=4, kernel_size=(2, 3), stride=2, dilation=(1, 2), groups=2, bias=False),
    dict(in_channels=6, out_channels=6, kernel_size=5, padding="same", groups=6, padding_mode="reflect"),
)


def _pair(device: torch.device, dtype: torch.dtype, **arguments) -> tuple[MyConv2d, nn.Conv2d, Tensor]:
    """A layer of ours and the framework's with the same weights, and an input that wants a gradient."""
    ours = MyConv2d(**arguments, device=device, dtype=dtype)
    theirs = nn.Conv2d(**arguments, device=device, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(3, 6, 11, 10, device=device, dtype=dtype, requires_grad=True)


def _step(layer: nn.Module, input: Tensor) -> list[Tensor]:
    """output and the gradients of input, weight and bias."""
    output = layer(input)
    slope = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, [input, *layer.parameters()], slope)]


def _assert_same_bits(a: list[Tensor], b: list[Tensor]) -> None:
    assert all(map(same_bits, a, b)), "results are not equal bit for bit"


@behaviour
def the_backend_asked_for_serves(device: torch.device) -> None:
    for dtype in (torch.float32, torch.float64):
        choice = backends.choose(device.type, dtype, backends.wanted)
        assert choice.backend == backends.wanted, f"{choice.backend} serves {dtype}: {choice.reason}"


@behaviour
def gradients_match_the_framework(device: torch.device) -> None:
    for arguments in _LAYERS:
        ours, theirs, input = _pair(device, torch.float64, **arguments)
        torch.testing.assert_close(_step(ours, input), _step(theirs, input), rtol=1e-10, atol=1e-10)


@behaviour
def second_gradients_match_the_framework(device: torch.device) -> None:
    def penalty(layer: nn.Module, input: Tensor) -> tuple[Tensor, ...]:
        (slope,) = torch.autograd.grad(layer(input).square().sum(), input, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [input, layer.weight])

    for arguments in _LAYERS:
        ours, theirs, input = _pair(device, torch.float64, **arguments)
        torch.testing.assert_close(penalty(ours, input), penalty(theirs, input), rtol=1e-9, atol=1e-7)


@behaviour
def autograd_adds_nothing_to_the_operators(device: torch.device) -> None:
    ours, _, input = _pair(device, torch.float32, **_LAYERS[0])
    output, *grads = _step(ours, input)
    slope = torch.linspace(-1, 1, output.numel(), device=device).view_as(output)
    numbers = [1, 1], [1, 1], [1, 1], 1
    run = {
        name: overload(name, backends.wanted)
        for name in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")
    }
    with torch.no_grad():
        expected = [
            run["conv2d"](input, ours.weight, ours.bias, *numbers),
            run["conv2d_grad_input"](slope, ours.weight, input.shape, *numbers),
            *run["conv2d_grad_weight"](slope, input, ours.weight.shape, *numbers, True),
        ]
    _assert_same_bits([output, *grads], expected)


@behaviour
def same_bits_again_and_again(device: torch.device) -> None:
    layer = MyConv2d(64, 64, 3, padding=1, device=device)
    inputs = [torch.randn(50, 64, 16, 16, device=device, requires_grad=True) for _ in range(2)]
    first = [_step(layer, input) for input in inputs]
    for _ in range(4):
        for input, expected in zip(inputs, first, strict=True):
            _assert_same_bits(_step(layer, input), expected)


@behaviour
def autocast_computes_in_the_short_type(device: torch.device) -> None:
    ours, _, input = _pair(device, torch.float32, **_LAYERS[0])
    with torch.autocast(device.type, torch.bfloat16):
        output, *grads = _step(ours, input)
    assert output.dtype == torch.bfloat16
    assert {grad.dtype for grad in grads} == {torch.float32}
    short, _, _ = _pair(device, torch.bfloat16, **_LAYERS[0])
    short.load_state_dict(ours.state_dict())
    expected = _step(short, input.detach().bfloat16().requires_grad_())
    _assert_same_bits([output, *grads], [expected[0], *(grad.float() for grad in expected[1:])])


@behaviour
def cross_entropy_matches_the_framework(device: torch.device) -> None:
    """Loss and gradient, in the same bits again."""
    if device.type == "cuda" and backends.wanted != "triton":
        raise NotHere("on CUDA it is Triton's, or the framework's own, which adds the losses up in any order")
    logits = torch.randn(8, 24, 40, 30, device=device)
    target = torch.randint(24, (8, 40, 30), device=device)
    target[0, :5] = -100
    for memory_format in torch.contiguous_format, torch.channels_last:
        values = logits.contiguous(memory_format=memory_format).requires_grad_()
        first, again, theirs = (
            (loss.detach(), *torch.autograd.grad(3 * loss, values))
            for loss in (f(values, target) for f in (cross_entropy, cross_entropy, F.cross_entropy))
        )
        _assert_same_bits(list(first), list(again))
        torch.testing.assert_close(first, theirs, rtol=1e-5, atol=1e-8)


@behaviour
def compiles_without_a_break(device: torch.device) -> None:
    if device.type == "cuda" and (why := backends.problem("triton", device.type, torch.float32)) is not None:
        raise NotHere(f"torch.compile needs Triton on CUDA: {why}")
    ours, _, input = _pair(device, torch.float32, **_LAYERS[0])
    model = nn.Sequential(ours, nn.ReLU())
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(_step(compiled, input), _step(model, input))


@on_cuda
def a_training_step_replays_from_a_cuda_graph(device: torch.device) -> None:
    ours, _, input = _pair(device, torch.float32, **_LAYERS[0])
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            _step(ours, input)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _step(ours, input)
    for _ in range(3):
        with torch.no_grad():
            input.normal_()
        graph.replay()
        _assert_same_bits(captured, _step(ours, input))


@on_cuda
def kernels_run_on_the_current_stream(device: torch.device) -> None:
    ours, _, input = _pair(device, torch.float32, **_LAYERS[0])
    expected = _step(ours, input)
    late = torch.full_like(input, float("nan")).requires_grad_()
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        torch.cuda._sleep(100_000_000)  # some 50 ms in which a kernel on another stream would read NaN
        with torch.no_grad():
            late.copy_(input)
        results = _step(ours, late)
        torch.cuda.current_stream(device).synchronize()
    _assert_same_bits(results, expected)


@on_cuda
def works_on_a_device_that_is_not_the_current_one(device: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        raise NotHere("there is one CUDA device")
    ours, theirs, input = _pair(torch.device("cuda:1"), torch.float64, **_LAYERS[0])
    with torch.cuda.device(0):
        results = _step(ours, input)
    assert all(result.device == input.device for result in results)
    torch.testing.assert_close(results, _step(theirs, input), rtol=1e-10, atol=1e-10)


@on_cuda
def reads_and_writes_beyond_31_bit_offsets(device: torch.device) -> None:
    if torch.cuda.mem_get_info(device)[0] < 6 << 30:
        raise NotHere("it needs 6 GiB of free device memory")
    near = torch.randn(2, 6, 9, 8, device=device, dtype=torch.float16)
    storage = torch.empty(2**31 + near.numel(), device=device, dtype=torch.float16)
    far = storage.as_strided(near.shape, (2**31, 72, 8, 1))
    far.copy_(near)
    layer = MyConv2d(6, 8, 3, padding=1, device=device, dtype=torch.float16)
    results = [_step(layer, input.requires_grad_()) for input in (far, near)]
    torch.testing.assert_close(*results, rtol=2e-3, atol=2e-3)
