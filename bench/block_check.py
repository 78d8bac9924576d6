"""The checker of the fused block's operators: holds a backend to block_reference.py in float64.

Each operator is given what the one before it made, as in a training: `block_backward` gets the y, index and statistics
that are under test, so that neither a choice between nearly equal values nor a rounding counts twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from colourize.precision import tf32_products
from myconv2d import block_operators, block_reference
from myconv2d.operators import overload

from .block_cases import EPS, Case
from .check import Finding, Report
from .operands import same_bits
from .precision import PRECISIONS

# Relative to the largest value. float32: Winograd's F(4×4, 3×3) has a share of it; else four roundings of a factor.
BOUNDS = {"fp32": 2e-5, "tf32": 2.0**-8, "fp16": 2.0**-8, "bf16": 2.0**-5}
STATISTICS = 1e-6  # of scale, shift, mean and var, which are float32 whatever the images are
RESULTS = {
    "block": ("raw", "full", "index", "scale", "shift", "mean", "var"),
    "block_backward": ("grad_input", "grad_scale", "grad_shift", "grad_skip", "grad_skip_scale", "grad_skip_shift",
                       "grad_weight", "grad_bias", "grad_gamma", "grad_beta"),
    "block_inference": ("output",),
    "activate": ("activation",),
    "activate_backward": ("grad_raw", "grad_raw_scale", "grad_raw_shift"),
}  # fmt: skip


def problem(case: Case, backend: str, arithmetic: str, device: str) -> str | None:
    """Why a backend does not serve a case, in words; None if it does."""
    weight = torch.empty(case.out_channels, sum(case.channels), *case.kernel, dtype=PRECISIONS[arithmetic].dtype)
    return block_operators.problem(backend, weight.to(device))


def check(
    case: Case, arithmetic: str, backend: str, device: torch.device | str = "cpu", *, repeats: int = 2
) -> Report:
    """Runs every operator on one case, `repeats` times each, and compares with the reference; the seed is 0."""
    torch.manual_seed(0)
    with tf32_products(PRECISIONS[arithmetic].tf32), torch.no_grad():
        return _Check(case, arithmetic, backend, device, repeats).report()


class _Check:
    def __init__(self, case: Case, arithmetic: str, backend: str, device: torch.device | str, repeats: int) -> None:
        self.case, self.arithmetic, self.backend, self.device = case, arithmetic, backend, device
        self.repeats = repeats
        self.dtype, self.bound = PRECISIONS[arithmetic].dtype, BOUNDS[arithmetic]
        self.findings: list[Finding] = []

    def report(self) -> Report:
        # Images and weight of the type, vectors of float32.
        args = tuple(a.to(self.dtype) if isinstance(a, Tensor) and a.dim() == 4 else a
                     for a in self.case.arguments(torch.float32))  # fmt: skip
        try:
            raw, y, index, vectors = self._block(args)
            self._backward(args, raw, y, index, vectors)
            self._inference(args)
            if self.case.norm:
                self._activate(raw, *vectors[:2])
        except Exception as error:  # whatever it is, it is what the report is for
            wrong = f"raised {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            self.findings.append(Finding("block", "a result", (wrong,), math.inf, math.inf, None))
        return Report(f"{self.backend}, {self.case}, {self.arithmetic}, {self.device}", tuple(self.findings))

    def _run(self, name: str, *args) -> list[Tensor]:
        """The results of an operator on the device, brought back: the same every time, and images in channels_last."""
        placed = [a.to(self.device) if isinstance(a, Tensor) else a for a in args]
        runs = [overload(name, self.backend)(*placed) for _ in range(self.repeats)]
        runs = [[run] if isinstance(run, Tensor) else run for run in runs]
        for result, first, *others in zip(RESULTS[name], *runs, strict=True):
            if not all(same_bits(first, other) for other in others):
                self._add(name, result, 0.0, 1.0, "differs from run to run")
            image = first.dim() == 4 and result != "grad_weight"
            if image and not first.is_contiguous(memory_format=torch.channels_last):
                self._add(name, result, 0.0, 1.0, f"has strides {first.stride()}, not those of channels_last")
        return [result.cpu() for result in runs[0]]

    def _add(self, operator: str, result: str, error: float, bound: float, wrong: str | None = None) -> None:
        if wrong is None and not error <= bound:
            wrong = f"is wrong: its error is {error / bound:.3g} times the bound"
        self.findings.append(Finding(operator, result, (wrong,) if wrong else (), error / bound, error, None))

    def _compare(self, operator: str, result: str, ours: Tensor, truth: Tensor, bound: float, dtype=None) -> None:
        if ours.shape != truth.shape or dtype not in (None, ours.dtype):
            wrong = f"is {list(ours.shape)} of {ours.dtype}, not {list(truth.shape)} of {dtype or ours.dtype}"
            self._add(operator, result, math.inf, bound, wrong)
        else:
            self._add(operator, result, error(ours, truth), bound)

    def _block(self, args: tuple) -> tuple[Tensor, Tensor, Tensor, list[Tensor | None]]:
        """raw, y, index and the vectors."""
        raw, full, index, *vectors = self._run("block", *args)
        truth, pool = block_reference.block(*wide(args)), self.case.pool
        y = full if pool else raw
        if pool and not self._keeps(args[8]):
            self._add("block", "full", 0.0, 1.0, "is not empty" if full.numel() else None)
            y = self._run("block", *args[:-1], False)[0]  # what was pooled
        self._compare("block", "full" if pool else "raw", y, truth[1 if pool else 0], self.bound, self.dtype)
        if pool:  # of the same y, exactly
            picked, where = block_reference._pool(y, args[11])
            self._add("block", "raw", 0.0, 1.0, None if torch.equal(raw, picked) else "is not the largest of y")
            self._add("block", "index", 0.0, 1.0, None if torch.equal(index, where) else "is not where that was")
        if not self.case.norm:
            return raw, y, index, [None] * 4
        mean, var = y.double().mean((0, 2, 3)), y.double().var((0, 2, 3), correction=0)
        scale = args[11] * (var + EPS).rsqrt()
        exact = scale, args[12] - mean * scale, mean, var
        for name, ours, truth in zip(RESULTS["block"][3:], vectors, exact, strict=True):
            self._compare("block", name, ours, truth, STATISTICS, torch.float32)
        return raw, y, index, vectors

    def _keeps(self, weight: Tensor) -> bool:
        return self.backend != "native" or block_operators.keeps_full(weight)

    def _backward(self, args: tuple, raw: Tensor, y: Tensor, index: Tensor, vectors: list[Tensor | None]) -> None:
        """All gradients, then some of them, which are the same bits."""
        scale, shift, mean, var = vectors
        weight, bias, padding, gamma, _, eps, pool = args[8:]
        grads = torch.randn_like(raw), *(None if v is None else torch.randn_like(v) for v in (scale, shift))
        names = RESULTS["block_backward"]
        before = *grads, *args[:8], weight, padding, gamma, mean, var, eps
        after = index, pool, bias is not None
        exact = block_reference.block_backward(*wide((*before, y, *after)), [True] * 3)
        given = *before, y if self._keeps(weight) or not pool else y.new_empty(0), *after
        every = self._run("block_backward", *given, [True] * 3)
        for name, ours, truth in zip(names, every, exact, strict=True):
            self._compare("block_backward", name, ours, truth, self.bound)
        for wanted in ([True, False, False], [False, False, True]):
            for i, (one, other) in enumerate(zip(self._run("block_backward", *given, wanted), every, strict=True)):
                asked_for = wanted[0 if i < 3 else 1 if i < 6 else 2]
                if not (torch.equal(one, other) if asked_for else one.numel() == 0):
                    self._add("block_backward", names[i], 0.0, 1.0, f"is another where {wanted} is wanted")

    def _inference(self, args: tuple) -> None:
        mean, var = torch.randn(self.case.out_channels), torch.rand(self.case.out_channels) + 0.1
        norm = (*args[11:13], mean, var, EPS) if self.case.norm else (None, None, None, None, 0.0)
        for relu in (False, True):
            given = args[0], args[3], args[4], *args[7:11], *norm, relu, self.case.pool
            [output] = self._run("block_inference", *given)
            truth = block_reference.block_inference(*wide(given))
            self._compare("block_inference", "output", output, truth, self.bound, self.dtype)

    def _activate(self, raw: Tensor, scale: Tensor, shift: Tensor) -> None:
        for upsample in (False, True):
            [output] = self._run("activate", raw, scale, shift, upsample)
            truth = block_reference.activate(*wide((raw, scale, shift)), upsample)
            self._compare("activate", "activation", output, truth, self.bound, self.dtype)
            given = torch.randn_like(output), raw, scale, shift
            exact = block_reference.activate_backward(*wide(given), upsample)
            ours = self._run("activate_backward", *given, upsample)
            for name, one, other in zip(RESULTS["activate_backward"], ours, exact, strict=True):
                self._compare("activate_backward", name, one, other, self.bound)


def wide(args: tuple) -> tuple:
    """The same numbers in float64."""
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def error(ours: Tensor, truth: Tensor) -> float:
    """The largest difference, relative to the largest value; the sizes are the same."""
    assert ours.shape == truth.shape
    if truth.numel() == 0:
        return 0.0
    return ((ours.double() - truth.double()).abs().max() / truth.abs().max().clamp(min=1e-3)).item()
