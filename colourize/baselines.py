"""What can be had without a network: tables and interpolation, which a network has to beat to be of use.

A scorer takes a batch of examples and gives a task's scores. `baselines(task, train)`
makes the scorers of a task; tables are counted on the training pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import singledispatch

import torch
from torch import Tensor

from .colour import downscale, grey, to_unit, upscale
from .data import Images
from .examples import Batch
from .tasks import Classification, Regression, SuperResolution, Task

Scorer = Callable[[Batch], dict[str, Tensor]]
LEVELS = 256
_CHUNK = 256  # pictures at a time


@singledispatch
def baselines(task: Task, train: Images) -> dict[str, Scorer]:
    """Name → scorer, for each baseline of `task`."""
    raise NotImplementedError(f"task {task.name} has no baselines")


@baselines.register(Classification)
def _(task: Classification, train: Images) -> dict[str, Scorer]:
    counts = torch.zeros(LEVELS * task.out_channels, dtype=torch.float64)
    for pictures in _batches(train):
        cells = _levels(pictures) * task.out_channels + task.target(pictures)
        counts += torch.bincount(cells.flatten(), minlength=len(counts))
    counts = counts.view(LEVELS, task.out_channels) + 1  # add-one smoothing: no colour has probability zero
    table = (counts / counts.sum(1, keepdim=True)).log()
    return {"most frequent colour of the grey level": _outputs(task, lambda p: _look_up(table, p))}


@baselines.register(Regression)
def _(task: Regression, train: Images) -> dict[str, Scorer]:
    count = torch.zeros(LEVELS, dtype=torch.float64)
    total = torch.zeros(LEVELS, 3, dtype=torch.float64)
    for pictures in _batches(train):
        levels = _levels(pictures).flatten()
        count += torch.bincount(levels, minlength=LEVELS)
        total.index_add_(0, levels, to_unit(pictures).permute(0, 2, 3, 1).reshape(-1, 3).double())
    unseen = ((torch.arange(LEVELS) + 0.5) / LEVELS).double()[:, None]  # levels that training lacks stay grey
    table = torch.where(count[:, None] > 0, total / count[:, None].clamp(min=1), unseen)
    return {
        "the grey itself": _outputs(task, lambda p: grey(p).expand(-1, 3, -1, -1)),
        "mean colour of the grey level": _outputs(task, lambda p: _look_up(table, p)),
    }


@baselines.register(SuperResolution)
def _(task: SuperResolution, train: Images) -> dict[str, Scorer]:
    def interpolation(mode: str) -> Scorer:
        def score(batch: Batch) -> dict[str, Tensor]:
            made = upscale(downscale(batch.pictures, task.enlarges), task.enlarges, mode)
            return task.score_pictures(made, batch.target, batch.pictures)

        return score

    return {f"{mode} × {task.enlarges}": interpolation(mode) for mode in ("nearest", "bilinear")}


def _outputs(task: Task, predict: Callable[[Tensor], Tensor]) -> Scorer:
    """A scorer from a function that predicts what the network would: outputs, from pictures."""
    return lambda batch: task.score(predict(batch.pictures), batch.target, batch.pictures)


def _batches(images: Images) -> Iterator[Tensor]:
    return (images.batch(indices) for indices in torch.arange(len(images)).split(_CHUNK))


def _levels(pictures: Tensor) -> Tensor:
    return (grey(pictures)[:, 0] * LEVELS).long().clamp(0, LEVELS - 1)


def _look_up(table: Tensor, pictures: Tensor) -> Tensor:
    return table.to(pictures.device)[_levels(pictures)].permute(0, 3, 1, 2).float()
