"""Learning curves as SVG that takes its ink from the page's colour scheme."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .results import Result

_INK = "#010203"  # stands for the colour of the text
_COLOURS = ("#3b7dd8", "#e0812b", "#3b9a72", "#9a62c0", "#c8553d", "#8a8f98")
_STYLE = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "svg.fonttype": "none",
    "svg.hashsalt": "colourize",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 10,
}
_SCHEME = "svg{color:#33373d}@media(prefers-color-scheme:dark){svg{color:#c9ced6}}"
_PANELS = {"loss": ("loss", 1), "validation_accuracy": ("validation accuracy (%)", 100),
           "validation_psnr": ("validation PSNR (dB)", 1)}  # fmt: skip


def curves(results: Mapping[str, Result], *panels: str) -> str:
    """Over the epochs: "loss", of training (dotted) and validation, and validation scores, a colour for each run."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.7 * len(panels) + 0.3, 3.4), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            label, factor = _PANELS[panel]
            lines = {"train_loss": ":", "validation_loss": "-"} if panel == "loss" else {panel: "-"}
            for (name, result), colour in zip(results.items(), itertools.cycle(_COLOURS), strict=False):
                for key, style in lines.items():
                    epochs = [row["epoch"] for row in result.metrics]
                    values = [factor * row[key] for row in result.metrics]
                    shown = name if style == "-" and axes is grid[0] else None
                    axes.plot(epochs, values, style, color=colour, marker="o", ms=2.5, lw=1.4, label=shown)
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(alpha=0.25)
        figure.legend(loc="outside upper left", ncols=len(results))
        return _svg(figure)


def _svg(figure: Figure) -> str:
    file = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue().decode()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub("font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    return text.replace('<style type="text/css">', f'<style type="text/css">{_SCHEME}', 1)
