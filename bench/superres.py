"""The presets of super-resolution, trained and measured on the field's test pictures: one dated result file.

They are measured as is usual: the luma of BT.601, pictures reduced by bicubic interpolation with antialiasing, a border
as wide as the factor left out. Beside them stands what SRCNN gained, trained on ImageNet (Dong et al. 2016).
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from colourize import pictures, presets, training
from colourize.colour import to_uint8, upscale
from colourize.data import photos
from colourize.evaluation import Evaluation, evaluate
from colourize.files import UserError, atomic_write
from colourize.runs import Run
from colourize.settings import Settings

from .environment import environment
from .names import free

PRESETS = {"best-superres": 2, "best-superres3": 3, "best-superres4": 4}
# dB over bicubic interpolation: 9-5-5 trained on ImageNet, 36.66, 32.75, 30.49 over 33.66, 30.39, 28.42 (Set5) and
# 32.45, 29.30, 27.50 over 30.23, 27.54, 26.00 (Set14), from the tables of the paper (arXiv:1501.00092v3)
SRCNN = {
    ("Set5", 2): 3.00, ("Set5", 3): 2.36, ("Set5", 4): 2.07,
    ("Set14", 2): 2.22, ("Set14", 3): 1.76, ("Set14", 4): 1.50,
}  # fmt: skip

_PARTS = ("astronaut", 24, 168), ("motorcycle", 240, 240), ("cat", 72, 144)  # of photographs: top and left
_SIDE = 120  # pixels


def superres(names: Sequence[str], crops: Path, sets: Sequence[Path], runs: Path, out: Path) -> Path:
    """Trains `names` of PRESETS on crops of the pictures below `crops` and evaluates them on the folders `sets`.

    Each is trained in a folder below `runs`, where one that is finished is taken as it is. Writes superres-DATE.json
    and .md into `out`, anew after every preset, and superres-DATE.jpg, parts of photographs that training has not seen
    if they are not below `crops`; returns the .md. Raises UserError for a set without pictures, and for a training
    there that was not timed to its end.
    """
    for path in sets:
        pictures.files([path])  # better known before the trainings
    date = datetime.date.today().isoformat()
    stem = free(out / f"superres-{date}")
    facts, records = environment("cpu"), []
    for name in names:
        records.append(_record(name, crops, sets, runs / name))
        result = {"date": date, "environment": facts, "runs": records}
        _write(stem.with_suffix(".json"), json.dumps(result, indent=1))
        _write(stem.with_suffix(".md"), "\n".join(_table(records, date)))
    picture = _picture([Run.open(runs / name) for name in names])
    atomic_write(stem.with_suffix(".jpg"), lambda file: picture.save(file, format="JPEG", quality=85))
    return stem.with_suffix(".md")


def _record(name: str, crops: Path, sets: Sequence[Path], folder: Path) -> dict:
    effort = folder / "effort.json"
    if not effort.exists():
        if (folder / "settings.toml").exists():
            raise UserError(f"{folder} holds a training that was not timed to its end here: choose another --runs")
        start = time.perf_counter(), time.process_time()
        settings = Settings(**presets.complete(name, None, {"data": f"crops:{crops}"}))
        training.train(settings, folder, device="cpu", console=Console())
        seconds, processor = time.perf_counter() - start[0], time.process_time() - start[1]
        facts = {"seconds": round(seconds), "processor seconds": round(processor), "threads": torch.get_num_threads()}
        _write(effort, json.dumps(facts))
    run = Run.open(folder)
    split = training.load_data(run.settings)
    found = {path.name: evaluate(run, split, whole=pictures.files([path])) for path in sets}
    settings = {key: value for key, value in vars(run.settings).items() if value is not None}
    return {
        "preset": name,
        "settings": {**settings, "data": f"crops:{crops.name}"},  # no path of this machine
        "training": json.loads(effort.read_text()),
        "sets": {name: _scores(evaluation) for name, evaluation in found.items()},
    }


def _scores(evaluation: Evaluation) -> dict:
    return {"data": evaluation.data, "scores": evaluation.scores, "intervals": evaluation.intervals}


def _table(records: Sequence[dict], date: str) -> list[str]:
    lines = [
        f"Super-resolution, {date}: PSNR of luma in dB, borders left out, and SSIM of R, G and B, means of each set. "
        "SRCNN: its gain as published.",
        "",
        "| preset | set | bicubic | network | gain | SRCNN | SSIM: bicubic | network | training, processor time |",
        "|---" * 9 + "|",
    ]
    for record in records:
        factor = PRESETS[record["preset"]]
        for name, found in record["sets"].items():
            network, bicubic = (found["scores"][key] for key in ("network", f"bicubic × {factor}"))
            before, after = bicubic["luma psnr"], network["luma psnr"]
            published = f"{SRCNN[name, factor]:+.2f}" if (name, factor) in SRCNN else "–"
            cells = [f"`{record['preset']}`, × {factor}", name, f"{before:.2f}", f"{after:.2f}"]
            cells += [f"{after - before:+.2f}", published, f"{bicubic['ssim']:.4f}", f"{network['ssim']:.4f}"]
            cells.append(f"{record['training']['processor seconds'] / 60:.1f} min")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


@torch.inference_mode()
def _picture(runs: Sequence[Run]) -> Image.Image:
    """A row for each run: a part of a photograph, reduced, enlarged by bicubic interpolation and by the network."""
    columns: dict[str, list[np.ndarray]] = {}
    for run, (name, top, left) in zip(runs, _PARTS, strict=False):
        factor = run.task.enlarges
        rgb = photos.photograph(name)
        truth = torch.from_numpy(rgb[: len(rgb) // 12 * 12, : rgb.shape[1] // 12 * 12]).permute(2, 0, 1)[None]
        small = run.task.degrade(truth)
        enlarged = run.task.decode(run.load_network()(small), small)
        shown = {
            "small picture": upscale(small, factor, "nearest"),
            **run.task.comparisons(truth),
            "network": enlarged,
            "truth": truth,
        }
        for title, image in shown.items():
            part = to_uint8(image)[0, :, top : top + _SIDE, left : left + _SIDE]
            columns.setdefault(title, []).append(part.permute(1, 2, 0).numpy())
    return pictures.sheet(columns, cell=2 * _SIDE)


def _write(path: Path, text: str) -> None:
    atomic_write(path, lambda file: file.write(f"{text}\n".encode()))
