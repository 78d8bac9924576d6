"""The page around the sections: head, contents, how to read it, settings, the machine, references."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources

import torch

from .. import __version__
from ..data import Split
from ..settings import Settings
from .experiment import Experiment
from .html import Html, table, tag

_TITLE = "Colour and resolution by small convolutional networks"
_HIDDEN = "data_dir", "palette"  # paths of the machine
_REFERENCES = (
    "R. Zhang, P. Isola, A. A. Efros: Colorful Image Colorization. ECCV 2016, arXiv:1603.08511.",
    "O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI "
    "2015, arXiv:1505.04597.",
    "J. Johnson, A. Alahi, L. Fei-Fei: Perceptual Losses for Real-Time Style Transfer and Super-Resolution. ECCV 2016, "
    "arXiv:1603.08155.",
    "Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli: Image Quality Assessment: From Error Visibility to "
    "Structural Similarity. IEEE Transactions on Image Processing 13, 2004.",
    "G. Sharma, W. Wu, E. N. Dalal: The CIEDE2000 Color-Difference Formula. Color Research and Application 30, 2005.",
    "D. Hasler, S. Süsstrunk: Measuring Colourfulness in Natural Images. SPIE 5007, 2003.",
)
Sections = Sequence[tuple[Experiment, Sequence[Html]]]


def page(base: Settings, split: Split, sections: Sections) -> Html:
    """A whole HTML document that needs no other file."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", _TITLE),
        tag("style", Html(style)),
    )
    body = tag("body", _header(base, split), _contents(sections), tag("main", *_main(base, sections)), _footer())
    return Html(f"<!doctype html>\n{tag('html', head, body, lang='en-GB')}\n")


def _header(base: Settings, split: Split) -> Html:
    source = base.data.partition(":")[0] if ":" in base.data else split.name  # without a path of the machine
    return tag(
        "header",
        tag("h1", _TITLE),
        tag(
            "p",
            f"{source}: {len(split.train):,} pictures to train on, {len(split.validation):,} to validate, of "
            f"{base.size} × {base.size}. Unless told otherwise: epochs {base.epochs}, batch {base.batch_size}, Adam, "
            f"{base.schedule} learning rate from {base.lr:g}, {base.colours} colours, seed {base.seed}.",
        ),
        tag(
            "p",
            "Every conclusion in a box with a bar is made from the numbers below it. ± is half of a 95 % bootstrap "
            "interval over the validation pictures; where two intervals overlap, no difference is said to be shown. "
            "Each setting was trained once, with one seed: what another seed would change is not in the intervals. "
            "The best of a column is bold, and what needs no network stands in the same table.",
        ),
    )


def _contents(sections: Sections) -> Html:
    items = [
        tag("li", tag("a", tag("b", e.letter), f" {e.title}", href=f"#{e.letter.lower()}")) for e, _ in sections
    ]
    items.append(tag("li", tag("a", "References", href="#references")))
    return tag("nav", tag("h2", "Contents"), tag("ol", *items))


def _main(base: Settings, sections: Sections) -> list[Html]:
    made = [
        tag(
            "section",
            tag("h2", tag("b", e.letter), f" {e.title}"),
            tag("p", e.question, class_="question"),
            *content,
            _settings(base, e),
            id=e.letter.lower(),
        )
        for e, content in sections
    ]
    references = tag("ol", *(tag("li", work) for work in _REFERENCES))
    return [*made, tag("section", tag("h2", "References"), references, id="references")]


def _settings(base: Settings, experiment: Experiment) -> Html:
    """The settings of every run, those that are not what `base` has in words."""
    shared = ("task", "network", "epochs", "batch_size", "lr", "schedule", "seed")
    rows = []
    for name, settings in experiment.runs.items():
        own = [
            f"{f.name} {getattr(settings, f.name)}"
            for f in fields(settings)
            if f.name not in (*shared, *_HIDDEN) and getattr(settings, f.name) != getattr(base, f.name)
        ]
        values = (f"{v:g}" if isinstance(v := getattr(settings, key), float) else str(v) for key in shared)
        rows.append((name, *values, ", ".join(own) or "–"))
    header = ["run", *(key.replace("_", " ") for key in shared), "also"]
    return tag("details", tag("summary", "Settings and seeds"), table(header, rows), open="")


def _footer() -> Html:
    return tag(
        "footer",
        tag(
            "p",
            f"colourize {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
            f"{platform.machine()}, threads: {torch.get_num_threads()}. "
            f"Written on {datetime.date.today().isoformat()}.",
        ),
    )
