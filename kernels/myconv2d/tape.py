"""The tape of `recorded`: the operators of one run of a function, as they reached the kernels, in their order."""

from __future__ import annotations

import gc
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from .recording import LOOKS

ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
_FILLED = ("ones", "zeros", "full", "ones_like", "zeros_like", "full_like")  # whose numbers are the same every time
_READ = torch.ops.aten._local_scalar_dense.default
_SET_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]
_LITERAL, _COPIED = torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default  # torch.tensor(…)


class Use:
    """A tensor where an operator takes it or the function returns it: by its number."""

    def __init__(self, number: int) -> None:
        self.number = number


class Call(NamedTuple):
    operator: Any
    args: Any  # with a `Use` for every tensor
    kwargs: Any
    results: list[int | None]  # their numbers

    def uses(self) -> set[int]:
        return uses_in((self.args, self.kwargs))

    def renamed(self, names: dict[int, int]) -> Call:
        """With other numbers for some tensors."""

        def new(number: Any) -> Any:
            return names.get(number, number)

        args, kwargs = tree_map_only(Use, lambda use: Use(new(use.number)), (self.args, self.kwargs))
        return Call(self.operator, args, kwargs, [new(number) for number in self.results])


def uses_in(values: Any) -> set[int]:
    return {leaf.number for leaf in tree_flatten(values)[0] if isinstance(leaf, Use)}


class Tape(TorchDispatchMode):
    """The operators of one run. Tensors have numbers: the inputs, what is there from outside, and all results."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.outside: dict[int, Tensor] = {}
        self.problem: str | None = None  # why this cannot be replayed
        self._numbers: dict[int, int] = {}  # by id
        self._alive: list[Tensor] = []  # as long as their ids and storages mean them
        self._filled: dict[int, int] = {}  # id: storage
        self.inputs = [self._number(tensor) for tensor in inputs]
        self._passing = set(map(_storage, inputs))  # storages that are others in a replay
        self._lasting: set[int] = set()
        self._random = {torch.default_generator: torch.default_generator.get_state()}  # as it was left

    def _number(self, tensor: Tensor) -> int:
        number = self._numbers.setdefault(id(tensor), len(self._alive))
        if number == len(self._alive):
            self._alive.append(tensor)
        return number

    def use(self, tensor: Tensor) -> Use:
        if id(tensor) not in self._numbers:
            if _storage(tensor) in self._passing:
                self.problem = "a tensor comes from an operator's result in a way that operators do not show"
            self._lasting.add(_storage(tensor))
            self.outside[self._number(tensor)] = tensor
        return Use(self._numbers[id(tensor)])

    def alike(self, one: int, other: int) -> bool:
        """Whether two tensors have the same size, strides, type and device."""
        a, b = self._alive[one], self._alive[other]
        return (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)

    def is_alone(self, number: int) -> bool:
        """Whether a tensor is an operator's result, and no other shares its memory."""
        if number in self.outside or number in self.inputs:
            return False
        storage = _storage(self._alive[number])
        return sum(_storage(tensor) == storage for tensor in self._alive) == 1

    def is_borrowed(self) -> bool:
        """Whether an operator read memory of others, such as a numpy array's, through a tensor that nobody holds any
        more: each call makes one, which no operator shows."""
        borrowed = {n: weakref.ref(t) for n, t in self.outside.items() if not t.untyped_storage().resizable()}
        for number in borrowed:
            del self.outside[number], self._numbers[id(self._alive[number])]
            self._alive[number] = torch.empty(0)
        if borrowed:
            gc.collect()
        for number, reference in borrowed.items():
            if (tensor := reference()) is None:
                return True
            self.outside[number] = self._alive[number] = tensor
            self._numbers[id(tensor)] = number
        return False

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Tensors from outside with the gradients that they had before, where an operator took these."""
        outside = set(map(id, self.outside.values()))
        pairs = ((tensor, tensor.grad) for tensor in self.outside.values() if tensor.is_leaf)
        return [(tensor, grad) for tensor, grad in pairs if grad is not None and id(grad) in outside]

    def is_kept(self, results: list[Any]) -> bool:
        """Whether anybody holds a tensor that was made here, other than these results and as a gradient: it would stay
        what it is in every replay. (Forgets all tensors that nobody needs any more.)"""
        given = [self._alive[number] for number in (*self.inputs, *self.outside)]
        gradients = (tensor.grad for tensor in given if tensor.is_leaf)
        known = {id(tensor) for tensor in (*given, *gradients, *results)}
        made = [weakref.ref(tensor) for tensor in self._alive if id(tensor) not in known]
        self._alive.clear()
        torch.clear_autocast_cache()
        if any(tensor() is not None for tensor in made):
            gc.collect()
        return any(tensor() is not None for tensor in made)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is _LITERAL:  # which is made once, and may be changed in each replay
            func = _COPIED
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._draw(func, args, kwargs)
        return self._run(func, args, kwargs)

    def _draw(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A replay goes on drawing: it does not set a generator's state, as checkpointing does, to draw the same."""
        given = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator))
        generator = next(given, torch.default_generator)
        if not torch.equal(self._random.setdefault(generator, state := generator.get_state()), state):
            self.problem = self.problem or "the state of a random generator is set in between"
        result = self._run(func, args, kwargs)
        self._random[generator] = generator.get_state()
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        if self.problem is None and func.namespace != "profiler":
            with torch._C.DisableTorchFunction():  # `Looks` is for others
                self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        results = [] if result is None else list(result) if isinstance(result, list | tuple) else [result]
        tensors = [t for t in tree_flatten((args, kwargs, results))[0] if isinstance(t, Tensor)]
        if any(t.layout is not torch.strided for t in tensors):
            self.problem = f"{func} has a tensor that is not strided"
            return
        if func is _READ and id(args[0]) in self._filled:
            return
        if not all(isinstance(r, Tensor | None) for r in results) or _size_from_values(func, args):
            self.problem = f"{func} gives Python a number, or a size, that may be another the next time"
            return
        used = tree_map_only(Tensor, self.use, (args, kwargs))
        new = [r for r in results if r is not None and id(r) not in self._numbers]
        self._passing.update({_storage(tensor) for tensor in new} - self._lasting)
        if func._schema.name.removeprefix("aten::") in _FILLED or (func in ALIASES and id(args[0]) in self._filled):
            self._filled.update({id(tensor): _storage(tensor) for tensor in new})
        elif func._schema.is_mutable and not {*self._filled.values()}.isdisjoint(map(_storage, tensors)):
            self._filled.clear()
        numbers = [None if r is None else self._number(r) for r in results]
        self.calls.append(Call(func, used[0], used[1], numbers))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _size_from_values(func: Any, args: Any) -> bool:
    if func is torch.ops.aten.index.Tensor:  # where it is no mask, the size is that of the indices
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


class Looks(TorchFunctionMode):
    """Notices who reads values past the operators."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func == _SET_DATA and self._tape.problem is None:
            self._tape.problem = "Tensor.data is set, which no operator shows"
        if func in LOOKS and self._tape.problem is None:
            self._tape.problem = f"Tensor.{func.__name__} gives Python values that may be others the next time"
        return func(*args, **(kwargs or {}))
