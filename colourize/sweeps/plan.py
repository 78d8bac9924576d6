"""What a sweep is asked for: settings that are fixed, settings that vary, and the runs that follow from them."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_type_hints

from ..files import UserError, atomic_write
from ..settings import Settings, tomllib

Value = bool | int | float | str
Settled = Mapping[str, Value]
Varied = Mapping[str, list[Value]]
_TYPES = {
    name: next(part for part in (*get_args(kind), kind) if part in (bool, int, float, str))
    for name, kind in get_type_hints(Settings).items()
}
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
_OTHER = re.compile(r"[^\w.+-]+")
_MAY_CHANGE = ("data_dir",)  # between the parts of a resumed sweep


def read_values(texts: Iterable[str]) -> dict[str, list[Value]]:
    """`["lr=1e-3,3e-4", "filters=16"]` → the values of each setting, in its type.

    Raises `UserError` for an unknown setting, one given twice, and a value of a wrong type.
    """
    found: dict[str, list[Value]] = {}
    for text in texts:
        name, separator, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or not all(value.strip() for value in values.split(",")):
            raise UserError(f"--vary {text!r} is not of the form SETTING=VALUE,VALUE")
        if name not in _TYPES:
            raise UserError(f"setting {name!r} is unknown; known are {', '.join(_TYPES)}")
        if name in found:
            raise UserError(f"{name} is varied twice: give all its values in one --vary")
        found[name] = [_read(name, value.strip()) for value in values.split(",")]
    return found


def _read(name: str, text: str) -> Value:
    kind = _TYPES[name]
    try:
        return _TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UserError(f"{name} must be {_WORDS[kind]}, not {text!r}") from None


@dataclass(frozen=True)
class Plan:
    """`fixed` settings, and those that `vary` with their values: every combination, or `paired` one to one."""

    fixed: dict[str, Value]
    vary: dict[str, list[Value]]
    paired: bool = False
    runs: dict[str, Settings] = field(init=False, compare=False, repr=False)  # by name, in their order

    def __post_init__(self) -> None:
        """Raises `UserError` if a run, or what varies, is not as it must be."""
        if not self.vary:
            raise UserError("there is nothing to vary: give --vary SETTING=VALUE,VALUE, or several networks")
        for name, values in self.vary.items():
            if name in self.fixed:
                raise UserError(f"{name} is both fixed, to {self.fixed[name]}, and varied: leave one out")
            twice = [value for value in values if values.count(value) > 1]
            if twice and not self.paired:
                raise UserError(f"{name} is varied over {twice[0]} twice")
        counts = {name: len(values) for name, values in self.vary.items()}
        if self.paired and len(set(counts.values())) > 1:
            numbers = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise UserError(f"--list pairs the values one to one, so all must have as many: {numbers}")
        object.__setattr__(self, "runs", self._runs())

    @property
    def combinations(self) -> list[dict[str, Value]]:
        """What varies, run by run."""
        rows = zip(*self.vary.values(), strict=True) if self.paired else itertools.product(*self.vary.values())
        return [dict(zip(self.vary, row, strict=True)) for row in rows]

    def _runs(self) -> dict[str, Settings]:
        runs: dict[str, Settings] = {}
        for combination in self.combinations:
            name = name_of(combination)
            try:
                settings = Settings(**{**self.fixed, **combination})
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
            if name in runs:
                raise UserError(f"two runs would be called {name}")
            runs[name] = settings
        return runs

    def extended(self, fixed: Settled, vary: Varied) -> Plan:
        """With further values of what varies. `fixed` may only repeat what it was, `data_dir` excepted."""
        for name, value in fixed.items():
            if name in self.vary:
                values = ", ".join(map(written, self.vary[name]))
                raise UserError(f"{name} is varied in this sweep, over {values}, and cannot be fixed to {value}")
            if value != (before := self.fixed.get(name, _default(name))) and name not in _MAY_CHANGE:
                raise UserError(f"{name} was {before} when the sweep was begun, not {value}: choose another --out")
        if unknown := [name for name in vary if name not in self.vary]:
            varied = ", ".join(self.vary)
            raise UserError(f"{unknown[0]} is not varied in this sweep, only {varied}: choose another --out")
        changed = {name: value for name, value in fixed.items() if name in _MAY_CHANGE}
        return Plan({**self.fixed, **changed}, self._with(vary) if vary else self.vary, self.paired)

    def _with(self, vary: Varied) -> dict[str, list[Value]]:
        if not self.paired:
            new = {name: [v for v in vary.get(name, ()) if v not in old] for name, old in self.vary.items()}
        else:
            if missing := [name for name in self.vary if name not in vary]:
                raise UserError(f"this sweep pairs its values one to one: give {missing[0]} too")
            given = Plan(self.fixed, {name: vary[name] for name in self.vary}, paired=True).combinations
            rows = [row for row in given if row not in self.combinations]
            new = {name: [row[name] for row in rows] for name in self.vary}
        return {name: [*old, *new[name]] for name, old in self.vary.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes TOML atomically."""
        lines = [f"paired = {json.dumps(self.paired)}"]
        for title, content in (("fixed", self.fixed), ("vary", self.vary)):
            lines += ["", f"[{title}]"]
            lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in content.items()]
        atomic_write(path, lambda file: file.write("\n".join([*lines, ""]).encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Reads what `save` wrote. Raises `UserError`, naming the file, for anything else."""
        try:
            return cls(**tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (UserError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} does not hold a sweep: {error}") from error


def name_of(combination: Mapping[str, Value]) -> str:
    """`lr=0.001,filters=16`; a file name too, so of other characters than those of numbers and words `-` is left."""
    return ",".join(f"{name}={_OTHER.sub('-', written(value))}" for name, value in combination.items())


def written(value: Value | None) -> str:
    """A value in as few characters as tell it from all others."""
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return "" if value is None else str(value)


def _default(name: str) -> Value | None:
    return getattr(Settings, name, None)
