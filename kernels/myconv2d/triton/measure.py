"""Measure the plans of convolutions on the GPU at hand, and remember the fastest.

    python -m myconv2d.triton.measure                                     the handout's layers, and the UNet's blocks
    python -m myconv2d.triton.measure --near                              … a dozen plans of each, in about a minute
    python -m myconv2d.triton.measure 100x64x8x8:64x3x3 --padding 1       N×C×H×W of the input, K×R×S of the weight
    MYCONV2D_TUNE=1 python train.py                                       every new layer, when it is first met
    myconv2d.triton.tune(input, weight, padding=1)                        from Python

What was measured goes before the shipped plans from then on, in every process, for every batch size; it is kept in a
file per GPU, in $MYCONV2D_CACHE or ~/.cache/myconv2d. (Another plan may add up in another order: the last bits of a
result are the same from run to run with the same plans.)
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import sys
import time
from collections.abc import Sequence

import torch

from . import plans
from .explanation import Numbers, operators
from .launch import Gpu, set_in
from .measured_cases import cases, compile_ahead
from .tuning import candidates, near, requested

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def tune(
    input: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int] | int = 1,
    padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1,
    groups: int = 1,
) -> None:
    """Measure forward, grad_input and grad_weight of a convolution of these shapes, type and memory layout.

    TF32 or not is what the framework is set to. Shapes that are measured already are left.

    Raises:
        ValueError: `input` is not on a CUDA device.
    """
    if input.device.type != "cuda":
        raise ValueError(f"plans are measured on CUDA devices, and input is on {input.device}")
    stride, padding, dilation = (
        (n, n) if isinstance(n, int) else tuple(n) for n in (stride, padding, dilation)
    )
    numbers: Numbers = stride, padding, dilation, groups
    allow_tf32 = torch.backends.cudnn.conv.fp32_precision == "tf32"
    with set_in(requested, candidates):
        for run in operators(input, weight, numbers, allow_tf32).values():
            run()


def layer(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """ "100x64x8x8:32x3x3" → (100, 64, 8, 8), (32, 3, 3)."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}:[1-9]\d*(x[1-9]\d*){2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 100x64x8x8:32x3x3 (N×C×H×W:K×R×S)")
    input, weight = (tuple(map(int, part.split("x"))) for part in text.split(":"))
    return input, weight


def measure_cases(arithmetic: Sequence[str], layout: str, only_near: bool, minutes: float) -> None:
    """Measure the plans of `measured_cases.cases`, compiled beforehand if there are few of each."""
    begin = time.time()
    if only_near:
        processes, until = max(1, (os.cpu_count() or 1) - 2), begin + 0.6 * 60 * minutes
        compile_ahead(arithmetic, layout, torch.cuda.get_device_capability(), processes, until)
    chosen = cases(arithmetic, layout, "cuda")
    with set_in(requested, near if only_near else candidates):
        for number, case in enumerate(chosen):
            if time.time() > begin + 60 * minutes:
                print(f"{len(chosen) - number} of {len(chosen)} left out: the time was up", file=sys.stderr)
                return
            case.run()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "layers", nargs="*", type=layer, help="N×C×H×W:K×R×S; default: the handout's, and the UNet's blocks"
    )
    parser.add_argument("--type", choices=DTYPES, action="append", help="default: fp32 and bf16")
    parser.add_argument("--no-tf32", action="store_true", help="strict fp32")
    parser.add_argument("--nchw", action="store_true", help="contiguous images instead of channels_last")
    parser.add_argument("--near", action="store_true", help="plans that differ from the shipped one in one number")
    parser.add_argument("--minutes", type=float, default=math.inf, help="nothing new is begun after these")
    for name, default in ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("plans are measured on a GPU, and torch sees none here", file=sys.stderr)
        return 1
    torch.backends.cudnn.conv.fp32_precision = "ieee" if options.no_tf32 else "tf32"
    types = options.type or ["fp32", "bf16"]
    if options.layers:
        memory_format = torch.contiguous_format if options.nchw else torch.channels_last
        for (input_size, (outputs, *taps)), name in itertools.product(options.layers, types):
            sizes = input_size, (outputs, input_size[1] // options.groups, *taps)
            drawn = (torch.randn(size, dtype=DTYPES[name], device="cuda") for size in sizes)
            images = (tensor.contiguous(memory_format=memory_format) for tensor in drawn)
            tune(*images, options.stride, options.padding, options.dilation, options.groups)
    else:
        arithmetic = ["tf32" if name == "fp32" and not options.no_tf32 else name for name in types]
        measure_cases(arithmetic, "contiguous" if options.nchw else "channels_last", options.near, options.minutes)
    print(f"remembered in {plans.user_path(Gpu.of(torch.device('cuda', torch.cuda.current_device())).name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
