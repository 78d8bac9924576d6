"""What the grey level alone says: a table with the best answer for each of 256 levels, counted on training pictures.

It is the baseline that a colouring network has to beat, and what one may start from (networks.LookupPrior).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .data import Images
from .tasks import Task

LEVELS = 256
_CHUNK = 256  # pictures at a time


def levels(input: Tensor) -> Tensor:
    """A colouring network's input (N, 1, H, W), in 0..1 → (N, H, W) int64, below LEVELS."""
    return (input[:, 0] * LEVELS).long().clamp(0, LEVELS - 1)


def look_up(table: Tensor, input: Tensor) -> Tensor:
    """What `table` (LEVELS, channels) has for an input, as a network's output: (N, channels, H, W), channels_last."""
    return table.to(input.device)[levels(input)].movedim(-1, 1).float()


def table(task: Task, images: Images) -> Tensor:
    """(LEVELS, out_channels) float64: log-probabilities of the classes, or the mean target where there are none.

    Probabilities are counted with add-one smoothing, so that none is zero. The mean of a level that the pictures lack
    is interpolated between those that they have.
    """
    counts = torch.zeros(LEVELS, dtype=torch.float64)
    sums = torch.zeros(LEVELS, task.out_channels, dtype=torch.float64)
    for input, target in _examples(task, images):
        level = levels(input).flatten()
        if task.has_classes:
            cells = level * task.out_channels + task.labels(target).flatten()
            sums += torch.bincount(cells, minlength=sums.numel()).view_as(sums)
        else:
            sums.index_add_(0, level, target.movedim(1, -1).flatten(0, 2).double())
        counts += torch.bincount(level, minlength=LEVELS)
    if task.has_classes:
        return ((sums + 1) / (counts[:, None] + task.out_channels)).log()
    return _filled(sums / counts[:, None].clamp(min=1), counts > 0)


def frequencies(task: Task, images: Images) -> Tensor:
    """How often each class is right, (out_channels,), as shares; soft labels count in parts."""
    total = sum(task.class_counts(target) for _, target in _examples(task, images))
    return total / total.sum()


def _examples(task: Task, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    for indices in torch.arange(len(images)).split(_CHUNK):
        pictures = images.batch(indices)
        yield task.degrade(pictures), task.target(pictures)


def _filled(rows: Tensor, known: Tensor) -> Tensor:
    """`rows` with those that are not known interpolated between their neighbours, constant at the ends."""
    at = torch.arange(len(rows), dtype=torch.float64)
    places = known.nonzero()[:, 0]
    after = torch.searchsorted(places, at.long()).clamp(max=len(places) - 1)
    before = (after - 1).clamp(min=0)
    before = torch.where(places[after] <= at, after, before)
    span = (places[after] - places[before]).clamp(min=1)
    share = ((at - places[before]) / span).clamp(0, 1)[:, None]
    return rows[places[before]] * (1 - share) + rows[places[after]] * share
