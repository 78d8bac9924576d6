"""E: what each layer makes of a picture, as pictures and in numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations import outputs
from ..colour import WHITE, grey
from ..measures import interval
from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html, table
from .results import Results
from .sentences import Measure, Score, compare

_CNN, _UNET, _LARGE = "CNN", "UNet", "super-resolution UNet"
_CHANNELS = 12  # shown of each layer
_PICTURES = 64  # that the numbers are means over
_LIKENESS = Measure("likeness to the grey picture", "{:.2f}".format)
_QUIET = Measure("share of zeros", "{:.1%}".format)


def experiment(base: Settings) -> Experiment:
    runs = {
        _CNN: base.replace(network="cnn"),
        _UNET: base,
        _LARGE: base.replace(task="superres", network="unet"),
    }
    question = (
        "How do the activations of the first layers differ from those of the later ones, the UNet's from the CNN's, "
        "and those of super-resolution from those of colourisation?"
    )
    return Experiment("E", "Intermediate activations", question, runs, _blocks)


def _blocks(results: Results) -> list[Html]:
    pictures = blocks.some_pictures(results, _PICTURES)
    found, shown = {}, []
    for name in results.of:
        run = results[name].run
        _, activations = outputs(run.load_network(), run.task.degrade(pictures))
        found[name] = {layer: _measured(images, pictures) for layer, images in activations.items()}
        strips = {"input": run.task.degrade(pictures[:1])}
        strips |= {layer: _some_channels(images[0]) for layer, images in activations.items()}
        shown += [blocks.part(f"{name}: the first validation picture"), blocks.rows_of_pictures(strips)]
    return [
        blocks.text(
            f"Each row has up to {_CHANNELS} channels of one layer, each from its least value (black) to its largest. "
            f"The numbers are means over {len(pictures)} validation pictures: likeness is the mean over a layer's "
            "channels of |r|, the correlation of the channel with the grey picture at that size."
        ),
        blocks.answers(_sentences(found)),
        table(["", "layer", _LIKENESS.name, _QUIET.name], _lines(found)),
        *shown,
    ]


def _measured(images: Tensor, pictures: Tensor) -> dict[Measure, Score]:
    """Of a layer's output, (N, C, h, w): likeness to the pictures, and the share of values that are zero."""
    images = images.double()
    small = F.adaptive_avg_pool2d(grey(pictures).double(), images.shape[2:])
    values = {_LIKENESS: _correlation(images, small).abs().mean(1), _QUIET: (images == 0).double().mean((1, 2, 3))}
    return {of: Score(value.mean().item(), *interval(value)) for of, value in values.items()}


def _correlation(images: Tensor, grey: Tensor) -> Tensor:
    """(N, C); 0 for a channel that is the same everywhere."""
    first, second = (x.flatten(2) - x.flatten(2).mean(2, keepdim=True) for x in (images, grey))
    return (first * second).sum(2) / (first.norm(dim=2) * second.norm(dim=2)).clamp(min=1e-12)


def _some_channels(image: Tensor) -> Tensor:
    """(C, h, w) → at most _CHANNELS of the channels, (·, 1, h, w), each scaled to black … white."""
    chosen = image[torch.linspace(0, len(image) - 1, min(_CHANNELS, len(image))).long(), None]
    low, high = chosen.amin((2, 3), keepdim=True), chosen.amax((2, 3), keepdim=True)
    return (chosen - low) / (high - low).clamp(min=1e-12) * WHITE


def _sentences(found: dict[str, dict[str, dict[Measure, Score]]]) -> list[str]:
    first, middle, last = "downconv1", "rfconv", "upconv2"
    pairs = [((name, first), (name, middle)) for name in found]
    pairs += [((_UNET, layer), (_CNN, layer)) for layer in (middle, last)]
    pairs += [((_LARGE, layer), (_UNET, layer)) for layer in (first, middle, last)]
    sentences = [_compared(found, _LIKENESS, *pair) for pair in pairs]
    return [*sentences, _compared(found, _QUIET, (_CNN, first), (_CNN, middle))]


def _compared(found: dict, of: Measure, one: tuple[str, str], two: tuple[str, str]) -> str:
    names = [f"{layer} of the {name}" for name, layer in (one, two)]
    return compare(of, names[0], found[one[0]][one[1]][of], names[1], found[two[0]][two[1]][of])


def _lines(found: dict[str, dict[str, dict[Measure, Score]]]) -> list[tuple[str, ...]]:
    def written(of: Measure, score: Score) -> str:
        return f"{of.write(score.value)} ± {of.write((score.high - score.low) / 2)}"

    return [
        (name, layer, *(written(of, score) for of, score in scores.items()))
        for name, layers in found.items()
        for layer, scores in layers.items()
    ]
