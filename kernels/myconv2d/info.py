"""What was built, what is active, and which backend serves a call: for people, and for bug reports."""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor

from . import backends, block_operators, memory, native
from .functional import prepare
from .operators import allow_tf32
from .shapes import output_size
from .triton import UNTRIED


def info() -> dict[str, Any]:
    """Versions, what the native libraries were built for, and which backends serve float32 on the devices here.

        >>> myconv2d.info()["active on cpu"]
        'native (first choice on cpu)'
    """
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "processor threads": torch.get_num_threads(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "native library (CPU)": native.cpu.build_info(),
        "native library (CUDA)": native.cuda.build_info(),
    }
    if native.cpu.problem is None:
        built = (f"{name}{'' if here else ' (not on this processor)'}" for name, here in native.cpu.isas().items())
        facts["instruction sets built"] = ", ".join(built)
        facts["instruction set in use"] = native.cpu.isa()
        facts["memory of results"] = memory.description()
    facts["backend asked for"] = backends.wanted or "automatic"
    for device in devices:
        choice = backends.choose(device, torch.float32, backends.wanted)
        facts[f"active on {device}"] = f"{choice.backend} ({choice.reason})"
        few = backends.choose_for_layer(device, torch.float32, (4, 4, 3, 3), 1, backends.wanted)
        if few.backend != choice.backend:
            facts[f"active on {device}, few channels"] = f"{few.backend} ({few.reason})"
    no_blocks = block_operators.unavailable()
    served = "native, float32: 3×3, or up to 6×6 with 4 channels at most"
    facts["fused blocks on cpu"] = f"none ({no_blocks})" if no_blocks else served
    no_blocks = backends.problem("triton", "cuda", torch.float32)
    served = f"triton, float32, float16 and bfloat16, any kernel ({UNTRIED})"
    facts["fused blocks on cuda"] = f"none ({no_blocks})" if no_blocks else served
    for backend in backends.BACKENDS:
        for device in devices:
            if (problem := backends.problem(backend, device, torch.float32)) is not None:
                facts[f"{backend} on {device}"] = f"unavailable: {problem}"
    return facts


def _triton_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return "not installed"


def explain(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> str:
    """Which backend would serve `conv2d` with these arguments, why, and by which algorithm in each direction.

    For Triton: by which kernels, with which plans (tile, warps, stages), and whether those were measured.

        >>> print(myconv2d.explain(torch.rand(8, 32, 16, 16), torch.rand(64, 32, 3, 3), padding=1))
        native serves this call: first choice on cpu
        forward: ...
        grad_input: ...
        grad_weight: ...

    Raises:
        As `conv2d` does, for arguments that it would refuse.
    """
    input, weight, _, numbers = prepare(input, weight, bias, stride, padding, dilation, groups)
    dtype = input.dtype.to_real() if input.is_complex() else input.dtype
    choice = backends.choose_for_layer(input.device.type, dtype, weight.shape, numbers.groups, backends.wanted)
    lines = [f"{choice.backend} serves this call: {choice.reason}"]
    if input.is_complex():
        lines.append(f"complex numbers as four convolutions of {dtype}")
    if choice.backend == "native":
        input_size = (1, *input.shape) if input.dim() == 3 else tuple(input.shape)
        size = output_size(input_size, weight.shape, *numbers[:3])
        sizes = input_size, size, weight.shape, numbers
        if input.is_cuda:
            lines += _cuda_lines(sizes, dtype, _setting(input))
        else:
            algorithms = native.cpu.algorithms(*sizes, dtype)
            lines += [f"{name}: {algorithm}, {native.cpu.isa()}" for name, algorithm in algorithms.items()]
    elif choice.backend == "triton":
        from . import triton

        images, filters = (part.real if part.is_complex() else part for part in (input, weight))
        images = images if images.dim() == 4 else images[None]
        lines += [UNTRIED, *triton.explain(images, filters, numbers[:4], allow_tf32())]
    return "\n".join(lines)


def _setting(input: Tensor) -> native.Setting:
    """Results have the input's memory format; a device that torch does not see counts as none."""
    major, minor = torch.cuda.get_device_capability(input.device) if torch.cuda.is_available() else (0, 0)
    channels_last = input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last)
    return native.Setting(allow_tf32(), channels_last, 10 * major + minor)


def _cuda_lines(
    sizes: tuple[Any, Any, Any, Any], dtype: torch.dtype, setting: native.Setting
) -> list[str]:
    lines = []
    for name, algorithm in native.cuda.algorithms(*sizes, dtype, *setting).items():
        why = ""
        if algorithm == "implicit GEMM" and name != "grad_weight":
            problem = native.cuda.halo_problem(*sizes, dtype=dtype, pass_name=name, setting=setting)
            why = f" (not the halo kernel: {problem})"
        lines.append(f"{name}: {algorithm}{why}, CUDA, not yet run on a GPU")
    return lines
