"""The launches of the CUDA library's implicit GEMM: their machine code, and the bytes they move; no GPU needed.

`python -m bench gpu-code` prints the rows, beside those of cuda_report.py. Read (cuda_code.py) and counted
(csrc/cuda/gemm_launches.cpp), not timed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import torch

from .cuda_code import kernels
from .cuda_report import Layer, Row
from .native import cuda
from .sass import occupancy

ARITHMETIC = {  # name → type, allow_tf32
    "tf32": (torch.float32, True),
    "fp32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "fp64": (torch.float64, False),
}
LAYERS = (
    Layer(32, 64, 16), Layer(64, 64, 8), Layer(64, 32, 8), Layer(128, 32, 8), Layer(64, 24, 16), Layer(25, 24, 32),
    Layer(64, 64, 256, batch=1), Layer(64, 64, 32, stride=2), Layer(64, 64, 16, stride=2),
)  # fmt: skip
BY_LAYOUT = {"channels_last": LAYERS, "contiguous": (Layer(64, 64, 8), Layer(64, 64, 16, stride=2))}
ONLY_IN_DOUBLES = (Layer(1, 32, 32), Layer(3, 3, 32))  # other types have kernels for few channels


def default_cases() -> Iterator[tuple[str, str, Layer]]:
    """The types, layouts and layers that are counted."""
    for arithmetic in ARITHMETIC:
        for layout, layers in BY_LAYOUT.items():
            for layer in layers:
                yield arithmetic, layout, layer
    for layer in ONLY_IN_DOUBLES:
        yield "fp64", "channels_last", layer


def report(cases: Iterable[tuple[str, str, Layer]] | None = None, arch: int = 90) -> Iterator[Row]:
    """A row for every launch of the implicit GEMM for these types, layouts and layers; for the handout's, if None."""
    codes = kernels(arch)
    for (arithmetic, layout, layer), operator in product(
        default_cases() if cases is None else cases, cuda.PASSES
    ):
        for kernel, (blocks, threads, moved, floor) in _launches(layer, arithmetic, layout, operator):
            code = codes[kernel]
            occupied = occupancy(arch, code.registers, code.shared, threads // 32)
            products = kernel.startswith(("correlate<", "grad_weight_partial<"))
            wanted = None if not products else "fma" if arithmetic == "fp32" else "mma"
            what = kernel, operator, layer, arithmetic, layout
            yield Row(*what, blocks, occupied, moved, floor, code, wanted)


def _launches(
    layer: Layer, arithmetic: str, layout: str, operator: str
) -> Iterator[tuple[str, tuple[int, ...]]]:
    dtype, allow_tf32 = ARITHMETIC[arithmetic]
    channels_last = layout == "channels_last"
    return cuda.gemm_launches(
        *layer.sizes,
        layer.numbers,
        dtype=dtype,
        allow_tf32=allow_tf32,
        channels_last=channels_last,
        pass_name=operator,
    )
