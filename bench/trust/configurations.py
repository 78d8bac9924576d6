"""Random convolutions: what fuzz.py draws, and how each is held to the oracle.

A configuration is a frozen dataclass of numbers, so that its repr is the program that runs it again, and a smaller one
is made by `dataclasses.replace` (shrink.py). Its values follow from `seed` and the sizes alone.

Beyond what bench/check.py looks at (values within the oracle's bound, form, operands and their surroundings untouched,
nothing left unwritten) the second run of each operator has another number of threads, and must give the same bits.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from myconv2d import native

from ..cases import Case
from ..check import hold
from ..implementations import Implementation, backend, changed_together
from ..operands import Format, Operand, Values, place
from ..oracle import exact_results

TYPES = native.CpuLibrary.TYPES
_CONTIGUOUS = Format()
_ORDERS = list(itertools.permutations(range(4)))
_REPEATED = ((), (), (), (), (0,), (1,), (2, 3), (0, 1, 2, 3))


@dataclass(frozen=True)
class Overlapping:
    """A 4-D view whose elements share memory: any strides, also ones smaller than what they stride over."""

    strides: tuple[int, int, int, int]


def operand(size: tuple[int, ...], format: Format | Overlapping, dtype: torch.dtype, generator: torch.Generator
            ) -> Operand:  # fmt: skip
    """Random values of a size, in a format, in the middle of canaries."""

    def values(size):
        if dtype.is_floating_point:
            return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        return torch.randint(-9 if dtype.is_signed else 0, 10, size, generator=generator).to(dtype)

    if isinstance(format, Overlapping):
        reach = 1 + sum(max(n - 1, 0) * step for n, step in zip(size, format.strides, strict=True))
        held = place(values((reach,)), _CONTIGUOUS, torch.device("cpu"))
        view = held.buffer.as_strided(size, format.strides, held.tensor.storage_offset())
        return Operand(view, held.buffer, held.before)
    repeated = [1 if axis in format.repeated and n else n for axis, n in enumerate(size)]
    return place(values(repeated).expand(size).contiguous(), format, torch.device("cpu"))


@contextmanager
def processor(isa: str) -> Iterator[None]:
    """Holds the native library to an instruction set."""
    before, threads = native.cpu.isa(), torch.get_num_threads()
    native.cpu.use_isa(isa)
    try:
        yield
    finally:
        native.cpu.use_isa(before)
        torch.set_num_threads(threads)


def on_threads(implementation: Implementation, threads: int) -> Implementation:
    """The same with one thread in every other call, and `threads` in those between."""
    turns = itertools.cycle((1, threads))

    def turned(operator):
        def run(*args):
            torch.set_num_threads(next(turns))
            return operator(*args)

        return run

    operators = (operator and turned(operator) for operator in implementation[1:5])
    return Implementation(implementation.name, *operators, implementation.winograd)


def formats(random: random.Random, size: tuple[int, ...]) -> Format | Overlapping:
    """Contiguous or channels_last, or anything."""
    if random.random() < 0.4:
        return Format(random.choice([(0, 1, 2, 3), (0, 2, 3, 1)]))
    if len(size) == 4 and random.random() < 0.1:
        return Overlapping(tuple(random.randrange(4) for _ in size))
    gap, offset = random.choice([1, 1, 2, 3]), random.choice([0, random.randrange(10)])
    return Format(random.choice(_ORDERS), gap, offset, random.choice(_REPEATED))


@dataclass(frozen=True)
class Convolution:
    """One convolution, all three operators."""

    case: Case
    dtype: torch.dtype
    formats: tuple[Format | Overlapping, ...]  # of input, weight, grad_output, bias
    threads: int
    isa: str
    seed: int

    @classmethod
    def draw(cls, random: random.Random, isas: list[str]) -> Convolution:
        case = random.choice([_anything, _anything, _layer, _wide])(random)
        dtype = torch.float32 if random.random() < 0.4 else random.choice(TYPES)
        sizes = case.input_size, case.weight_size, case.output_size, (case.out_channels,)
        chosen = tuple(formats(random, size) for size in sizes)
        return cls(case, dtype, chosen, random.randint(1, 4), random.choice(isas), random.randrange(2**31))

    def problems(self, implementation: Implementation | None = None) -> list[str]:
        """What is wrong with the native backend's results, or those of another implementation."""
        case = self.case
        generator = torch.Generator().manual_seed(self.seed)
        sizes = case.input_size, case.weight_size, case.output_size, (case.out_channels,)
        operands = {
            name: operand(size, format, self.dtype, generator)
            for name, size, format in zip(Values._fields, sizes, self.formats, strict=True)
        }
        values = Values(*(o.tensor.contiguous() for o in operands.values()))
        shared = any(isinstance(f, Overlapping) or f.repeated for f in self.formats)
        exact = exact_results(case, values, shared)
        with processor(self.isa):
            under_test = on_threads(implementation or backend("native"), self.threads)
            found = hold(under_test, case, operands, exact)
            values = Values(*(o.tensor for o in operands.values()))
            others = changed_together(under_test, case, values)
        problems = [f"{finding.result} {problem}" for finding in found for problem in finding.problems]
        return problems + [f"{name} is another with both gradients at once" for name in others]

    def smaller(self) -> Iterator[Convolution]:
        """Candidates that are simpler in one respect, the boldest first."""
        plain = (_CONTIGUOUS,) * 4
        for change in ({"threads": 1}, {"isa": "portable"}, {"dtype": torch.float32}, {"formats": plain}):
            yield replace(self, **change)
        for i in range(4):
            yield replace(self, formats=(*self.formats[:i], _CONTIGUOUS, *self.formats[i + 1 :]))
        for case in _smaller(self.case):
            yield replace(self, case=case)


def _smaller(case: Case) -> Iterator[Case]:
    """Smaller cases that are convolutions still."""
    changes: list[dict[str, Any]] = [{"bias": False}, {"groups": 1}]
    for name in ("kernel", "stride", "padding", "dilation"):
        low = int(name != "padding")
        a, b = getattr(case, name)
        for value in ((low, low), (low, b), (a, low), (a // 2, b), (a, b // 2), (a - 1, b), (a, b - 1)):
            changes.append({name: (max(low, value[0]), max(low, value[1]))})
    for name in ("batch", "height", "width"):
        value = getattr(case, name)
        changes += [{name: smaller} for smaller in (1, value // 2, value - 1)]
    for name in ("in_channels", "out_channels"):
        value = getattr(case, name)
        changes += [{name: smaller} for smaller in (case.groups, value // 2, value - case.groups)]
    if case.groups > 1:
        parts = {
            "in_channels": case.in_channels // case.groups,
            "out_channels": case.out_channels // case.groups,
        }
        changes += [{"groups": n, **{k: v * n for k, v in parts.items()}} for n in (1, 2, case.groups - 1)]
    for change in changes:
        new = replace(case, **change)
        whole = new.in_channels % new.groups == 0 and new.out_channels % new.groups == 0
        if new != case and whole and min(*new.input_size, new.out_channels, *new.output_size) > 0:
            yield new


def _pair(random: random.Random, low: int, high: int) -> tuple[int, int]:
    return random.randint(low, high), random.randint(low, high)


def _case(random: random.Random, kernel, stride, padding, dilation, groups, channels, pixels) -> Case:
    """Of these numbers, with sizes that the kernel fits into."""
    reach = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    height, width = (max(1, reach[i] - 2 * padding[i]) + random.randrange(pixels) for i in range(2))
    c, k = (groups * random.choice(channels) for _ in range(2))
    bias = random.random() < 0.5
    return Case(
        "drawn", random.randint(1, 3), c, k, height, width, kernel, stride, padding, dilation, groups, bias
    )


def _anything(random: random.Random) -> Case:
    kernel = random.choice([_pair(random, 1, 4), _pair(random, 1, 8)])
    numbers = kernel, _pair(random, 1, 4), _pair(random, 0, 5), _pair(random, 1, 3)
    return _case(random, *numbers, random.choice([1, 1, 2, 3, 7]), range(1, 6), 14)


def _layer(random: random.Random) -> Case:
    """What networks are made of, for which there are algorithms of their own."""
    size = random.choice([1, 3, 3, 3, 5])
    stride = (random.choice([1, 1, 1, 2]),) * 2
    channels = [1, 2, 3, 4, 5, 8, 13, 16, 24, 33]
    dilation = (random.choice([1, 1, 1, 2]),) * 2
    return _case(
        random,
        (size, size),
        stride,
        (size // 2, size // 2),
        dilation,
        random.choice([1, 1, 1, 2]),
        channels,
        22,
    )


def _wide(random: random.Random) -> Case:
    """More than one block of a kernel in some direction; depthwise among them."""
    kernel = random.choice([(1, 1), (3, 3), (3, 3), _pair(random, 1, 5)])
    numbers = kernel, _pair(random, 1, 2), _pair(random, 0, 2), (1, 1)
    if random.random() < 0.3:
        return _case(random, *numbers, random.randint(1, 70), (1,), 20)
    case = _case(random, *numbers, 1, (1, 7, 31, 64, 81), 6)
    return replace(case, batch=1) if random.random() < 0.5 else case
