"""recorded(): a function of tensors, such as a training step, replayed as the bare operators that it called.

A step of a small network spends a millisecond or two in Python, modules and autograd, which decide the same every time.
The recording is what they decided: the operators as they reached the kernels, backward and optimizer among them, in
their order, as one straight Python function. What a CUDA graph is to a GPU, on the CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from .recording import LOOKS

Result = TypeVar("Result")
_ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
_FILLED = ("ones", "zeros", "full", "ones_like", "zeros_like", "full_like")  # whose numbers are the same every time
_READ = torch.ops.aten._local_scalar_dense.default
_MOST_SIGNATURES = 16


class _Use:
    """A tensor where an operator takes it or the function returns it: by its number."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Call(NamedTuple):
    operator: Any
    args: Any  # with a `_Use` for every tensor
    kwargs: Any
    results: list[int | None]  # their numbers

    def uses(self) -> set[int]:
        return _uses((self.args, self.kwargs))


def _uses(values: Any) -> set[int]:
    return {leaf.number for leaf in tree_flatten(values)[0] if isinstance(leaf, _Use)}


class _Tape(TorchDispatchMode):
    """The operators of one run. Tensors have numbers: the inputs, what is there from outside, and all results."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.outside: dict[int, Tensor] = {}
        self.problem: str | None = None  # why this cannot be replayed
        self._numbers: dict[int, int] = {}  # by id
        self._alive: list[Tensor] = []  # as long as their ids and storages mean them
        self._filled: set[int] = set()
        self.inputs = [self._number(tensor) for tensor in inputs]
        self._passing = set(map(_storage, inputs))  # storages that are others in a replay
        self._lasting: set[int] = set()

    def _number(self, tensor: Tensor) -> int:
        number = self._numbers.setdefault(id(tensor), len(self._alive))
        if number == len(self._alive):
            self._alive.append(tensor)
        return number

    def use(self, tensor: Tensor) -> _Use:
        if id(tensor) not in self._numbers:
            if _storage(tensor) in self._passing:
                self.problem = "a tensor comes from an operator's result in a way that operators do not show"
            self._lasting.add(_storage(tensor))
            self.outside[self._number(tensor)] = tensor
        return _Use(self._numbers[id(tensor)])

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.problem is None and func.namespace != "profiler":
            with torch._C.DisableTorchFunction():  # `_Looks` is for others
                self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        results = [] if result is None else list(result) if isinstance(result, list | tuple) else [result]
        if func is _READ and id(args[0]) in self._filled:
            return
        if not all(isinstance(r, Tensor | None) for r in results) or _size_from_values(func, args):
            self.problem = f"{func} gives Python a number, or a size, that may be another the next time"
            return
        used = tree_map_only(Tensor, self.use, (args, kwargs))
        new = [r for r in results if r is not None and id(r) not in self._numbers]
        self._passing.update({_storage(tensor) for tensor in new} - self._lasting)
        if func._schema.name.removeprefix("aten::") in _FILLED or (func in _ALIASES and id(args[0]) in self._filled):
            self._filled.update(map(id, new))
        elif func._schema.is_mutable and self._filled & set(map(id, tree_flatten((args, kwargs))[0])):
            self._filled.clear()
        numbers = [None if r is None else self._number(r) for r in results]
        self.calls.append(_Call(func, used[0], used[1], numbers))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _size_from_values(func: Any, args: Any) -> bool:
    if func is torch.ops.aten.index.Tensor:  # where it is no mask, the size is that of the indices
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


class _Looks(TorchFunctionMode):
    """Notices who reads values past the operators."""

    def __init__(self, tape: _Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in LOOKS:
            self._tape.problem = f"Tensor.{func.__name__} gives Python values that may be others the next time"
        return func(*args, **(kwargs or {}))


def _needed(calls: list[_Call], wanted: set[int]) -> list[_Call]:
    """Without those whose results nobody reads, and which change nothing."""
    kept = []
    for call in reversed(calls):
        if call.operator._schema.is_mutable or not wanted.isdisjoint(call.results):
            kept.append(call)
            wanted = wanted | call.uses()
    return kept[::-1]


def _replay_of(tape: _Tape, leaves: list[Any]) -> Callable[..., list[Any]]:
    """The recording as a function of the inputs that gives the leaves; in it a tensor lives until its last use."""
    calls = _needed(tape.calls, _uses(leaves))
    names: dict[str, Any] = {f"t{n}": tensor for n, tensor in tape.outside.items()}
    last = {number: at for at, call in enumerate(calls) for number in call.uses() | set(call.results)}
    lasting = {*tape.outside, *_uses(leaves), *tape.inputs, None}
    known: set[int | None] = {*tape.inputs, *tape.outside}
    inputs = (f"t{n}" if n not in tape.inputs[:i] else f"_{i}" for i, n in enumerate(tape.inputs))
    lines = [f"def replay({', '.join(inputs)}):"]
    for at, call in enumerate(calls):
        if call.operator in _ALIASES and call.args[0].number not in tape.outside:
            line = f"t{call.args[0].number}"
        else:
            names[f"f{at}"] = call.operator
            line = f"f{at}({', '.join(_written(call.args, call.kwargs, names))})"
        targets = [f"t{n}" if n not in known and n is not None else "_" for n in call.results]
        if any(target != "_" for target in targets):
            alone = len(call.operator._schema.returns) == 1 and not _gives_list(call.operator)
            line = f"{', '.join(targets)}{'' if alone else ','} = {line}"
        known.update(call.results)
        dead = sorted(f"t{n}" for n, end in last.items() if end == at and n not in lasting)
        lines += [line, f"del {', '.join(dead)}"] if dead else [line]
    lines.append(f"return [{', '.join(_written(leaves, {}, names))}]")
    exec("\n    ".join(lines), names)
    return names["replay"]


def _gives_list(operator: Any) -> bool:
    return isinstance(operator._schema.returns[0].type, torch.ListType)


def _written(args: Any, kwargs: dict[str, Any], names: dict[str, Any]) -> Iterator[str]:
    """Arguments as source text; what has no text of its own gets a name."""

    def text(value: Any) -> str:
        if isinstance(value, _Use):
            return f"t{value.number}"
        if type(value) in (list, tuple):
            inner = ", ".join(map(text, value))
            return f"[{inner}]" if type(value) is list else f"({inner},)" if value else "()"
        if value is None or type(value) in (bool, int, str):
            return repr(value)
        name = f"c{len(names)}"
        names[name] = value
        return name

    yield from map(text, args)
    yield from (f"{key}={text(value)}" for key, value in kwargs.items())


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
            self._replays[signature] = None
            return self._plain(*tensors)
        return self._record(signature, tensors)

    def _plain(self, *tensors: Tensor) -> Result:
        return tree_map_only(Tensor, Tensor.detach, self._function(*tensors))

    def _record(self, signature: Any, tensors: tuple[Tensor, ...]) -> Result:
        with _Tape(tensors) as tape, _Looks(tape):
            result = self._plain(*tensors)
            leaves, structure = tree_flatten(tree_map_only(Tensor, tape.use, result))
        if tape.problem is not None:
            self._give_up(tape.problem)
            return result
        replay = _replay_of(tape, leaves)

        def run(*tensors: Tensor) -> Result:
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
    return (same, torch.is_autocast_enabled("cpu"), *((t.shape, t.stride(), t.dtype, t.requires_grad) for t in tensors))


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

    A function that shows Python values (`.item()`, `.numpy()`, a branch on a value, a size that depends on values)
    cannot be recorded: it goes on as it is, which is said once, and `problem` says why.

    Returns:
        A callable of plain tensors on the CPU, positional, that gives what the function does, tensors in any structure.

    Raises:
        TypeError: at a call, an argument is no such tensor.
    """
    return Recorded(function)
