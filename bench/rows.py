"""A row of the report: the raw samples and errors of everybody who competed in one subject, and what follows of them.

A report file is {"version", "date", "environment", "settings", "roofs", "rows": […]}; rows are as `Row` has them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import accuracy
from .stats import geometric_mean, median, spread, standard_error
from .subjects import OURS, RIVAL

VERSION = 1
CONDITIONS = "device", "threads", "isa", "clock"  # settings without which rows cannot stand side by side
_MACHINE = "processor", "card", "torch", "ONNX Runtime"  # of the environment: another one asks for a file of its own
PASSES = {  # in the order of the tables, and their headings
    "forward": "forward",
    "grad_input": "grad_input",
    "grad_weight": "grad_weight + bias",
    "backward": "backward",
    "training": "block, training",
    "training step": "training step",
    "epoch": "epoch of training",
    "inference": "inference",
    "peak memory of a step": "peak memory of a step",
}


@dataclass
class Row:
    """What was measured of one subject. `ratio` says how many times better ours is than the best rival."""

    case: str
    pass_name: str
    kind: str
    tags: list[str]
    flop: int = 0
    bytes: int = 0
    pixels: int = 0
    unit: str = "s"
    threads: int | None = None
    precision: str = "fp32"  # of both sides
    images: int = 0
    sides: dict[str, str] = field(default_factory=dict)  # of contestants
    samples: dict[str, list[float]] = field(default_factory=dict)  # by contestant, in `unit`
    errors: dict[str, dict[str, float]] = field(default_factory=dict)  # by contestant and result
    bounds: dict[str, float] = field(default_factory=dict)  # of the errors, by result
    problems: dict[str, str] = field(default_factory=dict)  # of contestants that could not compete

    @property
    def key(self) -> tuple[str, str, str]:
        return self.case, self.pass_name, self.precision

    @property
    def title(self) -> str:
        return with_precision(self.case, self.precision)

    def median(self, contestant: str) -> float:
        return median(self.samples[contestant])

    def error_of_median(self, contestant: str) -> float:
        """Standard error of the median, as a share of it."""
        return standard_error(self.samples[contestant]) / self.median(contestant)

    def spread(self, contestant: str) -> float:
        return spread(self.samples[contestant])

    def best(self, side: str) -> str | None:
        """The contestant of a side with the smallest median."""
        names = [name for name in self.samples if self.sides[name] == side]
        return min(names, key=self.median, default=None)

    @property
    def ours(self) -> str | None:
        return self.best(OURS)

    @property
    def rival(self) -> str | None:
        return self.best(RIVAL)

    @property
    def ratio(self) -> float:
        """Best rival over ours: above 1 we are better. NaN where either is missing."""
        if self.ours is None or self.rival is None:
            return math.nan
        return self.median(self.rival) / self.median(self.ours)

    def rate(self, contestant: str) -> float:
        """GF/s, operations counted directly; NaN where they are not counted."""
        return self.flop / self.median(contestant) / 1e9 if self.flop else math.nan

    def share_of_roof(self, contestant: str, roofs: Mapping[str, float]) -> float:
        """Its rate over what the roofline allows: the matrix product's, or what memory can feed."""
        if not (self.flop and self.bytes):
            return math.nan
        return self.rate(contestant) / min(
            peak(roofs, self.precision), self.flop / self.bytes * roofs["GB/s"]
        )

    def bandwidth(self, contestant: str) -> float:
        """GB/s, every operand and result counted once; NaN where they are not counted."""
        return self.bytes / self.median(contestant) / 1e9 if self.bytes else math.nan

    def precise(self, precision: float = 0.01) -> bool:
        """Whether the medians of both sides' best are known to this standard error."""
        return all(self.error_of_median(name) <= precision for name in (self.ours, self.rival) if name)

    def error(self, contestant: str | None) -> float:
        """The largest of a contestant's errors; NaN where none was measured."""
        return max(self.errors.get(contestant, {}).values(), default=math.nan)

    @property
    def holds(self) -> bool | None:
        """Whether all are accurate in which there is something of ours; None where there is nothing to check."""
        if not self.bounds:
            return None
        theirs = self.errors.get(self.rival, {})
        ours = [self.errors.get(name, {}) for name, side in self.sides.items() if side != RIVAL]
        return bool(ours) and all(accuracy.holds(errors, theirs, self.bounds) for errors in ours)


def with_precision(name: str, precision: str) -> str:
    """A name in tables: fp32 goes without saying."""
    return name if precision == "fp32" else f"{name} {precision}"


def peak(roofs: Mapping[str, float], precision: str) -> float:
    """GF/s of the matrix product in a precision; on a CPU there is one."""
    return roofs.get(f"{precision} GF/s") or roofs["GF/s"]


def merged(earlier: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """All rows; of one subject in one precision the newer, in the place of the older."""
    rows = {row.key: row for row in earlier} | {row.key: row for row in new}
    return list(rows.values())


def incompatible(told: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """Why the rows of an earlier report cannot stand beside those to come, under one head."""
    for part, names in (("settings", CONDITIONS), ("environment", _MACHINE)):
        for name in names:
            was, is_now = told[part].get(name), facts[part].get(name)
            if was != is_now:
                return f"its rows were measured with another {name}: {was}, now {is_now}"
    return None


def other_commits(told: Mapping[str, Any], facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The commits of an earlier report's rows, but for the one that is measured now: {"date", "commit"} of each."""
    before = [*told.get("earlier", ()), {"date": told["date"], "commit": told["environment"]["commit"]}]
    return [one for one in before if one["commit"] != facts["environment"]["commit"]]


def whole_tags(rows: Iterable[Row], tags: Mapping[tuple[str, str], int]) -> list[str]:
    """The tags of which every row of a pass is there, wherever there is one; `tags`: how many each (tag, pass) has."""
    counts = Counter((tag, row.pass_name, row.precision) for row in rows for tag in row.tags)
    parts = {tag for (tag, pass_name, _), count in counts.items() if count != tags.get((tag, pass_name))}
    return sorted({tag for tag, *_ in counts} - parts)


def geometric_means(rows: Iterable[Row], tags: Iterable[str]) -> list[tuple[str, str, int, float, float]]:
    """(tag, pass, number of rows, geometric mean and smallest of their ratios), by tag, passes in the tables' order."""
    wanted = set(tags)
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if math.isfinite(row.ratio):
            for tag in wanted.intersection(row.tags):
                key = with_precision(tag, row.precision), row.pass_name
                groups.setdefault(key, []).append(row.ratio)
    order = list(PASSES)
    keys = sorted(groups, key=lambda key: (key[0], order.index(key[1])))
    return [(*key, len(groups[key]), geometric_mean(groups[key]), min(groups[key])) for key in keys]


def dump(rows: Iterable[Row], facts: Mapping[str, Any]) -> str:
    """A report file's text, samples with five digits; one line a row, so that files can be compared by eye."""
    lines = []
    for row in rows:
        record = dataclasses.asdict(row)
        record["samples"] = {k: [float(f"{x:.5g}") for x in v] for k, v in row.samples.items()}
        record["errors"] = {
            k: {name: float(f"{x:.3g}") if math.isfinite(x) else None for name, x in v.items()}
            for k, v in row.errors.items()
        }
        lines.append(json.dumps(record, ensure_ascii=False))
    head = json.dumps({"version": VERSION, **facts}, ensure_ascii=False, indent=1)
    return head.removesuffix("\n}") + ',\n "rows": [\n' + ",\n".join(lines) + "\n ]\n}\n"


def load(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a report file, and the rest of it.

    Raises:
        ValueError: the file is not a report of this version.
    """
    try:
        facts = json.loads(path.read_text())
        version, records = facts["version"], facts.pop("rows")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a report of `python -m bench report`: {error!r}") from error
    if version != VERSION:
        raise ValueError(f"{path} is a report of version {version}; this program reads version {VERSION}")
    rows = [Row(**record) for record in records]
    for row in rows:
        row.errors = {
            k: {name: math.inf if x is None else x for name, x in v.items()} for k, v in row.errors.items()
        }
    return rows, facts
