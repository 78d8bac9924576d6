"""The exact results of a case, and how far from them a correct implementation may be.

The exact values come from `myconv2d.reference` in float64, on operands already rounded to the type under test
(in int64 for integers, which must agree exactly). A result r, the sum of n products p, passes where

    |r − exact| ≤ u·|exact| + (2·v + c(n)·a)·Σ|p| + one step of the subnormals,    c(n) = min(n, 8 + √n / 4)

u   unit roundoff of the element type: one rounding, at the end.
v   relative error of an operand as it is multiplied: 2⁻¹⁰ where TF32 is allowed (tensor cores drop the low
    bits of what they are given without rounding), else 0.
a   unit roundoff of the accumulator: of float32, but for float64 twice its own, the oracle's errors included.
c   growth of the error with the length of the sum. In whatever order, it is at most n to first order (Higham
    2002, Accuracy and Stability of Numerical Algorithms, 2nd ed., sec. 4.2). Our values are random around
    zero, so partial sums grow like √n while Σ|p| grows like n; with rounding to nearest the errors behave
    like independent ones (Higham and Mary 2019, SIAM J. Sci. Comput. 41(5)), and their sum has a standard
    deviation of about a/2·Σ|p| whatever n is: 8 is far outside. An accumulator that truncates, as tensor
    cores do, errs by up to 2a of the partial sum in one direction at each of n/16 steps: √n / 10 more, for
    which √n / 4 leaves room. Where a layout repeats values (stride 0), neither they nor the errors are
    independent, and c(n) = n.
Σ   of the result's own products.

Where an implementation may use Winograd's minimal filtering (Case.suits_winograd, accumulated in float32), Σ|p| is
the largest of all results: it takes sums and differences of a whole tile before it multiplies, so its errors are
relative to the largest values around. And c(n) becomes c(n) + 375·√t / n, with t the products summed at each of its
points (channels times blocks of 3×3; for grad_weight, tiles): two transforms and one back round even where a single
product is summed, which is no sum of n terms. With the matrices B, G, A of csrc/cpu/winograd.h, roundings at the
points of relative standard deviation τ·a reach the result as √t · τ·a · Σᵢ Aᵢ²‖Bᵢ‖²‖Gᵢ‖², for values of standard
deviation 1. That sum is at most 24 (in grad_weight A and G change places), τ is about 1.25 for these transforms, and
Σ|p| is 0.64·n: 8·24·1.25·√t / (0.64·n) is eight deviations. (tests/bench/test_check.py computes the 24 and measures
what the native library does.) Where values are repeated, t stands in place of √t.

Only the last rounding has the width of a short type, so the bound is not loose for these: an accumulator of a
short type, a lost sum, a truncation in place of a rounding all fail, as deliberately wrong kernels show
(tests/conv/test_wrong_kernels.py).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .cases import Case
from .implementations import OPERATORS, ORACLE
from .operands import LAYOUTS, Values, draw

_TF32_OPERAND = 2.0**-10
_AMPLIFIED, _ROUNDINGS, _MEAN_PRODUCT = 24.0, 1.25, 2 / math.pi


class Exact(NamedTuple):
    """One exact result, in float64 or int64; its Σ|p|; c(n), and what the transforms of Winograd add to it."""

    value: Tensor
    magnitude: Tensor
    growth: float
    transforms: float


class Problem(NamedTuple):
    """The operands' values and the exact results by name."""

    values: Values
    exact: dict[str, Exact]


def problem(case: Case, dtype: torch.dtype, layout: str, device: torch.device) -> Problem:
    """Values of the case in `dtype` and its exact results. (Of the layout, what it repeats matters here.)"""
    small = math.prod(case.input_size) + math.prod(case.output_size) < 1 << 18
    return (_many if small else _few)(case, dtype, LAYOUTS[layout].repeated, device)


def _problem(case: Case, dtype: torch.dtype, repeated: tuple, device: torch.device) -> Problem:
    values = draw(case, dtype, device, repeated)
    return Problem(values, exact_results(case, values, any(repeated)))


_many, _few = (functools.lru_cache(maxsize=size)(_problem) for size in (256, 8))  # small ones come again and again


def exact_results(case: Case, values: Values, repeated: bool) -> dict[str, Exact]:
    """All exact results by name; `repeated`: whether any operand holds one value at several places."""
    dtype = values.input.dtype
    wide = values.map(lambda t: t.to(torch.float64 if dtype.is_floating_point else torch.int64))
    pixels = math.prod(case.output_size) // max(1, case.out_channels)
    taps = math.prod(case.kernel)
    in_channels, out_channels = case.in_channels // case.groups, case.out_channels // case.groups
    tiles = case.batch * math.prod(-(-extent // 4) for extent in case.output_size[2:])
    blocks = math.prod(-(-extent // 3) for extent in case.kernel)
    lengths = {  # of the sum, and of the sums at Winograd's points
        "output": (in_channels * taps + 1, in_channels * blocks),
        "grad_input": (out_channels * taps, out_channels * blocks),
        "grad_weight": (pixels, tiles),
        "grad_bias": (pixels, 0),
    }
    exact = {}
    for operator in OPERATORS:
        results = ORACLE.run(operator, case, wide)
        magnitudes = ORACLE.run(operator, case, wide.map(torch.abs))
        for name, value in results.items():
            if not dtype.is_floating_point:
                value = value.to(dtype).to(torch.int64)  # wraps around as the type does
            length, at_points = lengths[name]
            growth = length if repeated else steady_growth(length)
            transforms = growth_of_transforms(length, at_points**2 if repeated else at_points)
            exact[name] = Exact(value, magnitudes[name], growth, transforms)
    return exact


def steady_growth(length: int) -> float:
    """c(n) of values that are not repeated."""
    return min(length, 8 + math.sqrt(length) / 4)


def growth_of_transforms(length: int, at_points: int) -> float:
    """What Winograd's transforms add to c(n): 375·√t / n."""
    return 8 * _AMPLIFIED * _ROUNDINGS * math.sqrt(at_points) / (_MEAN_PRODUCT * max(1, length))


def bound(exact: Exact, dtype: torch.dtype, tf32: bool, winograd: bool) -> Tensor:
    """The largest allowed |error| of each element (see above); zero for integers."""
    if not dtype.is_floating_point:
        return torch.zeros_like(exact.value)
    of_type = torch.finfo(dtype)
    accumulator = torch.finfo(torch.float32).eps / 2 if dtype != torch.float64 else of_type.eps
    growth, magnitude = exact.growth, exact.magnitude
    if winograd and dtype != torch.float64 and magnitude.numel():
        growth, magnitude = growth + exact.transforms, magnitude.max()
    relative = growth * accumulator + (2 * _TF32_OPERAND if tf32 else 0)
    subnormal = of_type.smallest_normal * of_type.eps
    return of_type.eps / 2 * exact.value.abs() + relative * magnitude + subnormal
