"""What can be had without a network: tables and interpolation, which a network has to beat to be of use.

A predictor takes a batch of examples and gives what a network would, or the pictures themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from . import lookup
from .colour import UPSCALE_MODES, downscale, grey, upscale
from .data import Images
from .tasks import Batch, Task


class Prediction(NamedTuple):
    """A network's output, or unit pictures where there is none."""

    output: Tensor | None = None
    made: Tensor | None = None


Predictor = Callable[[Batch], Prediction]


def baselines(task: Task, train: Images | None) -> dict[str, Predictor]:
    """Name → predictor, for each baseline of `task`; tables are counted on the training pictures, which a task that
    enlarges does not need."""
    if task.enlarges > 1:
        return {f"{mode} × {task.enlarges}": _interpolation(task, mode) for mode in UPSCALE_MODES}
    table = lookup.table(task, train)
    best = "most frequent colour" if task.has_classes else "mean colour"

    def colourless(batch: Batch) -> Prediction:
        if task.has_classes:
            return Prediction(made=grey(batch.pictures).expand(-1, 3, -1, -1))
        return Prediction(task.colourless(batch.input))

    return {
        "the grey itself": colourless,
        f"{best} of the grey level": lambda batch: Prediction(lookup.look_up(table, batch.input)),
    }


def _interpolation(task: Task, mode: str) -> Predictor:
    def predict(batch: Batch) -> Prediction:
        small = batch.input if task.network_enlarges else downscale(batch.pictures, task.enlarges)
        return Prediction(made=upscale(small, task.enlarges, mode))

    return predict
