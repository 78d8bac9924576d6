"""A trained network on pictures of any size, tile by tile, so that the picture does not decide the memory.

Tiles overlap by more than the network sees around a pixel and begin at multiples of its alignment, and batch
norm is fixed in evaluation mode: together they are the picture that the network would have made in one go.

A network sees some fifteen pixels around each, enough for the small pictures it was trained on and next to
nothing of a photograph. So a photograph is coloured at a fraction of its size, and its own grey put back at
full size: the eye takes detail from lightness and hardly any from colour.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from . import pictures
from .colour import to_uint8, to_unit
from .files import UserError
from .pictures import Picture
from .tasks import Task, tinted

TILE = 512  # pixels of output along a side, before the overlap
COLOUR_SIDE = 112  # about the shorter side of a picture when its colours are chosen


def colour_reduction(rgb: np.ndarray) -> int:
    """How many times smaller to make a picture (H, W, 3) for colouring, unless told."""
    return max(1, round(min(rgb.shape[:2]) / COLOUR_SIDE))


def render(
    network: nn.Module,
    task: Task,
    rgb: np.ndarray,
    *,
    reduce: int = 1,
    raw: bool = False,
    tile: int = TILE,
) -> np.ndarray:
    """(H, W, 3) uint8 sRGB → what `network`, in evaluation mode, makes of it, `task.enlarges` times as large.

    `reduce`, for tasks that keep the grey, colours a picture so many times smaller and tints the full one by
    it. `raw` gives the network's decoded output as it is, without `task.finish`. `tile` is a multiple of 4.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape or rgb.dtype != np.uint8:
        raise ValueError(f"rgb must be uint8 (H, W, 3) with H, W ≥ 1, not {rgb.dtype} {rgb.shape}")
    if tile < network.alignment or tile % network.alignment:
        raise ValueError(f"tile must be a multiple of {network.alignment}, not {tile}")
    if reduce < 1 or (reduce > 1 and (raw or not task.keeps_grey)):
        raise ValueError(f"reduce must be 1, or more for a task that keeps the grey and no raw, not {reduce}")
    if reduce > 1:
        small = np.asarray(Image.fromarray(rgb).reduce(reduce))
        return _tint(rgb, _render_tiles(network, task, small, raw, tile))
    return _render_tiles(network, task, rgb, raw, tile)


def apply_to_file(
    network: nn.Module,
    task: Task,
    source: Path,
    folder: Path,
    *,
    reduce: int | None = None,
    raw: bool = False,
    overwrite: bool = False,
    spare: Container[Path] = (),
) -> Path:
    """Renders the picture `source` into `folder` and returns the new file, NAME-colour.png or NAME-large.png.

    Transparency is kept. `reduce` is chosen by the picture's size, unless given. Raises `UserError` for a
    picture that cannot be read or is too large to enlarge, and for a file that exists already, unless
    `overwrite` is set, or that is one of those to `spare`.
    """
    target = Path(folder) / f"{Path(source).stem}-{task.result}.png"
    if target in spare:
        raise UserError(f"{source}: {target} was made just now, of a picture of the same name: choose another --out")
    if os.path.exists(target) and not overwrite:  # False for a name that cannot be: writing says why
        raise UserError(f"{target} exists already: choose another --out, or --overwrite")
    picture = pictures.read(source, max_pixels=pictures.MAX_PIXELS // task.enlarges**2)
    pictures.write(target, *apply_to_picture(network, task, picture, reduce=reduce, raw=raw))
    return target


def apply_to_picture(
    network: nn.Module, task: Task, picture: Picture, *, reduce: int | None = None, raw: bool = False
) -> Picture:
    """Renders a picture; transparency is kept. `reduce` is chosen by the picture's size, unless given."""
    rgb, alpha = picture
    if reduce is None:
        reduce = colour_reduction(rgb) if task.keeps_grey and not raw else 1
    made = render(network, task, rgb, reduce=reduce, raw=raw)
    if alpha is not None:
        alpha = alpha.repeat(task.enlarges, axis=0).repeat(task.enlarges, axis=1)
    return Picture(made, alpha)


@torch.inference_mode()
def _render_tiles(network: nn.Module, task: Task, rgb: np.ndarray, raw: bool, tile: int) -> np.ndarray:
    device, scale = next(network.parameters()).device, task.enlarges
    step, margin = tile // scale, (network.halo + task.finish_reach) // scale
    result = np.empty((rgb.shape[0] * scale, rgb.shape[1] * scale, 3), np.uint8)
    for rows, seen_rows in _tiles(rgb.shape[0], step, margin):
        for columns, seen_columns in _tiles(rgb.shape[1], step, margin):
            part = _tensor(rgb[seen_rows, seen_columns]).to(device)
            input = task.prepare(part)
            output = network(input)
            made = _array(task.decode(output, input) if raw else task.finish(output, part))
            inner = made[_within(rows, seen_rows, scale), _within(columns, seen_columns, scale)]
            result[_scaled(rows, scale), _scaled(columns, scale)] = inner
    return result


def _tint(rgb: np.ndarray, coloured: np.ndarray, rows_at_once: int = 256) -> np.ndarray:
    """`rgb` with the tint of `coloured`, a smaller version of it."""
    height, width = rgb.shape[:2]
    enlarged = np.asarray(Image.fromarray(coloured).resize((width, height), Image.Resampling.BICUBIC))
    result = np.empty_like(rgb)
    for top in range(0, height, rows_at_once):
        rows = slice(top, top + rows_at_once)
        result[rows] = _array(tinted(_tensor(rgb[rows]), to_unit(_tensor(enlarged[rows]))))
    return result


def _tiles(extent: int, step: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """Divides `extent` into steps; with each, the same and `margin` on both sides, as far as there is any."""
    for start in range(0, extent, step):
        stop = min(start + step, extent)
        yield slice(start, stop), slice(max(start - margin, 0), min(stop + margin, extent))


def _scaled(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)


def _within(part: slice, whole: slice, scale: int) -> slice:
    return slice((part.start - whole.start) * scale, (part.stop - whole.start) * scale)


def _tensor(rgb: np.ndarray) -> Tensor:
    return torch.tensor(rgb).permute(2, 0, 1)[None]  # a copy: PIL's arrays are read-only


def _array(picture: Tensor) -> np.ndarray:
    return to_uint8(picture)[0].permute(1, 2, 0).cpu().numpy()
