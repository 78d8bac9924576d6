"""One step of a training: forward, loss, backward and Adam; eager, or captured once and replayed.

A step of these networks is a few dozen short kernels. Launched one by one from Python they leave a GPU idle most of
the time, so `GraphedStep` launches all of them at once. Nothing in an epoch waits for the device: the order of the
pictures is there before the epoch, the learning rate is written there without a copy, and the losses are summed there.
On a CPU, `RecordedStep` calls them one after the other, without what Python and autograd do between them. Any step does
the same arithmetic in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from myconv2d import recorded

from .examples import Examples
from .files import say_once
from .precision import autocast
from .tasks import Batch, Task

WARM_UPS = 3  # plans, workspaces and compiled kernels come into being before the capture


def adam(
    parameters: Iterable[nn.Parameter], lr: float, device: torch.device, weight_decay: float = 0.0
) -> torch.optim.Adam:
    """Adam for `parameters`; its learning rate is a tensor on the device, so that a captured step reads it anew.

    Weight decay is decoupled from the gradient (AdamW; Loshchilov & Hutter 2019).
    """
    capturable = device.type == "cuda"
    rate = torch.tensor(lr, device=device, dtype=torch.float32 if capturable else torch.float64)
    options = {"weight_decay": weight_decay, "decoupled_weight_decay": True, "capturable": capturable}
    return torch.optim.Adam(parameters, lr=rate, fused=True, **options)


class Step:
    """A step on `examples`, run eagerly. `optimizer` comes from `adam`, with whatever state it is to go on from."""

    shares = 1  # into which a batch is divided among processes

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Adam, task: Task, examples: Examples, precision: str
    ) -> None:
        self.network, self.optimizer, self.task, self.examples = network, optimizer, task, examples
        self.precision = precision
        self.losses = torch.zeros((), dtype=torch.float64, device=examples.device)  # of all pictures, summed

    def __call__(self, indices: Tensor, lr: float) -> None:
        """Trains on the examples at `indices` and adds their losses to `losses`."""
        self._set_rate(lr)
        self._work(self.examples.batch(indices))

    def _set_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def total(self) -> float:
        """The losses of all pictures since `losses` was zero."""
        return self.losses.item()

    def _work(self, batch: Batch, stands_for: float | None = None, weight: float = 1.0) -> None:
        """A share of a batch `stands_for` so many of its pictures, and its gradients count `weight` times."""
        with autocast(self.precision, self.losses.device):
            output = self.network(batch.input)
        loss = self.task.loss(output.float(), batch.target)
        self.optimizer.zero_grad(set_to_none=True)
        (loss if weight == 1 else loss * weight).backward()
        self.optimizer.step()
        self.losses += loss.detach().double() * (len(batch) if stands_for is None else stands_for)


class Graph(Protocol):
    """What `GraphedStep` needs of a CUDA graph."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Runs `work` once where it will be captured."""

    def capture(self, work: Callable[[], None]) -> None:
        """Records the kernels that `work` launches, without running them."""

    def replay(self) -> None:
        """Runs the recorded kernels, on the tensors that they were recorded with."""


class CudaGraph:
    """The framework's, on `device` (the current one, if not given)."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._graph, self._side = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def warm_up(self, work: Callable[[], None]) -> None:
        here = torch.cuda.current_stream(self._device)
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            work()
        here.wait_stream(self._side)

    def capture(self, work: Callable[[], None]) -> None:
        # Only this thread must do nothing that cannot be captured: the progress bar's reads losses.
        mode = {"stream": self._side, "capture_error_mode": "thread_local"}
        with torch.cuda.device(self._device), torch.cuda.graph(self._graph, **mode):
            work()

    def replay(self) -> None:
        with torch.cuda.device(self._device):
            self._graph.replay()


class GraphedStep(Step):
    """A step that is captured at its first batch of `size` examples and replayed for all others of that size.

    Batches of another size, the last of an epoch, run eagerly. If the capture fails, all do, and that is said once.
    """

    def __init__(self, *args, size: int, graph: Graph) -> None:
        super().__init__(*args)
        self._size = size
        self._graph: Graph | None = graph
        self._batch: Batch | None = None  # where the graph reads

    def __call__(self, indices: Tensor, lr: float) -> None:
        if self._graph is None or len(indices) != self._size:
            super().__call__(indices, lr)
            return
        self._set_rate(lr)
        captured = self._batch is not None
        self._batch = self.examples.batch(indices, self._batch)
        if not captured and (problem := self._capture()) is not None:
            say_once(f"the training step is not captured in a CUDA graph, so it runs eagerly: {problem}")
            self._graph = None
            self._work(self._batch)
            return
        self._graph.replay()

    def _capture(self) -> str | None:
        """Captures the step, leaving network, optimizer and losses as they are; returns the reason if it fails."""
        before = {id(tensor): tensor.clone() for tensor in self._state()}
        for _ in range(WARM_UPS):
            self._graph.warm_up(lambda: self._work(self._batch))
        with torch.no_grad():
            for tensor in self._state():
                old = before.get(id(tensor))
                tensor.zero_() if old is None else tensor.copy_(old)  # Adam's state begins as zeros
        try:
            self._graph.capture(lambda: self._work(self._batch))
        except RuntimeError as error:
            return str(error).strip().partition("\n")[0]
        return None

    def _state(self) -> list[Tensor]:
        """Every tensor that a step changes, but for the gradients."""
        own = (*self.network.parameters(), *self.network.buffers(), self.losses)
        return [*own, *(tensor for values in self.optimizer.state.values() for tensor in values.values())]


class RecordedStep(Step):
    """A step on the CPU that is recorded at the second batch of `size` examples and replayed for all later ones.

    Batches of another size, the last of an epoch, run eagerly.
    """

    def __init__(self, *args, size: int) -> None:
        super().__init__(*args)
        self._size = size
        self._recorded = recorded(lambda *tensors: self._work(Batch(*tensors)))

    def __call__(self, indices: Tensor, lr: float) -> None:
        if len(indices) != self._size:
            super().__call__(indices, lr)
            return
        self._set_rate(lr)
        self._recorded(*self.examples.batch(indices))


def graph_hindrance(device: torch.device, count: int, size: int) -> str | None:
    """Why steps of `size` of `count` examples cannot be captured; None if they can."""
    if device.type not in ("cpu", "cuda"):
        return f"it needs a CUDA device or the CPU, and this training runs on {device.type}"
    if count < size:
        return f"no batch is full, with {count} pictures and a batch size of {size}"
    return None


def create(*args, size: int, graph: bool | None) -> Step:
    """The step for these arguments of `Step`, captured unless `graph` is False.

    Says once why it is not, if that was asked for (True) or there is a GPU.
    """
    *_, examples, _ = args
    if graph is False:
        return Step(*args)
    problem = graph_hindrance(examples.device, len(examples), size)
    if problem is None:
        return _captured(*args, size=size)
    if graph or examples.device.type == "cuda":
        say_once(f"the training step is not captured: {problem}")
    return Step(*args)


def _captured(*args, size: int) -> Step:
    device = args[3].device
    if device.type == "cpu":
        return RecordedStep(*args, size=size)
    return GraphedStep(*args, size=size, graph=CudaGraph(device))
