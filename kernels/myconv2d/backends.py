"""Which implementation serves a call, and the reason in words.

Backends: `native` (C++ on the CPU, CUDA C++ on the GPU), `triton` (GPU; on the CPU through Triton's interpreter,
for tests), `reference` (plain torch, anywhere). The choice looks at the device, the element type, and on a GPU whether
the layer has few channels; what a backend cannot serve goes to the next, which is said once.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from . import native
from .shapes import few_channels

BACKENDS = ("native", "triton", "reference")
_PREFERENCE = {"cpu": ("native", "reference"), "cuda": ("triton", "native", "reference")}
_FEW_CHANNELS_FIRST = {"cuda": ("native", "triton", "reference")}
NATIVE_TYPES = {"cpu": native.CpuLibrary.TYPES, "cuda": native.CudaLibrary.TYPES}


class Choice(NamedTuple):
    """The backend that serves a call, and why: one reason for each backend before it that could not."""

    backend: str
    reason: str
    fell_back: bool


def problem(backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Why `backend` cannot serve tensors of this device and type; None if it can."""
    if backend == "reference":
        return None
    if backend == "triton":
        from .triton import unsupported

        return unsupported(device, dtype)
    if device not in NATIVE_TYPES:
        return f"the native library has no kernels for {device}"
    library = native.cpu if device == "cpu" else native.cuda
    if library.problem is not None:
        return library.problem
    if dtype not in NATIVE_TYPES[device]:
        return f"the native library does not take {dtype} on {device}"
    if device == "cuda" and torch.cuda.is_available():  # else the question is what would serve on a GPU
        return native.cuda.device_problem()
    return None


def choose_for_layer(
    device: str, dtype: torch.dtype, weight_size: Sequence[int], groups: int, wanted: str | None
) -> Choice:
    """`choose`, knowing the layer."""
    few = device in _FEW_CHANNELS_FIRST and dtype != torch.float64 and few_channels(weight_size, groups)
    return choose(device, dtype, wanted, bool(few))


def serving(name: str, operands: Sequence[Any], groups: int, wanted: str | None) -> Choice:
    """The backend that serves the operator `name` with these leading operands."""
    first: torch.Tensor = operands[0]
    if not first.is_cuda:
        return choose(first.device.type, first.dtype, wanted)
    weight_size = operands[2] if name == "conv2d_grad_weight" else operands[1].shape
    return choose_for_layer(first.device.type, first.dtype, weight_size, groups, wanted)


@functools.cache
def choose(device: str, dtype: torch.dtype, wanted: str | None, few: bool = False) -> Choice:
    """The first backend in the order of preference that can serve; `wanted` goes before all others.

    Args:
        few: whether the layer has few channels (`few_channels`).
    """
    order = _PREFERENCE.get(device, ("reference",))
    if few:
        order = _FEW_CHANNELS_FIRST.get(device, order)
    if wanted is not None:
        order = (wanted, *(backend for backend in order if backend != wanted))
    problems: list[str] = []
    for backend in order:
        if (why_not := problem(backend, device, dtype)) is None:
            break
        problems.append(f"{backend} cannot: {why_not}")
    first = "asked for" if wanted else f"first choice {'for few channels ' if few else ''}on {device}"
    choice = Choice(backend, "; ".join(problems) or first, bool(problems))
    if choice.fell_back:
        warnings.warn(
            f"myconv2d: {dtype} convolutions on {device} are served by {backend!r} ({choice.reason})",
            stacklevel=3,
        )
    return choice


def _known(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: unknown backend {name!r}; the backends are {', '.join(BACKENDS)}")
    return name


def _from_environment() -> str | None:
    name = os.environ.get("MYCONV2D_BACKEND", "")
    if name in BACKENDS:
        return name
    if name not in ("", "auto"):
        warnings.warn(
            f"MYCONV2D_BACKEND={name!r} is ignored: the backends are auto, {', '.join(BACKENDS)}",
            stacklevel=2,
        )
    return None


wanted: str | None = _from_environment()


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Runs every convolution inside on one backend; None or "auto" restores the automatic choice.

    A call that the backend cannot serve goes to the next one, with one warning. Derivatives run on the backend that
    their forward pass used. Like the framework's own backend flags this is a switch of the whole process. The
    environment variable MYCONV2D_BACKEND sets it from outside.

        >>> with myconv2d.use_backend("reference"):
        ...     print(myconv2d.explain(torch.rand(1, 3, 8, 8), torch.rand(4, 3, 3, 3)))
        reference serves this call: asked for

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    global wanted
    before = wanted
    wanted = None if name is None or name == "auto" else _known(name, "use_backend")
    try:
        yield
    finally:
        wanted = before
