"""A: colours by regression, the number of epochs, and what is wrong with distances in RGB."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from .. import summary
from ..evaluation import TRUTH
from ..measures import ciede2000
from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html
from .results import Results
from .sentences import against, compare, course, measure, steps

_RGB, _LAB, _CLASSES = "RGB", "CIELAB", "classes"
_PICTURE_SCORES = "psnr", "ssim", "ciede2000", "colourfulness"
_STEP = 24 / 256  # the length of a step in RGB, in unit scale
_PAIRS = 8


def experiment(base: Settings) -> Experiment:
    regression = base.replace(task="regression", network="regression-cnn", palette=None)
    epochs = sorted({max(1, round(base.epochs * share)) for share in (0.4, 1, 2)})
    runs = {_epochs(count): regression.replace(epochs=count) for count in epochs}
    runs |= {
        _RGB: regression,
        _LAB: regression.replace(task="lab-regression"),
        _CLASSES: base.replace(network="cnn"),
    }
    question = (
        "Describe RegressionCNN and train it. What changes with the number of epochs? Why is a distance in RGB a poor "
        "measure of colour, and how does classification help?"
    )
    return Experiment("A", "Colourisation as regression", question, runs, lambda results: _blocks(results, epochs))


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _blocks(results: Results, epochs: list[int]) -> list[Html]:
    names = [_epochs(count) for count in epochs]
    return [*_network(results), *_training(results, names), *_colour_spaces(results), *_classes(results)]


def _network(results: Results) -> list[Html]:
    run = results[_RGB].run
    layers = summary.layers(run.create_network(), run.settings.size)
    sizes = {"×".join(map(str, layer.kernel)) for layer in layers}
    filters = ", ".join(str(layer.filters) for layer in layers)
    count = f"RegressionCNN has {len(layers)} convolutions, of {' and '.join(sorted(sizes))}, with {filters} filters."
    return [blocks.part("A1. The network"), blocks.answers([count]), blocks.layer_table(layers)]


def _training(results: Results, names: list[str]) -> list[Html]:
    regression = results[_RGB]
    rows = blocks.network_rows(results, *names) | blocks.baseline_rows(regression)
    loss, of = results.scores("loss", *names), measure("loss")
    last = {name: results[name].metrics[-1]["train_loss"] for name in names}
    pictures = blocks.some_pictures(results)
    shown = {"input": regression.run.task.degrade(pictures)}
    shown |= {name: blocks.made(results[name], pictures) for name in names} | {"truth": pictures}
    sentences = [
        f"In the given setting RegressionCNN is trained for {_epochs(regression.run.settings.epochs)}.",
        course("training loss", last),
        steps(of, loss),
        against(of, f"the network after {names[-1]}", loss[names[-1]], regression.baselines("loss")),
    ]
    return [
        blocks.part("A2, A3. Training, and more or fewer epochs"),
        blocks.answers(sentences),
        blocks.curves(results, "loss", "validation_psnr", names=names),
        blocks.score_table(rows, ("loss", *_PICTURE_SCORES), regression.run.task),
        blocks.rows_of_pictures(shown),
    ]


def _colour_spaces(results: Results) -> list[Html]:
    rgb, lab = results[_RGB], results[_LAB]
    kept = f"{_RGB}, the picture's grey put back"
    rows = {
        _RGB: blocks.network_rows(results, _RGB)[_RGB],
        kept: results.measured(_RGB, lambda network, task, batch: task.finish(network(batch.input), batch.pictures)),
        _LAB: blocks.network_rows(results, _LAB)[_LAB],
    }
    baselines = {f"{_LAB}: {name}": scores for name, scores in blocks.baseline_rows(lab, truth=False).items()}
    baselines |= blocks.baseline_rows(rgb)
    spread, pairs = _unequal_pairs()
    sentences = [
        f"Steps of one length in RGB, {_STEP * 256:.0f} of 256, are CIEDE2000 differences from {spread[0]:.1f} to "
        f"{spread[1]:.1f}, depending on where in the cube and in which direction: {spread[1] / spread[0]:.0f} times.",
        *(
            compare(measure(metric), _LAB, rows[_LAB][metric], other, rows[other][metric])
            for metric in ("ciede2000", "psnr")
            for other in (_RGB, kept)
        ),
    ]
    return [
        blocks.part("A4. RGB and CIELAB"),
        blocks.answers(sentences),
        blocks.rows_of_pictures(pairs, "Pairs of colours, all equally far apart in RGB."),
        blocks.score_table(rows | baselines, _PICTURE_SCORES, rgb.run.task),
        blocks.theory(
            "The network for CIELAB is given the lightness and keeps it, and has only a and b to find; the one for RGB "
            "has to make the whole picture again, so that its grey put back is the like for like."
        ),
    ]


def _unequal_pairs() -> tuple[tuple[float, float], dict[str, Tensor]]:
    """The least and the largest ΔE₀₀ of steps of length _STEP, and pairs of colours that have it."""
    levels = np.linspace(0.2, 0.8, 4)
    directions = np.array([d for d in itertools.product((-1, 0, 1), repeat=3) if any(d)], float)
    directions *= _STEP / np.linalg.norm(directions, axis=1, keepdims=True)
    starts = np.array(list(itertools.product(levels, repeat=3)))
    first = torch.from_numpy(np.repeat(starts, len(directions), 0))[:, :, None, None]
    second = first + torch.from_numpy(np.tile(directions, (len(starts), 1)))[:, :, None, None]
    difference = ciede2000(first, second)
    order = difference.argsort()
    chosen = {"least ΔE₀₀": order[:_PAIRS], "largest ΔE₀₀": order[-_PAIRS:]}
    pairs = {
        name: torch.cat([side[at].expand(-1, -1, 16, 12) for side in (first, second)], 3).float()
        for name, at in chosen.items()
    }
    return (difference.min().item(), difference.max().item()), pairs


def _classes(results: Results) -> list[Html]:
    mean, classes, of = results[_RGB], results[_CLASSES], measure("colourfulness")
    truth = mean.score("colourfulness", TRUTH)
    scores = {
        "regression": mean.score("colourfulness"),
        "classification": classes.score("colourfulness"),
    }
    sentences = [compare(of, name, score, TRUTH, truth) for name, score in scores.items()]
    sentences.append(compare(of, "classification", scores["classification"], "regression", scores["regression"]))
    return [
        blocks.part("A5. Why classes"),
        blocks.answers(sentences),
        blocks.theory(
            "Where several colours are possible, the squared error is least for their mean, which may be like none of "
            "them; a distribution over classes keeps them apart, and the loss asks for no distance between colours."
        ),
    ]
