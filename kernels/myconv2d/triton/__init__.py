"""The convolution as Triton kernels for NVIDIA GPUs: forward, grad_input, grad_weight with grad_bias; and in block.py
the operators of the fused block; and cross_entropy.

Not yet run on a GPU: all are checked on the CPU in Triton's interpreter against an fp64 oracle, and compiled ahead of
time for sm_90 (`python -m bench gpu-code`). Nothing here has been timed, and no plan (tile, warps, stages) measured:
`python -m myconv2d.triton.measure` does that for convolutions; blocks have block_plan.py.

Importing this package is light and never fails; Triton itself is imported with the first question or call.
"""

from __future__ import annotations

import functools

import torch

__all__ = ["conv2d", "conv2d_grad_input", "conv2d_grad_weight", "cross_entropy", "explain", "explain_block", "tune",
           "unsupported"]  # fmt: skip

UNTRIED = "not yet run on a GPU: checked in Triton's interpreter and compiled for sm_90"
MOST_CLASSES = 1024  # of cross_entropy: all of a pixel's are in registers at once
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def conv2d(*arguments, allow_tf32: bool) -> torch.Tensor:
    """input, weight, bias or None, stride, padding, dilation, groups → output. See forward.py."""
    from .forward import conv2d

    return conv2d(*arguments, allow_tf32=allow_tf32)


def conv2d_grad_input(*arguments, allow_tf32: bool) -> torch.Tensor:
    """grad_output, weight, input_size, stride, padding, dilation, groups → grad_input. See grad_input.py."""
    from .grad_input import conv2d_grad_input

    return conv2d_grad_input(*arguments, allow_tf32=allow_tf32)


def conv2d_grad_weight(*arguments, allow_tf32: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """grad_output, input, weight_size, stride, padding, dilation, groups, bias → (grad_weight, grad_bias).

    See grad_weight.py.
    """
    from .grad_weight import conv2d_grad_weight

    return conv2d_grad_weight(*arguments, allow_tf32=allow_tf32)


def cross_entropy(*arguments, gradient: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """logits, target, reduction, ignore_index → the loss and, if wanted, its gradient. See loss.py."""
    from .loss import cross_entropy

    return cross_entropy(*arguments, gradient=gradient)


def explain(*arguments) -> list[str]:
    """input, weight, (stride, padding, dilation, groups), allow_tf32 → the kernels and plans that serve.

    See explanation.py.
    """
    from .explanation import explain

    return explain(*arguments)


def explain_block(*arguments, allow_tf32: bool) -> list[str]:
    """The arguments of the operator `block` → what it copies, and the kernels and plans that serve it.

    See explanation.py.
    """
    from .explanation import explain_block

    return explain_block(*arguments, allow_tf32=allow_tf32)


def tune(*arguments, **numbers) -> None:
    """input, weight, stride, padding, dilation, groups: measure the plans of such a convolution. See measure.py."""
    from .measure import tune

    tune(*arguments, **numbers)


def unsupported(device_type: str, dtype: torch.dtype) -> str | None:
    """Why tensors of this device and type cannot be served, in words; None if they can."""
    if (missing := _missing()) is not None:
        return missing
    if dtype not in DTYPES:
        return f"the Triton kernels take {', '.join(map(str, DTYPES))}, not {dtype}"
    if device_type == "cuda":
        return _unsupported_gpu()
    if device_type != "cpu":
        return f"the Triton kernels run on CUDA devices, not on {device_type!r}"
    from .interpreter import INTERPRETED

    if not INTERPRETED:
        return (
            "on the CPU Triton kernels run only in its interpreter (set TRITON_INTERPRET=1 before the start)"
        )
    if dtype == torch.bfloat16:
        return "Triton's interpreter computes wrong results in bfloat16"
    return None


@functools.cache
def _unsupported_gpu() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.version.hip is not None:
        return "the Triton kernels are written for NVIDIA GPUs"
    if (capability := torch.cuda.get_device_capability()) < (8, 0):
        return "Triton needs compute capability 8.0, this GPU has {}.{}".format(*capability)
    return _no_launcher()


def _no_launcher() -> str | None:
    """Why Triton cannot start kernels, in words: it compiles what starts them in C, at its first use."""
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except Exception as error:  # no compiler, no headers of Python, no folder to write to: each has its own type
        said = str(error).strip().partition("\n")[0]
        return f"Triton cannot start kernels, for which it needs a C compiler and Python's headers ({said})"
    return None


@functools.cache
def _missing() -> str | None:
    try:
        import triton.language  # noqa: F401  (a folder named triton would pass for `import triton`)
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None
