"""What the commands' options share; without torch, since an instruction set is chosen before that is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import ROOT

RESULTS = ROOT / "bench" / "results"
Out = Annotated[Path, typer.Option(help="folder for the result files")]
