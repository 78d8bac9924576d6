"""B: colours as classes, beside the regression."""

from __future__ import annotations

from ..evaluation import TRUTH
from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html
from .results import Results
from .sentences import against, compare, measure

_CNN, _REGRESSION = "CNN, classes", "RegressionCNN"


def experiment(base: Settings) -> Experiment:
    runs = {
        _CNN: base.replace(network="cnn"),
        _REGRESSION: base.replace(task="regression", network="regression-cnn", palette=None),
    }
    question = (
        f"Colour each pixel with one of {base.colours} colours, by the same CNN built on MyConv2d with cross-entropy. "
        "How do the results compare with the regression?"
    )
    return Experiment("B", "Colourisation as classification", question, runs, _blocks)


def _blocks(results: Results) -> list[Html]:
    classes, regression = results[_CNN], results[_REGRESSION]
    task = classes.run.task
    rows = blocks.network_rows(results, _CNN)
    rows[_REGRESSION] = {
        metric: score for metric, score in blocks.network_rows(results, _REGRESSION)[_REGRESSION].items()
        if metric != "loss"  # another loss
    }  # fmt: skip
    rows |= blocks.baseline_rows(classes)
    sentences = [
        *(
            against(measure(metric), "the CNN", classes.score(metric), classes.baselines(metric))
            for metric in ("accuracy", "loss")
        ),
        *(
            compare(measure(metric), _CNN, rows[_CNN][metric], _REGRESSION, rows[_REGRESSION][metric])
            for metric in ("psnr", "ciede2000", "colourfulness")
        ),
        compare(measure("colourfulness"), _CNN, rows[_CNN]["colourfulness"], TRUTH, rows[TRUTH]["colourfulness"]),
    ]
    pictures = blocks.some_pictures(results)
    shown = {
        "input": task.degrade(pictures),
        _CNN: blocks.made(classes, pictures),
        _REGRESSION: blocks.made(regression, pictures),
        f"{len(task.palette)} colours": task.palette.colours(task.target(pictures)),
        "truth": pictures,
    }
    return [
        blocks.answers(sentences),
        blocks.curves(results, "loss", "validation_accuracy", names=[_CNN]),
        blocks.score_table(rows, blocks.SCORES, task),
        blocks.palette_limit(results, _CNN),
        blocks.rows_of_pictures(shown),
    ]
