"""A trained network beside the baselines of its task, on the same pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .baselines import Prediction, Predictor, baselines
from .data import Split
from .examples import Batch, Examples
from .measures import colourfulness, interval
from .runs import Run
from .tasks import Task

HIGHER_IS_BETTER = {
    "loss": False, "accuracy": True, "top-5": True, "psnr": True, "luma psnr": True, "ssim": True, "ciede2000": False,
}  # fmt: skip
TRUTH = "the pictures themselves"


@dataclass(frozen=True)
class Evaluation:
    """Scores by predictor: "network", the baselines, and what can be said of the pictures themselves.

    Those that give pictures alone have no loss. `intervals` holds the 95 % bootstrap interval of each score, over
    the choice of pictures.
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
            {name: {m: interval(v) for m, v in scores.items()} for name, scores in known.items()},
        )

    def best(self, metric: str) -> float | None:
        """The best value that any predictor has; None where more is not better or worse."""
        if metric not in HIGHER_IS_BETTER:
            return None
        values = [scores[metric] for scores in self.scores.values() if metric in scores]
        return max(values) if HIGHER_IS_BETTER[metric] else min(values)

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
    run: Run, split: Split, *, weights: str = "last", device: torch.device | str = "cpu"
) -> Evaluation:
    """Scores the run's network, with its `weights` (see `Run.load_network`), and its baselines on the validation
    pictures; tables are counted on the others."""
    network = run.load_network(weights).to(device)
    predictors = {"network": network_predictor(network), **baselines(run.task, split.train)}
    examples = Examples(split.validation, run.task, device)
    found = {
        name: picture_scores(predictor, run.task, examples, run.settings.batch_size, thorough=True)
        for name, predictor in predictors.items()
    }
    if "colourfulness" in found["network"]:
        batches = _batches(examples, run.settings.batch_size)
        found[TRUTH] = {"colourfulness": torch.cat([colourfulness(batch.pictures).cpu() for batch in batches])}
    return Evaluation.of(split.name, found)


def network_predictor(network: torch.nn.Module) -> Predictor:
    """Predicts by what `network` makes of a batch."""
    return lambda batch: Prediction(output=network(batch.input))


@torch.inference_mode()
def picture_scores(
    predictor: Predictor, task: Task, examples: Examples, batch_size: int, *, thorough: bool = False
) -> dict[str, Tensor]:
    """Each score of each picture, float64 (N,) on the CPU; with `thorough` also what takes longer to measure."""
    parts: dict[str, list[Tensor]] = {}
    for batch in _batches(examples, batch_size):
        output, made = predictor(batch)
        scores = task.score_pictures(made, batch) if output is None else task.score(output, batch)
        if thorough:
            made = task.decode(output, batch.input) if made is None else made
            scores |= task.measure(made, batch, output)
        for name, values in scores.items():
            parts.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def mean_scores(predictor: Predictor, task: Task, examples: Examples, batch_size: int) -> dict[str, float]:
    """Each score, averaged over the pictures."""
    found = picture_scores(predictor, task, examples, batch_size)
    return {name: values.mean().item() for name, values in found.items()}


def _batches(examples: Examples, batch_size: int) -> Iterator[Batch]:
    return (examples.batch(indices) for indices in torch.arange(len(examples)).split(batch_size))
