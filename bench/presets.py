"""`python -m bench presets`: what a preset of `colourize train` comes to, and how long that takes.

Each is trained from nothing, evaluated beside the baselines on the validation pictures, and applied to a photograph of
a megapixel; a dated result file for each says how.
"""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from colourize import apply, pictures, presets, tables
from colourize.commands.use import check_used
from colourize.data import photos
from colourize.evaluation import TRUTH, Evaluation, evaluate
from colourize.runs import Run
from colourize.settings import Settings
from colourize.training import load_data, train

from .environment import environment
from .handout import settings_of
from .names import free

_SIDE = 1000  # of the photograph
_ROUNDS = 3


def measure(names: Sequence[str], given: dict[str, Any], out: Path) -> list[Path]:
    """Measures these presets, with `given` settings beside them, one after the other; writes NAME-DATE.json of each."""
    chosen = {name: Settings(**presets.complete(name, None, given)) for name in names}
    check_used(given, chosen.values())
    out.mkdir(parents=True, exist_ok=True)
    console, files = Console(), []
    for name, settings in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            console.print(name, style="bold")
            start, used = time.perf_counter(), time.process_time()
            run = train(settings, Path(folder) / "run", console=console)
            seconds = {"training": time.perf_counter() - start, "processor": time.process_time() - used}
            result = evaluate(run, load_data(run.settings))
            console.print(tables.evaluation(result, run.task))
            date = datetime.date.today().isoformat()
            path = free(out / f"{name}-{date}").with_suffix(".json")
            content = {
                "date": date,
                "preset": name,
                "environment": environment("cpu"),
                "settings": settings_of(run),
                "seconds": seconds | {"a megapixel": _megapixel(run, Path(folder))},
                "ratios": _ratios(result),
                **result.document,
                "metrics": run.metrics,
            }
            path.write_text(json.dumps(content, indent=1) + "\n")
        files.append(path)
    return files


def _ratios(result: Evaluation) -> dict[str, float]:
    """Of the network's scores: colourfulness over that of the pictures themselves, ΔE₀₀ over each baseline's."""
    network = result.scores["network"]
    found = {"colourfulness over the pictures' own": network["colourfulness"] / result.scores[TRUTH]["colourfulness"]}
    for name, scores in result.scores.items():
        if name != "network" and "ciede2000" in scores:
            found[f"ΔE₀₀ over that of {name}"] = network["ciede2000"] / scores["ciede2000"]
    return found


def _megapixel(run: Run, folder: Path) -> dict[str, float]:
    """Seconds for a photograph of 1000 × 1000: reading it as JPEG, what `apply` makes of it, writing that as PNG; and
    making it when the network sees it at full size, for tasks that colour."""
    network, task, path = run.load_network(), run.task, folder / "photograph.jpg"
    photograph = Image.fromarray(photos.photograph("astronaut")).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pictures.save(path, photograph)
    picture = pictures.read(path)
    made = apply.apply_to_picture(network, task, picture)
    works: dict[str, Callable[[], object]] = {
        "read": lambda: pictures.read(path),
        "made": lambda: apply.apply_to_picture(network, task, picture),
        "written": lambda: pictures.write(folder / "photograph.png", *made),
    }
    if task.keeps_grey:
        works["made at full size"] = lambda: apply.render(network, task, np.asarray(picture.rgb))
    return {name: _seconds(work) for name, work in works.items()}


def _seconds(work: Callable[[], object]) -> float:
    """Of the fastest of some runs."""
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
