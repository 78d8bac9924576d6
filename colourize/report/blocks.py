"""What sections are made of: paragraphs, tables of scores, curves, rows of small pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import tables
from ..colour import to_uint8
from ..evaluation import HIGHER_IS_BETTER, TRUTH
from ..summary import Layer
from ..tasks import Task
from . import charts
from .html import Html, image, join, table, tag
from .results import Result, Results
from .sentences import Score

SCORES = "loss", "accuracy", "top-5", "psnr", "luma psnr", "ssim", "ciede2000", "colourfulness"
SHOWN = 8  # pictures in a row
_GAP = 1 / 16  # of a picture's width, between two
Rows = Mapping[str, Mapping[str, Score]]


def text(words: str) -> Html:
    return tag("p", words)


def part(title: str) -> Html:
    return tag("h3", title)


def answers(sentences: Iterable[str]) -> Html:
    """The measured answer: sentences made from numbers (see `sentences`)."""
    return tag("div", *(tag("p", sentence) for sentence in sentences), class_="answer")


def theory(words: str, *points: str) -> Html:
    """What is said on grounds other than the measurements of this page."""
    return tag("div", tag("p", words), tag("ul", *(tag("li", point) for point in points)), class_="theory")


def network_rows(results: Results, *names: str) -> dict[str, dict[str, Score]]:
    """All scores of the networks of these runs, or of all."""
    return {name: _all_scores(results[name], "network") for name in names or results.of}


def baseline_rows(result: Result, *, truth: bool = True) -> dict[str, dict[str, Score]]:
    """All scores of what needs no network, and what can be said of the pictures themselves."""
    names = [*result.baseline_names, *([TRUTH] if truth and TRUTH in result.evaluation.scores else [])]
    return {name: _all_scores(result, name) for name in names}


def _all_scores(result: Result, predictor: str) -> dict[str, Score]:
    return {metric: result.score(metric, predictor) for metric in result.evaluation.scores[predictor]}


def score_table(rows: Rows, metrics: Iterable[str], task: Task, caption: str | None = None) -> Html:
    """Predictors by those of `metrics` that there are, each ± half of its 95 % interval; a column's best is bold."""
    shown = [metric for metric in metrics if any(metric in scores for scores in rows.values())]
    arrows = {True: "\u00a0↑", False: "\u00a0↓", None: ""}
    header = [tables.label(metric, task) + arrows[HIGHER_IS_BETTER.get(metric)] for metric in shown]
    best = {metric: _best(metric, rows) for metric in shown}
    lines = [[name, *(_cell(metric, scores, best[metric]) for metric in shown)] for name, scores in rows.items()]
    return table(["", *header], lines, caption)


def _best(metric: str, rows: Rows) -> float | None:
    if metric not in HIGHER_IS_BETTER:
        return None
    values = [scores[metric].value for scores in rows.values() if metric in scores]
    return max(values) if HIGHER_IS_BETTER[metric] else min(values)


def _cell(metric: str, scores: Mapping[str, Score], best: float | None) -> Html:
    if metric not in scores:
        return Html("–")
    score = scores[metric]
    value = tables.written(metric, score.value)
    half = (score.high - score.low) / 2
    spread = f"{half:.2g}" if metric == "loss" else tables.written(metric, half)
    value = tag("strong", value) if score.value == best else value
    return join([value, " ", tag("small", f"± {spread}")])


def layer_table(layers: Iterable[Layer]) -> Html:
    """Layer by layer, with totals."""
    layers = list(layers)
    rows = [
        (
            row.name,
            row.operations,
            "×".join(map(str, row.kernel)),
            f"{row.channels} → {row.filters}",
            "×".join(map(str, row.output)),
            f"{row.parameters:,}",
            f"{row.flops / 1e6:,.2f}",
        )
        for row in layers
    ]
    total = f"{sum(row.parameters for row in layers):,}", f"{sum(row.flops for row in layers) / 1e6:,.2f}"
    header = ["layer", "operations", "filter size", "filters", "output", "parameters", "MFLOPs"]
    return table(header, [*rows, ("total", "", "", "", "", *total)])


def palette_limit(results: Results, name: str) -> Html:
    """What the best choice among the colours of a run's palette would come to."""
    limit = results.measured(name, lambda network, task, batch: task.palette.colours(batch.target))
    psnr, difference = (tables.written(metric, limit[metric].value) for metric in ("psnr", "ciede2000"))
    return text(
        f"The networks answer with one of {len(results[name].run.task.palette)} colours a pixel. With the nearest one "
        f"everywhere PSNR would be {psnr}, the most that these colours allow, and ΔE₀₀ {difference}."
    )


def curves(results: Results, *panels: str, names: Iterable[str] = ()) -> Html:
    """Learning curves of these runs, or of all."""
    chosen = {name: results[name] for name in names or results.of}
    alt = f"Learning curves of {', '.join(chosen)}; the last values are in the table"
    note = tag("figcaption", "Dotted: training loss. Solid: validation.")
    return tag("figure", image(charts.curves(chosen, *panels), alt, class_="chart"), note)


def some_pictures(results: Results, count: int = SHOWN) -> Tensor:
    """Validation pictures, spread evenly: uint8 (count, 3, H, W)."""
    images = results.split.validation
    return images.batch(torch.linspace(0, len(images) - 1, min(count, len(images))).long())


@torch.inference_mode()
def made(result: Result, pictures: Tensor) -> Tensor:
    """What the network of a run makes of pictures, as it is evaluated."""
    task = result.run.task
    input = task.degrade(pictures)
    return task.decode(result.run.load_network()(input), input)


def rows_of_pictures(rows: Mapping[str, Tensor], note: str = "") -> Html:
    """Rows of pictures (N, 3 or 1, H, W), each under its name."""
    most = max(map(len, rows.values()))
    parts = [
        join([tag("span", name), image(_strip(pictures, most), f"{name}: {len(pictures)} pictures in a row")])
        for name, pictures in rows.items()
    ]
    caption = [tag("figcaption", note)] if note else []
    return tag("figure", *(tag("div", row) for row in parts), *caption, class_="rows")


def _strip(pictures: Tensor, room: int) -> Image.Image:
    """Side by side, with transparent gaps, and as wide as `room` of them."""
    array = to_uint8(pictures.detach().cpu()).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    _, height, width, _ = array.shape
    gap = max(1, round(width * _GAP))
    strip = np.zeros((height, room * (width + gap) - gap, 4), np.uint8)
    for number, picture in enumerate(array):
        left = number * (width + gap)
        strip[:, left : left + width, :3] = picture
        strip[:, left : left + width, 3] = 255
    return Image.fromarray(strip)
