"""What the commands' options share; without torch, since an instruction set is chosen before that is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from . import ROOT

RESULTS = ROOT / "bench" / "results"


def _writable(out: Path) -> Path:
    """Known before hours of measuring, not after."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        why = "cannot be written" if there.is_dir() else "is no folder"
        raise typer.BadParameter(f"{there} {why}")
    return out


Out = Annotated[Path, typer.Option(help="folder for the result files", callback=_writable)]
