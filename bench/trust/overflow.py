"""Sizes that no 32-bit integer, no 64-bit integer or no memory holds: an error of the call, or the right result.

Operands are expanded views (stride 0), so that they have 2³¹ elements and more without memory. What is small in its
result is computed and compared; what is not must be refused before anything is written. Every call is a case in a
child process with a limit of memory (watched.py): a crash is a finding.
"""

from __future__ import annotations

import functools
import itertools
import resource
from collections.abc import Callable

import torch

from myconv2d import conv2d, native
from myconv2d.block_operators import unavailable
from myconv2d.operators import overload

from .outcome import Outcome
from .watched import watched

_LIMIT = 6 << 30  # bytes of address space, torch's own libraries among them
_NUMBERS = (1, 1), (0, 0), (1, 1), 1  # stride, padding, dilation, groups
_UNCLEAR = "API call failed", "std::"  # where an error comes from, and not what is wrong
_REFUSED = RuntimeError, ValueError, MemoryError, OverflowError


def ones(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Ones without memory."""
    return torch.ones((), dtype=dtype).expand(size)


def _equals(call: Callable[[], torch.Tensor], value: float) -> str | None:
    result = call()
    return None if bool((result == value).all()) else f"gives {result.flatten()[0].item()} instead of {value}"


def _refused(call: Callable[[], object]) -> str | None:
    try:
        result = call()
    except _REFUSED as error:
        text = str(error).partition("\n")[0]
        return f"says {text}" if not text or any(words in text for words in _UNCLEAR) else None
    return f"gives a result of {getattr(result, 'shape', type(result))} instead of an error"


def _right_or_refused(call: Callable[[], torch.Tensor], value: float) -> str | None:
    try:
        return _equals(call, value)
    except _REFUSED:
        return None


def _block(size: tuple[int, ...], padding: int) -> object:
    feeds = ones(*size), None, None, False, None, None, None, False
    return overload("block", "native")(
        *feeds, ones(4, 1, 3, 3), None, (padding, padding), None, None, 0.0, False
    )


def _inference(size: tuple[int, ...], padding: int, upsample: bool) -> object:
    feeds, no_norm = (ones(*size), upsample, None, False), (None, None, None, None, 0.0)
    run = overload("block_inference", "native")
    return run(*feeds, ones(4, 1, 3, 3), None, (padding, padding), *no_norm, True, False)


def cases() -> dict[str, tuple[Callable, Callable]]:
    """By name: who judges (an error is expected, or a value), and the call."""
    grad_input, grad_weight = (
        functools.partial(overload(f"conv2d_{n}", "native")) for n in ("grad_input", "grad_weight")
    )
    weight = ones(1, 1, 1, 1)
    found: dict[str, tuple[Callable, Callable]] = {
        # read far beyond 2³¹ elements, write little
        "stride over 2³² pixels": (
            lambda call: _equals(call, 1.0),
            lambda: conv2d(ones(1, 1, 2**16, 2**16), weight, stride=2**14),
        ),
        "stride over 2³¹ pixels, kernel 3×3": (
            lambda call: _equals(call, 9.0),
            lambda: conv2d(ones(1, 1, 2**15, 2**16), ones(1, 1, 3, 3), stride=2**15),
        ),
        "dilation of 2³⁰": (
            lambda call: _equals(call, 2.0),
            lambda: conv2d(ones(1, 1, 1, 2**30 + 2), ones(1, 1, 1, 2), dilation=(1, 2**30)),
        ),
        "dilation of 2³³": (
            lambda call: _equals(call, 2.0),
            lambda: conv2d(ones(1, 1, 1, 2**33 + 1), ones(1, 1, 1, 2), dilation=(1, 2**33)),
        ),
        "stride of 2⁶²": (
            lambda call: _equals(call, 1.0),
            lambda: conv2d(ones(1, 1, 2**20, 2**20), weight, stride=2**62),
        ),
    }
    for name, size in {"2³¹": (1, 1, 2**16, 2**15), "2³³": (1, 1, 2**17, 2**16), "2⁶²": (1, 1, 2**31, 2**31),
                       "2⁴⁰ batches": (2**40, 1, 1, 1)}.items():  # fmt: skip
        found[f"an output of {name} elements"] = (
            _refused,
            lambda size=size: conv2d(ones(*size), ones(4, 1, 1, 1)),
        )
        found[f"grad_input of {name} elements"] = (
            _refused,
            lambda size=size: grad_input(ones(*size), ones(1, 4, 1, 1), (size[0], 4, *size[2:]), *_NUMBERS),
        )
    for name, padding in {
        "2³¹": 2**31,
        "2⁴⁰": 2**40,
        "2⁶¹": 2**61,
        "2⁶²": 2**62,
        "2⁶³ − 1": 2**63 - 1,
    }.items():
        found[f"padding of {name}"] = (
            _refused,
            lambda p=padding: conv2d(ones(1, 1, 8, 8), ones(1, 1, 3, 3), padding=p),
        )
    for name, dilation in {"2³¹": 2**31, "2⁶²": 2**62, "2⁶³ − 1": 2**63 - 1}.items():
        found[f"dilation of {name}"] = (
            _refused,
            lambda d=dilation: conv2d(ones(1, 1, 8, 8), ones(1, 1, 3, 3), dilation=d),
        )
    for padding, dilation in itertools.product((2**61, 2**62, 2**63 - 1), repeat=2):
        found[f"padding {padding} and dilation {dilation}"] = (
            (lambda call: _right_or_refused(call, 1.0))
            if padding == dilation
            else _refused,  # the middle tap alone
            lambda p=padding, d=dilation: conv2d(ones(1, 1, 8, 8), ones(1, 1, 3, 3), padding=p, dilation=d),
        )
    for dtype in native.CpuLibrary.TYPES:
        found[f"a weight of 2³⁸ elements, {dtype}"] = (
            _refused,
            lambda t=dtype: grad_weight(
                *[ones(1, 2**19, 1, 1, dtype=t)] * 2, (2**19, 2**19, 1, 1), *_NUMBERS, False
            ),
        )
    if unavailable() is None:
        for name, size, padding in (
            ("2³⁴ pixels", (1, 1, 2**17, 2**17), 1),
            ("2⁶² pixels", (1, 1, 2**31, 2**31), 1),
            ("a padding of 2⁶²", (1, 1, 8, 8), 2**62),
            ("2⁴⁰ batches", (2**40, 1, 2, 2), 1),
        ):
            found[f"a block of {name}"] = _refused, functools.partial(_block, size, padding)
            found[f"inference of {name}"] = _refused, functools.partial(_inference, size, padding, False)
        for extent in (2**33, 2**61, 2**62):
            found[f"inference of {extent} rows, enlarged"] = (
                _refused,
                functools.partial(_inference, (1, 1, extent, 1), 1, True),
            )
    return found


def _case(index: int) -> tuple[str, str | None]:
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT))
    name, (judge, call) = list(cases().items())[index]
    try:
        problem = judge(call)
    except Exception as error:
        problem = f"raises {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return "refused" if judge is _refused else "computed", problem and f"{name}: {problem}"


def overflow() -> Outcome:
    names = list(cases())
    trial = watched(_case, len(names), 30, patience=60)
    counts = ", ".join(f"{count} {note}" for note, count in sorted(trial.notes.items()))
    figure = f"{trial.tried} sizes beyond integers or memory: {counts}; {len(trial.problems)} wrongly"
    problems = [f"{problem} ({names[int(problem.split(':')[0].split()[1])]})" for problem in trial.problems]
    return Outcome("overflow", figure, {"cases": trial.tried, **trial.notes}, problems)
