"""What a check found, and the dated files that keep it: all of it as JSON, the figure as a row of a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from colourize.files import atomic_write

from ..environment import environment
from ..names import dated

_MARK = "trust-"


@dataclass(frozen=True)
class Outcome:
    """`figure` says in words what was tried and what came of it; each problem is one defect, to be reproduced."""

    check: str
    figure: str
    numbers: dict[str, Any] = field(default_factory=dict)
    problems: Sequence[str] = ()

    def report(self, out: Path) -> int:
        """Prints and writes it; returns the exit status, 1 if there are problems."""
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        for problem in self.problems:
            print(f"\n{problem}")
        print(f"\n{self.check}: {self.figure}")
        stem = dated(out, date, f"{_MARK}{self.check}")
        content = {"date": date, **vars(self), "environment": environment("cpu")}
        for suffix, text in {".json": json.dumps(content, indent=1), ".md": row(content)}.items():
            atomic_write(f"{stem}{suffix}", lambda file, text=text: file.write(f"{text}\n".encode()))
        print(f"Written: {stem}.json and .md")
        return 1 if self.problems else 0


def row(content: dict[str, Any]) -> str:
    """A result as a row of the table."""
    verdict = f"{len(content['problems'])} problems" if content["problems"] else "none"
    return f"| {content['check']} | {content['figure']} | {verdict} | {content['date'][:10]} |"


def newest(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest result of each check in `folder`."""
    contents = (json.loads(path.read_text()) for path in folder.glob(f"*-{_MARK}*.json"))
    return {content["check"]: content for content in sorted(contents, key=lambda content: content["date"])}


def rows(folder: Path) -> list[str]:
    """The newest results as rows of a table."""
    return [row(content) for _, content in sorted(newest(folder).items())]
