"""What can be timed, by name: layers, fused blocks, whole networks, and who competes in each.

A subject is one pass of one case. Its contestants come on sides: of "ours" and of "rival" the fastest counts, on
whatever memory layout; anything else is shown beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor

OURS, RIVAL, BESIDE = "ours", "rival", "beside"
SETS = 3  # of operands
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Results = Mapping[str, Tensor]


class Ready(NamedTuple):
    """A contestant with its weights in place: `call(n)` is what is timed, on operand set n."""

    call: Callable[[int], Any]
    results: Callable[[], Results]  # of set 0, by name, for the check of accuracy


class Contestant(NamedTuple):
    name: str
    side: str
    prepare: Callable[[], Ready]


@dataclass(frozen=True)
class Subject:
    """One pass of one case; nothing is drawn or built before a contestant's `prepare()`."""

    case: str
    pass_name: str
    kind: str  # layer, block, network, overhead or memory
    tags: frozenset[str]
    contestants: Callable[[], list[Contestant]]
    exact: Callable[[], Results] | None = None  # in float64
    flop: Callable[[], int] = int  # of the convolutions, counted directly; 0 where it does not matter
    bytes: int = 0  # every operand and result once
    pixels: int = 0  # of one picture times the batch
    images: int = 0  # in one call, where images per second are asked for
    kinks: int = 0  # layers with a ReLU or a max-pool, whose gradients jump (accuracy.py)
    threads: int | None = None  # on the CPU, if not those of the whole report
    unit: str = "s"  # or "B": `call` returns bytes instead of taking time

    def __str__(self) -> str:
        return f"{self.case} {self.pass_name}"

    def matches(self, pattern: str) -> bool:
        """Whether the case or a tag is like `pattern` (shell style); NAME:PASS asks for one pass."""
        names = (self.case, *self.tags)
        return any(fnmatchcase(n, pattern) or fnmatchcase(f"{n}:{self.pass_name}", pattern) for n in names)
