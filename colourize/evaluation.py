"""A trained network beside the baselines of its task, on the same pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import pictures
from .baselines import Prediction, Predictor, baselines
from .data import Split
from .distributed import ALONE, World
from .examples import Examples
from .measures import colourfulness, interval
from .runs import Run
from .tasks import Batch, Task

HIGHER_IS_BETTER = {
    "loss": False, "accuracy": True, "top-5": True, "psnr": True, "luma psnr": True, "ssim": True, "ciede2000": False,
}  # fmt: skip
TRUTH = "the pictures themselves"


@dataclass(frozen=True)
class Evaluation:
    """Scores by predictor: "network", the baselines, and what can be said of the pictures themselves.

    Those that give pictures alone have no loss. `intervals` holds the 95 % bootstrap interval of each score, over
    the choice of pictures; of a single one there is none.
    """

    data: str
    scores: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]

    @classmethod
    def of(cls, data: str, found: dict[str, dict[str, Tensor]]) -> Evaluation:
        """From the scores of every picture; a metric that some of them are too small for is left out."""
        known = {
            name: {metric: values for metric, values in scores.items() if not values.isnan().any()}
            for name, scores in found.items()
        }
        return cls(
            data,
            {name: {m: v.mean().item() for m, v in scores.items()} for name, scores in known.items()},
            {name: {m: interval(v) for m, v in scores.items() if len(v) > 1} for name, scores in known.items()},
        )

    def best(self, metric: str) -> float | None:
        """The best value that any predictor has; None where more is not better or worse."""
        if metric not in HIGHER_IS_BETTER:
            return None
        values = [scores[metric] for scores in self.scores.values() if metric in scores]
        return max(values) if HIGHER_IS_BETTER[metric] else min(values)

    @property
    def document(self) -> dict[str, Any]:
        """All of it in types of JSON."""
        defeats = [{"score": score, "baseline": name} for score, name in self.defeats]
        return {"data": self.data, "scores": self.scores, "intervals": self.intervals, "loses_to": defeats}

    @property
    def defeats(self) -> list[tuple[str, str]]:
        """(metric, baseline) for each comparison that the network loses."""
        network = self.scores["network"]
        return [
            (metric, name)
            for name, scores in self.scores.items()
            for metric, value in scores.items()
            if metric in HIGHER_IS_BETTER
            and (value > network[metric] if HIGHER_IS_BETTER[metric] else value < network[metric])
        ]


def evaluate(
    run: Run,
    split: Split | None,
    *,
    weights: str = "last",
    device: torch.device | str = "cpu",
    whole: Sequence[str | os.PathLike[str]] = (),
) -> Evaluation:
    """Scores the run's network, with its `weights` (see `Run.load_network`), and its baselines on the validation
    pictures; tables are counted on the others.

    With `whole`, these picture files take the place of the validation pictures, each as large as it is, less what is
    left beyond a multiple of `task.size_multiple`. Raises UserError for one that cannot be read. A task that enlarges
    then needs no `split`: its baselines learn nothing.
    """
    network, task = run.load_network(weights).to(device), run.task
    batches, name = _validation(run, split, device) if not whole else _whole(task, whole, device)
    predictors = {"network": network_predictor(network), **baselines(task, split and split.train)}
    found = {
        predictor: picture_scores(predict, task, batches(), thorough=True) for predictor, predict in predictors.items()
    }
    if "colourfulness" in found["network"]:
        found[TRUTH] = {"colourfulness": torch.cat([colourfulness(batch.pictures).cpu() for batch in batches()])}
    return Evaluation.of(name, found)


def _validation(run: Run, split: Split, device: torch.device | str) -> tuple[Callable[[], Iterator[Batch]], str]:
    examples = Examples(split.validation, run.task, device)
    return lambda: examples.batches(run.settings.batch_size), f"the validation pictures of {split.name}"


def _whole(
    task: Task, paths: Sequence[str | os.PathLike[str]], device: torch.device | str
) -> tuple[Callable[[], Iterator[Batch]], str]:
    def batches() -> Iterator[Batch]:
        for path in paths:
            picture = pictures.cut(pictures.read(path).rgb, task.size_multiple, path).to(device)
            yield Batch(task.degrade(picture), task.target(picture), picture)

    return batches, f"{len(paths)} whole picture{'s' * (len(paths) > 1)}"


def network_predictor(network: torch.nn.Module) -> Predictor:
    """Predicts by what `network` makes of a batch."""
    return lambda batch: Prediction(output=network(batch.input))


@torch.inference_mode()
def picture_scores(
    predictor: Predictor, task: Task, batches: Iterable[Batch], *, thorough: bool = False
) -> dict[str, Tensor]:
    """Each score of each picture, float64 (N,) on the CPU; with `thorough` also what takes longer to measure."""
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        output, made = predictor(batch)
        scores = task.score_pictures(made, batch) if output is None else task.score(output, batch)
        if thorough:
            made = task.decode(output, batch.input) if made is None else made
            scores |= task.measure(made, batch, output)
        for name, values in scores.items():
            parts.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def mean_scores(
    predictor: Predictor, task: Task, examples: Examples, batch_size: int, world: World = ALONE
) -> dict[str, float]:
    """Each score, averaged over the pictures, of which every process scores its share."""
    own = world.share(torch.arange(len(examples)))
    batches = (examples.batch(indices) for indices in own.split(batch_size) if len(indices))
    found = [scores for scores in world.gathered(picture_scores(predictor, task, batches)) if scores]
    return {name: torch.cat([scores[name] for scores in found]).mean().item() for name in found[0]}
