"""Random fused blocks, each result held to what follows from the results before it, exactly, in float64.

    y            the convolution of the feeds, beside conv2d of the images that they stand for
    mean, var    the statistics of that y;  scale, shift: the batch norm of these;  raw, index: its pooling, to the bit
    gradients    block_backward of the reference, from the very y, index, mean and var of the native forward pass

So no error is excused by an earlier one, and the kinks of ReLU and max-pool cannot fall on two sides: feeds are drawn
from a grid on which scale·tensor + shift has no rounding in float32, zeros among them.

The bound is the ruler's for Winograd (bench/oracle.py), |r − exact| ≤ (c + 8)·a·max Σ|p|, with 8 for the arithmetic of
batch norm between the sums. Σ|p| comes from the same formulas with absolute values. A gradient of a feed's scale or
shift adds up the errors of its pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from myconv2d import block_reference, reference
from myconv2d.operators import overload

from ..operands import Format, place, same_bits
from ..oracle import growth_of_transforms, steady_growth
from .configurations import processor

_ONE = (1, 1)
_ROUNDING = torch.finfo(torch.float32).eps / 2
_FORMATS = (
    Format(),
    Format((0, 2, 3, 1)),
    Format((3, 0, 2, 1)),
    Format((0, 2, 3, 1), 2, 3),
    Format(gap=2, offset=1),
)
_RESULTS = ("input", "scale", "shift", "skip", "skip_scale", "skip_shift", "weight", "bias", "gamma", "beta")
_EPS = 1e-3


class FeedShape(NamedTuple):
    channels: int
    affine: bool
    upsample: bool
    format: int  # of _FORMATS


@dataclass(frozen=True)
class Block:
    """One block: forward, backward and inference."""

    batch: int
    height: int  # of the image that the feeds make
    width: int
    out_channels: int
    kernel: tuple[int, int]
    padding: tuple[int, int]
    feeds: tuple[FeedShape, ...]
    bias: bool
    norm: bool
    pool: bool
    relu: bool  # of inference
    format: int  # of weight and gradient
    threads: int
    isa: str
    seed: int

    @classmethod
    def draw(cls, random: random.Random, isas: list[str]) -> Block:
        def feed():
            channels = random.choice([1, 2, 3, 4, 8, 13, 17, 32])
            return FeedShape(
                channels, random.random() < 0.6, random.random() < 0.4, random.randrange(len(_FORMATS))
            )

        feeds = tuple(feed() for _ in range(random.randint(1, 2)))
        k = random.choice([1, 2, 3, 4, 5, 8, 16, 24, 33])
        kernel = 3, 3
        if min(k, sum(f.channels for f in feeds)) <= 4 and random.random() < 0.4:
            kernel = random.randint(1, 6), random.randint(1, 6)
        padding = random.randint(0, 3), random.randint(0, 3)
        even = any(f.upsample for f in feeds)
        size = [max(1, r - 2 * p) + random.randrange(13) for r, p in zip(kernel, padding, strict=True)]
        height, width = (s + s % 2 if even else s for s in size)
        convolved = [n + 2 * p - r + 1 for n, p, r in zip((height, width), padding, kernel, strict=True)]
        norm = random.random() < 0.7
        pool = norm and min(convolved) > 1 and random.random() < 0.5
        flags = random.random() < 0.5, norm, pool, random.random() < 0.5
        where = (
            random.randrange(len(_FORMATS)),
            random.randint(1, 4),
            random.choice(isas),
            random.randrange(2**31),
        )
        return cls(random.randint(1, 3), height, width, k, kernel, padding, feeds, *flags, *where)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the convolution."""
        return tuple(  # type: ignore[return-value]
            n + 2 * p - r + 1
            for n, p, r in zip((self.height, self.width), self.padding, self.kernel, strict=True)
        )

    def smaller(self) -> Iterator[Block]:
        """Candidates that are simpler in one respect, the boldest first."""
        return (block for block in self._simpler() if min(block.size) > int(block.pool))

    def _simpler(self) -> Iterator[Block]:
        for change in ({"threads": 1}, {"isa": "portable"}, {"format": 0}, {"feeds": self.feeds[:1]}, {"pool": False},
                       {"pool": False, "norm": False}, {"bias": False}, {"relu": False}):  # fmt: skip
            yield replace(self, **change)
        for i, feed in enumerate(self.feeds):
            for change in ({"affine": False}, {"upsample": False}, {"format": 0}, {"channels": 1},
                           {"channels": feed.channels // 2}, {"channels": feed.channels - 1}):  # fmt: skip
                feeds = (*self.feeds[:i], feed._replace(**change), *self.feeds[i + 1 :])
                if all(f.channels > 0 for f in feeds):
                    yield replace(self, feeds=feeds)
        step = 2 if any(f.upsample for f in self.feeds) else 1
        for name, low in (("batch", 1), ("out_channels", 1), ("height", step), ("width", step)):
            value = getattr(self, name)
            for fewer in (
                low,
                value // (2 * step) * step,
                value - (step if name in ("height", "width") else 1),
            ):
                if fewer >= low:
                    yield replace(self, **{name: fewer})
        for p in ((0, 0), (self.padding[0], 0), (0, self.padding[1])):
            yield replace(self, padding=p)

    def problems(self, run=overload) -> list[str]:
        """What is wrong; `run(operator, "native")` gives what is tested."""
        generator = torch.Generator().manual_seed(self.seed)
        guarded = []

        def kept(values, format):
            guarded.append(place(values, _FORMATS[format], torch.device("cpu")))
            return guarded[-1].tensor

        def grid(size, low, high, unit):
            return torch.randint(low, high, size, generator=generator).float() * unit

        def vector(wanted=True):
            return torch.randn(self.out_channels, generator=generator) if wanted else None

        args: list = []
        for feed in self.feeds:
            pixels = [n >> feed.upsample for n in (self.height, self.width)]
            image = grid((self.batch, feed.channels, *pixels), -255, 256, 1 / 64)
            affine = (grid((feed.channels,), -63, 64, 1 / 16), grid((feed.channels,), -255, 256, 1 / 64))
            args += [kept(image, feed.format), *(affine if feed.affine else (None, None)), feed.upsample]
        args += [None, None, None, False] * (2 - len(self.feeds))
        channels = sum(f.channels for f in self.feeds)
        weight = torch.randn(self.out_channels, channels, *self.kernel, generator=generator)
        args += [kept(weight, self.format), vector(self.bias), list(self.padding)]
        args += [vector(self.norm), vector(self.norm), _EPS, self.pool]
        with processor(self.isa):
            found = self._held(args, kept, vector, lambda name: run(name, "native"), generator)
        return found + ["an operand is changed, or memory beside it"] * any(o.touched() for o in guarded)

    def _held(self, args, kept, vector, run, generator) -> list[str]:
        found: list[str] = []
        results = self._twice(run("block"), args, "block", found)
        raw, full, index, scale, shift, mean, var = results
        y = full if self.pool else raw
        found += self._forward(args, results, y)
        gradients = torch.randn(raw.shape, generator=generator)
        given = [kept(gradients, self.format), vector(self.norm), vector(self.norm), *args[:9], args[10]]
        given += [
            args[11],
            *((mean, var) if self.norm else (None, None)),
            _EPS,
            y,
            index,
            self.pool,
            self.bias,
        ]
        given.append([True, True, True])
        found += self._backward(given, self._twice(run("block_backward"), given, "block_backward", found))
        plain = [args[0], args[3], args[4], args[7], *args[8:13]]
        plain += [*((mean, var) if self.norm else (None, None)), _EPS, self.relu, self.pool]
        return found + self._inference(
            plain, self._twice(run("block_inference"), plain, "block_inference", found)
        )

    def _twice(self, operator, args, name, found):
        """The results with one thread; others with more threads are noted as a problem."""
        results = []
        for threads in (1, self.threads):
            torch.set_num_threads(threads)
            result = operator(*args)
            results.append(result if isinstance(result, tuple) else (result,))
        for i, (one, many) in enumerate(zip(*results, strict=True)):
            if not same_bits(one, many):
                found.append(f"{name}: result {i} depends on the number of threads ({self.threads})")
        return results[0]

    def _forward(self, args, results, y) -> list[str]:
        raw, _, index, scale, shift, mean, var = results
        exact = _wide(args)
        x = block_reference._concatenated(*exact[:8])
        bias = exact[9]
        truth = reference.conv2d(x, exact[8], bias, _ONE, self.padding, _ONE, 1)
        products = reference.conv2d(x.abs(), exact[8].abs(), None if bias is None else bias.abs(), _ONE, self.padding,
                                    _ONE, 1)  # fmt: skip
        found = _far("y", y, truth, self._limit(products, exact[8][0].numel() + 1, x.shape[1]))
        if not self.norm:
            return found
        values, axes = y.double(), (0, 2, 3)
        centre, pixels = values.mean(axes), values[:, 0].numel()
        largest = (values - centre[:, None, None]).abs().amax(axes)
        variance = (values - centre[:, None, None]).square().mean(axes)
        growth = (steady_growth(pixels) + 8) * _ROUNDING
        found += _far("mean", mean, centre, growth * 2 * largest + 2 * _ROUNDING * values.abs().amax(axes))
        found += _far("var", var, variance, growth * 4 * largest.square())
        slope = exact[11] * (variance + _EPS).rsqrt()
        # the scale belongs to the variance before it was rounded: both errors reach it
        off = (growth * 4 * largest.square() / (variance + _EPS) + 4 * _ROUNDING) * slope.abs()
        found += _far("scale", scale, slope, off)
        limit = off * centre.abs() + slope.abs() * growth * 2 * largest
        limit += (
            4 * _ROUNDING * (exact[12].abs() + (slope * centre).abs() + slope.abs() * values.abs().amax(axes))
        )
        found += _far("shift", shift, exact[12] - centre * slope, limit)
        if self.pool:
            best, where = block_reference._pool(y, args[11])
            found += ["raw is not the pooled y"] * (not torch.equal(best, raw))
            found += ["index is not where the pooled y was"] * (not torch.equal(where, index))
        return found

    def _backward(self, given, results) -> list[str]:
        exact = _wide(given)
        truth = block_reference.block_backward(*exact)
        grad, to_scale, to_shift = exact[:3]
        feeds, weight, gamma, mean, var, y, index = (
            exact[3:11],
            exact[11],
            *exact[13:16],
            exact[17],
            exact[18],
        )
        magnitude = block_reference._unpool(grad.abs(), index, y) if self.pool else grad.abs()
        of_norm = {}
        if self.norm:
            r, pixels = (var + _EPS).rsqrt(), y[:, 0].numel()
            centred = to_scale.abs() + (mean * to_shift).abs()
            slope = r**3 * gamma.abs() * centred / pixels
            offset = gamma.abs() * r * to_shift.abs() / pixels + slope * mean.abs()
            magnitude = magnitude + offset[:, None, None] + slope[:, None, None] * y.abs()
            of_norm = {"gamma": 8 * _ROUNDING * r * centred, "beta": 2 * _ROUNDING * to_shift.abs()}
        x = block_reference._concatenated(*feeds)
        numbers = _ONE, self.padding, _ONE, 1
        pixels = magnitude[:, 0].numel()
        tiles = self.batch * math.prod(-(-extent // 4) for extent in self.size)
        products, sums = reference.conv2d_grad_weight(magnitude, x.abs(), weight.shape, *numbers, True)
        limits = {
            "weight": self._limit(products, pixels, tiles),
            "bias": (steady_growth(pixels) + 8) * _ROUNDING * sums,
        }
        to_x = reference.conv2d_grad_input(magnitude, weight.abs(), x.shape, *numbers)
        limit = self._limit(to_x, weight[:, 0].numel(), len(weight))
        for shape, feed, prefix, part in zip(
            self.feeds, (feeds[:4], feeds[4:]), ("", "skip_"), to_x.split([f.channels for f in self.feeds], 1),
            strict=False,
        ):  # fmt: skip
            tensor, scale = feed[0], feed[1]
            each = limit * (4 if shape.upsample else 1)
            size = torch.ones(()) if scale is None else scale.abs()[:, None, None]
            rounded = 4 * _ROUNDING * part.max() * (4 if shape.upsample else 1)
            limits[prefix + "input" if not prefix else "skip"] = size * (each + rounded)
            count = tensor[:, 0].numel()
            more = steady_growth(count) * _ROUNDING * part.max() * (4 if shape.upsample else 1)
            limits[prefix + "shift"] = count * (each + more)
            limits[prefix + "scale"] = (tensor.abs().sum((0, 2, 3))) * (each + more)
        found = []
        for name, ours, right in zip(_RESULTS, results, truth, strict=True):
            if right.numel() or ours.numel():
                limit_of = (
                    {**limits, **of_norm}[name] if not (name == "bias" and self.norm) else torch.zeros(())
                )
                found += _far(f"gradient of {name}", ours, right, limit_of)
        return found

    def _inference(self, plain, results) -> list[str]:
        exact = _wide(plain)
        input, upsample, skip, skip_upsample, weight, bias, _, gamma, beta, mean, var = exact[:11]
        x = block_reference._concatenated(input, None, None, upsample, skip, None, None, skip_upsample)
        products = reference.conv2d(x.abs(), weight.abs(), None if bias is None else bias.abs(), _ONE, self.padding,
                                    _ONE, 1)  # fmt: skip
        limit = self._limit(products, weight[0].numel() + 1, x.shape[1])
        if self.norm:
            slope = (gamma * (var + _EPS).rsqrt())[:, None, None]
            shift = (beta.abs() + (mean * slope[:, 0, 0]).abs())[:, None, None]
            limit = slope.abs() * limit + 4 * _ROUNDING * (slope.abs() * products.max() + shift)
        truth = block_reference.block_inference(*exact)
        return _far("inference", results[0], truth, limit)

    def _limit(self, products: Tensor, length: int, at_points: int) -> Tensor:
        """The ruler's bound of a sum of `length` products, with room for batch norm's arithmetic."""
        growth = steady_growth(length) + growth_of_transforms(length, at_points) + 8
        return growth * _ROUNDING * products.max() if products.numel() else products.sum()


def _wide(args) -> list:
    """The same numbers in float64."""
    return [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]


def _far(name: str, ours: Tensor, exact: Tensor, limit: Tensor) -> list[str]:
    """What is wrong with a result, in words."""
    if ours.shape != exact.shape:
        return [f"{name} has shape {tuple(ours.shape)}, not {tuple(exact.shape)}"]
    error = (ours.double() - exact).abs().nan_to_num(nan=float("inf"))
    share = error / (limit.broadcast_to(exact.shape) if limit.dim() != 1 or exact.dim() == 1 else limit)
    share = share.nan_to_num(nan=0.0, posinf=float("inf"))
    if not share.numel() or share.max() <= 1:
        return []
    place = tuple(int(i) for i in torch.unravel_index(share.argmax(), exact.shape))
    value, right, times = ours[place].item(), exact[place].item(), share.max().item()
    wrong = f"{int((share > 1).sum())} of {share.numel()} values"
    return [
        f"{name} is {value:.9g} at {place} instead of {right:.9g}, {times:.3g} times the bound; so are {wrong}"
    ]
