"""A stand-in for a CUDA graph on the CPU, to test what is captured and replayed (`colourize.step.Graph`).

Like a graph it repeats nothing but operations, on the very tensors that it has recorded: what Python computes in
between (a learning rate, a size, who holds a gradient) is frozen at the capture, and the capture itself leaves no
trace. It knows nothing of streams, and refuses nothing that a real capture refuses; `names` says what was recorded, so
that a test can look for operations that wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.warm_ups = self.replays = 0
        self._operations: list[tuple[Any, ...]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    @property
    def names(self) -> set[str]:
        return {function._schema.name for function, *_ in self._operations}

    def warm_up(self, work: Callable[[], None]) -> None:
        self.warm_ups += 1
        work()

    def capture(self, work: Callable[[], None]) -> None:
        with self:
            work()
        for storage, content in self._before.values():
            storage.copy_(content)

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, recorded in self._operations:
                made = function(*args, **kwargs)
                if any(result.alias_info for result in function._schema.returns):
                    continue  # a view of what is there, or written in place
                for old, new in zip(_tensors(recorded), _tensors(made), strict=True):
                    old.copy_(new)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            function._schema.is_mutable or "batch_norm" in function._schema.name
        ):  # whose schema hides that it is
            for tensor in _tensors((args, kwargs)):
                storage = tensor.untyped_storage()
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = function(*args, **kwargs)
        self._operations.append((function, args, kwargs, result))
        return result


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
