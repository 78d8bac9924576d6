"""F3: what the measures say of the same pictures, and whether they say the same."""

from __future__ import annotations

import itertools

from ..evaluation import TRUTH
from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html
from .results import Results
from .sentences import agreement, measure, ranking

_METRICS = "psnr", "ssim", "ciede2000"
_RGB, _LAB, _CNN, _UNET = "regression, RGB", "regression, CIELAB", "classes, CNN", "classes, UNet"
_RARE = "classes, rare ones raised, UNet"


def experiment(base: Settings) -> Experiment:
    regression = base.replace(task="regression", network="regression-cnn", palette=None)
    runs = {
        _RGB: regression,
        _LAB: regression.replace(task="lab-regression"),
        _CNN: base.replace(network="cnn"),
        _UNET: base,
        _RARE: base.replace(loss="rebalanced"),
    }
    question = (
        "Measures of pixels correlate poorly with what people see. How could evaluation come nearer to it? PSNR, SSIM, "
        "ΔE₀₀ and colourfulness of the same pictures, side by side."
    )
    return Experiment("F3", "Measures and people", question, runs, _blocks)


def _blocks(results: Results) -> list[Html]:
    rows = blocks.network_rows(results) | blocks.baseline_rows(results[_UNET])
    compared = {name: scores for name, scores in rows.items() if name != TRUTH}
    of = {metric: measure(metric) for metric in _METRICS}
    scores = {metric: {name: row[metric] for name, row in compared.items()} for metric in _METRICS}
    sentences = [ranking(of[metric], scores[metric]) for metric in _METRICS]
    sentences += [
        agreement(compared, of[one], of[two], (one, two)) for one, two in itertools.combinations(_METRICS, 2)
    ]
    truth = rows[TRUTH]["colourfulness"].value
    colourfulness = {name: row["colourfulness"].value for name, row in compared.items()}
    near = min(colourfulness, key=lambda name: abs(colourfulness[name] - truth))
    sentences.append(
        f"Nearest to the colourfulness of {TRUTH} ({truth:.1f}) is that of {near} ({colourfulness[near]:.1f})."
    )
    pictures = blocks.some_pictures(results)
    shown = {"input": results[_UNET].run.task.degrade(pictures)}
    shown |= {name: blocks.made(results[name], pictures) for name in results.of} | {"truth": pictures}
    return [
        blocks.answers(sentences),
        blocks.score_table(rows, (*_METRICS, "colourfulness"), results[_UNET].run.task),
        blocks.rows_of_pictures(shown, "Which row would you choose? Which do the measures?"),
        blocks.theory(
            "Nearer to people:",
            "structure (SSIM) and differences in a uniform colour space (ΔE₀₀) rather than squared errors;",
            "distances between the features of a network trained to recognise things (Johnson et al. 2016);",
            "asking them: two pictures, which is real? (Zhang et al. 2016).",
        ),
    ]
