"""The fused block in plain torch: what every backend's block operators are held to.

A *feed* (tensor (N, C, h, w), scale (C) or None, shift (C) or None, upsample) stands for the image

    f = relu(scale·tensor + shift), or tensor itself without a scale;  enlarged twice (nearest) if `upsample`.

A block convolves one feed, or two concatenated along their channels: y = conv(f, weight) + bias, stride 1. With `gamma`
it also gives the batch norm of y as a scale and a shift, so that (y, scale, shift) is the next block's feed:

    mean, var = of y over N, P, Q;   r = 1/√(var + eps);   out_scale = gamma·r;   out_shift = beta − mean·gamma·r

As relu(scale·y + shift) grows or falls with y as the sign of gamma has it, max-pooling may go before it: `raw` keeps y
at the largest sign(gamma)·y of each 2×2 window, and `index` says where that was (2·dy + dx).

As `raw` is meant to be seen through `scale` and `shift` only, which take the bias out again, its gradient is zero.

Statistics and per-channel arithmetic are in float64, images in their own type (16-bit types in float32).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference

_AXES = (0, 2, 3)  # all but the channels
_ONE = (1, 1)  # stride, dilation


def channels_last(image: Tensor) -> Tensor:
    return torch.empty_like(image, memory_format=torch.channels_last).copy_(image)


def _image(vector: Tensor, like: Tensor) -> Tensor:
    """A vector over the channels, to be multiplied with or added to an image."""
    return vector.to(reference._wide(like).dtype)[:, None, None]


def feed(tensor: Tensor, scale: Tensor | None, shift: Tensor | None, upsample: bool) -> Tensor:
    """The image that a feed stands for."""
    image = tensor
    if scale is not None and shift is not None:
        image = torch.relu(_image(scale, tensor) * tensor + _image(shift, tensor)).to(tensor.dtype)
    return image.repeat_interleave(2, 2).repeat_interleave(2, 3) if upsample else image


def activate(raw, scale, shift, upsample) -> Tensor:
    return channels_last(feed(raw, scale, shift, upsample))


def activate_backward(grad, raw, scale, shift, upsample) -> tuple[Tensor, Tensor, Tensor]:
    if upsample:
        grad = grad.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5))
    if scale is None:
        return channels_last(grad), raw.new_empty(0), raw.new_empty(0)
    grad = torch.where(_image(scale, raw) * raw + _image(shift, raw) > 0, grad, 0)
    to_scale = (grad.double() * raw).sum(_AXES).to(scale.dtype)
    to_shift = grad.sum(_AXES, dtype=torch.float64).to(shift.dtype)
    return channels_last((_image(scale, raw) * grad).to(raw.dtype)), to_scale, to_shift


def _concatenated(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample) -> Tensor:
    first = feed(input, scale, shift, upsample)
    return first if skip is None else torch.cat((first, feed(skip, skip_scale, skip_shift, skip_upsample)), 1)


def _flat(index: Tensor, width: int) -> Tensor:
    """Positions in the unpooled image, as max_pool2d counts them, of positions 0..3 in each window."""
    rows = 2 * torch.arange(index.shape[2], device=index.device)[:, None] + index // 2
    return rows * width + 2 * torch.arange(index.shape[3], device=index.device) + index % 2


def _pool(y: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """(y at the largest sign(gamma)·y of each 2×2 window, where in the window that was)."""
    flat = F.max_pool2d(y.detach() * _image(gamma.detach().sign(), y), 2, return_indices=True)[1]
    width = y.shape[3]
    index = 2 * (flat // width % 2) + flat % width % 2
    return y.flatten(2).gather(2, flat.flatten(2)).view(flat.shape), channels_last(index.to(torch.uint8))


def _unpool(grad: Tensor, index: Tensor, y: Tensor) -> Tensor:
    flat = _flat(index.long(), y.shape[3])
    return torch.zeros_like(y).flatten(2).scatter(2, flat.flatten(2), grad.flatten(2)).view(y.shape)


def block(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample, weight, bias, padding,
          gamma, beta, eps, pool, *, convolution: Callable = reference.conv2d) -> tuple[Tensor, ...]:  # fmt: skip
    """See above; differentiable as far as `convolution` is."""
    x = _concatenated(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample)
    y = channels_last(convolution(x, weight, bias, _ONE, padding, _ONE, 1))
    none, no_index = y.new_empty(0), y.new_empty(0, dtype=torch.uint8)
    if gamma is None:
        return y, none, no_index, none.clone(), none.clone(), none.clone(), none.clone()
    values = y.double()
    count = max(y.numel() // max(y.shape[1], 1), 1)  # an empty batch has mean and variance 0
    mean = values.sum(_AXES) / count
    var = (values - mean[:, None, None]).square().sum(_AXES) / count
    out_scale = gamma * (var + eps).rsqrt()
    out_shift = beta - mean * out_scale
    kind = torch.promote_types(y.dtype, torch.float32)
    vectors = out_scale.to(gamma.dtype), out_shift.to(beta.dtype), mean.to(kind), var.to(kind)
    if not pool:
        return y, none, no_index, *vectors
    raw, index = _pool(y, gamma)
    return channels_last(raw), y, index, *vectors


def block_backward(grad_raw, grad_scale, grad_shift, input, scale, shift, upsample, skip, skip_scale, skip_shift,
                   skip_upsample, weight, padding, gamma, mean, var, eps, y, index, pool, bias,
                   wanted) -> tuple[Tensor, ...]:  # fmt: skip
    none = y.new_empty(0)
    grad_y = _unpool(grad_raw, index, y) if pool else grad_raw
    to_gamma = to_beta = none
    if gamma is not None:  # everything that scale, shift, mean and var depend on is y
        centre, r = mean.double(), (var.double() + eps).rsqrt()
        gs = torch.zeros_like(centre) if grad_scale is None else grad_scale.double()
        gt = torch.zeros_like(centre) if grad_shift is None else grad_shift.double()
        count = max(y.numel() // max(y.shape[1], 1), 1)
        # y gets α + β·y with β = 2·dvar/M, dvar = −½ r³·gamma·(gs − mean·gt); α = dmean/M − β·mean, dmean = −gamma·r·gt
        slope = -(r**3) * gamma * (gs - centre * gt) / count
        offset = -gamma * r * gt / count - slope * centre
        grad_y = grad_y + offset[:, None, None] + slope[:, None, None] * y
        if wanted[2]:
            to_gamma, to_beta = (r * (gs - centre * gt)).to(gamma.dtype), gt.to(gamma.dtype)
    grad_y = channels_last(grad_y.to(y.dtype))

    to_feeds = [none] * 6
    x = _concatenated(input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample)
    if wanted[0] or wanted[1]:
        to_x = reference.conv2d_grad_input(grad_y, weight, x.shape, _ONE, padding, _ONE, 1)
        to_first, to_second = to_x.split([input.shape[1], x.shape[1] - input.shape[1]], 1)
        if wanted[0]:
            to_feeds[:3] = activate_backward(to_first, input, scale, shift, upsample)
        if wanted[1] and skip is not None:
            to_feeds[3:] = activate_backward(to_second, skip, skip_scale, skip_shift, skip_upsample)
    to_weight = to_bias = none
    if wanted[2]:
        sums = bias and gamma is None
        to_weight, to_bias = reference.conv2d_grad_weight(
            grad_y, x, weight.shape, _ONE, padding, _ONE, 1, sums
        )
        to_weight = torch.empty_like(weight).copy_(to_weight)  # in the layout of the weight
        if bias and not sums:
            to_bias = y.new_zeros(weight.shape[0])
    results = (*to_feeds, to_weight, to_bias, to_gamma, to_beta)
    # No two results may be one tensor.
    return tuple(none.clone() if result is none else result for result in results)


def block_inference(input, upsample, skip, skip_upsample, weight, bias, padding, gamma, beta, mean, var, eps, relu,
                    pool) -> Tensor:  # fmt: skip
    """With gamma, the batch norm of known mean and var follows the convolution."""
    x = _concatenated(input, None, None, upsample, skip, None, None, skip_upsample)
    y = reference.conv2d(x, weight, bias, _ONE, padding, _ONE, 1)
    if gamma is not None:
        scale = gamma.double() * (var.double() + eps).rsqrt()
        y = (_image(scale, y) * y + _image(beta.double() - mean.double() * scale, y)).to(y.dtype)
    y = torch.relu(y) if relu else y
    return channels_last(F.max_pool2d(y, 2) if pool else y)
