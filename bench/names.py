"""The names of result files: dated, and never those of files that are there."""

from __future__ import annotations

import glob
import itertools
from pathlib import Path


def dated(out: Path, date: str, words: str) -> Path:
    """The stem OUT/YYYY-MM-DD-HHMM-WORDS of an ISO `date`, where it is free."""
    return free(out / f"{date[:16].replace('T', '-').replace(':', '')}-{words}")


def free(stem: Path) -> Path:
    """`stem`, or the first with -2, -3 and so on behind it of which no file is there: no result is ever overwritten."""
    others = (stem.with_name(f"{stem.name}-{number}") for number in itertools.count(2))
    return next(s for s in itertools.chain([stem], others) if not any(s.parent.glob(f"{glob.escape(s.name)}.*")))
