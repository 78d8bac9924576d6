"""The table of convolutions that tests and benchmarks take their shapes from.

    select("unet", "kernelbench-1-*")

Tags say what a case is there for:

    handout      the layers of the handout's networks at batch 1, 10, 100, 400; `unet`, `cnn` … name the
    network
    ten          ten layers that stand for these networks, at the batch sizes that matter
    large, wide, strided, dilated, grouped, depthwise, kernels: what the handout leaves out, at working sizes
    kernelbench  the convolutions of KernelBench (Ouyang et al. 2025): "kernelbench-LEVEL-NUMBER"
    weird        small and odd, for correctness: everything that a tile, a halo or a stride can get wrong
    blocks       for correctness: a little more than one block of any of our kernels, in every direction
    empty        nothing to compute, or nothing to sum over
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from myconv2d.shapes import output_size

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One convolution: input (N, C, H, W), weight (K, C/groups, R, S), output (N, K, P, Q)."""

    name: str
    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True
    tags: frozenset[str] = field(default=frozenset(), compare=False)

    def __str__(self) -> str:
        return self.name

    @property
    def input_size(self) -> tuple[int, int, int, int]:
        return self.batch, self.in_channels, self.height, self.width

    @property
    def weight_size(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel

    @property
    def output_size(self) -> tuple[int, int, int, int]:
        return output_size(self.input_size, self.weight_size, self.stride, self.padding, self.dilation)

    @property
    def numbers(self) -> tuple[Pair, Pair, Pair, int]:
        """stride, padding, dilation, groups: what every operator takes behind its tensors and sizes."""
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def suits_winograd(self) -> bool:
        """Whether minimal filtering can serve it: F(m×m, 3×3) what is 3×3, or blocks of that, some of which may be
        2 wide; F(2, 3) also three taps that are a stride apart; F(4×4, 2×2) the outer taps of 3×3 with stride 2.
        """
        larger = max(self.kernel) > 3 and min(self.kernel) >= 2
        strided = self.stride == (2, 2) and (self.kernel == (3, 3) or min(self.kernel) >= 5)
        return strided or ((self.kernel == (3, 3) or larger) and self.stride == (1, 1))

    @property
    def flop(self) -> int:
        """Operations of any of the three operators: a multiply-add is two, those with padding are counted."""
        batch, out_channels, p, q = self.output_size
        return 2 * batch * p * q * out_channels * self.weight_size[1] * self.kernel[0] * self.kernel[1]


def _pair(value: int | Pair) -> Pair:
    return value if isinstance(value, tuple) else (value, value)


def _case(
    tags: str,
    name: str,
    sizes: tuple[int, ...],
    kernel: int | Pair = 3,
    *,
    stride: int | Pair = 1,
    padding: int | Pair | None = None,
    dilation: int | Pair = 1,
    groups: int = 1,
    bias: bool = True,
) -> Case:
    """`sizes` is N, C, K, H and, unless square, W. Padding, if not given, keeps the size at stride 1."""
    sizes = sizes if len(sizes) == 5 else (*sizes, sizes[-1])
    (r, s), (dh, dw) = _pair(kernel), _pair(dilation)
    padding = (dh * (r // 2), dw * (s // 2)) if padding is None else _pair(padding)
    tag_set = frozenset(tags.split())
    return Case(name, *sizes, (r, s), _pair(stride), padding, (dh, dw), groups, bias, tag_set)


def _layer(tags: str, batch: int, in_channels: int, out_channels: int, size: int) -> Case:
    """A 3×3 layer on square pictures, named after its numbers."""
    name = f"c{in_channels}-k{out_channels}-{size}px-n{batch}"
    return _case(tags, name, (batch, in_channels, out_channels, size))


# In and out channels of downconv1, downconv2, rfconv, upconv1, upconv2, finalconv, on pictures of this size:
_SIZES = (32, 16, 8, 8, 16, 32)
_NETWORKS = {
    "regression-cnn": ((1, 32), (32, 64), (64, 64), (64, 32), (32, 3), (3, 3)),
    "cnn": ((1, 32), (32, 64), (64, 64), (64, 32), (32, 24), (24, 24)),
    "cnn-3": ((1, 32), (32, 64), (64, 64), (64, 32), (32, 3), (3, 24)),  # 3 channels before the last layer
    "unet": ((1, 32), (32, 64), (64, 64), (128, 32), (64, 24), (25, 24)),
    "superres-cnn": ((3, 32), (32, 64), (64, 64), (64, 32), (32, 24), (24, 24)),
    "superres-unet": ((3, 32), (32, 64), (64, 64), (128, 32), (64, 24), (27, 24)),
}
_HANDOUT = [
    _layer(f"handout {network}", batch, *channels, size)
    for network, layers in _NETWORKS.items()
    for channels, size in zip(layers, _SIZES, strict=True)
    for batch in (1, 10, 100, 400)
]
_TEN = [
    _layer("ten", *numbers)
    for numbers in (
        (100, 1, 32, 32), (100, 32, 64, 16), (100, 64, 64, 8), (100, 64, 32, 8), (100, 128, 32, 8),
        (100, 32, 3, 16), (100, 64, 24, 16), (100, 3, 3, 32), (100, 25, 24, 32), (1, 64, 64, 256),
    )
]  # fmt: skip
_LARGE = [
    _layer("large", 1, *channels, size)
    for channels in ((1, 32), (64, 64), (25, 24))
    for size in (64, 128, 256, 512, 1024)
]
_WIDE = [
    _layer("wide", *numbers)
    for numbers in ((16, 128, 128, 32), (16, 256, 256, 16), (16, 512, 512, 8), (16, 64, 64, 256))
]
_VARIED = [
    _case("strided", "stride2-c1-k32", (100, 1, 32, 32), stride=2),
    _case("strided", "stride2-c32-k64", (100, 32, 64, 16), stride=2),
    _case("strided", "stride2-c64-k128", (32, 64, 128, 56), stride=2),
    _case("strided kernels", "stride2-7x7-c3-k64", (32, 3, 64, 224), 7, stride=2),
    _case("strided kernels", "stride2-1x1-c64-k128", (32, 64, 128, 56), 1, stride=2),
    _case("strided kernels", "stride4-4x4-c3-k96", (32, 3, 96, 224), 4, stride=4, padding=0),  # patches
    _case("dilated", "dilation2-c64-k64", (100, 64, 64, 8), dilation=2),
    _case("dilated", "dilation4-c64-k64", (16, 64, 64, 64), dilation=4),
    _case("grouped", "groups2-c64-k64", (100, 64, 64, 16), groups=2),
    _case("grouped", "groups8-c64-k128", (32, 64, 128, 32), groups=8),
    _case("grouped", "groups32-c128-k128", (32, 128, 128, 28), groups=32),
    _case("depthwise", "depthwise-3x3-c64", (100, 64, 64, 32), groups=64),
    _case("depthwise kernels", "depthwise-5x5-c96", (32, 96, 96, 56), 5, groups=96),
    _case("depthwise kernels", "depthwise-7x7-c96", (32, 96, 96, 56), 7, groups=96),
    _case("depthwise strided", "depthwise-stride2-c144", (32, 144, 144, 56), stride=2, groups=144),
    _case("kernels", "1x1-c64-k64", (100, 64, 64, 32), 1),
    _case("kernels", "1x1-c256-k64", (32, 256, 64, 56), 1),
    _case("kernels", "5x5-c32-k64", (100, 32, 64, 16), 5),
    _case("kernels", "7x7-c32-k32", (32, 32, 32, 32), 7),
    _case("kernels", "11x11-c16-k16", (16, 16, 16, 64), 11),
]


def _kernelbench(number: str, *args, **options) -> Case:
    options = {"padding": 0, "bias": number.startswith("2"), **options}
    return _case("kernelbench", f"kernelbench-{number}", *args, **options)


_KERNELBENCH = [
    _kernelbench("1-50", (256, 3, 96, 224), 11, stride=4, padding=2, bias=True),
    _kernelbench("1-55", (8, 64, 128, 512, 1024)),
    _kernelbench("1-56", (8, 64, 128, 512, 256), (5, 7)),
    _kernelbench("1-62", (8, 32, 64, 512), (5, 9)),
    _kernelbench("1-63", (16, 16, 128, 1024)),
    _kernelbench("1-80", (8, 32, 64, 512), (5, 9), padding=(2, 4), dilation=(2, 3)),
    _kernelbench("1-82", (16, 64, 64, 512), groups=64),
    _kernelbench("1-83", (64, 8, 8, 512), (3, 1), groups=8),
    _kernelbench("1-84", (64, 128, 128, 256, 512), groups=128),
    _kernelbench("1-85", (32, 128, 128, 128, 256), (3, 7), groups=128),
    _kernelbench("1-86-depthwise", (16, 64, 64, 512), padding=1, groups=64),
    _kernelbench("1-86-pointwise", (16, 64, 128, 512), 1),
    _kernelbench("1-87", (16, 64, 128, 1024), 1),
    _kernelbench("2-1-17-31-46", (128, 64, 128, 128)),
    _kernelbench("2-4-32", (64, 64, 128, 256)),
    _kernelbench("2-21", (128, 8, 32, 256)),
    _kernelbench("2-25", (128, 16, 64, 256)),
    _kernelbench("2-54", (64, 64, 64, 256)),
    _kernelbench("2-57-71-85", (128, 8, 64, 128)),
]
_WEIRD = [
    _case("weird", "odd", (2, 3, 5, 7, 6)),
    _case("weird", "primes", (3, 7, 11, 13, 17)),
    _case("weird", "one-of-everything", (1, 1, 1, 1), 1),
    _case("weird", "one-channel", (2, 1, 4, 9, 8)),
    _case("weird", "one-output", (2, 6, 1, 8, 9)),
    _case("weird", "no-bias", (2, 4, 6, 6, 5), bias=False),
    _case("weird", "no-padding", (2, 3, 4, 8, 7), padding=0),
    _case("weird", "much-padding", (1, 2, 3, 4, 5), padding=(5, 4)),
    _case("weird", "even-kernel", (1, 4, 4, 6, 5), (2, 4), padding=(4, 3)),
    _case("weird", "kernel-as-large-as-the-picture", (2, 3, 6, 5, 4), (5, 4), padding=0),
    _case("weird", "kernel-larger-than-the-picture", (2, 3, 4, 3, 2), 5),
    _case("weird", "pixel-pictures", (70, 5, 3, 1, 1), 1),
    _case("weird", "one-row", (1, 2, 3, 1, 37), (1, 5)),
    _case("weird", "one-column", (2, 3, 2, 41, 1), (5, 1)),
    _case("weird", "upright-kernel", (2, 3, 4, 9, 5), (7, 1)),
    _case("weird", "1x1", (2, 20, 18, 5, 7), 1),
    _case("weird", "1x1-padded", (1, 3, 4, 5, 4), 1, padding=1),
    _case("weird", "5x5", (1, 3, 4, 9, 8), 5),
    _case("weird", "7x7", (1, 3, 4, 10, 9), 7),
    _case("weird", "11x11", (1, 2, 3, 13, 12), 11),
    _case("weird", "stride2-even", (2, 3, 4, 8, 10), stride=2),
    _case("weird", "stride2-odd", (2, 3, 4, 9, 7), stride=2),
    _case("weird", "stride2-7x7-few", (2, 3, 33, 13, 15), 7, stride=2),
    _case("weird", "5x6-few", (2, 2, 17, 8, 9), (5, 6)),
    _case("weird", "stride-with-a-rest", (2, 2, 3, 11, 10), stride=3, padding=0),  # last rows unread
    _case("weird", "stride-beyond-the-kernel", (2, 3, 4, 11, 10), (3, 2), stride=(4, 3), padding=(1, 0)),
    _case("weird", "stride2-1x1", (2, 5, 6, 7, 6), 1, stride=2),
    _case("weird", "dilation", (2, 3, 4, 11, 12), dilation=(2, 3)),
    _case("weird", "dilation-beyond-the-picture", (1, 2, 3, 4, 5), dilation=6),  # only the middle taps hit
    _case("weird", "stride-dilation-groups", (1, 20, 18, 9, 7), (3, 2), stride=(2, 3), dilation=2, groups=2),
    _case("weird", "stride-dilation-share-a-factor", (1, 3, 4, 13, 12), stride=(4, 2), dilation=(2, 4)),
    _case("weird", "groups-2", (2, 6, 4, 7, 6), groups=2),
    _case("weird", "groups-3-wide-out", (1, 6, 15, 6, 7), groups=3, stride=2),
    _case("weird", "depthwise-odd", (2, 6, 6, 8, 7), groups=6),
    _case("weird", "depthwise-stride-dilation", (2, 5, 5, 9, 8), stride=(2, 1), dilation=(2, 1), groups=5),
    _case("weird", "depthwise-multiplier", (1, 3, 9, 6, 6), groups=3, bias=False),
    _case("weird", "nine-channels", (2, 9, 10, 9, 7)),
    _case("weird", "many-channels-no-padding", (1, 17, 24, 13, 6), padding=0),
    _case("weird", "many-channels-much-padding", (2, 8, 16, 6, 11), padding=(2, 4)),
    _case("weird", "many-channels-groups", (1, 24, 18, 8, 9), groups=2, bias=False),
    _case("weird", "many-channels-5x5", (2, 16, 16, 9, 11), 5),  # larger kernels in blocks of 3×3
    _case("weird", "many-channels-6x5-dilated", (1, 16, 9, 13, 17), (6, 5), dilation=(2, 1)),
    _case("weird", "many-channels-strided", (2, 37, 21, 9, 22), stride=2),
    _case("weird", "many-channels-1x1-strided", (2, 19, 35, 9, 7), 1, stride=(2, 3), padding=1),
    _case("weird", "depthwise-many", (2, 37, 37, 9, 21), (3, 9), groups=37),
    _case("weird", "depthwise-many-strided", (2, 21, 21, 9, 20), 5, stride=2, groups=21),
    _case("weird", "depthwise-whole-vectors", (2, 32, 32, 8, 13), 5, groups=32),  # read in place by every vector width
    _case("weird", "depthwise-two-windows", (1, 16, 16, 8, 16), 7, groups=16),  # both at an edge
    _case("weird", "small-groups-of-2", (2, 10, 10, 8, 9), (2, 3), dilation=(1, 2), padding=(1, 2), groups=5),
    _case("weird", "small-groups-of-4", (2, 32, 32, 7, 12), groups=8),
    _case("weird", "small-groups-of-4-strided", (2, 20, 20, 9, 8), (5, 3), stride=(2, 1), groups=5),
    _case("weird", "small-groups-of-8", (2, 24, 24, 9, 11), (3, 4), stride=2, padding=1, groups=3),
    _case("blocks", "many-depthwise", (1, 265, 265, 4, 5), groups=265),
    _case("blocks", "deep", (1, 81, 21, 6, 7)),  # sums of 729
    _case("blocks", "many-outputs", (1, 5, 133, 7, 6)),
    _case("blocks", "many-pixels", (3, 5, 7, 61, 53)),  # grad_weight sums 9699, in several ranges
    _case("blocks", "many-pixels-strided", (2, 4, 5, 90, 77), stride=2),
    _case("blocks", "strided-tiles", (3, 17, 16, 32, 31), stride=2),
    _case("blocks", "strided-tiles-no-padding", (6, 16, 35, 31, 34), stride=2, padding=0),
    _case("blocks", "dilated-tiles", (2, 16, 17, 23, 26), dilation=(3, 2), padding=(3, 1)),
    _case("blocks", "many-groups", (2, 66, 66, 9, 8), groups=33),
    _case("blocks", "unet-end", (5, 25, 24, 32)),
    _case("blocks", "unet-middle", (7, 64, 40, 8)),
    _case("blocks", "halo-tiles", (3, 40, 72, 19, 18)),
    _case("blocks", "halo-tiles-strided", (3, 48, 72, 20, 18), stride=2),
    _case("empty", "empty-batch", (0, 3, 4, 6, 5)),
    _case("empty", "no-input-channels", (2, 0, 4, 6, 5)),
]


def _merged(cases: Iterable[Case]) -> dict[str, Case]:
    """Cases by name; a shape that several lists name is one case with the tags of all."""
    table: dict[str, Case] = {}
    for case in cases:
        known = table.setdefault(case.name, case)
        if known != case:
            raise ValueError(f"two cases of different numbers are named {case.name!r}")
        table[case.name] = replace(known, tags=known.tags | case.tags)
    return table


CASES = _merged((*_TEN, *_HANDOUT, *_LARGE, *_WIDE, *_VARIED, *_KERNELBENCH, *_WEIRD))
TAGS = sorted({tag for case in CASES.values() for tag in case.tags})


def _matches(case: Case, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (case.name, *case.tags))


def select(*patterns: str) -> list[Case]:
    """The cases of which the name or a tag matches one of the patterns (shell style), in the table's order.

    Raises:
        ValueError: a pattern matches nothing; the message lists the tags.
    """
    chosen = set()
    for pattern in patterns:
        found = [case for case in CASES.values() if _matches(case, pattern)]
        if not found:
            raise ValueError(f"no case has a name or tag like {pattern!r}; the tags are {', '.join(TAGS)}")
        chosen.update(found)
    return [case for case in CASES.values() if case in chosen]
