"""Measure the plans of convolutions on the GPU at hand, and remember the fastest.

    python -m myconv2d.triton.measure                                     the layers of the handout's networks
    python -m myconv2d.triton.measure 100x64x8x8:64x3x3 --padding 1       N×C×H×W of the input, K×R×S of the weight
    MYCONV2D_TUNE=1 python train.py                                       every new layer, when it is first met
    myconv2d.triton.tune(input, weight, padding=1)                        from Python

What was measured goes before the shipped plans from then on, in every process, for every batch size; it is kept in a
file per GPU, in $MYCONV2D_CACHE or ~/.cache/myconv2d. (Another plan may add up in another order: the last bits of a
result are the same from run to run with the same plans.)
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import torch

from . import plans
from .compile_cases import HANDOUT
from .explanation import Numbers, operators
from .launch import Gpu, set_in
from .tuning import requested

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
    with set_in(requested, True):
        for run in operators(
            input, weight, numbers, torch.backends.cudnn.conv.fp32_precision == "tf32"
        ).values():
            run()


def layer(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """ "100x64x8x8:32x3x3" → (100, 64, 8, 8), (32, 3, 3)."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}:[1-9]\d*(x[1-9]\d*){2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 100x64x8x8:32x3x3 (N×C×H×W:K×R×S)")
    input, weight = (tuple(map(int, part.split("x"))) for part in text.split(":"))
    return input, weight


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "layers", nargs="*", type=layer, help="N×C×H×W:K×R×S; default: the handout's, with padding 1"
    )
    parser.add_argument("--type", choices=DTYPES, action="append", help="default: fp32 and bf16")
    parser.add_argument("--no-tf32", action="store_true", help="strict fp32")
    parser.add_argument("--nchw", action="store_true", help="contiguous images instead of channels_last")
    for name, default in ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("plans are measured on a GPU, and torch sees none here", file=sys.stderr)
        return 1
    torch.backends.cudnn.conv.fp32_precision = "ieee" if options.no_tf32 else "tf32"
    padding = options.padding if options.layers else 1
    memory_format = torch.contiguous_format if options.nchw else torch.channels_last
    handout = [((case.batch, case.channels, case.size, case.size), (case.outputs, 3, 3)) for case in HANDOUT]
    for input_size, (outputs, *taps) in options.layers or handout:
        for dtype in map(DTYPES.get, options.type or ("fp32", "bf16")):
            channels = input_size[1] // options.groups
            input, weight = (
                torch.randn(size, dtype=dtype, device="cuda").contiguous(memory_format=memory_format)
                for size in (input_size, (outputs, channels, *taps))
            )
            tune(input, weight, options.stride, padding, options.dilation, options.groups)
    print(f"remembered in {plans.user_path(Gpu.of(torch.device('cuda', torch.cuda.current_device())).name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
