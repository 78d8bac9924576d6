"""A tape of `recorded` as one straight Python function, without what nobody reads and what the tape itself caused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch

from .tape import ALIASES, Call, Tape, Use, uses_in

_EMPTY, _COPY = torch.ops.aten.new_empty_strided.default, torch.ops.aten.copy_.default


def _needed(calls: list[Call], wanted: set[int]) -> list[Call]:
    """Without those that only give what nobody reads: they change no tensor and no generator, and check nothing."""
    kept = []
    for call in reversed(calls):
        acts = call.operator._schema.is_mutable or torch.Tag.nondeterministic_seeded in call.operator.tags
        if acts or not call.results or not wanted.isdisjoint(call.results):
            kept.append(call)
            wanted = wanted | call.uses()
    return kept[::-1]


def _without_copies(calls: list[Call], tape: Tape) -> list[Call]:
    """Without copies of what ends there.

    Autograd takes a gradient over where it alone has it, and copies it otherwise. The tape has it too.
    """
    last = {number: at for at, call in enumerate(calls) for number in call.uses()}
    in_place_of: dict[int, int] = {}  # the original: its copy
    dropped = set()
    for at, (empty, copy) in reversed(list(enumerate(pairwise(calls)))):  # a copy's copy is there before it
        if empty.operator is _EMPTY and copy.operator is _COPY and copy.args[0].number == empty.results[0]:
            original, result = copy.args[1].number, copy.args[0].number
            fits = empty.args[0].number == original and tape.alike(original, result)
            if fits and tape.is_alone(original) and last[original] == at + 1:
                in_place_of[original] = in_place_of.get(result, result)
                dropped |= {at, at + 1}
    renamed = [call.renamed(in_place_of) for call in calls]
    return [call for at, call in enumerate(renamed) if at not in dropped]


def replay_of(tape: Tape, leaves: list[Any]) -> Callable[..., list[Any]]:
    """The recording as a function of the inputs that gives the leaves; in it a tensor lives until its last use."""
    wanted = uses_in(leaves)
    calls = _without_copies(_needed(tape.calls, wanted), tape)
    names: dict[str, Any] = {f"t{n}": tensor for n, tensor in tape.outside.items()}
    last = {number: at for at, call in enumerate(calls) for number in call.uses() | set(call.results)}
    given = {*tape.inputs, *tape.outside}  # which may want gradients, as no result does
    lasting = {*given, *wanted, None}
    known: set[int | None] = set(given)
    inputs = (f"t{n}" if n not in tape.inputs[:i] else f"_{i}" for i, n in enumerate(tape.inputs))
    lines = [f"def replay({', '.join(inputs)}):"]
    for at, call in enumerate(calls):
        if call.operator in ALIASES and call.args[0].number not in given:
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
        if isinstance(value, Use):
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
