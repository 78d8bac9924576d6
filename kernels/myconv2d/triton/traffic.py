"""What a launch moves, and why it may load nothing ahead, by its arguments; for compile_report.py."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from .launch import ceil_div

WITHOUT_PRODUCTS = {
    "grad_weight_reduce", "block_weight_reduce", "norm_finish", "norm_backward", "sum_tiles", "update_running",
    "activate_kernel", "activate_backward_kernel", "count_kernel", "cross_entropy_kernel", "finish_kernel",
}  # fmt: skip
WORKSPACES = {"partial", "sums", "counts"}
RESULTS = {"result", "full", "partial"}


def _by_name(kernel, arguments: tuple, options: dict) -> dict:
    names = inspect.signature(kernel.fn).parameters
    return {**dict(zip(names, arguments, strict=False)), **options}


def traffic(kernel, programs: int, arguments: tuple, options: dict) -> tuple[int | None, int]:
    """Bytes that the programs move, whole tiles, and bytes of the tensors, each once, workspaces not at all."""
    bound = _by_name(kernel, arguments, options)
    tensors = {
        name: value.base if isinstance(value, TensorDescriptor) else value
        for name, value in bound.items()
        if isinstance(value, torch.Tensor | TensorDescriptor)
    }
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    floor = sum(size for name, size in sizes.items() if name not in WORKSPACES)
    if kernel.__name__ in WITHOUT_PRODUCTS:
        return sum(sizes.values()), floor
    if (loaded := MOVED.get(kernel.__name__)) is None:
        return None, floor
    first = next(iter(tensors.values()))
    written = sum(size for name, size in sizes.items() if name in RESULTS)
    return programs * loaded(bound, first.element_size()) + written, floor


def why_synchronous(kernel, arguments: tuple, options: dict) -> str | None:
    """Why a launch cannot, or need not, load asynchronously what its next step multiplies, in words; None if it should.

    Asynchronous copies take 4, 8 or 16 bytes, or boxes. Where there is one step, nothing is left to load while it
    multiplies: programs beside it on the multiprocessor do.
    """
    bound = _by_name(kernel, arguments, options)
    if (steps := STEPS.get(kernel.__name__)) is not None and steps(bound) == 1:
        return "one step"
    pieces = [_piece(bound, *names) for names in IMAGES.get(kernel.__name__, ())]
    if pieces and max(pieces) < 4:
        return f"pieces of {max(pieces)} bytes"
    return None


def _piece(a: dict, image: str, channel_stride: str, unit: str) -> int:
    """Bytes of an image that lie together, on a multiple of their number, wherever a tap falls."""
    return a[image].element_size() * (a[unit] if a[channel_stride] == 1 else 1)


def _box(a: dict, axes: str = "BOX") -> int:
    return math.prod(a[f"{axes}_{axis}"] for axis in "NPQ")


def _steps(a: dict, channels: int, block: int, flat: bool) -> int:
    """Of a loop over taps and channels."""
    taps = a["R"] * a["S"]
    return ceil_div(taps * channels, block) if flat else taps * ceil_div(channels, block)


def _feed_steps(a: dict, i: int) -> int:
    return _steps(a, a[f"C{i}"], a[f"BLOCK_{i}"], a[f"FLAT_{i}"])


def _halo_gemm(a: dict, size: int) -> int:
    return size * STEPS["halo_gemm"](a) * a["BLOCK_C"] * (_box(a) + a["BLOCK_N"])


def _halo_nchw_gemm(a: dict, size: int) -> int:
    return (
        size * STEPS["halo_nchw_gemm"](a) * a["BLOCK_C"] * (a["BOX_P"] * a["BOX_Q"] + a["S"] * a["BLOCK_N"])
    )


def _gather_gemm(a: dict, size: int) -> int:
    return size * STEPS["gather_gemm"](a) * a["BLOCK_C"] * (a["BLOCK_M"] + a["BLOCK_N"])


def _grad_weight_halo(a: dict, size: int) -> int:
    return size * a["boxes_per_split"] * _box(a) * (a["BLOCK_K"] + a["BLOCK_C"])


def _grad_weight_nchw(a: dict, size: int) -> int:
    return size * a["boxes_per_split"] * a["BOX_P"] * a["BOX_Q"] * (a["BLOCK_K"] + a["BLOCK_C"])


def _grad_weight_gather(a: dict, size: int) -> int:
    return size * a["boxes_per_split"] * _box(a) * (a["BLOCK_K"] + a["BLOCK_J"])


def _block_forward(a: dict, size: int) -> int:
    steps = (_feed_steps(a, i) * a[f"BLOCK_{i}"] for i in (1, 2))
    windows = 0 if a["index"] is None else _box(a, "TILE") // 4 * a["BLOCK_K"]  # stored, a byte each
    return size * sum(steps) * (_box(a, "TILE") + a["BLOCK_K"]) + windows


def _gradient(a: dict, size: int) -> int:
    """An element of y's gradient: grad, the position that its window picked, y."""
    return size + (a["index"] is not None) + (size if a["y"] is not None else 0)


def _block_grad_input(a: dict, size: int) -> int:
    steps, tile = STEPS["block_grad_input"](a), _box(a, "TILE")
    mask = 0 if a["tensor"] is None else tile // (4 if a["UPSAMPLE"] else 1) * a["BLOCK_C"] * size
    return steps * a["BLOCK_K"] * (tile * _gradient(a, size) + a["BLOCK_C"] * size) + mask


def _block_grad_weight(a: dict, size: int) -> int:
    return a["tiles_per_split"] * _box(a, "TILE") * (a["BLOCK_K"] * _gradient(a, size) + a["BLOCK_J"] * size)


# What one program loads, images and weights, from its kernel's arguments by name and the bytes of an element.
MOVED: dict[str, Callable[[dict, int], int]] = {
    "halo_gemm": _halo_gemm,
    "halo_nchw_gemm": _halo_nchw_gemm,
    "gather_gemm": _gather_gemm,
    "grad_weight_halo_split": _grad_weight_halo,
    "grad_weight_nchw_split": _grad_weight_nchw,
    "grad_weight_split": _grad_weight_gather,
    "block_forward": _block_forward,
    "block_grad_input": _block_grad_input,
    "block_grad_weight": _block_grad_weight,
}

# Steps of one program's loop, where they do not depend on the batch.
STEPS: dict[str, Callable[[dict], int]] = {
    "halo_gemm": lambda a: _steps(a, a["C"], a["BLOCK_C"], False),
    "halo_nchw_gemm": lambda a: a["R"] * ceil_div(a["C"], a["BLOCK_C"]),
    "gather_gemm": lambda a: _steps(a, a["C"], a["BLOCK_C"], a["FLAT"]),
    "block_forward": lambda a: _feed_steps(a, 1) + _feed_steps(a, 2),
    "block_grad_input": lambda a: _steps(a, a["K"], a["BLOCK_K"], a["FLAT"]),
}
# Images that are read element by element: their arguments, with the channels' stride and the unit of the others.
IMAGES = {
    "gather_gemm": [("source", "source_c", "SOURCE_UNIT")],
    "grad_weight_split": [("source", "source_c", "SOURCE_UNIT"), ("grad_output", "grad_k", "GRAD_UNIT")],
}
