"""What decides a training, in one place: names, defaults, limits, and the TOML file that keeps them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from . import networks, perceptual, precision, schedule, tasks
from .files import UserError, atomic_write
from .palette import SPACES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NO_UTF_8 = re.compile("[\ud800-\udfff]")  # as Python has the bytes of a name that are none
_SMALLEST = 8  # after two halvings, batch norm still sees more than one pixel of a single picture


@dataclass(frozen=True)
class Settings:
    """The settings of one training; on one machine the same settings give the same network, bit for bit."""

    task: str
    network: str
    data: str = "photos"
    data_dir: str | None = None
    class_name: str = "horse"
    size: int = 32
    limit: int | None = None
    palette: str | None = None
    colours: int = 24
    space: str = "rgb"
    filters: int = 32
    kernel_size: int = 3
    bottleneck: int | None = None
    order: str | None = None
    depth: int | None = None
    loss: str | None = None
    loss_weights: str | None = None
    loss_layers: str | None = None
    temperature: float | None = None
    flips: bool = False
    turns: bool = False
    shifts: int = 0
    stretches: int = 0
    mirror: bool = False
    epochs: int = 25
    batch_size: int = 100
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "one-cycle"
    precision: str | None = None  # the device's own
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `UserError`, naming the setting, for any value of a wrong type or out of range."""
        for name, kind in get_type_hints(Settings).items():
            value = getattr(self, name)
            if kind in (float, float | None) and type(value) is int:
                object.__setattr__(self, name, float(value))
            elif not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
                raise UserError(f"{name} must be {getattr(kind, '__name__', kind)}, not {value!r}")
            elif isinstance(value, str) and _NO_UTF_8.search(value):
                raise UserError(f"{name} must be in UTF-8, not {value!r}")
            elif type(value) is int and name not in ("seed", "shifts", "stretches") and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"seed must be from 0 to {2**31 - 1}, not {self.seed}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"lr must be a positive number, not {self.lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay must be a number from 0 up, not {self.weight_decay}")
        if self.schedule not in schedule.NAMES:
            raise UserError(f"schedule must be one of {', '.join(schedule.NAMES)}, not {self.schedule!r}")
        if self.precision not in (None, *precision.NAMES):
            raise UserError(f"precision must be one of {', '.join(precision.NAMES)}, not {self.precision!r}")
        if self.colours < 2:
            raise UserError(f"colours must be at least 2, not {self.colours}")
        if self.space not in SPACES:
            raise UserError(f"space must be one of {', '.join(SPACES)}, not {self.space!r}")
        if self.size < _SMALLEST:
            raise UserError(f"size must be at least {_SMALLEST}, not {self.size}")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be a number from 0, the likeliest colour, up, not {self.temperature}")
        task = tasks.kind(self.task)
        task.check_loss(self.loss)
        if self.loss_layers is not None:
            perceptual.layers(self.loss_layers)
        multiple = task.size_multiple
        if not 0 <= self.shifts * multiple < self.size:
            raise UserError(
                f"shifts must be from 0 to {(self.size - 1) // multiple} for size {self.size}, not {self.shifts}"
            )
        most = (self.size - 1) // 2 if task.enlarges == 1 else 0  # what is enlarged must miss no pixel
        if not 0 <= self.stretches <= most:
            raise UserError(
                f"stretches must be from 0 to {most} for task {self.task}, size {self.size}, not {self.stretches}"
            )
        if self.size % multiple:
            raise UserError(f"size must be a multiple of {multiple} for task {self.task}, not {self.size}")
        networks.complete(self.network, **self.network_settings)
        if self.mirror and networks.enlarges(self.network):
            raise UserError(f"mirror is for networks that keep a picture's size, not {self.network}")
        if networks.enlarges(self.network) is not task.network_enlarges:
            able = [name for name in networks.NAMES if networks.enlarges(name) is task.network_enlarges]
            raise UserError(f"task {self.task} is for the networks {', '.join(able)}, not {self.network}")

    @property
    def network_settings(self) -> dict[str, int | str]:
        """What `networks.create` takes, but for the channels, which the task decides."""
        names = ("filters", "kernel_size", "bottleneck", "order", "depth")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def replace(self, **changes: Any) -> Settings:
        """A copy with some settings changed, checked like the original."""
        return dataclasses.replace(self, **changes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes TOML atomically; settings that are None are left out."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in given.items()]
        atomic_write(path, lambda file: file.write("".join(lines).encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Settings:
        """Reads what `save` wrote. Raises `UserError`, naming the file, for anything else."""
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**values)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except (UserError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path} does not hold the settings of a run: {error}") from error
