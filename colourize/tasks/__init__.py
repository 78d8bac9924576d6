"""What a network is asked to do: how pictures become input and target, the loss, and how outputs become pictures.

Everything that differs between tasks is in its class; training, evaluation and `apply` know no task by name.
"""

from __future__ import annotations

from ..files import UserError
from .base import Batch, Task, tinted
from .enlarge import Enlarge2, Enlarge3, Enlarge4
from .handout import Classification, Regression, SuperResolution
from .lab import LabClassification, LabRegression

__all__ = ["NAMES", "Batch", "Task", "kind", "tinted"]

_ALL = Regression, Classification, SuperResolution, LabRegression, LabClassification, Enlarge2, Enlarge3, Enlarge4
_TASKS = {task.name: task for task in _ALL}
NAMES = tuple(_TASKS)


def kind(name: str) -> type[Task]:
    """The class of a task by name; an unknown name raises `UserError`."""
    if name not in _TASKS:
        raise UserError(f"task {name!r} is unknown; known are {', '.join(NAMES)}")
    return _TASKS[name]
