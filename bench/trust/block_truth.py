"""How far a block's results may be from what follows, in float64, from the results before them.

    y            the convolution of the feeds, beside conv2d of the images that they stand for
    mean, var    the statistics of that y;  scale, shift: the batch norm of these;  raw, index: its pooling, to the bit
    gradients    block_backward of the reference, from the very y, index, mean and var of the forward pass

So no error is excused by an earlier one, and the kinks of ReLU and max-pool cannot fall on two sides.

The bound is the ruler's for Winograd (bench/oracle.py), |r − exact| ≤ (c + 8)·a·max Σ|p|, with 8 for the arithmetic of
batch norm between the sums. Σ|p| comes from the same formulas with absolute values. A gradient of a feed's scale or
shift adds up the errors of its pixels. Each function returns what is wrong, in words.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from myconv2d import block_reference, reference

from ..oracle import growth_of_transforms, steady_growth
from .block_shape import BlockShape

EPS = 1e-3
_ONE = (1, 1)
_PIXELS = (0, 2, 3)  # the axes of an image but its channels
_ROUNDING = torch.finfo(torch.float32).eps / 2
_RESULTS = ("input", "scale", "shift", "skip", "skip_scale", "skip_shift", "weight", "bias", "gamma", "beta")


def forward(block: BlockShape, args: list, results: tuple[Tensor, ...], y: Tensor) -> list[str]:
    raw, _, index, scale, shift, mean, var = results
    exact = _wide(args)
    x = block_reference._concatenated(*exact[:8])
    weight, bias = exact[8:10]
    truth = reference.conv2d(x, weight, bias, _ONE, block.padding, _ONE, 1)
    found = _far("y", y, truth, _limit_of_output(block, x, weight, bias)[0])
    if not block.norm:
        return found
    values = y.double()
    centre, pixels = values.mean(_PIXELS), values[:, 0].numel()
    largest = (values - centre[:, None, None]).abs().amax(_PIXELS)
    variance = (values - centre[:, None, None]).square().mean(_PIXELS)
    growth = (steady_growth(pixels) + 8) * _ROUNDING
    found += _far("mean", mean, centre, growth * 2 * largest + 2 * _ROUNDING * values.abs().amax(_PIXELS))
    found += _far("var", var, variance, growth * 4 * largest.square())
    slope = exact[11] * (variance + EPS).rsqrt()
    # the scale belongs to the variance before it was rounded: both errors reach it
    off = (growth * 4 * largest.square() / (variance + EPS) + 4 * _ROUNDING) * slope.abs()
    found += _far("scale", scale, slope, off)
    limit = off * centre.abs() + slope.abs() * growth * 2 * largest
    largest_term = exact[12].abs() + (slope * centre).abs() + slope.abs() * values.abs().amax(_PIXELS)
    limit += 4 * _ROUNDING * largest_term
    found += _far("shift", shift, exact[12] - centre * slope, limit)
    if block.pool:
        best, where = block_reference._pool(y, args[11])
        found += ["raw is not the pooled y"] * (not torch.equal(best, raw))
        found += ["index is not where the pooled y was"] * (not torch.equal(where, index))
    return found


def backward(block: BlockShape, given: list, results: tuple[Tensor, ...]) -> list[str]:
    exact = _wide(given)
    truth = block_reference.block_backward(*exact)
    grad, to_scale, to_shift = exact[:3]
    feeds, weight, (gamma, mean, var), (y, index) = exact[3:11], exact[11], exact[13:16], exact[17:19]
    magnitude = block_reference._unpool(grad.abs(), index, y) if block.pool else grad.abs()
    limits = {}
    if block.norm:
        r, pixels = (var + EPS).rsqrt(), y[:, 0].numel()
        centred = to_scale.abs() + (mean * to_shift).abs()
        slope = r**3 * gamma.abs() * centred / pixels
        offset = gamma.abs() * r * to_shift.abs() / pixels + slope * mean.abs()
        magnitude = magnitude + offset[:, None, None] + slope[:, None, None] * y.abs()
        limits = {"gamma": 8 * _ROUNDING * r * centred, "beta": 2 * _ROUNDING * to_shift.abs()}
    x = block_reference._concatenated(*feeds)
    numbers = _ONE, block.padding, _ONE, 1
    pixels = magnitude[:, 0].numel()
    tiles = block.batch * math.prod(-(-extent // 4) for extent in block.size)
    products, sums = reference.conv2d_grad_weight(magnitude, x.abs(), weight.shape, *numbers, True)
    limits["weight"] = _limit(block, products, pixels, tiles)
    # before batch norm a bias changes nothing: its gradient is zero exactly
    limits["bias"] = torch.zeros(()) if block.norm else (steady_growth(pixels) + 8) * _ROUNDING * sums
    to_x = reference.conv2d_grad_input(magnitude, weight.abs(), x.shape, *numbers)
    limit = _limit(block, to_x, weight[:, 0].numel(), len(weight))
    parts = to_x.split([feed.channels for feed in block.feeds], 1)
    for shape, (tensor, scale), (image, prefix), part in zip(
        block.feeds, (feeds[:2], feeds[4:6]), (("input", ""), ("skip", "skip_")), parts, strict=False
    ):
        pixels_of_one, count = 4 if shape.upsample else 1, tensor[:, 0].numel()
        each, rounding = limit * pixels_of_one, _ROUNDING * part.max() * pixels_of_one
        size = torch.ones(()) if scale is None else scale.abs()[:, None, None]
        limits[image] = size * (each + 4 * rounding)
        limits[f"{prefix}shift"] = count * (each + steady_growth(count) * rounding)
        limits[f"{prefix}scale"] = tensor.abs().sum(_PIXELS) * (each + steady_growth(count) * rounding)
    found = []
    for name, ours, right in zip(_RESULTS, results, truth, strict=True):
        if right.numel() or ours.numel():
            found += _far(f"gradient of {name}", ours, right, limits[name])
    return found


def inference(block: BlockShape, plain: list, results: tuple[Tensor, ...]) -> list[str]:
    exact = _wide(plain)
    input, upsample, skip, skip_upsample, weight, bias, _, gamma, beta, mean, var = exact[:11]
    x = block_reference._concatenated(input, None, None, upsample, skip, None, None, skip_upsample)
    limit, largest = _limit_of_output(block, x, weight, bias)
    if block.norm:
        slope = (gamma * (var + EPS).rsqrt())[:, None, None]
        shift = (beta.abs() + (mean * slope[:, 0, 0]).abs())[:, None, None]
        limit = slope.abs() * limit + 4 * _ROUNDING * (slope.abs() * largest + shift)
    truth = block_reference.block_inference(*exact)
    return _far("inference", results[0], truth, limit)


def _limit_of_output(block: BlockShape, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The bound of a convolution's output, and max Σ|p|."""
    size = None if bias is None else bias.abs()
    products = reference.conv2d(x.abs(), weight.abs(), size, _ONE, block.padding, _ONE, 1)
    return _limit(block, products, weight[0].numel() + 1, x.shape[1]), products.max()


def _limit(block: BlockShape, products: Tensor, length: int, at_points: int) -> Tensor:
    """The ruler's bound of a sum of `length` products, with room for batch norm's arithmetic."""
    growth = steady_growth(length) + 8
    if block.kernel == (3, 3):
        growth += growth_of_transforms(length, at_points)
    return growth * _ROUNDING * products.max() if products.numel() else products.sum()


def _wide(args) -> list:
    """The same numbers in float64."""
    return [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]


def _far(name: str, ours: Tensor, exact: Tensor, limit: Tensor) -> list[str]:
    """What is wrong with a result, in words."""
    if ours.shape != exact.shape:
        return [f"{name} has shape {tuple(ours.shape)}, not {tuple(exact.shape)}"]
    error = (ours.double() - exact).abs().nan_to_num(nan=float("inf"))
    share = (error / limit).nan_to_num(nan=0.0, posinf=float("inf"))
    if not share.numel() or share.max() <= 1:
        return []
    place = tuple(int(i) for i in torch.unravel_index(share.argmax(), exact.shape))
    value, right, times = ours[place].item(), exact[place].item(), share.max().item()
    wrong = f"{int((share > 1).sum())} of {share.numel()} values"
    return [
        f"{name} is {value:.9g} at {place} instead of {right:.9g}, {times:.3g} times the bound; so are {wrong}"
    ]
