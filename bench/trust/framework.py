"""How much of the framework's own test material for conv2d passes, counted: N of N for every backend and type.

The material is the OpInfo of nn.functional.conv2d (its reference inputs, each with output and all gradients) and the
ModuleInfo of nn.Conv2d. tests/conv/test_framework_*.py say how each is compared; here they are counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable

import torch

from myconv2d import use_backend

from .. import ROOT
from .outcome import Outcome

BACKENDS = ("native", "reference")


def _counted(todo: Iterable[tuple], attempt: Callable[..., None]) -> tuple[int, int, list[str]]:
    """(passed, tried, problems)."""
    passed, tried, problems = 0, 0, []
    for item in todo:
        tried += 1
        try:
            attempt(*item)
            passed += 1
        except Exception as error:
            problems.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return passed, tried, problems


def framework(quick: bool = False) -> Outcome:
    sys.path.insert(0, str(ROOT / "tests" / "conv"))
    import test_framework_modules as of_modules
    import test_framework_ops as of_operators

    def module(ours, theirs, input):
        tolerance = {"rtol": 2e-2, "atol": 2e-2} if input.dtype == torch.bfloat16 else {}
        for our, their in zip(
            of_modules.backward(ours, input), of_modules.backward(theirs, input), strict=True
        ):
            torch.testing.assert_close(our, their, **tolerance)

    totals: Counter = Counter()
    rows, problems = {}, []
    for backend in BACKENDS:
        with use_backend(backend):
            jobs = {}
            for dtype in [torch.float32] if quick else of_operators.DTYPES:
                samples = of_operators.samples("cpu", dtype, requires_grad=dtype != torch.int64)
                jobs[f"conv2d, {dtype}"] = ((s[:-1], s[-1]) for s in samples), of_operators.compare
            for dtype in [torch.float32] if quick else of_modules.DTYPES:
                jobs[f"Conv2d, {dtype}"] = of_modules.pairs(dtype), module
            for name, (todo, attempt) in jobs.items():
                torch.manual_seed(0)
                passed, tried, wrong = _counted(todo, attempt)
                rows[f"{backend}, {name}"] = f"{passed} of {tried}"
                totals[backend] += passed
                totals[f"{backend} tried"] += tried
                problems += [f"{backend}, {name}: {problem}" for problem in wrong]
                print(f"{backend}, {name}: {passed} of {tried}", flush=True)
    figure = ", ".join(f"{backend} {totals[backend]} of {totals[f'{backend} tried']}" for backend in BACKENDS)
    return Outcome("framework", f"the framework's own samples: {figure}", rows, problems)
