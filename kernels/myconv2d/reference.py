"""The oracle: the three operators in plain torch, one shifted view of the input per kernel tap.

Slow and obvious on purpose. Works on every device and for every element type that has a matrix product; 16-bit types
are computed in float32 and rounded once. In float64 it is what every other backend is held to.

    conv2d:              output[n, k, p, q]   = Σ_{c, r, s} view_rs[n, c, p, q] · weight[k, c, r, s] + bias[k]
    conv2d_grad_input:   view_rs[n, c, p, q] += Σ_k grad_output[n, k, p, q] · weight[k, c, r, s]
    conv2d_grad_weight:  [k, c, r, s]         = Σ_{n, p, q} grad_output[n, k, p, q] · view_rs[n, c, p, q]

where view_rs[n, c, p, q] = padded_input[n, c, p·stride + r·dilation, q·stride + s·dilation].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .shapes import empty_beside, output_size


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _taps(
    padded: Tensor, weight_size: Sequence[int], out: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[int, int, Tensor]]:
    """(r, s, view of the padded image under tap (r, s), of the output's height and width)."""
    for r in range(weight_size[2]):
        for s in range(weight_size[3]):
            rows = padded[:, :, r * dilation[0] :][:, :, :: stride[0]][:, :, : out[2]]
            yield r, s, rows[..., s * dilation[1] :][..., :: stride[1]][..., : out[3]]


def _grouped(tensor: Tensor, groups: int) -> Tensor:
    return tensor.unflatten(1, (groups, tensor.shape[1] // groups))


def _pad(input: Tensor, padding: Sequence[int]) -> Tensor:
    return F.pad(input, (padding[1], padding[1], padding[0], padding[0]))


def conv2d(input, weight, bias, stride, padding, dilation, groups) -> Tensor:
    size = output_size(input.shape, weight.shape, stride, padding, dilation)
    x, w = _wide(input), _wide(weight).unflatten(0, (groups, weight.shape[0] // groups))
    output = x.new_zeros(size)
    for r, s, view in _taps(_pad(x, padding), weight.shape, size, stride, dilation):
        output += torch.einsum("ngchw,gkc->ngkhw", _grouped(view, groups), w[..., r, s]).flatten(1, 2)
    if bias is not None:
        output += _wide(bias)[:, None, None]
    return empty_beside(input, weight, size).copy_(output)


def conv2d_grad_input(grad_output, weight, input_size, stride, padding, dilation, groups) -> Tensor:
    g = _grouped(_wide(grad_output), groups)
    w = _wide(weight).unflatten(0, (groups, weight.shape[0] // groups))
    n, c, height, width = input_size
    padded = g.new_zeros(n, c, height + 2 * padding[0], width + 2 * padding[1])
    for r, s, view in _taps(padded, weight.shape, grad_output.shape, stride, dilation):
        view += torch.einsum("ngkhw,gkc->ngchw", g, w[..., r, s]).flatten(1, 2)
    inner = padded[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return empty_beside(grad_output, weight, input_size).copy_(inner)


def conv2d_grad_weight(
    grad_output, input, weight_size, stride, padding, dilation, groups, bias
) -> tuple[Tensor, Tensor]:
    g, x = _wide(grad_output), _wide(input)
    grouped = _grouped(g, groups)
    taps = g.new_zeros(weight_size)
    for r, s, view in _taps(_pad(x, padding), weight_size, grad_output.shape, stride, dilation):
        taps[:, :, r, s] = torch.einsum("ngkhw,ngchw->gkc", grouped, _grouped(view, groups)).flatten(0, 1)
    grad_bias = g.sum((0, 2, 3), dtype=g.dtype).to(input.dtype) if bias else input.new_empty(0)
    return empty_beside(grad_output, input, weight_size).copy_(taps), grad_bias
