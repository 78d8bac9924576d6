"""recorded(): a function of tensors, such as a training step, replayed as the bare operators that it called.

A step of a small network spends a millisecond or two in Python, modules and autograd, which decide the same every time.
The recording is what they decided: the operators as they reached the kernels, backward and optimizer among them, in
their order, as one straight Python function. What a CUDA graph is to a GPU, on the CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from . import backends
from .replay import replay_of
from .tape import Looks, Tape

Result = TypeVar("Result")
_MOST_SIGNATURES = 16


class Recorded(Generic[Result]):
    """What `recorded` makes: a callable that replays its function.

        >>> double = myconv2d.recorded(lambda x: 2 * x)
        >>> isinstance(double, myconv2d.Recorded), double.recordings, double.problem
        (True, 0, None)

    Attributes:
        problem: why the function runs as it is; None if it does not have to.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._replays: dict[Any, Callable[..., Result] | None] = {}
        self.problem: str | None = None

    @property
    def recordings(self) -> int:
        """For how many kinds of inputs there is a recording."""
        return sum(replay is not None for replay in self._replays.values())

    def __call__(self, *tensors: Tensor) -> Result:
        for i, tensor in enumerate(tensors):
            if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type != "cpu":
                raise TypeError(f"recorded(): argument {i} must be a plain tensor on the CPU, got {_kind(tensor)}")
        signature = _signature(tensors)
        replay = self._replays.get(signature)
        if replay is not None:
            return replay(*tensors)
        if self.problem is not None:
            return self._plain(*tensors)
        if signature not in self._replays:
            if len(self._replays) == _MOST_SIGNATURES:
                self._give_up(f"it has met more than {_MOST_SIGNATURES} kinds of inputs")
            result = self._plain(*tensors)
            self._replays[signature] = None  # only now: a call that failed may have made no state yet
            return result
        return self._record(signature, tensors)

    def _plain(self, *tensors: Tensor) -> Result:
        return tree_map_only(Tensor, Tensor.detach, self._function(*tensors))

    def _record(self, signature: Any, tensors: tuple[Tensor, ...]) -> Result:
        torch.clear_autocast_cache()  # a weight that was narrowed before would stay what it was
        with Tape(tensors) as tape, Looks(tape):
            result = self._plain(*tensors)
            leaves, structure = tree_flatten(result)
        if tape.problem is None and tape.is_borrowed():
            tape.problem = "a tensor is made of memory that is not torch's in every call, as torch.from_numpy does"
        if tape.problem is not None:
            self._give_up(tape.problem)
            return result
        gradients = tape.gradients()
        replay = replay_of(tape, tree_map_only(Tensor, tape.use, leaves))
        if tape.is_kept(leaves):
            self._give_up("it keeps a tensor that it makes, such as an optimizer's new state, for a call that follows")
            return result

        def run(*tensors: Tensor) -> Result:
            if any(tensor.grad is not grad for tensor, grad in gradients):
                self._replays[signature] = None
                self._give_up("it takes gradients of before, and these are others now: clear them in the function")
                return self._plain(*tensors)
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                if torch.is_autocast_enabled("cpu"):  # which the operators have behind them
                    stack.enter_context(torch.autocast("cpu", enabled=False))
                return tree_unflatten(replay(*tensors), structure)

        self._replays[signature] = run
        return result

    def _give_up(self, problem: str) -> None:
        self.problem = problem
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        warnings.warn(f"myconv2d: {name} is not recorded and runs as it is: {problem}", stacklevel=4)


def _signature(tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
    same = tuple(next(i for i, other in enumerate(tensors) if other is tensor) for tensor in tensors)
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    return (same, autocast, backends.wanted, *((t.shape, t.stride(), t.dtype, t.requires_grad) for t in tensors))


def _kind(value: Any) -> str:
    return f"{type(value).__name__} on {value.device}" if isinstance(value, Tensor) else type(value).__name__


def recorded(function: Callable[..., Result]) -> Recorded[Result]:
    """`function` of tensors, replayed from its third call on as the operators that it called in the second.

        >>> layer = myconv2d.MyConv2d(1, 4, 3)
        >>> optimizer = torch.optim.Adam(layer.parameters(), lr=torch.tensor(1e-3), fused=True)
        >>> def step(pictures):
        ...     optimizer.zero_grad()
        ...     loss = layer(pictures).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     return loss
        >>> step = myconv2d.recorded(step)
        >>> losses = [step(torch.rand(2, 1, 8, 8)) for _ in range(4)]
        >>> step.recordings
        1

    Every call does the function's whole work, with the same bits: the first as it is (optimizers make their state
    then), the second under observation, all others by replay. Inputs of another shape, layout or type begin anew.

    As with CUDA graphs, what Python does in between is not done again: numbers stay as they were (so give a learning
    rate as a tensor), the branches taken stay taken, hooks are not called, `.grad` is not set (return a gradient to see
    it), and tensors from outside are meant as the objects that they are: change them in place, as optimizers and
    `load_state_dict` do. Random operators draw anew. Results have no derivatives. One thread at a time may call.

    A function cannot be recorded if it shows Python values (`.item()`, `.numpy()`, a branch on a value, a size that
    depends on values), if it draws from a generator that it set back (a seed, a checkpoint around dropout), if it makes
    a tensor of a numpy array (`torch.from_numpy`), or if a tensor that it makes is kept for later but as a gradient. It
    goes on as it is, which is said once, and `problem` says why.

    What cannot be seen: a tensor of a numpy array that is kept from call to call, and then another one; and operators
    that another Python thread calls. In a replay the one stays what it was, the others are not called.

    Returns:
        A callable of plain tensors on the CPU, positional, that gives what the function does, tensors in any structure.

    Raises:
        TypeError: at a call, an argument is no such tensor.
    """
    return Recorded(function)
