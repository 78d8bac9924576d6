"""Pixels as numbers: the handout's scale, grey, and the smaller and larger versions of a picture.

Images are tensors (N, 3, H, W) in sRGB: uint8, or float in 0..1 ("unit"); every function takes both. The
unit scale is the handout's, value / 256, so that white is 255/256.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

UPSCALE_MODES = ("nearest", "bilinear", "bicubic")
WHITE = 255 / 256  # in unit scale


def to_unit(images: Tensor) -> Tensor:
    """uint8 → float32, value / 256 (the handout's scale); float images come back as they are."""
    return images if images.is_floating_point() else images.float() / 256


def to_uint8(images: Tensor) -> Tensor:
    """The inverse of `to_unit`: float → uint8, rounded and clamped; uint8 images come back as they are."""
    return (images * 256).round().clamp(0, 255).byte() if images.is_floating_point() else images


def grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) → (N, 1, H, W): the mean of R, G and B, in unit scale (the handout's grey, not luma)."""
    check_rgb(images)
    return to_unit(images).mean(dim=1, keepdim=True)


def luma(images: Tensor) -> Tensor:
    """(N, 3, H, W) → (N, 1, H, W): the weighted mean of R, G and B that BT.601 takes for lightness, in unit scale."""
    check_rgb(images)
    red, green, blue = to_unit(images).split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def downscale(images: Tensor, factor: int) -> Tensor:
    """Means of factor × factor pixels, in unit scale: (N, C, H, W) → (N, C, H/factor, W/factor)."""
    height, width = images.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor must be at least 1 and divide {height} × {width}, got {factor}")
    return F.avg_pool2d(to_unit(images), factor)


def upscale(images: Tensor, factor: int, mode: str = "nearest") -> Tensor:
    """Enlarges by `factor`, in unit scale, with `mode` one of UPSCALE_MODES (half-pixel centres, clamped).

    "bicubic" is Keys' with a = −1/2, as super-resolution is measured against (MATLAB's and PIL's).
    """
    if mode not in UPSCALE_MODES:
        raise ValueError(f"mode must be one of {', '.join(UPSCALE_MODES)}, got {mode!r}")
    aligned = {} if mode == "nearest" else {"align_corners": False, "antialias": mode == "bicubic"}
    enlarged = F.interpolate(to_unit(images), scale_factor=factor, mode=mode, **aligned)
    return enlarged.clamp(0, 1) if mode == "bicubic" else enlarged


def check_rgb(images: Tensor) -> None:
    """`ValueError` unless `images` are (N, 3, H, W)."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")
