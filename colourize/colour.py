"""Pixels as numbers: the handout's scale, grey, palettes, and the smaller and larger versions of a picture.

Images are tensors (N, 3, H, W) in sRGB: uint8, or float in 0..1 ("unit"); every function takes both. The
unit scale is the handout's, value / 256, so that white is 255/256.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import pickles
from .files import UserError, atomic_write

UPSCALE_MODES = ("nearest", "bilinear", "bicubic")


def to_unit(images: Tensor) -> Tensor:
    """uint8 → float32, value / 256 (the handout's scale); float images come back as they are."""
    return images if images.is_floating_point() else images.float() / 256


def to_uint8(images: Tensor) -> Tensor:
    """The inverse of `to_unit`: float → uint8, rounded and clamped; uint8 images come back as they are."""
    return (images * 256).round().clamp(0, 255).byte() if images.is_floating_point() else images


def grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) → (N, 1, H, W): the mean of R, G and B, in unit scale (the handout's grey, not luma)."""
    _check_rgb(images)
    return to_unit(images).mean(dim=1, keepdim=True)


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


def _check_rgb(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")


class Palette:
    """M colours, `centres` (M, 3) float32 in unit scale; a label is an index into them."""

    def __init__(self, centres: Tensor | np.ndarray) -> None:
        centres = torch.as_tensor(np.asarray(centres, dtype=np.float32))
        if centres.ndim != 2 or centres.shape[1] != 3 or len(centres) < 2:
            raise ValueError(f"centres must have shape (M, 3) with M ≥ 2, got {tuple(centres.shape)}")
        if not ((centres >= 0) & (centres <= 1)).all():
            raise ValueError("centres must be R, G, B between 0 and 1")
        self.centres = centres

    def __len__(self) -> int:
        return len(self.centres)

    def quantise(self, images: Tensor, chunk: int = 1 << 16) -> Tensor:
        """Labels (N, H, W) int64 of the colours nearest in RGB; `chunk` pixels at a time bound the memory."""
        _check_rgb(images)
        count, _, height, width = images.shape
        pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
        centres = self.centres.to(images.device)
        labels = torch.empty(len(pixels), dtype=torch.int64, device=images.device)
        for part, out in zip(pixels.split(chunk), labels.split(chunk), strict=True):
            distance = torch.cdist(
                to_unit(part).float(), centres, compute_mode="donot_use_mm_for_euclid_dist"
            )
            torch.argmin(distance, dim=1, out=out)
        return labels.view(count, height, width)

    def colours(self, labels: Tensor) -> Tensor:
        """Labels (N, H, W) → unit images (N, 3, H, W)."""
        return self.centres.to(labels.device)[labels].permute(0, 3, 1, 2)

    @classmethod
    def fit(cls, images: Tensor, colours: int = 24, seed: int = 0, sample: int = 100_000) -> Palette:
        """The k-means centres of `sample` random pixels, dark to light; the same seed gives the same palette.

        Raises UserError if the images hold fewer distinct colours than asked for.
        """
        from scipy.cluster.vq import kmeans2  # slow to import, and needed here alone

        _check_rgb(images)
        random = np.random.default_rng(seed)
        pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
        chosen = random.choice(len(pixels), min(sample, len(pixels)), replace=False)
        pixels = to_unit(pixels[torch.from_numpy(chosen)]).double().cpu().numpy()
        distinct = len(np.unique(pixels, axis=0))
        if not 2 <= colours <= distinct:
            raise UserError(
                f"colours must be between 2 and the {distinct} that these images hold, got {colours}"
            )
        centres, _ = kmeans2(pixels, colours, iter=30, minit="++", seed=random)
        return cls(centres[np.argsort(centres.mean(axis=1))])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Palette:
        """A palette from .npy (plain, or the handout's pickled [centres, distortion]), .npz or .json."""
        path = Path(path)
        try:
            content = path.read_bytes()
            if path.suffix == ".json":
                centres = json.loads(content)["colours"]
            elif path.suffix == ".npz":
                with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("centres.npy") as file:
                    centres = pickles.load_npy(file, str(path))
            else:
                centres = pickles.load_npy(io.BytesIO(content), str(path))
                if centres.dtype == object:
                    centres = centres[0]
            return cls(centres)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:  # the readers raise nearly anything on damaged files
            raise UserError(f"{path} is not a palette: {error or type(error).__name__}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes .npy, .npz or .json, by the name's suffix, in a form that `load` reads back to the bit."""
        path, centres = Path(path), self.centres.numpy()
        if path.suffix == ".json":
            atomic_write(path, lambda file: file.write(json.dumps({"colours": centres.tolist()}).encode()))
        elif path.suffix == ".npz":
            atomic_write(path, lambda file: np.savez(file, centres=centres))
        elif path.suffix == ".npy":
            atomic_write(path, lambda file: np.save(file, centres, allow_pickle=False))
        else:
            raise UserError(f"cannot write {path}: a palette is saved as .npy, .npz or .json")
