"""What measure.py goes through where no layers are named; and its kernels compiled before the GPU is asked.

Triton compiles a kernel where it is first launched, one after another, and that takes far longer than timing it. What
processes beside each other have compiled before lies in Triton's cache by then. They need no GPU.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

from triton.backends.compiler import GPUTarget

from ..shapes import few_channels
from . import block_cases, compile_cases
from .compile_cases import Case
from .launch import Gpu, assumed, intercept, set_in
from .machine_code import compile_for
from .tuning import every, near

BLOCK_OPERATORS = "block", "block_backward"


def cases(arithmetic: Sequence[str], layout: str = "channels_last", device: str = "meta") -> list[Case]:
    """The UNet's blocks, forward and backward, in what they take; the handout's layers that are not the CUDA library's,
    all three operators. On random tensors."""
    blocks = itertools.product(block_cases.UNET, BLOCK_OPERATORS, [a for a in arithmetic if a != "fp64"])
    layers = [c for c in compile_cases.HANDOUT if not few_channels((c.outputs, c.channels, 3, 3), 1)]
    convolutions = itertools.product(layers, compile_cases.OPERATORS, arithmetic)
    return [
        *(block_cases.case(*chosen, device=device) for chosen in blocks),
        *(compile_cases.convolution(*chosen, layout, device) for chosen in convolutions),
    ]


def compile_ahead(
    arithmetic: Sequence[str], layout: str, capability: tuple[int, int], processes: int, deadline: float
) -> None:
    """Of all these cases the kernels of every plan `near` the shipped one, until `deadline` (seconds since 1970)."""
    numbers = range(len(cases(arithmetic, layout)))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_compile, arithmetic, layout, capability, number, deadline) for number in numbers]
        for job in jobs:
            job.result()


def _compile(
    arithmetic: Sequence[str], layout: str, capability: tuple[int, int], number: int, deadline: float
) -> None:
    def compile(kernel, programs, arguments, options) -> None:
        if time.time() < deadline:
            with suppress(Exception):  # it is met again where it is launched
                compile_for(GPUTarget("cuda", 10 * capability[0] + capability[1], 32), kernel, *arguments, **options)

    with set_in(assumed, Gpu(capability, None)), set_in(every, near), set_in(intercept, compile):
        cases(arithmetic, layout)[number].run()
