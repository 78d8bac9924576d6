"""The operators of the fused block as Triton kernels; block_reference.py says what they compute.

Launches: `block` 1 (2 with batch norm), `block_inference` 1, `block_backward` 1 for the batch norm, 1 for each feed
that wants gradients and 1 for its scale and shift, 1 for each feed's part of the weight and 1 to reduce these. Images
are read and written in channels_last, and so are weights: what comes in another layout is copied first, and grad_input
in float32 always takes a copy of the weight, because TF32's operands want the axis that is summed innermost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import output_size
from . import block_activate
from .block_forward import Feed, forward
from .block_grad_input import Gradient, grad_feed
from .block_grad_weight import grad_weight
from .block_statistics import normalise, through_norm


def dense(image: Tensor) -> Tensor:
    """An image in channels_last without gaps; the same one if it is that already."""
    _, c, h, w = image.shape
    strides = zip(image.shape, image.stride(), (h * w * c, 1, w * c, c), strict=True)
    if all(size == 1 or stride == dense for size, stride, dense in strides):
        return image
    return torch.empty_like(image, memory_format=torch.channels_last).copy_(image)


def _image(like: Tensor, size: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(size, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)


def _vector(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.contiguous()


def _feeds(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample) -> list[Feed]:
    feeds = [(input, scale, shift, upsample), (skip, skip_scale, skip_shift, skip_upsample)]
    return [Feed(dense(t), _vector(s), _vector(b), up) for t, s, b, up in feeds[: 1 if skip is None else 2]]


def _convolved(feeds: list[Feed], weight: Tensor, padding: tuple[int, int]) -> tuple[int, ...]:
    channels = sum(feed.channels for feed in feeds)
    size = feeds[0].tensor.shape[0], channels, *feeds[0].size
    return output_size(size, weight.shape, (1, 1), padding, (1, 1))


def _halved(size: tuple[int, ...]) -> tuple[int, ...]:
    return *size[:2], size[2] // 2, size[3] // 2


def block(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample, weight, bias, padding,
          gamma, beta, eps, pool, *, allow_tf32: bool) -> tuple[Tensor, ...]:  # fmt: skip
    feeds = _feeds(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample)
    size = _convolved(feeds, weight, padding)
    norm, pool = gamma is not None, pool and gamma is not None
    gamma, beta = _vector(gamma), _vector(beta)
    result = _image(input, _halved(size) if pool else size)
    full = _image(input, size) if pool else None
    index = _image(input, _halved(size), torch.uint8) if pool else None
    partial = forward(feeds, dense(weight), _vector(bias), padding, (gamma, None, None, None, 0.0), result, full,
                      index, size=size[2:], pool=pool, statistics=norm, allow_tf32=allow_tf32)  # fmt: skip
    vectors = normalise(partial, gamma, beta, eps) if norm else (input.new_empty(0) for _ in range(4))
    full = input.new_empty(0) if full is None else full
    return result, full, input.new_empty(0, dtype=torch.uint8) if index is None else index, *vectors


def block_inference(input, upsample, skip, skip_upsample, weight, bias, padding, gamma, beta, mean, var, eps, relu,
                    pool, *, allow_tf32: bool) -> Tensor:  # fmt: skip
    feeds = _feeds(input, None, None, upsample, skip, None, None, skip_upsample)
    size = _convolved(feeds, weight, padding)
    result = _image(input, _halved(size) if pool else size)
    if result.numel():
        norm = *map(_vector, (gamma, beta, mean, var)), eps
        forward(feeds, dense(weight), _vector(bias), padding, norm, result, size=size[2:], relu=relu, pool=pool,
                allow_tf32=allow_tf32)  # fmt: skip
    return result


def block_backward(grad_raw, grad_scale, grad_shift, input, scale, shift, upsample, skip, skip_scale, skip_shift,
                   skip_upsample, weight, padding, gamma, mean, var, eps, y, index, pool, bias, wanted,
                   *, allow_tf32: bool) -> tuple[Tensor, ...]:  # fmt: skip
    feeds = _feeds(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample)
    norm = gamma is not None
    none = [y.new_empty(0) for _ in range(10)]
    gradient = Gradient(dense(grad_raw), dense(index) if pool else None, None, None, None, None, y.shape[2:])
    if norm:
        vectors = through_norm(*map(_vector, (grad_scale, grad_shift, gamma, mean, var)), eps, y.numel() // y.shape[1])
        gradient = gradient._replace(y=dense(y), mean=_vector(mean), offset=vectors[0], slope=vectors[1])

    grads = [none[:3], none[3:6]]
    filters, first_channel = weight, 0
    if weight.dtype != torch.float32 and any(wanted[:2]):  # (of float32 grad_feed makes its own copy)
        filters = dense(weight)
    for i, feed in enumerate(feeds):
        if wanted[i] and feed.tensor.numel():
            own = filters[:, first_channel : first_channel + feed.channels]
            grads[i] = grad_feed(gradient, own, feed, padding, allow_tf32)
        elif wanted[i]:
            grads[i] = [none[0] if t is None else torch.zeros_like(t) for t in feed[:3]]
        first_channel += feed.channels

    parameters = none[6:]
    if wanted[2]:
        if y.numel():
            parameters[:2] = grad_weight(gradient, feeds, weight, padding, bias and not norm, allow_tf32)
        else:
            parameters[:2] = torch.zeros_like(weight), y.new_zeros(weight.shape[0] if bias else 0)
        if norm:
            parameters[2:] = vectors[2:]
            if bias:  # raw is seen through scale and shift, which take the bias out again
                parameters[1] = y.new_zeros(weight.shape[0])
    return *grads[0], *grads[1], *parameters


def activate(raw: Tensor, scale: Tensor, shift: Tensor, upsample: bool, *, allow_tf32: bool = False) -> Tensor:
    n, c, h, w = raw.shape
    result = _image(raw, (n, c, 2 * h, 2 * w) if upsample else raw.shape)
    if result.numel():
        block_activate.activate(dense(raw), _vector(scale), _vector(shift), upsample, result)
    return result


def activate_backward(
    grad: Tensor, raw: Tensor, scale: Tensor, shift: Tensor, upsample: bool, *, allow_tf32: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    if raw.numel() == 0:
        none = torch.empty_like(raw, memory_format=torch.channels_last)
        return none, torch.zeros_like(scale), torch.zeros_like(shift)
    return block_activate.activate_backward(dense(grad), dense(raw), _vector(scale), _vector(shift), upsample)
