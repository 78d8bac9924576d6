"""vmap of the three operators.

Of the axes batch N, out channels K and in channels C, each operand of the trilinear form (autograd.py) has two: the
input N and C, the weight K and C, grad_output N and K. A vmapped axis of one operand alone is folded into the axis
which that operand shares with the result; where both operands have one, it becomes more groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .shapes import Numbers

N, CHANNELS, OUT, IN = 0, 1, 0, 1  # axes: of an image (batch, channels) and of a weight (out, in)


def _fold(tensor: Tensor, dim: int, axis: int, groups: int) -> Tensor:
    """Moves the vmapped axis `dim` into `axis`, inside each of the `groups` that `axis` consists of."""
    tensor = tensor.movedim(dim, 0)
    tensor = tensor.unflatten(axis + 1, (groups, tensor.shape[axis + 1] // groups))
    return tensor.movedim(0, axis + 1).flatten(axis, axis + 2)


def _unfold(tensor: Tensor, axis: int, groups: int, batch: int) -> Tensor:
    """The inverse of `_fold`; the vmapped axis comes out in front."""
    inner = tensor.shape[axis] // max(groups * batch, 1)  # batch 0: as in the framework
    tensor = tensor.unflatten(axis, (groups, batch, inner))
    return tensor.movedim(axis + 1, 0).flatten(axis + 1, axis + 2)


def _times(size: Any, axis: int, batch: int) -> list[int]:
    return [s * batch if i == axis else s for i, s in enumerate(size)]


def conv2d(call: Callable, batch: int, dims: Any, input: Tensor, weight: Tensor, bias: Any, numbers: Numbers):
    input_dim, weight_dim, bias_dim, _ = dims
    if bias_dim is not None and weight_dim is None:  # a vmapped bias alone is only added
        output, dim = conv2d(call, batch, (input_dim, None, None, None), input, weight, None, numbers)
        bias = bias.movedim(bias_dim, 0)[:, None, :, None, None]
        return (output + bias, 0) if dim is not None else (output.unsqueeze(0) + bias, 0)
    groups = numbers.groups
    if weight_dim is None:
        if input_dim is None:
            return call(input, weight, bias, numbers), None
        return _unfold(call(_fold(input, input_dim, N, 1), weight, bias, numbers), N, 1, batch), 0
    if bias is not None:
        bias_dim, bias = (bias_dim, bias) if bias_dim is not None else (0, bias.expand(batch, -1))
    if input_dim is None:
        bias = None if bias is None else _fold(bias, bias_dim, OUT, groups)
        output = call(input, _fold(weight, weight_dim, OUT, groups), bias, numbers)
        return _unfold(output, CHANNELS, groups, batch), 0
    bias = None if bias is None else _fold(bias, bias_dim, OUT, 1)
    more = numbers._replace(groups=groups * batch)
    output = call(_fold(input, input_dim, CHANNELS, 1), _fold(weight, weight_dim, OUT, 1), bias, more)
    return _unfold(output, CHANNELS, 1, batch), 0


def grad_input(call: Callable, batch: int, dims: Any, grad_output: Tensor, weight: Tensor, size: Any, numbers: Numbers):
    grad_dim, weight_dim, *_ = dims
    groups = numbers.groups
    if weight_dim is None:
        result = call(_fold(grad_output, grad_dim, N, 1), weight, _times(size, N, batch), numbers)
        return _unfold(result, N, 1, batch), 0
    size = _times(size, CHANNELS, batch)
    if grad_dim is None:
        result = call(grad_output, _fold(weight, weight_dim, IN, 1), size, numbers)
        return _unfold(result, CHANNELS, groups, batch), 0
    more = numbers._replace(groups=groups * batch)
    result = call(_fold(grad_output, grad_dim, CHANNELS, 1), _fold(weight, weight_dim, OUT, 1), size, more)
    return _unfold(result, CHANNELS, 1, batch), 0


def grad_weight(
    call: Callable, batch: int, dims: Any, grad_output: Tensor, input: Tensor, size: Any, bias: bool, numbers: Numbers
):
    grad_dim, input_dim, *_ = dims
    groups = numbers.groups
    if grad_dim is None:
        folded = _fold(input, input_dim, CHANNELS, groups)
        weight, grad_bias = call(grad_output, folded, _times(size, IN, batch), bias, numbers)
        return (_unfold(weight, IN, 1, batch), grad_bias), (0, None)
    inner = groups
    if input_dim is None:
        folded = _fold(grad_output, grad_dim, CHANNELS, groups)
        weight, grad_bias = call(folded, input, _times(size, OUT, batch), bias, numbers)
    else:
        inner = 1
        more = numbers._replace(groups=groups * batch)
        folded = _fold(grad_output, grad_dim, CHANNELS, 1)
        weight, grad_bias = call(
            folded, _fold(input, input_dim, CHANNELS, 1), _times(size, OUT, batch), bias, more
        )
    if not bias:
        return (_unfold(weight, OUT, inner, batch), grad_bias), (0, None)
    return (_unfold(weight, OUT, inner, batch), _unfold(grad_bias, OUT, inner, batch)), (0, 0)
