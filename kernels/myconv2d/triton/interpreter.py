"""Triton's interpreter on the CPU: whether it is on, and a repair that our kernels need."""

from __future__ import annotations

from triton import knobs
from triton.runtime import interpreter

# Triton decides when a kernel is defined, so this is read when ours are.
INTERPRETED: bool = knobs.runtime.interpret


def repair() -> None:
    """Let a scalar bound a loop.

    The interpreter of Triton 3.6 converts loop bounds with int(), which numpy ≥ 2.4 refuses for the arrays of one
    element that it holds scalars in.
    """
    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_index(tensor, scope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_and_index


if INTERPRETED:
    repair()
