"""The report in Markdown, and its summary for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from .precision import PRECISIONS
from .rows import PASSES, Row, geometric_means
from .subjects import BESIDE

_NOTES = """\
{precision} **×** is the best rival's median over ours: above 1 ours is faster, or smaller. Both sides
are at their best: of each the memory layout, and of the rivals whoever is named below, with the smallest median.
"Compiled" is torch.compile, {compiled}; torch without that word is eager.
{clock}Contestants take turns in one process on random operands; ± is the standard error of the median, IQR the
distance of the quartiles as a share of it. {others}{rate} count the operations of a direct convolution, so minimal
filtering can exceed the machine's peak; roof is their share of what this machine's matrix product and copy allow
({roofs}); GB/s count every operand and result once.
Backward is grad_input, grad_weight and grad_bias together. Errors are against float64 (bench/accuracy.py); a row
holds if every result of ours is within twice the rival's own error or within the bound."""

_COMPILED = {
    "cpu": 'in inference with frozen weights; "frozen" is myconv2d.freeze; ONNX Runtime always is',
    "cuda": 'mode="max-autotune-no-cudagraphs", so that it competes plainly and in a CUDA graph of ours',
}
_CLOCK = {
    "cpu": "",
    "cuda": "Times are those of CUDA events, around one call each. Before every call of a single layer the L2 is "
    "overwritten (cold); blocks and whole networks run one after the other (hot), as the tensors of a step come from "
    "the kernel before. cuDNN tries all its algorithms (cudnn.benchmark). In a CUDA graph the launches cost nothing; "
    "outside, a call that is shorter than its launches is measured with them.\n",
}
_OTHERS = {
    "cpu": "ONNX Runtime writes into an output bound beforehand; all others return a new one, which\ncosts page faults "
    "where it is large. ",
    "cuda": "",
}
_PRECISION_NOTES = {
    "fp32": "fp32: TF32 off",
    "tf32": "tf32: fp32 tensors, products may round their factors to TF32",
    "bf16": "bf16: bf16 tensors, training under autocast with fp32 weights",
    "fp16": "fp16: fp16 tensors",
}


class Units(NamedTuple):
    """What times and rates are shown in."""

    time: str = "ms"
    times: float = 1e3  # in a second
    rate: str = "GF/s"
    rates: float = 1.0  # of a GF/s


UNITS = {"cpu": Units(), "cuda": Units("µs", 1e6, "TF/s", 1e-3)}


def layer_columns(units: Units = UNITS["cpu"]) -> tuple[str, ...]:
    side = units.time, "±", "IQR", units.rate, "GB/s", "roof"
    return "case", "pass", "ours", *side, "best rival", *side, "×", "error", "rival's", "holds"


def precisions(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[str]:
    """Those of the rows, or the one that was asked for where there is no row."""
    there = {row.precision for row in rows} or {settings.get("precision", "fp32")}
    return [name for name in PRECISIONS if name in there]


def _notes(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    settings = facts["settings"]
    device = settings["device"]
    names = "; ".join(_PRECISION_NOTES[name] for name in precisions(rows, settings))
    return _NOTES.format(
        precision=f"The same arithmetic on both sides ({names}).",
        compiled=_COMPILED[device],
        clock=_CLOCK[device],
        others=_OTHERS[device],
        rate=UNITS[device].rate,
        roofs=", ".join(f"{value:g} {unit}" for unit, value in facts["roofs"].items()),
    )


def markdown(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The whole report."""
    settings = facts["settings"]
    units = UNITS[settings["device"]]
    lines = [
        f"# Speed on {settings['device']}, {facts['date']}",
        "",
        f"**{verdict(rows, settings)}**",
        "",
        _notes(rows, facts),
    ]
    lines += ["", *grid(("", ""), [(name, str(fact)) for name, fact in facts["environment"].items()])]
    lines += ["", f"{threads(settings)}, {settings['clock']}. Rivals: {', '.join(rivals(rows)) or 'none'}."]
    if earlier := [f"{one['commit']} ({one['date']})" for one in facts.get("earlier", ())]:
        lines.append(f"Rows of earlier reports are among them, at other commits: {'; '.join(earlier)}.")
    for name, why in not_there(rows, settings).items():
        lines.append(f"Not there: {name} ({why}).")
    lines += ["", "## Geometric means", "", *grid(MEAN_COLUMNS, mean_cells(rows, facts["tags"]))]
    networks = [row for row in rows if row.kind in ("network", "memory", "overhead")]
    if networks:
        lines += ["", "## Whole networks", "", *grid(NETWORK_COLUMNS, network_cells(networks, units))]
    for kind, title in (("block", "Blocks"), ("layer", "Layers")):
        cells = [layer_cells(row, facts["roofs"], units) for row in rows if row.kind == kind]
        if cells:
            lines += ["", f"## {title}", "", *grid(layer_columns(units), cells)]
    beside = list(beside_cells(rows, units))
    if beside:
        columns = "case", "pass", "backend", units.time, "to ours"
        lines += ["", "## Other backends of ours", "", *grid(columns, beside)]
    return "\n".join(lines) + "\n"


def beside_cells(rows: Iterable[Row], units: Units) -> Iterator[tuple[str, ...]]:
    """What is shown of layers beside the two sides."""
    for row in rows:
        for name in row.samples if row.kind == "layer" else ():
            if row.sides[name] == BESIDE:
                value = row.median(name)
                times = _number(value / row.median(row.ours) if row.ours else math.nan, ".2f")
                yield row.title, PASSES[row.pass_name], name, f"{units.times * value:.4g}", f"{times}×"


def verdict(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """The report in one line."""
    compared = [row for row in rows if math.isfinite(row.ratio) and row.unit == "s"]
    text = f"{len(rows)} rows"
    if settings.get("left_out"):
        text += f", {settings['left_out']} left out ({settings['why_left_out']})"
    if compared:
        slowest = min(compared, key=lambda row: row.ratio)
        faster = sum(row.ratio > 1 for row in compared)
        text += f"; {faster} of {len(compared)} faster than the best rival; slowest: {slowest.title}, "
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
    if settings.get("contestants"):
        found["whoever is not asked"] = f"--contestants {' '.join(settings['contestants'])}"
    for why in settings.get("unfit", ()):
        name, _, reason = why.partition(": ")
        found[name] = reason
    for row in rows:
        for name, why in row.problems.items():
            found.setdefault(name, f"{row.title}, {row.pass_name}: {why}" if row.samples else why)
    return found


MEAN_COLUMNS = ("tag", "pass", "rows", "× (geometric mean)", "smallest")


def mean_cells(rows: Iterable[Row], tags: Iterable[str]) -> list[tuple[str, ...]]:
    """Of whole tags only: the mean of a part would pass for the mean of all."""
    return [
        (tag, PASSES[pass_name], str(count), f"{mean:.2f}", f"{least:.2f}")
        for tag, pass_name, count, mean, least in geometric_means(rows, tags)
    ]


def layer_cells(row: Row, roofs: Mapping[str, float], units: Units = UNITS["cpu"]) -> tuple[str, ...]:
    sides = [cell for name in (row.ours, row.rival) for cell in _side(row, name, roofs, units)]
    holds = {True: "yes", False: "**no**", None: "–"}[row.holds]
    errors = _number(row.error(row.ours), ".1e"), _number(row.error(row.rival), ".1e")
    return row.title, PASSES[row.pass_name], *sides, _number(row.ratio, ".2f"), *errors, holds


def _side(row: Row, name: str | None, roofs: Mapping[str, float], units: Units) -> tuple[str, ...]:
    if name is None:
        return ("–",) * 7
    spreads = f"{row.error_of_median(name):.1%}", f"{row.spread(name):.0%}"
    label = name.removeprefix("ours ")
    rates = _number(units.rates * row.rate(name), ".3g" if units.rates < 1 else ".0f")
    rates = rates, _number(row.bandwidth(name), ".0f"), _number(row.share_of_roof(name, roofs), ".0%")
    return label, f"{units.times * row.median(name):.4g}", *spreads, *rates


NETWORK_COLUMNS = ("case", "what", "contestant", "median", "±", "IQR", "to ours", "error", "holds")


def network_cells(rows: Iterable[Row], units: Units = UNITS["cpu"]) -> list[tuple[str, ...]]:
    """A line for every contestant, the best of ours first, then from the best rival on."""
    cells = []
    for row in rows:
        if not row.samples:
            continue
        first = row.ours or row.rival
        for name in (first, *sorted(row.samples.keys() - {first}, key=row.median)):
            value = row.median(name)
            memory = row.unit == "B"
            text = f"{value / 2**20:.1f} MiB" if memory else f"{units.times * value:.4g} {units.time}"
            if row.images:
                text += f", {row.images / value:,.0f} images/s"
            spreads = (
                ("–", "–") if memory else (f"{row.error_of_median(name):.1%}", f"{row.spread(name):.0%}")
            )
            holds = {True: "yes", False: "**no**", None: "–"}[row.holds] if name == row.ours else ""
            cells.append(
                (
                    row.title if name == first else "",
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


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return ["| " + " | ".join(line) + " |" for line in cells]


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
