"""A training that is killed at random moments, and a disk that is full at every possible write.

Killed: `colourize train` in a process of its own gets SIGKILL after a random part of the time that it takes, again and
again, each time going on with --resume; when it has ended by itself another begins, until there were so many kills.
Every training must end with the bytes of one that was never interrupted, and after every kill each file that bears its
final name must be whole.

Full: no file of a resumed training may grow beyond a limit (RLIMIT_FSIZE fails a write as a full disk does, with an
OSError). It must end with an error that says so, and go on to the same bytes once there is room.

The processes are forked from this one, which has imported everything and computed nothing: so a kill takes as long as
the part of a training that it leaves, and hits training and writing, not imports.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.cluster.vq  # noqa: F401  (as torch._dynamo: what a training would import when it gets there)
import torch
import torch._dynamo
from PIL import Image

from colourize import checkpoint, cli
from colourize.files import UserError
from colourize.runs import CHECKPOINTS, WEIGHTS, Run

from .outcome import Outcome

_SAME = ("model.safetensors", "best.safetensors", "metrics.csv", "settings.toml", "palette.npy")
_EPOCHS = 8
_PATIENCE = 600.0  # seconds for a training of a second
_ENOUGH = 5  # problems, after which more say nothing new


class End(NamedTuple):
    """How a training ended: its exit code (negative: a signal), what it printed, and seconds."""

    code: int
    output: str
    seconds: float


def _child(arguments: list[str], limit: int | None, writer: int) -> None:
    sys.stdout = sys.stderr = os.fdopen(writer, "w", 1)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    cli.main(arguments)


def _train(arguments: list[str], *, kill_after: float | None = None, limit: int | None = None) -> End:
    """`colourize train …` in a child, killed after so many seconds, or without room for files beyond `limit` bytes."""
    reader, writer = os.pipe()
    common = ["--device", "cpu", "--threads", "1"]
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(["train", "classification", "unet", *arguments, *common], limit, writer)
    )
    begin = time.monotonic()
    child.start()
    os.close(writer)
    child.join(kill_after or _PATIENCE)
    if child.is_alive():
        child.kill()
        child.join()
    seconds = time.monotonic() - begin
    with open(reader, errors="replace") as file:
        return End(child.exitcode, file.read(), seconds)


def _new(run: Path, data: str, epochs: int = _EPOCHS) -> list[str]:
    options = {"data": data, "size": 16, "filters": 2, "colours": 4, "batch-size": 3, "epochs": epochs}
    options |= {"schedule": "constant", "out": run}
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def _data(folder: Path) -> str:
    """Some coloured noise to learn from; what, does not matter here."""
    chance = np.random.default_rng(0)
    folder.mkdir()
    for i in range(12):
        picture = Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((16, 16))
        picture.save(folder / f"{i}.png")
    return f"folder:{folder}"


def _half_written(run: Path) -> list[str]:
    """What is wrong with files that bear their final names."""
    wrong = []
    for name in (*CHECKPOINTS, *WEIGHTS.values()):
        if (run / name).exists():
            try:
                checkpoint.load(run / name)
            except UserError as error:
                wrong.append(str(error))
    for picture in run.glob("[!.]*.png"):
        try:
            Image.open(picture).load()
        except OSError as error:
            wrong.append(f"{picture.name} is damaged: {error}")
    if (run / "settings.toml").exists():
        try:
            Run.open(run)
        except UserError as error:
            wrong.append(str(error))
    return wrong


def _different(run: Path, whole: Path) -> list[str]:
    return [
        f"{name} differs from that of a training left alone"
        for name in _SAME
        if not (run / name).exists() or (run / name).read_bytes() != (whole / name).read_bytes()
    ]


def killed(folder: Path, data: str, times: int, chance: random.Random) -> tuple[int, int, list[str]]:
    """(kills that hit, trainings that ended, problems)."""
    whole, run = folder / "whole", folder / "killed"
    seconds = _train(_new(whole, data)).seconds
    hits = ended = 0
    problems: list[str] = []
    while (hits < times or run.exists()) and len(problems) < _ENOUGH:
        resume = (run / "settings.toml").exists()
        if run.exists() and not resume:
            shutil.rmtree(run)  # killed before it was a run: nothing to go on with
        arguments = ["--out", str(run), "--resume"] if resume else _new(run, data)
        end = _train(arguments, kill_after=chance.uniform(0, 1.05) * seconds if hits < times else None)
        if end.code == -signal.SIGKILL:
            hits += 1
            problems += [f"after kill {hits}: {wrong}" for wrong in _half_written(run)]
            continue
        if end.code:
            problems.append(f"going on after kill {hits} ends with {end.code}: {end.output[-800:]}")
        else:
            ended += 1
            problems += [f"ended after kill {hits}: {wrong}" for wrong in _different(run, whole)]
        shutil.rmtree(run)
    return hits, ended, problems


def full(folder: Path, data: str, times: int, chance: random.Random) -> tuple[int, list[str]]:
    """(trainings that met a full disk, problems)."""
    half, whole = folder / "half", folder / "longer"
    _train(_new(half, data, _EPOCHS // 2))
    shutil.copytree(half, whole)
    _train(_longer := ["--out", str(whole), "--resume", "--epochs", str(_EPOCHS)])
    largest, met = max(path.stat().st_size for path in whole.iterdir()), 0
    problems: list[str] = []
    for attempt in range(times):
        run, limit = folder / f"full-{attempt}", chance.choice([0, 1, 200, *[chance.randrange(largest)] * 5])
        shutil.copytree(half, run)
        arguments = ["--out", str(run), *_longer[2:]]
        end = _train(arguments, limit=limit)
        wrong = _half_written(run)
        met += end.code != 0
        if end.code not in (0, 1) or (
            end.code == 1 and ("cannot write" not in end.output or "Traceback" in end.output)
        ):
            wrong.append(f"it ends with {end.code} and does not say why: {end.output[-800:]}")
        after = _train(arguments)
        wrong += (
            _different(run, whole)
            if after.code == 0
            else [f"going on ends with {after.code}: {after.output[-800:]}"]
        )
        problems += [f"with files of at most {limit} bytes: {line}" for line in wrong]
        shutil.rmtree(run)
    return met, problems


def kill(times: int, writes: int, seed: int) -> Outcome:
    """`times` kills, `writes` trainings with too little room."""
    torch.set_num_threads(1)  # no threads that a fork would lose
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        data = _data(Path(name) / "data")
        hits, ended, problems = killed(Path(name), data, times, chance)
        met, more = full(Path(name), data, writes, chance)
    problems += more
    figure = f"{hits} kills in {ended} trainings, {met} of {writes} on a full disk: "
    figure += f"{len(problems)} problems" if problems else "all went on to the same bytes"
    numbers = {"kills": hits, "trainings": ended, "full": met, "writes": writes, "seed": seed}
    return Outcome("kill", figure, numbers, problems)
