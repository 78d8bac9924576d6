"""F4: pictures larger than those of the training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from ..apply import colour_reduction, render
from ..data import photos
from ..measures import ciede2000, colourfulness, interval, psnr
from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html, image, tag
from .results import Results
from .sentences import Score, compare, measure

_UNET = "UNet"
_NAMES = "astronaut", "cat", "coffee", "rocket"
_TILE = 64
_WIDTH = 300  # pixels, on the page
_GREY, _FULL, _SMALL = "grey", "coloured at full size", "coloured at reduced size"


def experiment(base: Settings) -> Experiment:
    question = f"How can networks trained at {base.size} × {base.size} colour larger pictures?"
    return Experiment("F4", "Larger pictures", question, {_UNET: base}, _blocks)


def _blocks(results: Results) -> list[Html]:
    run = results[_UNET].run
    network, task = run.load_network(), run.task
    truth = [photos.photograph(name) for name in _NAMES]
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        _GREY: lambda rgb: np.repeat(rgb.mean(2, keepdims=True).round().astype(np.uint8), 3, 2),
        _FULL: lambda rgb: render(network, task, rgb),
        _SMALL: lambda rgb: render(network, task, rgb, reduce=colour_reduction(rgb)),
    }
    made = {name: [way(rgb) for rgb in truth] for name, way in ways.items()}
    whole = max(max(rgb.shape[:2]) for rgb in truth)
    whole += -whole % network.alignment
    seam = max(
        _difference(render(network, task, rgb, tile=_TILE), render(network, task, rgb, tile=whole)) for rgb in truth
    )
    rows = {name: _scores(pictures, truth) for name, pictures in made.items()}
    of = measure("ciede2000")
    sentences = [
        seams(seam, len(truth)),
        *(compare(of, name, rows[name]["ciede2000"], _GREY, rows[_GREY]["ciede2000"]) for name in (_FULL, _SMALL)),
        compare(of, _SMALL, rows[_SMALL]["ciede2000"], _FULL, rows[_FULL]["ciede2000"]),
    ]
    sizes = ", ".join(f"{name} {rgb.shape[1]} × {rgb.shape[0]}" for name, rgb in zip(_NAMES, truth, strict=True))
    seen = " The network has been trained on crops of them." if run.settings.data == "photos" else ""
    return [
        blocks.text(
            f"The networks are convolutions, so they take any size; sides are padded to multiples of "
            f"{network.alignment} and cropped. The photographs that scikit-image ships: {sizes}.{seen}"
        ),
        blocks.answers(sentences),
        blocks.score_table(rows, ("ciede2000", "psnr", "colourfulness"), task),
        *(_gallery(name, rgb, [pictures[at] for pictures in made.values()]) for at, (name, rgb) in
          enumerate(zip(_NAMES, truth, strict=True))),
        blocks.theory(
            "At full size, what the network sees around a pixel is a patch of cloth or sky with nothing to recognise. "
            "So a photograph is coloured at a fraction of its size and its own grey put back at full size."
        ),
    ]  # fmt: skip


def seams(difference: int, count: int) -> str:
    """Whether a picture made tile by tile is the one made in one go."""
    what = f"tiles of {_TILE} × {_TILE} and in one go"
    if difference == 0:
        return f"Made in {what}, all {count} photographs are equal in every pixel: there are no seams."
    return f"Made in {what}, the photographs differ by at most {difference} of 255 levels."


def _difference(one: np.ndarray, two: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - two).max())


def _scores(made: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, Score]:
    pairs = [[torch.tensor(rgb).permute(2, 0, 1)[None] for rgb in pair] for pair in zip(made, truth, strict=True)]
    values = {
        "ciede2000": torch.cat([ciede2000(*pair) for pair in pairs]),
        "psnr": torch.cat([psnr(*pair) for pair in pairs]),
        "colourfulness": torch.cat([colourfulness(picture) for picture, _ in pairs]),
    }
    return {metric: Score(value.mean().item(), *interval(value)) for metric, value in values.items()}


def _gallery(name: str, truth: np.ndarray, made: list[np.ndarray]) -> Html:
    parts = []
    for way, rgb in zip((_GREY, _FULL, _SMALL, "truth"), (*made, truth), strict=True):
        picture = Image.fromarray(rgb)
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
        parts.append(tag("figure", image(picture, f"{name}, {way}", class_="photo"), tag("figcaption", way)))
    return tag("div", *parts, class_="photos")
