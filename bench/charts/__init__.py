"""The pictures of a report: ratios of layers and of tags, whole networks, roofline, cost against the picture's size."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from colourize.files import atomic_write

from ..rows import Row
from ..tables import precisions, threads
from .networks import networks
from .ratios import layer_ratios, tag_ratios
from .roofline import roofline
from .sizes import sizes
from .style import STYLE

_PICTURES: dict[str, Callable[[Sequence[Row], dict[str, Any]], Figure | None]] = {
    "layers": layer_ratios,
    "tags": tag_ratios,
    "networks": networks,
    "roofline": roofline,
    "sizes": sizes,
}


def draw_all(rows: Sequence[Row], facts: dict[str, Any], stem: Path) -> list[Path]:
    """Draws every picture for which there are rows; returns the files, named STEM-WHAT.png."""
    written = []
    for name, draw in _PICTURES.items():
        with mpl.rc_context(STYLE):
            figure = draw(rows, facts)
            if figure is None:
                continue
            figure.text(0.995, -0.005, _note(rows, facts), ha="right", va="top", fontsize=7, color="#777777")
            data = io.BytesIO()
            figure.savefig(
                data, format="png", dpi=120, facecolor="white", bbox_inches="tight", pad_inches=0.12
            )
        path = stem.with_name(f"{stem.name}-{name}.png")
        atomic_write(path, lambda file, data=data: file.write(data.getvalue()))
        written.append(path)
    return written


def _note(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """On what, how and when it was measured."""
    machine = facts["environment"].get("card") or facts["environment"].get("processor", "")
    settings = facts["settings"]
    words = [machine.partition(",")[0], *([threads(settings)] if settings["device"] == "cpu" else [])]
    return " · ".join([*words, "/".join(precisions(rows, settings)), facts["date"][:10]])
