"""Scalars and sample pictures for TensorBoard, in the folder `tensorboard` of a run: `tensorboard --logdir runs`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from .files import UserError
from .runs import Run


def check() -> None:
    """Raises `UserError` if the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError('--tensorboard needs tensorboard, of the extra [tensorboard]: pip install -e ".[tensorboard]"')


@contextmanager
def events(run: Run, wanted: bool) -> Iterator[Callable[[float], None]]:
    """While the block runs, what is yielded writes the newest row of `run.metrics`, the learning rate it is given, and
    samples.png whenever that is another. Does nothing unless `wanted`."""
    if not wanted:
        yield lambda lr: None
        return
    from torch.utils.tensorboard import SummaryWriter  # takes a second

    folder, sheet = run.folder / "tensorboard", run.folder / "samples.png"
    shown = _time(sheet)
    with _named(folder):
        writer = SummaryWriter(str(folder), purge_step=len(run.metrics) + 1)

    def show() -> None:
        nonlocal shown
        if (drawn := _time(sheet)) != shown:
            writer.add_image("samples", np.asarray(Image.open(sheet)), len(run.metrics), dataformats="HWC")
            shown = drawn

    def write(lr: float) -> None:
        with _named(folder):
            for name, value in run.metrics[-1].items():
                part, _, score = name.partition("_")
                if score:
                    writer.add_scalar(f"{score}/{part}", value, len(run.metrics))
            writer.add_scalar("learning rate", lr, len(run.metrics))
            show()
            writer.flush()

    try:
        yield write
    finally:
        with _named(folder):
            show()
            writer.close()


def _time(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
