"""Tasks in CIELAB: the input is the lightness, which the result keeps, and a, b is all that there is to find."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import abgrid
from ..lab import from_lab, lightness, to_lab
from .base import Task, annealed, regression_losses

_LIGHT, _TINT = 100.0, 110.0  # what L, and a and b, are divided by


class _LabColouring(Task):
    """Input: L / 100. What `apply` writes has the picture's own L."""

    in_channels = 1
    reads = "L of CIELAB (sRGB, D65), divided by 100"
    keeps_grey = True

    def degrade(self, pictures: Tensor) -> Tensor:
        return lightness(pictures) / _LIGHT

    def prepare(self, pictures: Tensor) -> Tensor:
        return self.degrade(pictures)

    def tint(self, output: Tensor) -> Tensor:
        """The network's output → a, b."""
        raise NotImplementedError

    def decode(self, output: Tensor, input: Tensor) -> Tensor:
        return from_lab(torch.cat((input * _LIGHT, self.tint(output)), 1))

    def finish(self, output: Tensor, pictures: Tensor) -> Tensor:
        return self.decode(output, self.degrade(pictures))


class LabRegression(_LabColouring):
    """L → a, b."""

    name = "lab-regression"
    loss_names = ("huber", "mse")
    out_channels = 2
    gives = "a, b of CIELAB, divided by 110"

    def target(self, pictures: Tensor) -> Tensor:
        return to_lab(pictures)[:, 1:] / _TINT

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        return regression_losses(self.loss_name, output, target)

    def colourless(self, input: Tensor) -> Tensor:
        return torch.zeros_like(input).expand(-1, 2, -1, -1)

    def tint(self, output: Tensor) -> Tensor:
        return output * _TINT


class LabClassification(_LabColouring):
    """L → one of the 313 classes of the a, b plane (Zhang et al. 2016; see `abgrid`)."""

    name = "lab-classification"
    loss_names = ("rebalanced", "cross-entropy")
    has_classes = True
    gives = "a score for each class of the palette (a, b of CIELAB); softmax(score / temperature) · palette blends them"
    temperature = 0.38  # the paper's

    @property
    def out_channels(self) -> int:
        return len(abgrid.classes())

    @property
    def legend(self) -> Tensor:
        return abgrid.classes()

    def target(self, pictures: Tensor) -> Tensor:
        return abgrid.codes(to_lab(pictures)[:, 1:])

    def labels(self, target: Tensor) -> Tensor:
        return abgrid.labels(target)

    def class_counts(self, target: Tensor) -> Tensor:
        classes, shares = abgrid.soft(target)
        return torch.bincount(classes.flatten(), shares.flatten().double(), minlength=self.out_channels)

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        classes, shares = (part.movedim(1, -1) for part in abgrid.soft(target))
        scores = output.movedim(1, -1)  # as channels_last has them: no copy of 313 channels, forward or backward
        losses = scores.logsumexp(-1) - (scores.gather(-1, classes) * shares).sum(-1)
        if (weights := self.class_weights(output.device)) is not None:
            losses = losses * weights[classes[..., 0]]
        return losses.mean((1, 2))

    def tint(self, output: Tensor) -> Tensor:
        return annealed(output, self.legend, self.temperature)
