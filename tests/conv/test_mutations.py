"""One-line mistakes in the C++ sources: each is compiled into a library, and the checker must catch it.

What has no wrong version here is not known to be tested: a new kernel brings its mutations.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from compiled import COMPILER, compiled

from bench.cases import select
from bench.check import check
from bench.implementations import Implementation

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler here")
CASES = select("weird", "blocks", "empty")


class Mutation(NamedTuple):
    operator: str
    file: str
    old: str
    new: str
    dtype: torch.dtype = torch.float32


MUTATIONS = {
    "halo: the pixel before the image is read": Mutation(
        "conv2d conv2d_grad_input conv2d_grad_weight",
        "cpu/gather.h",
        "(static_cast<uint64_t>(x) < static_cast<uint64_t>(gather.w.source))",
        "(x + 1 >= 0 && x < gather.w.source)",
    ),
    "residue class: the first tap is always number 0": Mutation(
        "conv2d_grad_input", "cpu/gather.h", "axis.first_tap = r;", "axis.first_tap = 0;"
    ),
    "residue class: off by one": Mutation(
        "conv2d_grad_input",
        "cpu/gather.h",
        "const int64_t reach = residue + padding - r * dilation;",
        "const int64_t reach = residue + padding - r * dilation + (stride > 1 ? 1 : 0);",
    ),
    "groups: all read the first one's channels": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/gathered_product.h",
        "source + g * gather.channels * source_strides.c,",
        "source,",
    ),
    "bias: of the first channel for all": Mutation(
        "conv2d", "cpu/gathered_product.h", "load<A>(bias[k * bias_stride]) : A(0)", "load<A>(bias[0]) : A(0)"
    ),
    "tail: the last tile of pixels is left out": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/gathered_product.h",
        "const int64_t tiles = ceil_div(pixels, blocking.tile_pixels);",
        "const int64_t tiles = most(1, pixels / blocking.tile_pixels);",
    ),
    "partial sums: the last range is lost": Mutation(
        "conv2d_grad_weight",
        "cpu/grad_weight.h",
        "for (int64_t range = 0; range < plan.ranges; ++range) sum += from[range * range_size];",
        "for (int64_t range = 0; range < most(1, plan.ranges - 1); ++range) sum += from[range * range_size];",
    ),
    "partial sums: the workspace is stale": Mutation(
        "conv2d_grad_weight",
        "cpu/grad_weight.h",
        "std::memset(partial, 0, plan.ranges * (range_size + conv.out_channels) * sizeof(A));",
        "",
    ),
    "kernel axes are swapped": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/gathered_product.h",
        "const T* from = weight + r * view.r + s * view.s + c * view.c + first * view.k;",
        "const T* from = weight + s * view.r + r * view.s + c * view.c + first * view.k;",
    ),
    "halo of a band: the last column counts as padding": Mutation(
        "conv2d conv2d_grad_input conv2d_grad_weight",
        "cpu/tiles.h",
        "least(window.columns, planes.width - window.x)",
        "least(window.columns, planes.width - 1 - window.x)",
    ),
    "Winograd: dropped bias": Mutation("conv2d", "cpu/winograd_product.h", "value + add[half]", "value"),
    "Winograd: every group has the first one's weights": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/winograd_product.h",
        "weight + g * view.group, view,",
        "weight, view,",
    ),
    "few channels: the bias of the first group": Mutation(
        "conv2d",
        "cpu/few_out.h",
        "*to++ = bias ? load<float>(bias[(g * out_channels + k)",
        "*to++ = bias ? load<float>(bias[(k)",
    ),
    "rounding: bfloat16 is cut off": Mutation(
        "conv2d conv2d_grad_input conv2d_grad_weight",
        "cpu/vector.h",
        "(bits + 0x7fff + ((bits >> 16) & 1)) >> 16",
        "bits >> 16",
        torch.bfloat16,
    ),
}


def failed_operators(implementation: Implementation, dtype: torch.dtype) -> set[str]:
    reports = [check(implementation, case, dtype) for case in CASES]
    return set().union(*(report.failed_operators for report in reports))


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_caught(name: str, tmp_path: Path) -> None:
    operators, *change, dtype = MUTATIONS[name]
    assert failed_operators(compiled(name, tmp_path, *change), dtype) == set(operators.split())


def test_the_unchanged_sources_pass(tmp_path: Path) -> None:
    unchanged = compiled("unchanged", tmp_path)
    assert failed_operators(unchanged, torch.float32) | failed_operators(unchanged, torch.bfloat16) == set()


def test_a_mutation_that_no_longer_applies_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="lost: 'no such line' occurs 0 times in csrc/cpu/gemm.h; bring"):
        compiled("lost", tmp_path, "cpu/gemm.h", "no such line", "")
