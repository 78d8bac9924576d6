"""A training that several processes share (distributed.py).

Every process has all pictures and the whole network, draws the same order from the seed, and takes its share of each
batch. Batch norm sees the shares of all (myconv2d.sync_norm), and gradients are averaged (DistributedDataParallel), so
that the numbers are those of one process with the same batch size, up to the order of sums. The first process alone
writes and draws.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from myconv2d import sync_norm

from . import checkpoint
from .distributed import World, connected
from .files import say_once
from .runs import Run
from .step import Step


class Shadow(Run):
    """The run of a process that is not the first: its folder is written by that one."""

    def save_epoch(self, *args: object) -> None: ...

    def save_results(self, *args: object) -> None: ...

    def load_epoch(self, *args: object) -> None: ...


def equalise(world: World, run: Run, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts metrics, network and optimizer of all processes where the first one's are."""
    if world.size == 1:
        return

    def state() -> tuple[Any, dict[str, Tensor]]:
        tensors = network.state_dict() | checkpoint.pack_optimizer(optimizer)
        return run.metrics, {name: tensor.cpu() for name, tensor in tensors.items()}

    metrics, tensors = world.from_first(state)
    if world.rank > 0:
        run.metrics = metrics
        network.load_state_dict({name: tensors[name] for name in network.state_dict()})
        checkpoint.unpack_optimizer(optimizer, tensors)


class SharedStep(Step):
    """A step of all processes: each works on its share of the batch. It is never captured, and says so where that might
    have been expected."""

    def __init__(self, *args: Any, world: World, graph: bool | None = None) -> None:
        super().__init__(*args)
        if graph or graph is None and self.losses.is_cuda:
            say_once("the training step is not captured: several processes share it")
        self._world, self.shares = world, world.size
        self._norms = sync_norm.synchronise(self.network)
        with connected(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a newer name for the option below
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False)
            # It sums in an order that the first backward pass decides and keeps it from the second on. This one comes
            # before any step, so that a resumed training sums in the same order as one that was not interrupted.
            one = self.examples.batch(torch.arange(1))
            self.task.loss(self.network.eval()(one.input).float(), one.target).backward()
            self.optimizer.zero_grad(set_to_none=True)

    def __call__(self, indices: Tensor, lr: float) -> None:
        """As `Step`, with the indices of the whole batch. One of fewer pictures than processes is for each of them."""
        self._set_rate(lr)
        count, shared = len(indices), len(indices) >= self._world.size
        for norm in self._norms:
            norm.joint = shared
        own = self._world.share(indices) if shared else indices
        stands_for = len(own) if shared else count / self._world.size
        with connected():
            self._work(self.examples.batch(own), stands_for, stands_for * self._world.size / count)

    def total(self) -> float:
        return sum(self._world.gathered(super().total()))
