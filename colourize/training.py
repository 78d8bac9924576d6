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
from torch import Tensor

from . import data, lookup, plots, precision, tables, tensorboard
from . import step as steps
from .data import Images, Split
from .distributed import ALONE, World
from .evaluation import mean_scores, network_predictor
from .examples import Examples
from .files import UserError
from .palette import Palette
from .progress import Advance, progress
from .runs import Run, check_free, create_task, read_metrics
from .schedule import rate
from .settings import Settings
from .sharing import Shadow, SharedStep, equalise
from .step import Step
from .tasks import kind as task_kind
from .views import Views

_PALETTE_PICTURES = 2000  # a palette is fitted on at most so many
_MAY_CHANGE = ("epochs", "data_dir", "precision")  # between the parts of a resumed training
_REDRAW = 30.0  # seconds

logger = logging.getLogger("colourize")


def train(
    settings: Settings,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: torch.device | str | None = None,
    graph: bool | None = None,
    console: Console | None = None,
    world: World = ALONE,
    events: bool = False,
) -> Run:
    """Trains a network and returns its run; with `resume`, goes on with the run that `folder` holds.

    A resumed run may change `epochs`, `data_dir` and `precision` and nothing else; with other `epochs`, the
    learning rate of those to come is that of the new number, and a warning says so. Interrupted and resumed, a
    training ends with the same weights and metrics, bit for bit, as without the interruption. `device` is a GPU
    where there is one, unless given, and `settings.precision` the device's own (see `precision`). `graph`: whether
    to capture the step and replay it (see `step`); if not given, wherever that can be done. Progress goes to
    `console`, if given. `world`: the processes that train together, each of which calls this
    (`distributed.joined`). `events`: whether to write for TensorBoard too. Raises `UserError` for what the caller
    can put right.
    """
    with world.together():
        if events:
            tensorboard.check()
        world.check(settings.batch_size)
        device = choose_device(world.device(device))
        settings = settings.replace(precision=precision.choose(settings.precision, device))
    console = console if console and world.rank == 0 else Console(quiet=True)
    run, split = prepare(folder, settings, resume, world)

    network = run.create_network().to(device)
    optimizer = steps.adam(network.parameters(), settings.lr, device, settings.weight_decay)
    with world.together():
        if resume:
            run.load_epoch(network, optimizer)
            if run.metrics:
                run.save_results(network)
        elif hasattr(network, "prior") and world.rank == 0:
            network.prior.start(lookup.table(run.task, split.train))
    equalise(world, run, network, optimizer)
    views = Views(settings.flips, settings.turns, settings.shifts, run.task.size_multiple, settings.stretches)
    with progress(console, "preparing", len(split.train) + len(split.validation)) as advance:
        seen = Examples(split.train, run.task, device, views=views, advance=advance)
        unseen = Examples(split.validation, run.task, device, advance=advance)

    parts = network, optimizer, run.task, seen, settings.precision
    if world.size == 1:
        step = steps.create(*parts, size=settings.batch_size, graph=graph)
    else:
        step = SharedStep(*parts, world=world, graph=graph)
    pictures = len(split.train)
    count = math.ceil(pictures / settings.batch_size)  # of steps in an epoch
    pinned = precision.tf32_products(settings.precision != "fp32")
    logging_events = tensorboard.events(run, events and world.rank == 0)
    with pinned, logging_events as log, keeping_pictures(run, split.validation) as draw:
        for epoch in range(len(run.metrics) + 1, settings.epochs + 1):
            start = time.perf_counter()
            order = shuffled(pictures, settings.batch_size, settings.seed, epoch, views=views.count)
            batches = seen.placed(order)
            rates = [
                rate(settings.schedule, settings.lr, number, count * settings.epochs)
                for number in range((epoch - 1) * count, epoch * count)
            ]
            with progress(console, f"epoch {epoch}/{settings.epochs}", pictures) as advance:
                train_loss = train_epoch(step, batches, rates, advance)
            trained = time.perf_counter()
            with world.together():
                if not math.isfinite(train_loss):
                    raise UserError(f"the loss became {train_loss} in epoch {epoch}: try an lr below {settings.lr}")

            scores = mean_scores(network_predictor(network.eval()), run.task, unseen, settings.batch_size, world)
            row = {"epoch": epoch, "train_loss": train_loss}
            run.metrics.append(row | {f"validation_{name}": score for name, score in scores.items()})
            with world.together():
                run.save_epoch(network, optimizer)
                draw()
                log(rates[-1])
            training, whole = (pictures / (end - start) for end in (trained, time.perf_counter()))
            run.speeds.append(training)
            console.print(
                f"epoch {epoch:>3}/{settings.epochs}  {tables.describe(run.metrics[-1], run.task)}, "
                f"{training:,.0f} images/s ({whole:,.0f} with validation and saving)",
                soft_wrap=True,
                highlight=False,
            )
    return run


def train_epoch(
    step: Step,
    batches: Iterable[Tensor],
    rates: Iterable[float],
    advance: Advance = lambda count, loss=None: None,
) -> float:
    """One step for each of `batches`, with a learning rate of its own; returns the mean loss per picture."""
    step.network.train()
    step.losses.zero_()
    seen = 0

    def loss() -> float:
        return step.losses.item() * step.shares / seen

    for indices, lr in zip(batches, rates, strict=True):
        step(indices, lr)
        seen += len(indices)
        advance(len(indices), loss)
    return step.total() / seen


def shuffled(count: int, batch_size: int, seed: int, epoch: int, *, views: int = 1) -> Iterator[Tensor]:
    """The numbers below `count`, in an order of their own for each seed and epoch, in batches; the last may be
    smaller. With more `views` than one, each is the number of a view of the picture, chosen anew (see Examples)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)
    if views > 1:
        order += count * torch.randint(views, (count,), generator=generator)
    return iter(order.split(batch_size))


@contextmanager
def keeping_pictures(run: Run, images: Images) -> Iterator[Callable[[], None]]:
    """Keeps curves.png and samples.png of `run` up to date while the block runs.

    Drawing takes as long as many a step. So what is yielded, to be called after every epoch, draws once in _REDRAW
    seconds; what is missing then is drawn when the block ends, in whatever way. A `Shadow` has none.
    """
    if isinstance(run, Shadow):
        yield lambda: None
        return
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


def prepare(
    folder: str | os.PathLike[str], settings: Settings, resume: bool, world: World = ALONE
) -> tuple[Run, Split]:
    """A run and its pictures, in every process; the first one alone looks at the folder."""
    split = None

    def make() -> Run:
        nonlocal split
        made, split = reopen(folder, settings) if resume else begin(folder, settings)
        return made

    run = world.from_first(make)
    for turn in (True, False):  # what is downloaded is so by one process of a machine, for all of it
        with world.together():
            if split is None and (world.local_rank == 0) is turn:
                split = load_data(run.settings)
    here = len(split.train), len(split.validation)
    first = world.gathered(here)[0]
    with world.together():
        if here != first:
            raise UserError(f"{run.settings.data} has {here} pictures here, and {first} for the first process")
    return run if world.rank == 0 else Shadow(run.folder, run.settings, run.task), split


def begin(folder: str | os.PathLike[str], settings: Settings) -> tuple[Run, Split]:
    """A new run with its palette, given or fitted, and its pictures; nothing is written before these."""
    check_free(folder)
    split = load_data(settings)
    palette = None
    if task_kind(settings.task).needs_palette:
        palette = Palette.load(settings.palette, settings.space) if settings.palette else fit_palette(settings, split)
    task = create_task(settings, palette)
    if task.needs_frequencies:
        task.frequencies = lookup.frequencies(task, split.train)
    if task.perceptual:
        task.perceptual.load()
    return Run.begin(folder, settings, task), split


def fit_palette(settings: Settings, split: Split) -> Palette:
    """The colours of the training pictures, or of some thousands spread over them."""
    some = torch.linspace(0, len(split.train) - 1, min(len(split.train), _PALETTE_PICTURES)).long()
    return Palette.fit(split.train.batch(some), settings.colours, settings.seed, space=settings.space)


def reopen(folder: str | os.PathLike[str], settings: Settings) -> tuple[Run, Split]:
    """The run in `folder` and its pictures. Raises `UserError` for a setting that may not change."""
    run = Run.open(folder)
    for name, old in vars(run.settings).items():
        new = getattr(settings, name)
        if new != old and name not in _MAY_CHANGE:
            raise UserError(
                f"{name} was {old} when {folder} was begun and cannot become {new}: choose another --out"
            )
    if settings.epochs < (finished := len(read_metrics(run.folder))):
        raise UserError(f"epochs cannot become {settings.epochs}: {finished} are finished in {folder}")
    split = load_data(settings)
    if settings.epochs != run.settings.epochs and settings.schedule != "constant":
        logger.warning(
            "epochs was %d and becomes %d: from here on the learning rate is that of %s over %d epochs, so the network "
            "will be another than one trained with %d from the beginning",
            *(run.settings.epochs, settings.epochs, settings.schedule, settings.epochs, settings.epochs),
        )
    if run.settings.precision not in (None, settings.precision):
        logger.warning(
            "precision was %s and becomes %s: the epochs to come are not those of an uninterrupted training",
            *(run.settings.precision, settings.precision),
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


def habits() -> dict[str, str]:
    """How a training would run here unless told otherwise, in words."""
    device = choose_device(None)
    problem = steps.graph_hindrance(device, 1, 1)
    way = "a CUDA graph" if device.type == "cuda" else "a recording of their operators"
    return {
        "training on": str(device),
        "training in": f"{precision.default(device)} (--precision {' | '.join(precision.NAMES)})",
        "training steps": f"eager: {problem}" if problem else f"replayed from {way}",
    }


def choose_device(name: torch.device | str | None) -> torch.device:
    """The device of that name, or a GPU where there is one; `UserError` for a device that is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # meta has nothing to read
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device
