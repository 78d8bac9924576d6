"""The training loop, from settings to a finished run folder."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import torch
from rich.console import Console
from torch import Tensor, nn

from . import data, lookup, plots, tables
from .colour import Palette
from .data import Images, Split
from .evaluation import mean_scores, network_predictor
from .examples import Batch, Examples
from .files import UserError
from .progress import Advance, progress
from .runs import Run, check_free, create_task
from .schedule import rate
from .settings import Settings
from .tasks import Task
from .tasks import kind as task_kind

_PALETTE_PICTURES = 2000  # a palette is fitted on at most so many
_MAY_CHANGE = ("epochs", "data_dir")  # between the parts of a resumed training
_REDRAW = 30.0  # seconds

logger = logging.getLogger("colourize")


def train(
    settings: Settings,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: torch.device | str | None = None,
    console: Console | None = None,
) -> Run:
    """Trains a network and returns its run; with `resume`, goes on with the run that `folder` holds.

    A resumed run may change `epochs` and `data_dir` and nothing else; with other `epochs`, the learning rate of those
    to come is that of the new number, and a warning says so. Interrupted and resumed, a training ends with the same
    weights and metrics, bit for bit, as without the interruption. `device` is a GPU where there is one, unless given;
    progress goes to `console`, if given. Raises `UserError` for what the caller can put right.
    """
    device = choose_device(device)
    console = console or Console(quiet=True)
    run, split = reopen(folder, settings) if resume else begin(folder, settings)

    network = run.create_network().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr, fused=True)
    if resume:
        run.load_epoch(network, optimizer)
        if run.metrics:
            run.save_results(network)
    elif hasattr(network, "prior"):
        network.prior.start(lookup.table(run.task, split.train))
    with progress(console, "preparing", len(split.train) + len(split.validation)) as advance:
        seen, unseen = (Examples(images, run.task, device, advance=advance) for images in split[:2])

    steps = math.ceil(len(seen) / settings.batch_size)
    with keeping_pictures(run, split.validation) as draw:
        for epoch in range(len(run.metrics) + 1, settings.epochs + 1):
            start = time.perf_counter()
            batches = map(seen.batch, shuffled(len(seen), settings.batch_size, settings.seed, epoch))
            rates = [
                rate(settings.schedule, settings.lr, step, steps * settings.epochs)
                for step in range((epoch - 1) * steps, epoch * steps)
            ]
            with progress(console, f"epoch {epoch}/{settings.epochs}", len(seen)) as advance:
                train_loss = train_epoch(network, optimizer, run.task, batches, rates, advance)
            trained = time.perf_counter()
            if not math.isfinite(train_loss):
                raise UserError(f"the loss became {train_loss} in epoch {epoch}: try an lr below {settings.lr}")

            scores = mean_scores(network_predictor(network.eval()), run.task, unseen, settings.batch_size)
            row = {"epoch": epoch, "train_loss": train_loss}
            run.metrics.append(row | {f"validation_{name}": score for name, score in scores.items()})
            run.save_epoch(network, optimizer)
            draw()
            training, whole = (len(seen) / (end - start) for end in (trained, time.perf_counter()))
            console.print(
                f"epoch {epoch:>3}/{settings.epochs}  {tables.describe(run.metrics[-1], run.task)}, "
                f"{training:,.0f} images/s ({whole:,.0f} with validation and saving)",
                soft_wrap=True,
                highlight=False,
            )
    return run


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    batches: Iterable[Batch],
    rates: Iterable[float],
    advance: Advance = lambda count, loss=None: None,
) -> float:
    """One pass over `batches`, each with a learning rate of its own; returns the mean loss per picture."""
    network.train()
    total, seen = 0.0, 0
    for batch, lr in zip(batches, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = task.loss(network(batch.input), batch.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach().double() * len(batch)
        seen += len(batch)
        advance(len(batch), total / seen)
    return (total / seen).item()


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """The numbers below `count`, in an order of their own for each seed and epoch, in batches; the last may be
    smaller."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return iter(torch.randperm(count, generator=generator).split(batch_size))


@contextmanager
def keeping_pictures(run: Run, images: Images) -> Iterator[Callable[[], None]]:
    """Keeps curves.png and samples.png of `run` up to date while the block runs.

    Drawing takes as long as many a step. So what is yielded, to be called after every epoch, draws once in _REDRAW
    seconds; what is missing then is drawn when the block ends, in whatever way.
    """
    epochs, last = 0, time.monotonic()

    def draw() -> None:
        nonlocal epochs, last
        if run.metrics and epochs < len(run.metrics):
            network = run.load_network()  # the saved one: what is being trained may be in the middle of an epoch
            title = f"{run.settings.task}, {run.settings.network}"
            plots.curves(run.folder / "curves.png", run.metrics, title)
            plots.samples(run.folder / "samples.png", network, run.task, images)
            epochs, last = len(run.metrics), time.monotonic()

    try:
        yield lambda: draw() if time.monotonic() - last > _REDRAW else None
    except BaseException:
        with suppress(UserError):  # such as a full disk, which is being reported already
            draw()
        raise
    draw()


def begin(folder: str | os.PathLike[str], settings: Settings) -> tuple[Run, Split]:
    """A new run with its palette, given or fitted, and its pictures; nothing is written before these."""
    check_free(folder)
    split = load_data(settings)
    palette = None
    if task_kind(settings.task).needs_palette:
        palette = Palette.load(settings.palette) if settings.palette else fit_palette(settings, split)
    task = create_task(settings, palette)
    if task.needs_frequencies:
        task.frequencies = lookup.frequencies(task, split.train)
    return Run.begin(folder, settings, task), split


def fit_palette(settings: Settings, split: Split) -> Palette:
    """The colours of the training pictures, or of some thousands spread over them."""
    some = torch.linspace(0, len(split.train) - 1, min(len(split.train), _PALETTE_PICTURES)).long()
    return Palette.fit(split.train.batch(some), settings.colours, settings.seed)


def reopen(folder: str | os.PathLike[str], settings: Settings) -> tuple[Run, Split]:
    """The run in `folder` and its pictures. Raises `UserError` for a setting that may not change."""
    run = Run.open(folder)
    for name, old in vars(run.settings).items():
        new = getattr(settings, name)
        if new != old and name not in _MAY_CHANGE:
            raise UserError(
                f"{name} was {old} when {folder} was begun and cannot become {new}: choose another --out"
            )
    split = load_data(settings)
    if settings.epochs != run.settings.epochs and settings.schedule != "constant":
        logger.warning(
            "epochs was %d and becomes %d: from here on the learning rate is that of %s over %d epochs, so the network "
            "will be another than one trained with %d from the beginning",
            *(run.settings.epochs, settings.epochs, settings.schedule, settings.epochs, settings.epochs),
        )
    if settings != run.settings:
        run.settings = settings
        settings.save(run.folder / "settings.toml")
    return run, split


def load_data(settings: Settings) -> Split:
    """The pictures that the settings name."""
    return data.load(
        settings.data,
        data_dir=settings.data_dir,
        class_name=settings.class_name,
        size=settings.size,
        limit=settings.limit,
        seed=settings.seed,
    )


def choose_device(name: torch.device | str | None) -> torch.device:
    """The device of that name, or a GPU where there is one; `UserError` for a device that is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device
