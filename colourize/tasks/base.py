"""What all tasks have in common.

Pictures are (N, 3, H, W), uint8 or unit floats (see `colour`); a network's input is (N, in_channels, H, W), its output
(N, out_channels, H, W); scores are float64, one for each picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..colour import grey
from ..files import UserError
from ..measures import ciede2000, colourfulness, psnr, ssim
from ..palette import Palette
from ..perceptual import PerceptualLoss

_UNIFORM = 0.5  # λ of the class weights: the share of a uniform distribution


class Batch(NamedTuple):
    """Some examples; `pictures`, uint8 (B, 3, H, W), are what input and target were made from."""

    input: Tensor
    target: Tensor
    pictures: Tensor

    def __len__(self) -> int:
        return len(self.pictures)


class Task(ABC):
    """One task, with a loss out of `loss_names`, the first unless given.

    `palette` is the colours that a label stands for, None where there are none. `frequencies` (classes,) says how
    often each class is right in the training pictures; the loss "rebalanced" needs it, "perceptual" needs
    `perceptual`. `temperature` is that of `annealed`.
    """

    name: str
    loss_names: tuple[str, ...]
    in_channels: int
    out_channels: int
    reads: str  # the network's input and
    gives: str  # its output, in words
    has_classes = False  # whether an output is a score for each class
    needs_palette = False
    size_multiple = 1  # the height and width of training pictures must be multiples of this
    enlarges = 1  # a picture given to `apply` comes back this many times as large
    network_enlarges = False  # whether that is the network's work, or done before
    finish_reach = 0  # output pixels on either side that `finish` looks at
    keeps_grey = False  # whether the grey of a picture given to `apply` is that of the result
    result = "colour"  # what `apply` calls its pictures
    temperature = 1.0  # of `annealed`, where colours are means of classes

    def __init__(
        self,
        palette: Palette | None = None,
        *,
        loss: str | None = None,
        frequencies: Tensor | None = None,
        temperature: float | None = None,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        if self.needs_palette and palette is None:
            raise ValueError(f"task {self.name} needs a palette")
        self.palette = palette if self.needs_palette else None
        self.loss_name = self.check_loss(loss)
        self.frequencies = frequencies
        self.perceptual = perceptual if self.loss_name == "perceptual" else None
        self._weights: dict[torch.device, tuple[Tensor, Tensor]] = {}  # the frequencies they were made of, and they
        if temperature is not None:
            self.temperature = temperature

    @classmethod
    def check_loss(cls, name: str | None) -> str:
        """The name of a loss that this task has; `UserError` for another."""
        if name is not None and name not in cls.loss_names:
            raise UserError(f"loss must be one of {', '.join(cls.loss_names)} for task {cls.name}, not {name!r}")
        return name or cls.loss_names[0]

    @property
    def needs_frequencies(self) -> bool:
        """Whether the loss weighs the classes by how rare they are."""
        return self.loss_name == "rebalanced"

    def class_weights(self, device: torch.device) -> Tensor | None:
        """What each class counts in the loss, (classes,); None if all count the same.

        Zhang et al. 2016, equation 4: 1 / ((1 − λ)·p + λ/M), scaled so that the weights' mean under p is one. They are
        made once for a device: a step in a CUDA graph must not fetch them from the CPU.
        """
        if not self.needs_frequencies:
            return None
        if self.frequencies is None:
            raise ValueError(f"loss {self.loss_name} needs the frequencies of the classes")
        frequencies, weights = self._weights.get(device, (None, None))
        if frequencies is not self.frequencies:
            p = self.frequencies.double() / self.frequencies.sum()
            weights = 1 / ((1 - _UNIFORM) * p + _UNIFORM / len(p))
            weights = (weights / (p * weights).sum()).float().to(device)
            self._weights[device] = self.frequencies, weights
        return weights

    @property
    def network_settings(self) -> dict[str, int]:
        """What the task decides of a network (`networks.create`)."""
        channels = {"in_channels": self.in_channels, "out_channels": self.out_channels}
        return channels | ({"factor": self.enlarges} if self.network_enlarges else {})

    @abstractmethod
    def degrade(self, pictures: Tensor) -> Tensor:
        """Full pictures → the network's input, as it is in training."""

    @abstractmethod
    def target(self, pictures: Tensor) -> Tensor:
        """Full pictures → what the loss compares the output with."""

    def labels(self, target: Tensor) -> Tensor:
        """The classes (N, H, W) int64 of a target, where `has_classes`."""
        raise TypeError(f"task {self.name} has no classes")

    @property
    def legend(self) -> Tensor:
        """What each class stands for, (out_channels, 2 or 3), where `has_classes`: see `gives`."""
        raise TypeError(f"task {self.name} has no classes")

    def class_counts(self, target: Tensor) -> Tensor:
        """How many pixels of a target are of each class, float64 (out_channels,)."""
        return torch.bincount(self.labels(target).flatten(), minlength=self.out_channels).double()

    @abstractmethod
    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each picture, (N,)."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch, which training lowers."""
        return self.losses(output, target).mean()

    def perceived(self, made: Tensor, pictures: Tensor) -> Tensor:
        """The perceptual loss of each of the unit pictures `made`."""
        if self.perceptual is None:
            raise ValueError(f"loss {self.loss_name} needs the layers of a network")
        return self.perceptual(made, pictures)

    @abstractmethod
    def decode(self, output: Tensor, input: Tensor) -> Tensor:
        """The network's output for `input` → unit pictures (N, 3, H, W), as they are evaluated."""

    def colourless(self, input: Tensor) -> Tensor:
        """The output that leaves the picture grey, for a colouring task without classes."""
        raise TypeError(f"task {self.name} has no output that is grey")

    def comparisons(self, pictures: Tensor) -> dict[str, Tensor]:
        """Name → unit pictures, to be shown between the network's and the full ones."""
        return {}

    def score(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss`, `psnr` and, where there are labels, `accuracy`, the share of right ones: quick, for every epoch."""
        scores = {
            "loss": self.losses(output, batch.target).double(),
            "psnr": psnr(self.decode(output, batch.input), batch.pictures),
        }
        if self.has_classes:
            scores["accuracy"] = share(output.argmax(1) == self.labels(batch.target))
        return scores

    def score_pictures(self, made: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What can be said of pictures that no output stands behind."""
        return {"psnr": psnr(made, batch.pictures)}

    def measure(self, made: Tensor, batch: Batch, output: Tensor | None = None) -> dict[str, Tensor]:
        """What takes longer to say of unit pictures `made`, and of the output behind them, for a final evaluation."""
        scores = {
            "ssim": ssim(made, batch.pictures),
            "ciede2000": ciede2000(made, batch.pictures),
            "colourfulness": colourfulness(made),
        }
        if self.has_classes and output is not None:
            scores["top-5"] = _top5(output, self.labels(batch.target))
        return scores

    @abstractmethod
    def prepare(self, pictures: Tensor) -> Tensor:
        """Pictures given to `apply` → the network's input."""

    @abstractmethod
    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        """The network's output for `prepare(pictures)` → the unit pictures that `apply` writes."""


def regression_losses(name: str, output: Tensor, target: Tensor) -> Tensor:
    """Of each picture, so that no sum depends on the number of threads; "huber" is linear beyond 0.1."""
    if name == "l1":
        return F.l1_loss(output, target, reduction="none").mean((1, 2, 3))
    if name == "huber":
        return F.huber_loss(output, target, reduction="none", delta=0.1).mean((1, 2, 3)) / 0.1
    return F.mse_loss(output, target, reduction="none").mean((1, 2, 3))


def annealed(scores: Tensor, legend: Tensor, temperature: float) -> Tensor:
    """(N, M, H, W) → (N, C, H, W): the mean of `legend` (M, C) by softmax(scores / T), which is the mean of all at 1,
    the likeliest alone at 0, and in between what Zhang et al. 2016 call the annealed mean (equation 5)."""
    pixels, legend = scores.movedim(1, -1), legend.to(scores)  # as channels_last has them: no copy
    if temperature == 0:
        return legend[pixels.argmax(-1)].movedim(-1, 1)
    return ((pixels / temperature).softmax(-1) @ legend).movedim(-1, 1)


def tinted(pictures: Tensor, coloured: Tensor) -> Tensor:
    """Unit pictures with the grey of `pictures` and, as far as that leaves room, the tint of `coloured`."""
    return (grey(pictures) + coloured - grey(coloured)).clamp(0, 1)


def share(true: Tensor) -> Tensor:
    """Of each picture, (N, H, W) → (N,)."""
    return true.double().mean((1, 2))


def _top5(output: Tensor, labels: Tensor) -> Tensor:
    """The share of pixels whose label is among the five likeliest; of equal ones the first come first, as in argmax."""
    labels = labels[:, None]
    own, number = output.gather(1, labels), torch.arange(output.shape[1], device=output.device)[:, None, None]
    before = (output > own) | ((output == own) & (number < labels))
    return share(before.sum(1) < 5)
