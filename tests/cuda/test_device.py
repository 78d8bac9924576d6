"""The CUDA operators against the oracle, on a GPU: what the host emulation cannot see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import myconv2d.operators  # noqa: F401 (defines the operators)
from myconv2d import native, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(native.cuda.problem is not None, reason=str(native.cuda.problem)),
]

# (N, C, H, W), (K, R, S), stride, padding, dilation, groups
CASES = {
    "3x3": ((3, 33, 19, 17), (70, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "aligned": ((4, 64, 16, 16), (64, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "halo": ((3, 40, 19, 18), (72, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "one channel": ((5, 1, 32, 31), (32, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "three out": ((2, 32, 20, 20), (3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "three to many": ((2, 3, 33, 47), (96, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "three to three": ((70, 3, 16, 17), (3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "few channels, 7x7, stride": ((2, 3, 65, 64), (64, 7, 7), (2, 2), (3, 3), (1, 1), 1),
    "few channels, dilation": ((2, 40, 31, 40), (4, 3, 5), (1, 1), (2, 4), (2, 2), 1),
    "more than 48 KB of shared memory": ((1, 200, 20, 40), (2, 5, 5), (1, 1), (2, 2), (1, 1), 1),
    "stride and dilation": ((2, 24, 23, 21), (20, 3, 2), (3, 2), (2, 1), (2, 1), 1),
    "groups": ((2, 24, 14, 13), (48, 3, 3), (2, 2), (1, 1), (1, 1), 3),
    "depthwise": ((2, 40, 15, 15), (40, 5, 5), (1, 1), (2, 2), (1, 1), 40),
    "1x1": ((3, 128, 9, 9), (48, 1, 1), (1, 1), (0, 0), (1, 1), 1),
}
# Allowed error over the largest value of the exact result.
BOUNDS = {"fp64": 1e-13, "fp32": 5e-6, "tf32": 2e-3, "fp16": 2e-3, "bf16": 1.2e-2}
TYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.half,
    "bf16": torch.bfloat16,
}
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    "sliced": lambda x: torch.stack([x, x], dim=-1).flatten(3)[..., ::2],
}


def operands(name: str, dtype: torch.dtype, layout: str) -> tuple[list[Tensor], tuple]:
    """grad_output, input, weight, bias; and stride, padding, dilation, groups."""
    size, (k, r, s), stride, padding, dilation, groups = CASES[name]
    generator = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda").to(dtype)

    x, weight, bias = random(*size), random(k, size[1] // groups, r, s), random(k)
    out = reference.conv2d(x, weight, None, stride, padding, dilation, groups).shape
    tensors = [LAYOUTS[layout](tensor) for tensor in (random(*out), x, weight)]
    return [*tensors, bias], (list(stride), list(padding), list(dilation), groups)


def assert_close(actual: Tensor, exact: Tensor, bound: float) -> None:
    assert actual.shape == exact.shape
    assert (actual.double() - exact).abs().max() <= bound * exact.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arithmetic", BOUNDS)
@pytest.mark.parametrize("name", CASES)
def test_operators_match_the_oracle(name: str, arithmetic: str, layout: str) -> None:
    (g, x, weight, bias), numbers = operands(name, TYPES[arithmetic], layout)
    wide_g, wide_x, wide_weight, wide_bias = (tensor.double() for tensor in (g, x, weight, bias))
    tf32, bound, cuda = arithmetic == "tf32", BOUNDS[arithmetic], torch.ops.myconv2d

    output = cuda.conv2d_cuda(x, weight, bias, *numbers, tf32)
    assert_close(output, reference.conv2d(wide_x, wide_weight, wide_bias, *numbers), bound)
    grad_input = cuda.conv2d_grad_input_cuda(g, weight, x.shape, *numbers, tf32)
    assert_close(grad_input, reference.conv2d_grad_input(wide_g, wide_weight, x.shape, *numbers), bound)
    grads = cuda.conv2d_grad_weight_cuda(g, x, weight.shape, *numbers, True, tf32)
    for actual, exact in zip(
        grads, reference.conv2d_grad_weight(wide_g, wide_x, weight.shape, *numbers, True), strict=True
    ):
        assert_close(actual, exact, bound)


@pytest.mark.parametrize("name", ["3x3", "one channel", "three out"])
def test_the_same_bits_every_time_on_any_stream(name: str) -> None:
    (g, x, weight, _), numbers = operands(name, torch.float32, "contiguous")

    def run() -> tuple[Tensor, Tensor]:
        return torch.ops.myconv2d.conv2d_grad_weight_cuda(g, x, weight.shape, *numbers, True, False)

    first = run()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = [run() for _ in range(10)]
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(a, b) for pair in again for a, b in zip(first, pair, strict=True))


def test_an_infinity_beyond_the_last_pixel_does_no_harm() -> None:
    """Tiles hang over the edge of grad_output; what of the input lies under them there must not be multiplied."""
    x = torch.randn(1, 3, 8, 34, device="cuda")
    x[:, :, -1] = float("inf")  # under no output: the stride skips it
    weight_size, numbers = (32, 3, 3, 3), ([2, 2], [0, 0], [1, 1], 1)
    g = torch.randn(1, 32, 3, 16, device="cuda")
    grad_weight, _ = torch.ops.myconv2d.conv2d_grad_weight_cuda(g, x, weight_size, *numbers, True, False)
    assert grad_weight.isfinite().all()


def test_offsets_beyond_32_bits() -> None:
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of free device memory")
    storage = torch.zeros(2**32 + 64, dtype=torch.half, device="cuda")
    x = storage.as_strided((3, 8, 2, 4), (2**31, 1, 8, 16))
    x.copy_(torch.randn(3, 8, 2, 4, device="cuda"))
    weight = torch.randn(4, 8, 1, 1, dtype=torch.half, device="cuda")
    output = torch.ops.myconv2d.conv2d_cuda(x, weight, None, [1, 1], [0, 0], [1, 1], 1, False)
    exact = reference.conv2d(x.double(), weight.double(), None, [1, 1], [0, 0], [1, 1], 1)
    assert_close(output, exact, BOUNDS["fp16"])


@pytest.mark.parametrize("name", ["aligned", "halo", "one channel", "three out"])
def test_a_captured_graph_replays(name: str) -> None:
    (_, x, weight, bias), numbers = operands(name, torch.bfloat16, "channels_last")
    expected = torch.ops.myconv2d.conv2d_cuda(x, weight, bias, *numbers, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = torch.ops.myconv2d.conv2d_cuda(x, weight, bias, *numbers, False)
    graph.replay()
    assert torch.equal(output, expected)
