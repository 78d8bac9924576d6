"""What a random fused block is; block_configurations.py draws it, block_truth.py says what it must come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class FeedShape(NamedTuple):
    channels: int
    affine: bool
    upsample: bool
    format: int


@dataclass(frozen=True)
class BlockShape:
    """A block, its operands and how it is called."""

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

    @property
    def channels(self) -> int:
        return sum(feed.channels for feed in self.feeds)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the convolution."""
        return tuple(  # type: ignore[return-value]
            n + 2 * p - r + 1
            for n, p, r in zip((self.height, self.width), self.padding, self.kernel, strict=True)
        )
