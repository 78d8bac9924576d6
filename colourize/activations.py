"""What every block of a network makes of a picture: its output channels, on one labelled sheet for each block.

Each channel is drawn over its own range, black its lowest value and white its highest, so that what it responds to is
to be seen however weakly it does; the range stands under it, for comparing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from . import pictures
from .data import Images
from .files import UserError
from .networks.base import blocks
from .tasks import Task

LONGEST = 256  # pixels; a larger file is reduced to this, so that all channels of all blocks can be looked at
_SMALLEST = 256  # pixels; smaller pictures are written with their pixels repeated
_CELL = 96, 160  # pixels, of a channel
_WIDEST = 16  # channels beside each other
_GAP, _FONT, _TITLE = 8, 11, 20


class Subject(NamedTuple):
    """A picture to look at, (1, 3, H, W) uint8, and what its folder is called."""

    name: str
    picture: Tensor


class Record(NamedTuple):
    """What a network made of a picture; `blocks` holds (C, H, W) by name, in the order they ran."""

    input: Tensor
    output: Tensor
    blocks: dict[str, Tensor]


@torch.inference_mode()
def record(network: nn.Module, task: Task, picture: Tensor) -> Record:
    """Runs `network`, in evaluation mode, on what `task` makes of one picture, as in training."""
    input = task.degrade(picture)
    output, found = outputs(network, input)
    return Record(input, output, {name: images[0].cpu() for name, images in found.items()})


@torch.inference_mode()
def outputs(network: nn.Module, input: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What `network` makes of `input`, and what each of its blocks does, (N, C, h, w), in the order they ran.

    Blocks that are watched give plain tensors, so what is seen is what the next one computes with.
    """
    found: dict[str, Tensor] = {}
    handles = [
        block.register_forward_hook(lambda _, __, output, name=name: found.__setitem__(name, output))
        for name, block in blocks(network)
    ]
    try:
        return network(input), found
    finally:
        for handle in handles:
            handle.remove()


def from_validation(images: Images, indices: Iterable[int]) -> list[Subject]:
    """The pictures at `indices`. Raises `UserError`, saying what is allowed, for one that is not there."""
    found = []
    for index in indices:
        if not 0 <= index < len(images):
            allowed = f"from 0 to {len(images) - 1}, the validation pictures of the run"
            raise UserError(f"index must be {allowed}, not {index}")
        found.append(Subject(f"index-{index}", images.batch(torch.tensor([index]))))
    return found


def from_file(path: Path, multiple: int = 1) -> Subject:
    """A picture file: at most LONGEST pixels high and wide, and cut to a `multiple` of pixels. `UserError` if it cannot
    be read or is too small."""
    rgb = pictures.read(path).rgb
    reduction = math.ceil(max(rgb.shape[:2]) / LONGEST)
    if reduction > 1:
        rgb = np.asarray(Image.fromarray(rgb).reduce(reduction))
    return Subject(path.stem, pictures.cut(rgb, multiple, path))


def save(network: nn.Module, task: Task, subject: Subject, folder: Path) -> None:
    """Writes input.png, truth.png, output.png and a sheet NUMBER-BLOCK.png for each block into `folder`."""
    device = next(network.parameters()).device
    picture = subject.picture.to(device)
    made = record(network, task, picture)
    shown = {"input": made.input, "truth": picture, "output": task.decode(made.output, made.input)}
    for name, tensor in shown.items():
        pictures.save(folder / f"{name}.png", _enlarged(pictures.to_image(tensor[0])))
    for number, (name, channels) in enumerate(made.blocks.items(), 1):
        pictures.save(folder / f"{number:02}-{name}.png", sheet(name, channels))


def sheet(name: str, channels: Tensor) -> Image.Image:
    """The channels (C, H, W) of a block in a grid, each over its own range, under what can be said of all."""
    count, *sides = channels.shape
    cell = min(max(_CELL[0], *sides), _CELL[1])
    columns = min(_WIDEST, max(4, math.ceil(math.sqrt(1.6 * count))), count)
    rows = math.ceil(count / columns)
    tiles = [pictures.fit(Image.fromarray(_levels(channel)), cell) for channel in channels]
    title, small = pictures.label_font(_TITLE), pictures.label_font(_FONT)
    labels = [f"{number}: {_range(channel)}" for number, channel in enumerate(channels)]
    width = max(cell, *(math.ceil(small.getlength(label)) for label in labels))
    step = width + _GAP, tiles[0].height + _FONT + 4 + _GAP
    lines = _description(name, channels)
    header = _GAP + (_TITLE + 6) + (len(lines) - 1) * (_FONT + 7) + _GAP
    needed = max(title.getlength(lines[0]), *(small.getlength(line) for line in lines[1:]))
    page = Image.new("RGB", (max(columns * step[0], math.ceil(needed) + _GAP) + _GAP, header + rows * step[1]), "white")
    draw = ImageDraw.Draw(page)
    top = _GAP
    for line in lines:
        draw.text((_GAP, top), line, font=title if line is lines[0] else small, fill="#333333")
        top += _TITLE + 6 if line is lines[0] else _FONT + 7
    for number, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        left, top = _GAP + number % columns * step[0], header + number // columns * step[1]
        page.paste(tile, (left + (width - tile.width) // 2, top))
        draw.text((left + width / 2, top + tile.height + 2), label, font=small, fill="#333333", anchor="ma")
    return page


def _description(name: str, channels: Tensor) -> Sequence[str]:
    count, height, width = channels.shape
    flat = channels.flatten(1)
    constant = int((flat.amin(1) == flat.amax(1)).sum())
    still = f"; the same everywhere, and drawn grey: {constant} channels" if constant else ""
    return (
        f"{name}: {count} channels of {height}×{width} (height × width)",
        f"values {_range(channels)}, mean {channels.mean().item():.3g}{still}",
        "each channel over its own range, which stands under it: black is the lowest value, white the highest",
    )


def _range(values: Tensor) -> str:
    return f"{values.min().item():.2g}…{values.max().item():.2g}"


def _levels(channel: Tensor) -> np.ndarray:
    """(H, W) → uint8 over its own range; a channel that is the same everywhere becomes grey."""
    low, high = channel.min(), channel.max()
    if not high > low:
        return np.full(tuple(channel.shape), 128, np.uint8)
    return ((channel - low) / (high - low) * 255).round().to(torch.uint8).numpy()


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, _SMALLEST // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
