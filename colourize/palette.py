"""Palettes: a few colours for all the pixels, found by k-means, and the files that keep them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import pickles
from .colour import check_rgb, to_unit
from .files import UserError, atomic_write
from .lab import from_lab, to_lab

SPACES = "rgb", "lab"


class Palette:
    """M colours, `centres` (M, 3) float32, R, G and B in unit scale; a label is an index into them.

    `space`, one of SPACES, is where distances are measured: that of R, G and B, as in the handout, or CIELAB, where
    equal ones look about equally large. It is no part of a palette's file: whoever reads that says it again.
    """

    def __init__(self, centres: Tensor | np.ndarray, space: str = "rgb") -> None:
        if space not in SPACES:
            raise ValueError(f"space must be one of {', '.join(SPACES)}, not {space!r}")
        centres = torch.as_tensor(np.asarray(centres, dtype=np.float32))
        if centres.ndim != 2 or centres.shape[1] != 3 or len(centres) < 2:
            raise ValueError(f"centres must have shape (M, 3) with M ≥ 2, got {tuple(centres.shape)}")
        if not ((centres >= 0) & (centres <= 1)).all():
            raise ValueError("centres must be R, G, B between 0 and 1")
        self.centres, self.space = centres, space

    def __len__(self) -> int:
        return len(self.centres)

    def quantise(self, images: Tensor, chunk: int = 1 << 16) -> Tensor:
        """Labels (N, H, W) int64 of the nearest colours; `chunk` pixels at a time bound the memory."""
        check_rgb(images)
        count, _, height, width = images.shape
        pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
        centres = _points(self.centres.to(images.device), self.space)
        labels = torch.empty(len(pixels), dtype=torch.int64, device=images.device)
        for part, out in zip(pixels.split(chunk), labels.split(chunk), strict=True):
            points = _points(part, self.space)
            distance = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
            torch.argmin(distance, dim=1, out=out)
        return labels.view(count, height, width)

    def colours(self, labels: Tensor) -> Tensor:
        """Labels (N, H, W) → unit images (N, 3, H, W)."""
        return self.centres.to(labels.device)[labels].permute(0, 3, 1, 2)

    @classmethod
    def fit(
        cls, images: Tensor, colours: int = 24, seed: int = 0, *, space: str = "rgb", sample: int = 100_000
    ) -> Palette:
        """The k-means centres in `space` of `sample` random pixels, dark to light; the same seed gives the same.

        Raises UserError if the images hold fewer distinct colours than asked for.
        """
        from scipy.cluster.vq import kmeans2  # slow to import, and needed here alone

        check_rgb(images)
        random = np.random.default_rng(seed)
        pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
        chosen = random.choice(len(pixels), min(sample, len(pixels)), replace=False)
        pixels = to_unit(pixels[torch.from_numpy(chosen)]).double().cpu()
        distinct = len(pixels.unique(dim=0))
        if not 2 <= colours <= distinct:
            raise UserError(
                f"colours must be between 2 and the {distinct} that these images hold, got {colours}"
            )
        centres, _ = kmeans2(_points(pixels, space).numpy(), colours, iter=30, minit="++", seed=random)
        centres = _colours(torch.from_numpy(centres), space)
        return cls(centres[centres.mean(1).argsort()], space)

    @classmethod
    def load(cls, path: str | os.PathLike[str], space: str = "rgb") -> Palette:
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
            return cls(centres, space)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:  # the readers raise nearly anything on damaged files
            raise UserError(f"{path} is not a palette: {error or type(error).__name__}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes .npy, .npz or .json, by the name's suffix, in a form that `load` reads back to the bit."""
        path, centres = Path(path), self.centres.numpy()
        self.check_name(path)
        if path.suffix == ".json":
            atomic_write(path, lambda file: file.write(json.dumps({"colours": centres.tolist()}).encode()))
        elif path.suffix == ".npz":
            atomic_write(path, lambda file: np.savez(file, centres=centres))
        else:
            atomic_write(path, lambda file: np.save(file, centres, allow_pickle=False))

    @staticmethod
    def check_name(path: str | os.PathLike[str]) -> None:
        """Raises `UserError` for the name of a file that `save` would not write."""
        if Path(path).suffix not in (".npy", ".npz", ".json"):
            raise UserError(f"cannot write {path}: a palette is saved as .npy, .npz or .json")


def _points(pixels: Tensor, space: str) -> Tensor:
    """(P, 3) R, G, B → where they lie in `space`."""
    unit = to_unit(pixels)
    return to_lab(unit.mT[None, :, :, None])[0, :, :, 0].mT if space == "lab" else unit


def _colours(points: Tensor, space: str) -> Tensor:
    """The inverse of `_points`; what is outside sRGB is clamped."""
    return from_lab(points.mT[None, :, :, None])[0, :, :, 0].mT if space == "lab" else points
