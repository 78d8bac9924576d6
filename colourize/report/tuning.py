"""F1: five hyper-parameters of the UNet, each changed alone."""

from __future__ import annotations

from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html
from .results import Results
from .sentences import best, differ, measure, ranking

_GIVEN = "as given"


def changes(base: Settings) -> dict[str, dict[str, int | float | str]]:
    """Five settings, with one other value or two each."""
    other = "constant" if base.schedule != "constant" else "one-cycle"
    return {
        f"{name} {value:g}" if not isinstance(value, str) else f"{name} {value}": {setting: value}
        for setting, name, values in (
            ("lr", "learning rate", (base.lr / 3, base.lr * 3)),
            ("schedule", "schedule", (other,)),
            ("filters", "filters", (max(1, base.filters // 2), base.filters * 2)),
            ("kernel_size", "filter size", (base.kernel_size + 2,)),
            ("bottleneck", "bottleneck", (3,)),
        )
        for value in values
    }


def experiment(base: Settings) -> Experiment:
    runs = {_GIVEN: base} | {name: base.replace(**change) for name, change in changes(base).items()}
    question = "Which hyper-parameters could be tuned, beside epochs and batch size? Five, each changed alone."
    return Experiment("F1", "Hyper-parameters", question, runs, _blocks)


def _blocks(results: Results) -> list[Html]:
    given = results[_GIVEN]
    loss, of = results.scores("loss"), measure("loss")
    top = best(of, loss)
    shown = top != _GIVEN and differ(loss[top], loss[_GIVEN])
    sentences = [
        ranking(of, loss),
        ranking(measure("accuracy"), results.scores("accuracy")),
        f"So, by validation loss, “{top}” is shown to be better than the given setting."
        if shown
        else "So, by validation loss, nothing here is shown to be better than the given setting.",
    ]
    return [
        blocks.text(
            "Five: learning rate, its schedule, number of filters, their size, channels of the bottleneck. "
            f"Given: learning rate {given.run.settings.lr:g}, {given.run.settings.schedule}, "
            f"{given.run.settings.filters} filters of {given.run.settings.kernel_size} × "
            f"{given.run.settings.kernel_size}, a bottleneck of "
            f"{given.run.settings.bottleneck or len(given.run.task.palette)} channels."
        ),
        blocks.answers(sentences),
        blocks.score_table(
            blocks.network_rows(results) | blocks.baseline_rows(given, truth=False), blocks.SCORES, given.run.task
        ),
    ]
