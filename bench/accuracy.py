"""Whether a timed result is right: its error against float64, beside the rival's own.

A result holds if its error is at most twice the fastest rival's, or within a bound. The error of a convolution, an
output or a loss is the largest one, relative to the largest exact value; the bound is that of the precision
(precision.py): 3e-6 in fp32.

Behind a ReLU or a max-pool a gradient jumps: a value within rounding of zero, or two within rounding of each other, may
fall on either side, and then a whole contribution is there or not. With an allowed error of δ of values that are
about normal, a share of 2δ·φ(0) ≈ 0.8 δ may do so; if the contributions are of one size, the relative error in the
2-norm is √(0.8 δ), in fp32 1.5e-3, whatever their number, and √k times that behind k such layers. So gradients there
are compared in this norm. It is the root of a mean: of one batch perhaps none crosses, or one that is worth 3e-3 alone
(PyTorch's own gradients of the UNet err by 7e-4 to 6e-3 from one batch to the next). So twice that is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .precision import PRECISIONS

BOUND = PRECISIONS["fp32"].bound
_FACTOR = 2.0


def _jumps(name: str, kinks: int) -> bool:
    """Whether the result of this name is a gradient behind kinks."""
    return kinks > 0 and name.startswith("grad")


def bounds(names: Iterable[str], kinks: int, bound: float = BOUND) -> dict[str, float]:
    """The errors that are allowed to anybody; `kinks`: layers with a ReLU or a max-pool."""
    return {name: 2 * math.sqrt(kinks * 0.8 * bound) if _jumps(name, kinks) else bound for name in names}


def errors(found: Mapping[str, Tensor], exact: Mapping[str, Tensor], kinks: int) -> dict[str, float]:
    """The error of every result; infinite for a result that is missing, has another size or is not finite."""
    return {name: _error(found.get(name), value, _jumps(name, kinks)) for name, value in exact.items()}


def _error(actual: Tensor | None, exact: Tensor, in_norm: bool) -> float:
    if actual is None or actual.shape != exact.shape or not torch.isfinite(actual).all():
        return math.inf
    if exact.numel() == 0:
        return 0.0
    difference = actual.double() - exact
    tiny = torch.finfo(torch.float64).tiny
    if in_norm:
        return (difference.norm() / exact.norm().clamp(min=tiny)).item()
    return (difference.abs().max() / exact.abs().max().clamp(min=tiny)).item()


def holds(ours: Mapping[str, float], rival: Mapping[str, float], allowed: Mapping[str, float]) -> bool:
    """Whether every result of ours is near enough; a rival that is wrong himself excuses nothing."""
    return all(
        ours.get(name, math.inf)
        <= max(bound, _FACTOR * rival.get(name, 0.0) if rival.get(name, 0.0) < 0.1 else 0)
        for name, bound in allowed.items()
    )
