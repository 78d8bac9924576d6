"""Settings that not every training looks at: whoever gives one that none would look at expects something else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .. import tasks
from ..files import UserError
from ..settings import Settings


class _Use(NamedTuple):
    purpose: str
    looks_at: Callable[[Settings], bool]


def _tasks(has: Callable[[type[tasks.Task]], bool]) -> _Use:
    names = [name for name in tasks.NAMES if has(tasks.kind(name))]
    return _Use(f"the tasks {', '.join(names)}", lambda settings: settings.task in names)


def _perceives(settings: Settings) -> bool:
    return tasks.kind(settings.task).check_loss(settings.loss) == "perceptual"


_CIFAR10 = _Use("--data cifar10", lambda settings: settings.data == "cifar10")
_PALETTE = _tasks(lambda task: task.needs_palette)
_FITTED = _Use(
    f"{_PALETTE.purpose}, without --palette",
    lambda settings: _PALETTE.looks_at(settings) and settings.palette is None,
)
_PERCEPTUAL = _Use("--loss perceptual", _perceives)
_USES = {
    "data_dir": _CIFAR10,
    "class_name": _CIFAR10,
    "palette": _PALETTE,
    "colours": _FITTED,
    "space": _PALETTE,
    "loss_weights": _PERCEPTUAL,
    "loss_layers": _PERCEPTUAL,
    "temperature": _tasks(lambda task: task.has_classes),
}


def check_used(given: Mapping[str, Any], trainings: Iterable[Settings]) -> None:
    """Raises `UserError` for the first of the `given` settings that none of these `trainings` would look at.

    What a network does not have, and what is out of range, is no setting of it at all (see `Settings`).
    """
    trainings = list(trainings)
    for name, value in given.items():
        if name in _USES and not any(map(_USES[name].looks_at, trainings)):
            raise unused(name, value, f"{_USES[name].purpose},")


def unused(name: str, value: Any, purpose: str) -> UserError:
    """What is to be said of a setting that was given for nothing."""
    flag = "--class" if name == "class_name" else f"--{name.replace('_', '-')}"
    return UserError(f"{flag} {value} is for {purpose} and would change nothing here")
