"""The bar that a training shows: pictures done, the loss so far, pictures per second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Bar
from rich.text import Text

_REDRAWS = 4  # a second; each costs the training some milliseconds


class Advance(Protocol):
    """So many more pictures, and who knows the mean loss so far, where there is one."""

    def __call__(self, count: int, loss: Callable[[], float] | None = None) -> None: ...


class _Speed(ProgressColumn):
    def render(self, task: Bar) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


class _Loss(ProgressColumn):
    def render(self, task: Bar) -> Text:
        loss = task.fields["loss"]  # asked only when drawn, so that no step waits for a GPU
        return Text("" if loss is None else f"loss {loss():.4f}")


@contextmanager
def progress(console: Console, label: str, total: int) -> Iterator[Advance]:
    """Shows a bar for `total` pictures while the block runs, then removes it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Loss(),
        _Speed(),
        TimeRemainingColumn(),
    )
    off = not console.is_terminal
    with Progress(
        *columns, console=console, transient=True, disable=off, refresh_per_second=_REDRAWS
    ) as bars:
        bar = bars.add_task(label, total=total, loss=None)
        yield lambda count, loss=None: bars.update(bar, advance=count, loss=loss)
