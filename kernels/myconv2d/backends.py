"""Which implementation serves a call, and the reason in words.

Backends: `native` (C++ on the CPU, CUDA C++ on the GPU), `triton` (GPU; on the CPU through Triton's interpreter,
for tests), `reference` (plain torch, anywhere). The choice looks at the device and the element type; what a backend
cannot serve goes to the next, which is said once.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from . import native

BACKENDS = ("native", "triton", "reference")
_PREFERENCE = {"cpu": ("native", "reference"), "cuda": ("triton", "native", "reference")}
_NATIVE_TYPES = {
    "cpu": native.CpuLibrary.TYPES,
    "cuda": (torch.float64, torch.float32, torch.float16, torch.bfloat16),
}


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
    if device not in _NATIVE_TYPES:
        return f"the native library has no kernels for {device}"
    library = native.cpu if device == "cpu" else native.cuda
    if library.problem is not None:
        return library.problem
    return None if dtype in _NATIVE_TYPES[device] else f"the native library does not take {dtype} on {device}"


@functools.cache
def choose(device: str, dtype: torch.dtype, wanted: str | None) -> Choice:
    """The first backend in the order of preference that can serve; `wanted` goes before all others."""
    order = _PREFERENCE.get(device, ("reference",))
    if wanted is not None:
        order = (wanted, *(backend for backend in order if backend != wanted))
    problems: list[str] = []
    for backend in order:
        if (why_not := problem(backend, device, dtype)) is None:
            break
        problems.append(f"{backend} cannot: {why_not}")
    first = "asked for" if wanted else f"first choice on {device}"
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

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    global wanted
    before = wanted
    wanted = None if name in (None, "auto") else _known(name, "use_backend")
    try:
        yield
    finally:
        wanted = before
