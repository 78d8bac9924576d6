"""D: the same networks for super-resolution, beside interpolation."""

from __future__ import annotations

from ..colour import downscale, upscale
from ..settings import Settings
from . import blocks
from .experiment import Experiment
from .html import Html
from .results import Results
from .sentences import against, compare, measure

_CNN, _UNET = "CNN", "UNet"


def experiment(base: Settings) -> Experiment:
    runs = {
        _CNN: base.replace(task="superres", network="cnn"),
        _UNET: base.replace(task="superres", network="unet"),
    }
    question = (
        "How much smaller is the input than the output? How do the networks differ from each other, and from bilinear "
        "interpolation?"
    )
    return Experiment("D", "Super-resolution", question, runs, _blocks)


def _blocks(results: Results) -> list[Html]:
    cnn, unet = results[_CNN], results[_UNET]
    task, size = unet.run.task, unet.run.settings.size
    rows = blocks.network_rows(results) | blocks.baseline_rows(unet)
    sentences = [
        f"The input has {size // task.enlarges} × {size // task.enlarges} pixels, means of {task.enlarges} × "
        f"{task.enlarges}, repeated to {size} × {size}, the size of the output.",
        *(
            compare(measure(metric), _UNET, unet.score(metric), _CNN, cnn.score(metric))
            for metric in ("loss", "accuracy", "psnr")
        ),
        *(
            against(measure(metric), f"the {name}", results[name].score(metric), results[name].baselines(metric))
            for name in (_CNN, _UNET)
            for metric in ("accuracy", "psnr", "ssim")
        ),
    ]
    pictures = blocks.some_pictures(results)
    small = downscale(pictures, task.enlarges)
    shown = {
        "input": upscale(small, task.enlarges, "nearest"),
        "truth": pictures,
        **{name: blocks.made(results[name], pictures) for name in (_CNN, _UNET)},
        "bilinear": upscale(small, task.enlarges, "bilinear"),
        "bicubic": upscale(small, task.enlarges, "bicubic"),
    }
    return [
        blocks.answers(sentences),
        blocks.curves(results, "loss", "validation_accuracy", "validation_psnr"),
        blocks.score_table(rows, blocks.SCORES, task),
        blocks.palette_limit(results, _UNET),
        blocks.rows_of_pictures(shown),
        blocks.theory(
            "Two reasons why networks may do better than interpolation:",
            "they learn what such pictures look like, and can put an edge where the mean of neighbours blurs it;",
            "they see a neighbourhood of many pixels, bilinear interpolation four, with weights fixed in advance.",
        ),
    ]
