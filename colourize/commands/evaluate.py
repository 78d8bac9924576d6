"""`colourize evaluate`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import evaluation, pictures, tables, training
from ..runs import Run
from .options import (
    DataDir,
    Device,
    RunClassName,
    RunData,
    RunFolder,
    RunLimit,
    Threads,
    Weights,
    Which,
    chosen,
    console,
)
from .use import check_used, unused


def evaluate(
    run: RunFolder,
    data: RunData = None,
    data_dir: DataDir = None,
    class_name: RunClassName = None,
    limit: RunLimit = None,
    whole: Annotated[
        list[Path] | None, typer.Option("--whole", metavar="PATH", help="whole pictures instead: files or folders")
    ] = None,
    weights: Weights = Which.last,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Scores a trained network beside baselines without any network, on the data of the run unless told
    otherwise.

    Example: `colourize evaluate runs/horses`
    """
    given = chosen(locals())
    opened = Run.open(run)
    settings = opened.settings.replace(**given)
    check_used(given, [settings])
    paths = pictures.files(whole or ())
    learning = not paths or opened.task.enlarges == 1  # interpolation learns nothing
    for name, value in given.items() if not learning else ():
        raise unused(name, value, f"tasks other than {opened.task.name}, where there is --whole,")
    split = training.load_data(settings) if learning else None
    options = {"weights": weights.value, "device": training.choose_device(device), "whole": paths}
    result = evaluation.evaluate(opened, split, **options)
    if as_json:
        print(json.dumps({"run": str(run), **result.document}, indent=2))
    else:
        console.print(tables.evaluation(result, opened.task))
        console.print(tables.verdict(result, opened.task), markup=False)
