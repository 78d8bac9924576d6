"""C: the UNet's skips, and the size of the batch."""

from __future__ import annotations

from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html
from .results import Results
from .sentences import against, compare, course, measure, steps

_CNN, _UNET = "CNN", "UNet"


def experiment(base: Settings) -> Experiment:
    sizes = sorted({max(1, base.batch_size // 2), base.batch_size, 2 * base.batch_size})
    runs = {_CNN: base.replace(network="cnn"), _UNET: base}
    runs |= {_batch(size): base.replace(batch_size=size) for size in sizes}
    question = (
        f"Add skip connections. Do they improve the loss, the accuracy and the pictures at batch {base.batch_size}? "
        "What does the size of the batch do?"
    )
    return Experiment("C", "Skip connections", question, runs, lambda results: _blocks(results, sizes))


def _batch(size: int) -> str:
    return f"batch {size}"


def _blocks(results: Results, sizes: list[int]) -> list[Html]:
    return [*_skips(results), *_batches(results, [_batch(size) for size in sizes])]


def _skips(results: Results) -> list[Html]:
    unet, cnn = results[_UNET], results[_CNN]
    parameters = {
        name: sum(p.numel() for p in results[name].run.create_network().parameters()) for name in (_CNN, _UNET)
    }
    sentences = [
        *(
            compare(measure(metric), _UNET, unet.score(metric), _CNN, cnn.score(metric))
            for metric in ("loss", "accuracy", "ssim", "ciede2000")
        ),
        f"The UNet has {parameters[_UNET]:,} parameters, the CNN {parameters[_CNN]:,}.",
        against(measure("accuracy"), "the UNet", unet.score("accuracy"), unet.baselines("accuracy")),
    ]
    pictures = blocks.some_pictures(results)
    shown = {"input": unet.run.task.degrade(pictures)}
    shown |= {name: blocks.made(results[name], pictures) for name in (_CNN, _UNET)} | {"truth": pictures}
    rows = blocks.network_rows(results, _CNN, _UNET) | blocks.baseline_rows(unet)
    return [
        blocks.part("C1, C2. How much the skips help"),
        blocks.answers(sentences),
        blocks.curves(results, "loss", "validation_accuracy", names=(_CNN, _UNET)),
        blocks.score_table(rows, blocks.SCORES, unet.run.task),
        blocks.rows_of_pictures(shown),
        blocks.theory(
            "Two reasons why skips may help:",
            "pooling forgets where in its cell a value was; a skip brings edges to the output at their own resolution;",
            "gradients reach the first layers by a shorter way, and the middle has only to add what the skips lack.",
        ),
    ]


def _batches(results: Results, names: list[str]) -> list[Html]:
    sentences = [
        course("training loss", {name: results[name].metrics[-1]["train_loss"] for name in names}),
        *(steps(measure(metric), results.scores(metric, *names)) for metric in ("loss", "accuracy", "ciede2000")),
    ]
    pictures = blocks.some_pictures(results)
    shown = {name: blocks.made(results[name], pictures) for name in names} | {"truth": pictures}
    return [
        blocks.part("C3. The size of the batch"),
        blocks.answers(sentences),
        blocks.curves(results, "loss", "validation_accuracy", names=names),
        blocks.score_table(
            blocks.network_rows(results, *names) | blocks.baseline_rows(results[_UNET]),
            blocks.SCORES,
            results[_UNET].run.task,
        ),
        blocks.rows_of_pictures(shown),
    ]
