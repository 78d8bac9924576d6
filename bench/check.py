"""The checker: holds the three operators of an implementation to the oracle, in any type and memory layout.

Beside the values (oracle.py says how exact they must be) it looks at size, type and strides of every result,
at what an implementation does to its operands and around them, at elements that it leaves unwritten, and at
whether every run gives the same bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from colourize.precision import tf32_products
from myconv2d.shapes import empty_beside

from .cases import Case
from .implementations import FRAMEWORK, RESULTS, Implementation
from .operands import LAYOUTS, Operand, Values, place, same_bits
from .oracle import Exact, bound, problem

_BESIDE = {  # the operands that decide a result's memory format; grad_bias has none
    "output": ("input", "weight"),
    "grad_input": ("grad_output", "weight"),
    "grad_weight": ("grad_output", "input"),
}


@dataclass(frozen=True)
class Finding:
    """About one result of one operator: it passed unless there are `problems`."""

    operator: str
    result: str
    problems: tuple[str, ...]
    of_bound: float  # largest |error| / bound
    error: float  # largest |error| relative to the largest exact value
    framework_error: float | None  # the same of the framework's own convolution, where it has one


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    what: str
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[str]:
        return [f"{finding.result} {problem}" for finding in self.findings for problem in finding.problems]

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def failed_operators(self) -> set[str]:
        return {finding.operator for finding in self.findings if finding.problems}

    @property
    def of_bound(self) -> float:
        return max(finding.of_bound for finding in self.findings)

    def __str__(self) -> str:
        return "\n".join([f"{self.what}: {'passed' if self.passed else 'FAILED'}", *self.problems])


def check(
    implementation: Implementation,
    case: Case,
    dtype: torch.dtype,
    layout: str = "contiguous",
    device: torch.device | str = "cpu",
    *,
    tf32: bool = False,
    repeats: int = 2,
    oracle_device: torch.device | str | None = None,
    beside: bool = False,
) -> Report:
    """Runs every operator on one case and compares with the oracle.

    Args:
        layout: a key of `operands.LAYOUTS`.
        tf32: float32 products may be rounded to TF32; sets the framework's switches.
        repeats: runs of each operator, which must agree bit for bit.
        oracle_device: where the exact results are computed; `device` if not given.
        beside: measure the framework's own error too.
    """
    device = torch.device(device)
    values, exact = problem(case, dtype, layout, torch.device(oracle_device or device))
    operands = {
        name: place(value, format, device)
        for name, value, format in zip(Values._fields, values, LAYOUTS[layout], strict=True)
    }
    findings = hold(implementation, case, operands, exact, tf32=tf32, repeats=repeats, beside=beside)
    type_name = str(dtype).removeprefix("torch.") + (" as TF32" if tf32 else "")
    return Report(f"{implementation.name}, {case}, {type_name}, {layout}, {device}", findings)


def hold(
    implementation: Implementation,
    case: Case,
    operands: Mapping[str, Operand],
    exact: Mapping[str, Exact],
    *,
    tf32: bool = False,
    repeats: int = 2,
    beside: bool = False,
) -> tuple[Finding, ...]:
    """Every operator on these operands, by their names in `Values`, beside the exact results; see `check`."""
    tensors = Values(**{name: operand.tensor for name, operand in operands.items()})
    dtype, findings = tensors.input.dtype, []
    with tf32_products(tf32), torch.no_grad():
        for operator, names in RESULTS.items():
            runs, problems = _run(implementation, operator, case, tensors, repeats)
            problems += [f"changes {name} or writes beside it" for name, o in operands.items() if o.touched()]
            if not runs:
                findings.append(Finding(operator, names[0], tuple(problems), math.inf, math.inf, None))
                continue
            framework = _framework_results(operator, case, tensors) if beside else None
            for name in names:
                winograd = implementation.winograd and case.suits_winograd and name != "grad_bias"
                limit = bound(exact[name], dtype, tf32, winograd)
                like = _expected_form(name, exact[name].value, tensors)
                found = _form_problems([run[name] for run in runs], like)
                of_bound, error = math.inf, math.inf
                if runs[0][name].shape == like.shape:
                    of_bound, error, wrong = _compare(runs[0][name], exact[name].value, limit)
                    found += wrong
                theirs = _compare(framework[name], exact[name].value, limit)[1] if framework else None
                findings.append(Finding(operator, name, tuple(problems + found), of_bound, error, theirs))
                problems = []  # of the operator as a whole: said once
    return tuple(findings)


@contextmanager
def _poisoned_allocations() -> Iterator[None]:
    """Every new tensor, results and workspaces alike, begins as NaN (the largest number, for integers)."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def _run(
    implementation: Implementation, operator: str, case: Case, tensors: Values, repeats: int
) -> tuple[list[dict[str, Tensor]], list[str]]:
    """The results of all runs, or none and the reason."""
    try:
        with _poisoned_allocations():
            runs = [implementation.run(operator, case, tensors) for _ in range(repeats)]
        if tensors.input.is_cuda:
            torch.cuda.synchronize(tensors.input.device)
        return runs, []
    except Exception as error:  # whatever it is, it is what the report is for
        return [], [f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"]


def _framework_results(operator: str, case: Case, tensors: Values) -> dict[str, Tensor] | None:
    """The framework's own, or None where it has no such convolution."""
    if case.in_channels == 0 or not tensors.input.is_floating_point():
        return None
    try:
        return FRAMEWORK.run(operator, case, tensors)
    except RuntimeError:
        return None


def _expected_form(name: str, exact: Tensor, tensors: Values) -> Tensor:
    """A tensor of the size, type and strides that a result must have."""
    if name == "grad_bias":
        return tensors.input.new_empty(exact.shape)
    a, b = (getattr(tensors, operand) for operand in _BESIDE[name])
    return empty_beside(a, b, exact.shape)


def _form_problems(results: Sequence[Tensor], like: Tensor) -> list[str]:
    first = results[0]
    problems = [
        f"has {what} {getattr(first, what)}, not {getattr(like, what)}"
        for what in ("shape", "dtype", "device")
        if getattr(first, what) != getattr(like, what)
    ]
    if not problems and first.stride() != like.stride():
        problems.append(f"has strides {first.stride()}, not {like.stride()}")
    if not all(same_bits(first, other) for other in results[1:]):
        problems.append(f"differs from run to run ({len(results)} runs)")
    return problems


def _compare(actual: Tensor, exact: Tensor, limit: Tensor) -> tuple[float, float, list[str]]:
    """largest |error| / limit, largest |error| / largest |exact|, and what is wrong in words."""
    if exact.numel() == 0:
        return 0.0, 0.0, []
    error = (actual.to(exact) - exact).abs().double().nan_to_num(nan=math.inf)
    share = (error / limit).nan_to_num(nan=0.0, posinf=math.inf)  # 0 / 0: no error where none is allowed
    relative = (error.max() / exact.abs().max().clamp(min=torch.finfo(torch.float64).tiny)).item()
    worst = share.argmax()
    of_bound = share.flatten()[worst].item()
    if of_bound <= 1:
        return of_bound, relative, []
    place = tuple(int(i) for i in torch.unravel_index(worst, exact.shape))
    wrong = (
        f"is wrong in {int((share > 1).sum())} of {exact.numel()} values: at {place} it is "
        f"{actual[place].item():.9g} instead of {exact[place].item():.9g}, an error of {of_bound:.3g} times "
        "the bound"
    )
    return of_bound, relative, [wrong]
