"""Everything that can be timed, and the choice among it by names and tags."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from . import blocks, layers, memory, networks, throughput
from .subjects import Subject


def subjects(device: torch.device, *, compiled: bool = True) -> list[Subject]:
    """Everything there is, layers first; `compiled`: with torch.compile among the rivals."""
    return [
        *layers.subjects(device, compiled),
        *blocks.subjects(device, compiled),
        *networks.subjects(device, compiled),
        memory.step(device, compiled),
        *throughput.subjects(device, compiled),
    ]


def choose(everything: Iterable[Subject], patterns: Iterable[str]) -> list[Subject]:
    """The subjects that match one of the patterns, in the order of these: time may run out.

    Raises:
        ValueError: a pattern matches nothing; the message lists the tags.
    """
    everything, patterns = list(everything), list(patterns)
    for pattern in patterns:
        if not any(subject.matches(pattern) for subject in everything):
            tags = sorted({tag for subject in everything for tag in subject.tags})
            raise ValueError(
                f"--cases {pattern!r} is like no name and no tag of a case; the tags are {', '.join(tags)}"
            )
    chosen = [subject for pattern in patterns for subject in everything if subject.matches(pattern)]
    return list(dict.fromkeys(chosen))
