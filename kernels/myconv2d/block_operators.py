"""The operators of the fused block: schemas, fakes, FLOP formulas, and who implements them.

What they compute is said in block_reference.py. One overload per backend, as in operators.py: `native` is in the CPU
library, `triton` for CUDA devices (and in Triton's interpreter). The default overload takes what `choose` says.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from . import block_reference, native
from .operators import LIBRARY, allow_tf32, overload
from .shapes import output_size

BACKENDS = ("native", "triton", "reference")
_FEEDS = (
    "Tensor input, Tensor? scale, Tensor? shift, bool upsample, "
    "Tensor? skip, Tensor? skip_scale, Tensor? skip_shift, bool skip_upsample"
)
SCHEMAS = {
    "block": (
        f"{_FEEDS}, Tensor weight, Tensor? bias, SymInt[2] padding, Tensor? gamma, Tensor? beta, float eps, bool pool",
        "(Tensor raw, Tensor full, Tensor index, Tensor out_scale, Tensor out_shift, Tensor mean, Tensor var)",
    ),
    "block_backward": (
        f"Tensor grad_raw, Tensor? grad_scale, Tensor? grad_shift, {_FEEDS}, Tensor weight, SymInt[2] padding, "
        "Tensor? gamma, Tensor? mean, Tensor? var, float eps, Tensor y, Tensor index, bool pool, bool bias, "
        "bool[3] wanted",
        "(Tensor grad_input, Tensor grad_in_scale, Tensor grad_in_shift, Tensor grad_skip, Tensor grad_skip_scale, "
        "Tensor grad_skip_shift, Tensor grad_weight, Tensor grad_bias, Tensor grad_gamma, Tensor grad_beta)",
    ),
    "block_inference": (
        "Tensor input, bool upsample, Tensor? skip, bool skip_upsample, Tensor weight, Tensor? bias, "
        "SymInt[2] padding, Tensor? gamma, Tensor? beta, Tensor? mean, Tensor? var, float eps, bool relu, bool pool",
        "Tensor",
    ),
    "activate": ("Tensor raw, Tensor scale, Tensor shift, bool upsample", "Tensor"),
    "activate_backward": (
        "Tensor grad, Tensor raw, Tensor scale, Tensor shift, bool upsample",
        "(Tensor grad_raw, Tensor grad_scale, Tensor grad_shift)",
    ),
}


def _image(like: Tensor, size: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(
        size, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _image_like(tensor: Tensor) -> Tensor:
    return _image(tensor, tensor.shape)


def _convolved_size(
    input: Sequence[int], upsample: bool, weight: Sequence[int], padding: Sequence[int]
) -> list[int]:
    size = [*input[:2], *(s * 2 if upsample else s for s in input[2:])]
    return [*output_size(size, weight, (1, 1), padding, (1, 1))]


def _halved(size: Sequence[int]) -> tuple[int, ...]:
    return *size[:2], size[2] // 2, size[3] // 2


def keeps_full(weight: Tensor) -> bool:
    """Whether the native `block` keeps the convolution of a pooled block for `block_backward`; else `full` is empty,
    and `y` is not read. The rule of csrc/cpu/algorithm.cpp; other backends keep it always."""
    k, c, r, s = weight.shape
    return c > 4 or (r, s) != (3, 3) or c * r * s > k


def _block_fake(backend, input, scale, shift, upsample, skip, skip_scale, skip_shift, skip_upsample, weight, bias,
                padding, gamma, beta, eps, pool):  # fmt: skip
    size = _convolved_size(input.shape, upsample, weight.shape, padding)
    pooled = pool and gamma is not None
    raw = _image(input, _halved(size) if pooled else size)
    kept = pooled and (backend != "native" or keeps_full(weight))
    full = _image(input, size) if kept else input.new_empty(0)
    index = _image(input, _halved(size), torch.uint8) if pooled else input.new_empty(0, dtype=torch.uint8)
    if gamma is None:
        return raw, full, index, *(input.new_empty(0) for _ in range(4))
    kind = torch.promote_types(input.dtype, torch.float32)
    statistics = (gamma.new_empty(size[1], dtype=kind) for _ in range(2))
    return raw, full, index, torch.empty_like(gamma), torch.empty_like(beta), *statistics


def _block_backward_fake(_, grad_raw, grad_scale, grad_shift, input, scale, shift, upsample, skip, skip_scale,
                         skip_shift, skip_upsample, weight, padding, gamma, mean, var, eps, y, index, pool, bias,
                         wanted):  # fmt: skip
    def feed(tensor, scale, wanted):
        if not wanted or tensor is None:
            return [y.new_empty(0) for _ in range(3)]
        vectors = (y.new_empty(0) if scale is None else torch.empty_like(scale) for _ in range(2))
        return [_image_like(tensor), *vectors]

    def if_wanted(exists, like):
        return torch.empty_like(like) if exists and wanted[2] else y.new_empty(0)

    to_weight = if_wanted(True, weight)
    to_bias = y.new_empty(weight.shape[0] if bias and wanted[2] else 0)
    to_norm = (if_wanted(gamma is not None, gamma) for _ in range(2))
    return *feed(input, scale, wanted[0]), *feed(skip, skip_scale, wanted[1]), to_weight, to_bias, *to_norm


def _block_inference_fake(_, input, upsample, skip, skip_upsample, weight, bias, padding, gamma, beta, mean, var, eps,
                          relu, pool):  # fmt: skip
    size = _convolved_size(input.shape, upsample, weight.shape, padding)
    return _image(input, _halved(size) if pool else size)


def _activate_fake(_, raw, scale, shift, upsample):
    return _image(raw, (*raw.shape[:2], *(s * 2 if upsample else s for s in raw.shape[2:])))


def _activate_backward_fake(_, grad, raw, scale, shift, upsample):
    return _image_like(raw), torch.empty_like(scale), torch.empty_like(shift)


_FAKES: dict[str, Callable] = {  # of the backend that is called, and its arguments
    "block": _block_fake,
    "block_backward": _block_backward_fake,
    "block_inference": _block_inference_fake,
    "activate": _activate_fake,
    "activate_backward": _activate_backward_fake,
}


@functools.cache
def unavailable() -> str | None:
    """Why the native operators cannot serve anything here; None if they can."""
    if native.cpu.problem is not None:
        return native.cpu.problem
    if all(
        torch._C._dispatch_has_kernel_for_dispatch_key(f"myconv2d::{name}.native", "CPU") for name in SCHEMAS
    ):
        return None
    reason = f"{native.cpu.path.name} is another version's, without fused blocks: {native.ADVICE}"
    warnings.warn(f"myconv2d: blocks are composed of plain modules ({reason})", stacklevel=3)
    return reason


def preferred(device: str, wanted: str | None) -> str:
    """The backend whose fused kernels a device's blocks go to, unless another is wanted."""
    return wanted or ("triton" if device == "cuda" else "native")


def choose(weight: Tensor | None, *others: Tensor | None, wanted: str | None = None) -> tuple[str | None, str]:
    """The backend whose fused kernels serve these tensors, or None; and why, in words."""
    device = next(t for t in (weight, *others) if t is not None).device.type
    backend = preferred(device, wanted)
    if (why_not := problem(backend, weight, *others)) is not None:
        return None, why_not
    return backend, "asked for" if wanted else f"first choice on {device}"


def problem(backend: str, weight: Tensor | None, *others: Tensor | None) -> str | None:
    """Why the fused kernels of a backend cannot serve these tensors, in words; None if they can."""
    if backend == "reference":
        return "backend 'reference' has no fused kernels"
    if weight is not None and weight.numel() == 0:
        return f"a weight of {list(weight.shape)} has no elements"
    serves = _native_problem if backend == "native" else _triton_problem
    return serves(weight, [t for t in (weight, *others) if t is not None])


def _native_problem(weight: Tensor | None, tensors: list[Tensor]) -> str | None:
    for tensor in tensors:
        if not (tensor.is_cpu and tensor.dtype is torch.float32):
            return f"the native fused kernels take float32 on the CPU, not {tensor.dtype} on {tensor.device.type}"
        if tensor.layout is not torch.strided:
            return f"the native fused kernels take dense tensors, not {tensor.layout}"
    if weight is not None:
        k, c, r, s = weight.shape
        if (r, s) != (3, 3) and not (max(r, s) <= 6 and min(k, c) <= 4):
            return f"the fused kernels are 3×3, or up to 6×6 with 4 channels at most, not {r}×{s} of {c} to {k}"
    return unavailable()


def _triton_problem(weight: Tensor | None, tensors: list[Tensor]) -> str | None:
    from .triton import unsupported

    first = tensors[0]  # the weight, or an image
    for tensor in tensors:
        if tensor.dtype not in _TRITON_TYPES:
            return f"the fused Triton kernels take float32, float16 and bfloat16, not {tensor.dtype}"
        if tensor.device != first.device:
            return f"tensors on {first.device} and on {tensor.device}"
        if tensor.dim() == 4 and tensor.dtype is not first.dtype:
            return f"the fused Triton kernels take images and weights of one type, not {first.dtype} and {tensor.dtype}"
    return unsupported(first.device.type, first.dtype)


_TRITON_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def _automatic_backend(name: str, args: Sequence[Any]) -> str:
    weight = {"block": 8, "block_backward": 11, "block_inference": 4}.get(name)
    tensors = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
    return choose(args[weight] if weight else None, *tensors)[0] or "reference"


def _automatic(name: str) -> Callable:
    return lambda *args: overload(name, _automatic_backend(name, args))(*args)


def _fake(name: str, backend: str) -> Callable:
    return lambda *args: _FAKES[name](backend or _automatic_backend(name, args), *args)


def _triton(name: str) -> Callable:
    def run(*args):
        kernels = importlib.import_module(".triton.block", __package__)  # imports triton, which takes a second
        return getattr(kernels, name)(*args, allow_tf32=allow_tf32())

    return run


def _reference(name: str) -> Callable:
    def run(*args):
        with torch.autocast(args[0].device.type, enabled=False):
            return getattr(block_reference, name)(*args)

    return run


def _define() -> None:
    for name, (arguments, result) in SCHEMAS.items():
        for backend in ("", *BACKENDS):
            call = f"{name}.{backend}" if backend else name
            LIBRARY.define(f"{call}({arguments}) -> {result}", tags=(torch.Tag.pt2_compliant_tag,))
            torch.library.register_fake(f"myconv2d::{call}", _fake(name, backend), lib=LIBRARY)
        LIBRARY.impl(name, _automatic(name), "CompositeExplicitAutograd")
        LIBRARY.impl(f"{name}.reference", _reference(name), "CompositeExplicitAutograd")
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(f"{name}.triton", _triton(name), key)


_define()


@register_flop_formula(torch.ops.myconv2d.block)
def _block_flop(input, *args, **kwargs) -> int:
    upsample, weight, padding = args[2], args[7], args[9]
    return conv_flop_count(input, weight, _convolved_size(input, upsample, weight, padding))


@register_flop_formula(torch.ops.myconv2d.block_backward)
def _block_backward_flop(*args, **kwargs) -> int:
    input, upsample, weight, padding, (first, second, parameters) = args[3], args[6], args[11], args[12], args[21]
    size = _convolved_size(input, upsample, weight, padding)
    return (bool(first or second) + bool(parameters)) * conv_flop_count(size, weight, size)


@register_flop_formula(torch.ops.myconv2d.block_inference)
def _block_inference_flop(
    input, upsample, skip, skip_upsample, weight, bias, padding, *args, **kwargs
) -> int:
    return conv_flop_count(input, weight, _convolved_size(input, upsample, weight, padding))
