"""The pictures a run leaves behind: learning curves, sample sheets, galleries."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from . import pictures
from .data import Images
from .files import atomic_write
from .tasks import Task

LABELS = {"accuracy": "accuracy (%)", "psnr": "PSNR (dB)"}
_BLUE, _ORANGE = "#3b6fb6", "#d9822b"


def curves(path: str | os.PathLike[str], metrics: list[dict[str, float]], title: str) -> None:
    """Loss of training and validation, and each further validation score, over the epochs, as PNG."""
    epochs = [row["epoch"] for row in metrics]
    scores = [name for name in LABELS if f"validation_{name}" in metrics[0]]
    figure = Figure(figsize=(4.2 * (1 + len(scores)), 3.6), dpi=120, layout="constrained")
    axes = figure.subplots(1, 1 + len(scores), squeeze=False)[0]
    for name, colour in (("train", _BLUE), ("validation", _ORANGE)):
        losses = [row[f"{name}_loss"] for row in metrics]
        axes[0].plot(epochs, losses, color=colour, marker="o", ms=3, label=name)
    dress(axes[0], "loss")
    axes[0].legend(frameon=False)
    for axis, name in zip(axes[1:], scores, strict=True):
        scale = 100 if name == "accuracy" else 1
        values = [scale * row[f"validation_{name}"] for row in metrics]
        axis.plot(epochs, values, color=_ORANGE, marker="o", ms=3)
        dress(axis, f"validation {LABELS[name]}")
    figure.suptitle(title)
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def dress(axis: Axes, label: str) -> None:
    """Labels an axis of scores over epochs, and leaves away what is not needed."""
    axis.set_xlabel("epoch")
    axis.set_ylabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


@torch.inference_mode()
def samples(
    path: str | os.PathLike[str],
    network: nn.Module,
    task: Task,
    images: Images,
    count: int = 8,
) -> None:
    """A sheet of `count` pictures spread over `images`: input, network (on the CPU), comparisons of the task, truth."""
    indices = torch.linspace(0, len(images) - 1, min(count, len(images))).long()
    truth = images.batch(indices)
    shown = task.degrade(truth)
    made = {"input": shown, "network": task.decode(network(shown), shown)}
    pictures.save(path, pictures.sheet({**made, **task.comparisons(truth), "truth": truth}))


def gallery(
    rows: Mapping[str, Sequence[np.ndarray]],
    *,
    line_at: float | None = None,
    height: int = 280,
    gap: int = 14,
) -> Image.Image:
    """Rows of pictures, uint8 (H, W, 3) or (H, W), all `height` pixels high, each row under its name.

    `line_at` draws a line down each picture at that share of its width.
    """
    font = ImageFont.load_default(24)
    images = {name: [_of_height(picture, height) for picture in row] for name, row in rows.items()}
    widest = max(sum(image.width + gap for image in row) for row in images.values())
    header = 24 + 2 * gap
    page = Image.new("RGB", (widest + gap, len(rows) * (header + height) + gap), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, row) in enumerate(images.items()):
        left, top = gap, number * (header + height) + header
        draw.text((left, top - header / 2), name, font=font, fill="#333333", anchor="lm")
        for image in row:
            page.paste(image, (left, top))
            if line_at is not None:
                x = left + round(image.width * line_at)
                draw.line((x, top, x, top + height - 1), fill="white", width=2)
            left += image.width + gap
    return page


def _of_height(picture: np.ndarray, height: int) -> Image.Image:
    image = Image.fromarray(picture).convert("RGB")
    return image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)
