"""Random fused blocks: what fuzz.py draws, as configurations.py draws convolutions; block_truth.py judges them.

Feeds are drawn from a grid on which scale·tensor + shift has no rounding in float32, zeros among them, so that a ReLU
cannot fall on two sides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import torch

from myconv2d.operators import overload

from ..operands import Format, place, same_bits
from . import block_truth
from .block_shape import BlockShape, FeedShape
from .block_truth import EPS
from .configurations import processor

_FORMATS = (
    Format(),
    Format((0, 2, 3, 1)),
    Format((3, 0, 2, 1)),
    Format((0, 2, 3, 1), 2, 3),
    Format(gap=2, offset=1),
)


class Block(BlockShape):
    """One block: forward, backward and inference. Its formats are of _FORMATS."""

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
        format, threads = random.randrange(len(_FORMATS)), random.randint(1, 4)
        where = format, threads, random.choice(isas), random.randrange(2**31)
        return cls(random.randint(1, 3), height, width, k, kernel, padding, feeds, *flags, *where)

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
            one = step if name in ("height", "width") else 1
            for fewer in (low, value // (2 * step) * step, value - one):
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
        weight = torch.randn(self.out_channels, self.channels, *self.kernel, generator=generator)
        args += [kept(weight, self.format), vector(self.bias), list(self.padding)]
        args += [vector(self.norm), vector(self.norm), EPS, self.pool]
        with processor(self.isa):
            found = self._held(args, kept, vector, lambda name: run(name, "native"), generator)
        return found + ["an operand is changed, or memory beside it"] * any(o.touched() for o in guarded)

    def _held(self, args, kept, vector, run, generator) -> list[str]:
        found: list[str] = []
        results = self._twice(run("block"), args, "block", found)
        raw, full, index, _, _, mean, var = results
        y, statistics = full if self.pool else raw, (mean, var) if self.norm else (None, None)
        kept_y = y  # some pooled blocks keep nothing of their convolution
        if y.numel() == 0 < raw.numel():
            y = run("block")(*args[:-1], False)[0]
        found += block_truth.forward(self, args, results, y)

        gradients = torch.randn(raw.shape, generator=generator)
        given = [kept(gradients, self.format), vector(self.norm), vector(self.norm), *args[:9], *args[10:12]]
        rest = index, self.pool, self.bias, [True, True, True]
        given += [*statistics, EPS]
        results = self._twice(run("block_backward"), [*given, kept_y, *rest], "block_backward", found)
        found += block_truth.backward(self, [*given, y, *rest], results)

        plain = [args[0], *args[3:5], *args[7:13], *statistics, EPS, self.relu, self.pool]
        results = self._twice(run("block_inference"), plain, "block_inference", found)
        return found + block_truth.inference(self, plain, results)

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
