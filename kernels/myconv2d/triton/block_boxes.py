"""Where the copy engine loads what a fused block reads, box by box, in place of ordinary loads (see halo.py).

All that a launch multiplies comes by boxes, or none of it does. To start and await boxes costs a step some 70
instructions, whatever their size: four warps with large steps make up for that, the eight of ordinary loads do not, so
that these launches have plans of their own. A kernel is given descriptors where it would be given pointers.
"""

from __future__ import annotations

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from . import tuning
from .halo import describe, why_never, why_not_in_place


def why_not(tensors: list[torch.Tensor], allow_tf32: bool) -> str | None:
    """Why boxes of these images (N, C, H, W) and weights (K, C, R, S) cannot be loaded, in words; None if they can."""
    obstacle = tuning.no_wgmma(tuning.arithmetic(tensors[0].dtype, allow_tf32))
    for tensor in tensors:
        obstacle = obstacle or why_never(tensor[:, None]) or why_not_in_place(tensor[:, None])
    return obstacle


def boxes(tensor: torch.Tensor, positions: tuple[int, int, int], channels: int) -> TensorDescriptor:
    """An image by boxes of n × h × w positions × channels; a weight by boxes of (outputs, 1, 1) × channels."""
    return describe(tensor[:, None], positions, channels)
