"""One-line mistakes in the C++ sources: all are compiled into one library, where one at a time is switched on, and the
checker must catch it.

What has no wrong version here is not known to be tested: a new kernel brings its mutations.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from changed_sources import Change
from compiled import COMPILER, DTYPES, Kernels

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
    layout: str = "contiguous"


MUTATIONS = {
    "halo: the pixel before the image is read": Mutation(
        "conv2d conv2d_grad_input conv2d_grad_weight",
        "cpu/band.h",
        "least(most(0, -first_x), band.columns)",
        "least(most(0, -first_x - 1), band.columns)",
    ),
    "residue class: the first tap is always number 0": Mutation(
        "conv2d_grad_input", "cpu/gather.h", "axis.first_tap = r", "axis.first_tap = 0"
    ),
    "residue class: off by one": Mutation(
        "conv2d_grad_input",
        "cpu/gather.h",
        "residue + padding - r * dilation",
        "residue + padding - r * dilation + (stride > 1 ? 1 : 0)",
    ),
    "groups: all read the first one's channels": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/direct_product.h",
        "source + g * gather.channels * source_strides.c + piece.image * source_strides.n",
        "source + piece.image * source_strides.n",
    ),
    "bias: of the first channel for all": Mutation(
        "conv2d", "cpu/direct_product.h", "load<A>(bias[k * bias_stride])", "load<A>(bias[0])"
    ),
    "tail: the last piece of the pixels is left out": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/direct_product.h",
        "gather.batch * pieces.per_image() * groups",
        "most(1, gather.batch * pieces.per_image() - 1) * groups",
    ),
    "partial sums: the last range is lost": Mutation(
        "conv2d_grad_weight",
        "cpu/grad_weight.h",
        "range < ranges",
        "range < most(1, ranges - 1)",
    ),
    "partial sums: the workspace is stale": Mutation(
        "conv2d_grad_weight",
        "cpu/grad_weight.h",
        "std::memset(range_sums + first_k * runs.size(), 0, (end_k - first_k) * runs.size() * sizeof(A))",
        "nullptr",
    ),
    "kernel rows are stepped through as columns": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/direct_product.h",
        "(gather.h.first_tap + r * gather.h.tap_spacing) * view.r",
        "(gather.h.first_tap + r * gather.h.tap_spacing) * view.s",
    ),
    "depthwise: the bias of the first channel": Mutation(
        "conv2d", "cpu/depthwise.h", "load<A>(bias[k * bias_stride])", "load<A>(bias[0])"
    ),
    "depthwise: the last pixel of an odd row is lost": Mutation(
        "conv2d_grad_weight",
        "cpu/depthwise_grad_weight.h",
        "pixels > 0",
        "pixels > 1",
    ),
    "depthwise: a pixel at the left edge reads what is before the row": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/depthwise_rows.h",
        "most(a.begin, b.begin)",
        "least(a.begin, b.begin)",
        layout="channels_last",
    ),
    "depthwise: a window at the right edge reads what is behind the row": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/depthwise_rows.h",
        "least(columns, axis.source - begin)",
        "columns",
        layout="channels_last",
    ),
    "depthwise: the gradient of a tap counts what is behind the row": Mutation(
        "conv2d_grad_weight",
        "cpu/depthwise_rows.h",
        "Axis::Range{-x, gather_.w.source - x}",
        "Axis::Range{-x, INT64_MAX}",
        layout="channels_last",
    ),
    "small groups: every lane gets its group's first channel": Mutation(
        "conv2d conv2d_grad_input conv2d_grad_weight",
        "cpu/depthwise_rows.h",
        "picked<(lane / group * group + c)...>(value, value)",
        "picked<(lane / group * group)...>(value, value)",
    ),
    "small groups: one larger than a vector gets its first channel": Mutation(
        "conv2d conv2d_grad_input conv2d_grad_weight", "cpu/depthwise_rows.h", "V{} + at[c]", "V{} + at[0]"
    ),
    "dilation: every phase writes to the first one's rows": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/dilation.h",
        "every(result, dilation_h, dilation_w, h, w)",
        "every(result, dilation_h, dilation_w, 0, w)",
    ),
    "dilation: the gradients of every phase are the first one's rows": Mutation(
        "conv2d_grad_weight", "cpu/dilation.h", "every(grads, h, w, y, x)", "every(grads, h, w, 0, x)"
    ),
    "Winograd: a block of a larger kernel reads beyond it": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/winograd_product.h",
        "blocks.kernel_h - 1 - y",
        "2",
    ),
    "halo of a band: the last column counts as padding": Mutation(
        "conv2d conv2d_grad_input conv2d_grad_weight",
        "cpu/tiles.h",
        "least(window.columns, planes.width - window.x)",
        "least(window.columns, planes.width - 1 - window.x)",
    ),
    "Winograd: half a vector of an odd number of channels goes without the last": Mutation(
        "conv2d conv2d_grad_input", "cpu/panel.cpp", "half += a[i * lanes] * get<HalfLanes>(b + whole)", "half"
    ),
    "Winograd: dropped bias": Mutation("conv2d", "cpu/winograd_product.h", "value + plus", "value"),
    "Winograd: every group has the first one's weights": Mutation(
        "conv2d conv2d_grad_input",
        "cpu/winograd_product.h",
        "weight + g * view.group",
        "weight",
    ),
    "stride 2: a single tap meets the pixel before": Mutation(
        "conv2d conv2d_grad_weight", "cpu/strided.h", "v[0] = d(4 * pair - 11)", "v[0] = d(4 * pair - 12)"
    ),
    "stride 2: gradients under an even padding begin a row late": Mutation(
        "conv2d_grad_input", "cpu/strided.h", "window.y -= before_h", "window.y -= 0"
    ),
    "Winograd: of the points that meet one kernel the last counts": Mutation(
        "conv2d_grad_weight",
        "cpu/winograd_grad_weight.h",
        "kernel < begun",
        "accumulate",
    ),
    "few channels: under a stride, rows of one phase": Mutation(
        "conv2d", "cpu/few_in.h", "r % p.stride_h * phase_rows + r / p.stride_h", "r"
    ),
    "few channels: the taps of another phase": Mutation(
        "conv2d", "cpu/few_in.h", "tap * p.stride_w * view.s", "tap * view.s"
    ),
    "few channels: a tap that is left over is added to one pixel of two": Mutation(
        "conv2d",
        "cpu/few_in.h",
        "!three ? g(0) : pass ? g(2) : ((g(0) + g(2)) - g(1)) / 2",
        "!three ? 0 : pass ? g(2) : ((g(0) + g(2)) - g(1)) / 2",
    ),
    "grad_input: no zeros where no tap reaches": Mutation(
        "conv2d_grad_input",
        "cpu/kernels.cpp",
        "phases.some_have_no_taps()",
        "false",
    ),
    "few channels: the bias of the first group": Mutation(
        "conv2d",
        "cpu/few_out.h",
        "bias[(g * out_channels + k) * bias_stride]",
        "bias[k * bias_stride]",
    ),
    "one result channel: the sums of a tap column a pixel off": Mutation(
        "conv2d conv2d_grad_input", "cpu/few_out_one.h", "a + step + 1", "a + step"
    ),
    "rounding: bfloat16 is cut off": Mutation(
        "conv2d conv2d_grad_input conv2d_grad_weight",
        "cpu/stored.h",
        "(bits + 0x7fff + (bits >> 16 & 1)) >> 16",
        "bits >> 16",
        torch.bfloat16,
    ),
}


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels({name: Change(m.file, m.old, m.new) for name, m in MUTATIONS.items()})


def failed_operators(
    implementation: Implementation, dtype: torch.dtype, layout: str = "contiguous"
) -> set[str]:
    reports = [check(implementation, case, dtype, layout) for case in CASES]
    return set().union(*(report.failed_operators for report in reports))


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_caught(name: str, kernels: Kernels) -> None:
    operators, *_, dtype, layout = MUTATIONS[name]
    with kernels.changed(name) as implementation:
        assert failed_operators(implementation, dtype, layout) == set(operators.split())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_unchanged_sources_pass(dtype: torch.dtype, kernels: Kernels) -> None:
    assert failed_operators(kernels.unchanged, dtype) == set()


def test_a_mutation_that_no_longer_applies_is_named() -> None:
    with pytest.raises(LookupError, match="lost: 'no such line' occurs 0 times in csrc/cpu/gemm.h; bring"):
        Kernels({"lost": Change("cpu/gemm.h", "no such line", "")})
