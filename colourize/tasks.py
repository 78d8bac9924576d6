"""What a network is asked to do: how pictures become input and target, the loss, and how outputs become
pictures.

Everything that differs between tasks is in its class here; training, evaluation and `apply` know no task by
name. Pictures are (N, 3, H, W), uint8 or unit floats (see `colour`); scores are means over a batch, as
float64 scalars.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from myconv2d import cross_entropy

from .colour import Palette, downscale, grey, to_unit, upscale
from .files import UserError


class Task(ABC):
    """One task. `palette` is the colours that a label stands for, None where there are no labels."""

    name: str
    loss_name: str
    in_channels: int
    needs_palette = True
    size_multiple = 1  # the height and width of training pictures must be multiples of this
    enlarges = 1  # a picture given to `apply` comes back this many times as large
    finish_reach = 0  # output pixels on either side that `finish` looks at
    keeps_grey = False  # whether the grey of a picture given to `apply` is that of the result
    result = "colour"  # what `apply` calls its pictures

    def __init__(self, palette: Palette | None = None) -> None:
        if self.needs_palette and palette is None:
            raise ValueError(f"task {self.name} needs a palette")
        self.palette = palette if self.needs_palette else None

    @property
    def out_channels(self) -> int:
        """Channels of the network's output."""
        return len(self.palette) if self.palette else 3

    @abstractmethod
    def degrade(self, pictures: Tensor) -> Tensor:
        """Full pictures → the network's input, as it is in training."""

    @abstractmethod
    def target(self, pictures: Tensor) -> Tensor:
        """Full pictures → what the loss compares the output with."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, output: Tensor) -> Tensor:
        """The network's output → unit pictures (N, 3, H, W)."""

    def comparisons(self, pictures: Tensor) -> dict[str, Tensor]:
        """Name → unit pictures, to be shown between the network's and the full ones."""
        return {}

    def score(self, output: Tensor, target: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """`loss`, and what `score_pictures` says of the decoded output."""
        return {
            "loss": self.loss(output, target).double(),
            **self.score_pictures(self.decode(output), target, pictures),
        }

    def score_pictures(self, made: Tensor, target: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """`psnr` in dB, the mean over pictures, and `accuracy`, the share of right labels, with a palette."""
        scores = {"psnr": psnr(made, pictures).mean()}
        if self.palette:
            scores["accuracy"] = (self.palette.quantise(made) == target).double().mean()
        return scores

    @abstractmethod
    def prepare(self, pictures: Tensor) -> Tensor:
        """Pictures given to `apply` → the network's input."""

    @abstractmethod
    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        """The network's output for `prepare(pictures)` → the unit pictures that `apply` writes."""

    @abstractmethod
    def blend(self, output: Tensor) -> Tensor:
        """Like `decode`, but with no steps between neighbouring colours."""


class _Colouring(Task):
    """Input: the grey of the picture. What `apply` writes keeps it and has only the tint from the network."""

    in_channels = 1
    keeps_grey = True

    def degrade(self, pictures: Tensor) -> Tensor:
        return grey(pictures)

    def prepare(self, pictures: Tensor) -> Tensor:
        return grey(pictures)

    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        return tinted(pictures, self.blend(output))


class Regression(_Colouring):
    """Grey → R, G, B; mean squared error."""

    name = "regression"
    loss_name = "MSE"
    needs_palette = False

    def target(self, pictures: Tensor) -> Tensor:
        return to_unit(pictures)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        by_picture = F.mse_loss(output, target, reduction="none").mean((1, 2, 3))
        return by_picture.mean()  # a sum over all pixels at once would depend on the number of threads

    def decode(self, output: Tensor) -> Tensor:
        return output.clamp(0, 1)

    blend = decode


class _Labelling(Task):
    """Output: a score for each of the palette's colours at each pixel; cross-entropy."""

    loss_name = "cross-entropy"

    def target(self, pictures: Tensor) -> Tensor:
        return self.palette.quantise(pictures)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target)

    def decode(self, output: Tensor) -> Tensor:
        return self.palette.colours(output.argmax(1))

    def score(self, output: Tensor, target: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        labels = output.argmax(1)
        return {
            "loss": self.loss(output, target).double(),
            "psnr": psnr(self.palette.colours(labels), pictures).mean(),
            "accuracy": (labels == target).double().mean(),
        }

    def comparisons(self, pictures: Tensor) -> dict[str, Tensor]:
        return {f"{len(self.palette)} colours": self.palette.colours(self.target(pictures))}

    def blend(self, output: Tensor) -> Tensor:
        return torch.einsum("nmhw,mc->nchw", output.softmax(1), self.palette.centres.to(output.device))


class Classification(_Labelling, _Colouring):
    """Grey → the nearest of the palette's colours."""

    name = "classification"


class SuperResolution(_Labelling):
    """A picture a quarter as large, enlarged by repeating its pixels → the palette's colours of the full
    picture.

    What `apply` writes agrees with the small picture: each of its pixels is the mean of the 16 that it
    became, up to a smooth correction.
    """

    name = "superres"
    in_channels = 3
    size_multiple = enlarges = 4
    finish_reach = 8  # the bilinear correction reads the next pixel of the small picture
    result = "large"

    def degrade(self, pictures: Tensor) -> Tensor:
        return self.prepare(downscale(pictures, self.enlarges))

    def prepare(self, pictures: Tensor) -> Tensor:
        return upscale(pictures, self.enlarges, "nearest")

    def comparisons(self, pictures: Tensor) -> dict[str, Tensor]:
        bilinear = upscale(downscale(pictures, self.enlarges), self.enlarges, "bilinear")
        return {"bilinear": bilinear, **super().comparisons(pictures)}

    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        enlarged = self.blend(output)
        missing = to_unit(pictures) - downscale(enlarged, self.enlarges)
        return (enlarged + upscale(missing, self.enlarges, "bilinear")).clamp(0, 1)


def tinted(pictures: Tensor, coloured: Tensor) -> Tensor:
    """Unit pictures with the grey of `pictures` and, as far as that leaves room, the tint of `coloured`."""
    return (grey(pictures) + coloured - grey(coloured)).clamp(0, 1)


def psnr(made: Tensor, pictures: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, float64 (N,), of each picture, with peak 1 and at most 100 dB."""
    error = (to_unit(made) - to_unit(pictures)).square().flatten(1).mean(1, dtype=torch.float64)
    return -10 * error.clamp(min=1e-10).log10()


_TASKS = {task.name: task for task in (Regression, Classification, SuperResolution)}
NAMES = tuple(_TASKS)


def kind(name: str) -> type[Task]:
    """The class of a task by name; an unknown name raises `UserError`."""
    if name not in _TASKS:
        raise UserError(f"task {name!r} is unknown; known are {', '.join(NAMES)}")
    return _TASKS[name]
