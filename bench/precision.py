"""The arithmetic of a measurement, the same on both sides: pinned for the whole process while a block runs.

fp32 and tf32 have fp32 tensors; products on a GPU are whole, or have their factors rounded to TF32. bf16 and fp16 have
tensors of that type, but for training: there weights, gradients and the optimizer are fp32, and the forward pass is
autocast.

Bound: a result is right within 4 roundings of its largest value where factors are rounded (two of them, and the
result), whatever the rival's error is; in fp32, where the sum counts as well, within 3e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch

from colourize.precision import tf32_products


class Precision(NamedTuple):
    dtype: torch.dtype
    tf32: bool
    bound: float  # of errors, relative to the largest exact value

    @property
    def short(self) -> bool:
        return self.dtype.itemsize < 4


PRECISIONS = {
    "fp32": Precision(torch.float32, False, 3e-6),
    "tf32": Precision(torch.float32, True, 4 * 2.0**-11),
    "bf16": Precision(torch.bfloat16, False, 4 * 2.0**-8),
    "fp16": Precision(torch.float16, False, 4 * 2.0**-11),
}
_name = "fp32"


def name() -> str:
    """Of the precision that is pinned."""
    return _name


def current() -> Precision:
    return PRECISIONS[_name]


@contextmanager
def pinned(precision: str) -> Iterator[None]:
    """Everything that is prepared and run inside, ours and the rivals', has this precision; cuDNN tries all its
    algorithms."""
    global _name
    before = _name, torch.backends.cudnn.benchmark
    with tf32_products(PRECISIONS[precision].tf32):
        try:
            _name = precision
            torch._C._set_cudnn_benchmark(
                True
            )  # the flag itself is frozen once the framework's test material is there
            yield
        finally:
            _name = before[0]
            torch._C._set_cudnn_benchmark(before[1])


def autocast(device: torch.device) -> AbstractContextManager:
    """For the forward pass of a training step."""
    return torch.autocast(device.type, current().dtype) if current().short else nullcontext()


def missing(precision: str, device: str) -> str | None:
    """Why nothing can be measured in this precision on a device; None if it can."""
    if precision == "tf32" and device == "cpu":
        return "TF32 is an arithmetic of GPUs: on the cpu choose fp32 or bf16"
    return None


def unfit(kind: str, pass_name: str, precision: str) -> str | None:
    """Why a subject of this kind is not measured in a precision; None if it is."""
    if kind in ("memory", "overhead") and precision != "fp32":
        return f"{pass_name if kind == 'memory' else 'the tiny call'}: in fp32 only"
    if pass_name in ("training step", "epoch") and precision == "fp16":
        return f"{pass_name}: fp16 needs a loss that is scaled"
    return None
