"""The ways in which the framework can run one thing: memory layout × eager or compiled × (GPU) in a CUDA graph."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from .measure import Call
from .subjects import LAYOUTS


class Variant(NamedTuple):
    layout: str
    compiled: bool = False
    graph: bool = False
    device: str = "cpu"

    @property
    def name(self) -> str:
        words = self.layout, "compiled" if self.compiled else "", "in a CUDA graph" if self.graph else ""
        return " ".join(word for word in words if word)

    @property
    def memory_format(self) -> torch.memory_format:
        return LAYOUTS[self.layout]

    def compile(self, function: Callable[..., Any], *, freeze: bool = False) -> Callable[..., Any]:
        """The function, compiled if this variant is: at its best, and for exactly the shapes it meets.

        freeze: weights may be folded and laid out anew, for inference on the CPU.
        """
        if not self.compiled:
            return function
        if self.device == "cuda":
            with suppress(
                AttributeError
            ):  # of versions that have no such setting: they print what they tried
                torch._inductor.config.autotune_num_choices_displayed = 0
            return torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs")
        return torch.compile(function, dynamic=False, options={"freezing": True} if freeze else None)

    def ready(self, call: Call, sets: int) -> Call:
        """The call as it is timed: itself, or a graph of it for every set."""
        if not self.graph:
            return call
        from .cuda import graphed

        replays = [graphed(lambda number=number: call(number)) for number in range(sets)]
        return lambda number: replays[number]()


def variants(device: torch.device, compiled: bool) -> Iterator[Variant]:
    graphs = (False, True) if device.type == "cuda" else (False,)
    for compile in (False, True) if compiled else (False,):
        for layout in LAYOUTS:
            for graph in graphs:
                yield Variant(layout, compile, graph, device.type)


def forget_compiled() -> None:
    """Drops what was compiled: the compiler's limit of versions is per function, and every case would be one more."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def quiet() -> None:
    """Keeps what the framework says of itself, while it compiles and exports, out of the output."""
    warnings.filterwarnings("ignore", module=r"torch\..*")
    warnings.filterwarnings("ignore", message=".*torch.onnx.*")
    for name in ("torch._inductor", "torch._dynamo", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
