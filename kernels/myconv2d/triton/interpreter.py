"""Triton's interpreter on the CPU: whether it is on, and two repairs that our kernels need."""

from __future__ import annotations

import numpy as np
from triton import knobs
from triton.runtime import interpreter

# Triton decides when a kernel is defined, so this is read when ours are.
INTERPRETED: bool = knobs.runtime.interpret


def repair() -> None:
    """Let a scalar bound a loop, and a box begin at any column.

    The interpreter of Triton 3.6 converts loop bounds with int(), which numpy ≥ 2.4 refuses for the arrays of one
    element that it holds scalars in. And it wants boxes of a tensor descriptor to begin on 16-byte boundaries, which
    the copy engine wants of the tensor and its strides, not of coordinates.
    """
    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_index(tensor, scope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_and_index
    interpreter.TensorDescHandle.materialize_pointers = _pointers


def _pointers(self, offsets) -> tuple:
    """Addresses of a box of the tensor descriptor `self`, and which of them lie in the tensor."""
    addresses, inside = self.base.data, np.True_
    size = self.base.dtype.element_ty.primitive_bitwidth // 8
    for dim, (offset, length) in enumerate(zip(offsets, self.block_shape, strict=True)):
        index = np.expand_dims(
            offset.data.item() + np.arange(length), [d for d in range(self.ndim) if d != dim]
        )
        addresses = addresses + (size * index * self.strides[dim].data).astype(np.uint64)
        inside = inside & (index >= 0) & (index < self.shape[dim].data)
    return interpreter.TensorHandle(addresses, self.base.dtype.scalar), inside


if INTERPRETED:
    repair()
