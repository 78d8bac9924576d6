"""The report in Markdown, and its summary for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from .rows import PASSES, Row, geometric_means

_NOTES = """\
Fp32 on both sides, TF32 off. **×** is the best rival's median over ours: above 1 ours is faster, or smaller. Both sides
are at their best: of each the memory layout, and of the rivals whoever is named below, with the smallest median.
"Compiled" is torch.compile, in inference with frozen weights; "frozen" is myconv2d.freeze; ONNX Runtime always is.
Contestants take turns in one process on random operands; ± is the standard error of the median, IQR the distance of
the quartiles as a share of it. ONNX Runtime writes into an output bound beforehand; all others return a new one, which
costs page faults where it is large. GF/s count the operations of a direct convolution, so minimal filtering can exceed
the machine's peak; roof is their share of what this machine's matrix product and copy allow ({roofs}).
Backward is grad_input, grad_weight and grad_bias together. Errors are against float64 (bench/accuracy.py); a row
holds if every result of ours is within twice the rival's own error or within the bound."""

_SIDE_COLUMNS = ("ms", "±", "IQR", "GF/s", "roof")
LAYER_COLUMNS = ("case", "pass", "ours", *_SIDE_COLUMNS, "best rival", *_SIDE_COLUMNS)
LAYER_COLUMNS += ("×", "error", "rival's", "holds")


def markdown(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The whole report."""
    settings = facts["settings"]
    lines = [
        f"# Speed on {settings['device']}, {facts['date']}",
        "",
        f"**{verdict(rows, settings)}**",
        "",
        _NOTES.format(roofs=", ".join(f"{value:g} {unit}" for unit, value in facts["roofs"].items())),
    ]
    lines += ["", *_grid(("", ""), [(name, str(fact)) for name, fact in facts["environment"].items()])]
    lines += ["", f"{threads(settings)}, {settings['clock']}. Rivals: {', '.join(rivals(rows)) or 'none'}."]
    for name, why in not_there(rows, settings).items():
        lines.append(f"Not there: {name} ({why}).")
    lines += ["", "## Geometric means", "", *_grid(MEAN_COLUMNS, mean_cells(rows, facts["tags"]))]
    networks = [row for row in rows if row.kind in ("network", "memory", "overhead")]
    if networks:
        lines += ["", "## Whole networks", "", *_grid(NETWORK_COLUMNS, network_cells(networks))]
    blocks = [row for row in rows if row.kind == "block"]
    if blocks:
        lines += [
            "",
            "## Blocks",
            "",
            *_grid(LAYER_COLUMNS, (layer_cells(row, facts["roofs"]) for row in blocks)),
        ]
    layers = [row for row in rows if row.kind == "layer"]
    if layers:
        lines += [
            "",
            "## Layers",
            "",
            *_grid(LAYER_COLUMNS, (layer_cells(row, facts["roofs"]) for row in layers)),
        ]
    return "\n".join(lines) + "\n"


def verdict(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """The report in one line."""
    compared = [row for row in rows if math.isfinite(row.ratio) and row.unit == "s"]
    text = f"{len(rows)} rows"
    if settings.get("left_out"):
        text += f", {settings['left_out']} left out ({settings['why_left_out']})"
    if compared:
        slowest = min(compared, key=lambda row: row.ratio)
        faster = sum(row.ratio > 1 for row in compared)
        text += f"; {faster} of {len(compared)} faster than the best rival; slowest: {slowest.case}, "
        text += f"{PASSES[slowest.pass_name]}, {slowest.ratio:.2f}×"
        if noisy := sum(not row.precise() for row in compared):
            text += f"; {noisy} noisier than 1 %"
    wrong = [row for row in rows if row.holds is False]
    text += f"; accuracy does not hold in {len(wrong)}" if wrong else "; accuracy holds in all that have one"
    return text + "."


def threads(settings: Mapping[str, Any]) -> str:
    return f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"


def rivals(rows: Iterable[Row]) -> list[str]:
    return sorted({name for row in rows for name, side in row.sides.items() if side == "rival"})


def not_there(rows: Iterable[Row], settings: Mapping[str, Any]) -> dict[str, str]:
    """Contestants that did not compete, and the first reason."""
    found = {"torch.compile": why} if (why := settings.get("not_compiled")) else {}
    for row in rows:
        for name, why in row.problems.items():
            found.setdefault(name, f"{row.case}, {row.pass_name}: {why}" if row.samples else why)
    return found


MEAN_COLUMNS = ("tag", "pass", "rows", "× (geometric mean)", "smallest")


def mean_cells(rows: Iterable[Row], tags: Iterable[str]) -> list[tuple[str, ...]]:
    """Of whole tags only: the mean of a part would pass for the mean of all."""
    return [
        (tag, PASSES[pass_name], str(count), f"{mean:.2f}", f"{least:.2f}")
        for tag, pass_name, count, mean, least in geometric_means(rows, tags)
    ]


def layer_cells(row: Row, roofs: Mapping[str, float]) -> tuple[str, ...]:
    sides = [cell for name in (row.ours, row.rival) for cell in _side(row, name, roofs)]
    holds = {True: "yes", False: "**no**", None: "–"}[row.holds]
    errors = _number(row.error(row.ours), ".1e"), _number(row.error(row.rival), ".1e")
    return row.case, PASSES[row.pass_name], *sides, _number(row.ratio, ".2f"), *errors, holds


def _side(row: Row, name: str | None, roofs: Mapping[str, float]) -> tuple[str, ...]:
    if name is None:
        return ("–",) * (1 + len(_SIDE_COLUMNS))
    spreads = f"{row.error_of_median(name):.1%}", f"{row.spread(name):.0%}"
    label = name.removeprefix("ours ")
    rates = _number(row.rate(name), ".0f"), _number(row.share_of_roof(name, roofs), ".0%")
    return label, f"{1e3 * row.median(name):.4g}", *spreads, *rates


NETWORK_COLUMNS = ("case", "what", "contestant", "median", "±", "IQR", "to ours", "error", "holds")


def network_cells(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """A line for every contestant, the best of ours first, then from the best rival on."""
    cells = []
    for row in rows:
        if not row.samples:
            continue
        first = row.ours or row.rival
        for name in (first, *sorted(row.samples.keys() - {first}, key=row.median)):
            value = row.median(name)
            memory = row.unit == "B"
            text = f"{value / 2**20:.1f} MiB" if memory else f"{1e3 * value:.4g} ms"
            spreads = (
                ("–", "–") if memory else (f"{row.error_of_median(name):.1%}", f"{row.spread(name):.0%}")
            )
            holds = {True: "yes", False: "**no**", None: "–"}[row.holds] if name == row.ours else ""
            cells.append(
                (
                    row.case if name == first else "",
                    PASSES[row.pass_name] if name == first else "",
                    f"**{name}**" if name in (row.ours, row.rival) else name,
                    text,
                    *spreads,
                    f"{value / row.median(first):.2f}×",
                    _number(row.error(name), ".1e"),
                    holds,
                )
            )
    return cells


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def console_table(
    columns: Sequence[str], cells: Iterable[Sequence[str]], text_columns: int = 2, without: Sequence[str] = ()
) -> Table:
    """For the terminal: the first columns are text, the others numbers; those in `without` are left out."""
    table = Table(box=box.SIMPLE, padding=0, pad_edge=False)
    shown = [index for index, column in enumerate(columns) if column not in without]
    for index in shown:
        table.add_column(columns[index], justify="left" if index < text_columns else "right", overflow="fold")
    for row in cells:
        table.add_row(*(escape(row[index].replace("**", "")) for index in shown))
    return table
