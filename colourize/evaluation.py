"""A trained network beside the baselines of its task, on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .baselines import Scorer, baselines
from .data import Split
from .examples import Examples
from .runs import Run
from .tasks import Task

HIGHER_IS_BETTER = {"loss": False, "accuracy": True, "psnr": True}


@dataclass(frozen=True)
class Evaluation:
    """Scores by predictor: "network", then the baselines. Those that give pictures alone have no loss."""

    data: str
    scores: dict[str, dict[str, float]]

    def best(self, metric: str) -> float:
        """The best value that any predictor has."""
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
            if (value > network[metric] if HIGHER_IS_BETTER[metric] else value < network[metric])
        ]


def evaluate(
    run: Run, split: Split, *, weights: str = "last", device: torch.device | str = "cpu"
) -> Evaluation:
    """Scores the run's network, with its `weights` (see `Run.load_network`), and its baselines on the validation
    pictures; tables are counted on the others."""
    network = run.load_network(weights).to(device)
    scorers = {"network": network_scorer(network, run.task), **baselines(run.task, split.train)}
    examples = Examples(split.validation, run.task, device)
    scores = {
        name: mean_scores(scorer, examples, run.settings.batch_size) for name, scorer in scorers.items()
    }
    return Evaluation(split.name, scores)


def network_scorer(network: torch.nn.Module, task: Task) -> Scorer:
    """Scores pictures by what `network` makes of them."""
    return lambda batch: task.score(network(batch.input), batch.target, batch.pictures)


@torch.inference_mode()
def mean_scores(scorer: Scorer, examples: Examples, batch_size: int) -> dict[str, float]:
    """Each score, averaged over `examples`."""
    totals: dict[str, torch.Tensor] = {}
    for indices in torch.arange(len(examples)).split(batch_size):
        for name, value in scorer(examples.batch(indices)).items():
            totals[name] = totals.get(name, 0) + value * len(indices)
    return {name: (total / len(examples)).item() for name, total in totals.items()}
