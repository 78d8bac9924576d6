"""How much of the framework's own test material for conv2d passes, counted: N of N for every backend and type.

The material is the OpInfo of nn.functional.conv2d (its reference inputs, each with output and all gradients) and the
ModuleInfo of nn.Conv2d. tests/conv/test_framework_*.py say how each is compared; here they are counted. Each backend
has a process of its own, as Triton's must know before its import that it is to interpret.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch

from myconv2d import backends

from .. import ROOT
from .outcome import Outcome


class Count(NamedTuple):
    passed: int
    tried: int
    problems: list[str]


def _counted(todo: Iterable[tuple], attempt: Callable[..., None]) -> Count:
    tried, problems = 0, []
    for item in todo:
        tried += 1
        try:
            attempt(*item)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return Count(tried - len(problems), tried, problems)


def _count(backend: str, quick: bool) -> dict[str, Count | str]:
    """By material and type: the count, or why the backend does not serve that type."""
    sys.path.insert(0, str(ROOT / "tests" / "conv"))
    import test_framework_modules as of_modules
    import test_framework_ops as of_operators

    def operator(sample):
        *operands, kwargs = sample
        of_operators.compare(operands, kwargs)

    def module(ours, theirs, input):
        tolerance = {"rtol": 2e-2, "atol": 2e-2} if input.dtype == torch.bfloat16 else {}
        both = of_modules.backward(ours, input), of_modules.backward(theirs, input)
        for our, their in zip(*both, strict=True):
            torch.testing.assert_close(our, their, **tolerance)

    def material(dtype):
        if dtype in of_operators.DTYPES:
            samples = of_operators.samples("cpu", dtype, requires_grad=dtype != torch.int64)
            yield "conv2d", ((sample,) for sample in samples), operator
        if dtype in of_modules.DTYPES:
            yield "Conv2d", of_modules.pairs(dtype), module

    rows: dict[str, Count | str] = {}
    types = [torch.float32] if quick else sorted({*of_operators.DTYPES, *of_modules.DTYPES}, key=str)
    torch.set_num_threads(1)
    with backends.use_backend(backend):
        for dtype in types:
            part = dtype.to_real() if dtype.is_complex else dtype  # complex numbers are four convolutions
            if why_not := backends.problem(backend, "cpu", part):
                rows[str(dtype)] = why_not
                continue
            for name, todo, attempt in material(dtype):
                torch.manual_seed(0)
                rows[f"{name}, {dtype}"] = _counted(todo, attempt)
    return rows


def framework(quick: bool = False) -> Outcome:
    os.environ["TRITON_INTERPRET"] = "1"  # for the children
    rows: dict[str, str] = {}
    problems, totals = [], []
    for backend in backends.BACKENDS[:1] if quick else backends.BACKENDS:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            counts = pool.submit(_count, backend, quick).result()
        for name, count in counts.items():
            said = f"not served: {count}" if isinstance(count, str) else f"{count.passed} of {count.tried}"
            rows[f"{backend}, {name}"] = said
            print(f"{backend}, {name}: {said}", flush=True)
        counted = {name: count for name, count in counts.items() if isinstance(count, Count)}
        passed, tried = (sum(count[i] for count in counted.values()) for i in range(2))
        totals.append(f"{backend} {passed} of {tried}")
        problems += [
            f"{backend}, {name}: {what}" for name, count in counted.items() for what in count.problems
        ]
    return Outcome("framework", f"the framework's own samples: {', '.join(totals)}", rows, problems)
