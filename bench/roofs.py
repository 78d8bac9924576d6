"""The two roofs of the roofline, as this machine reaches them: large matrix products and a large copy."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .measure import Timer
from .precision import PRECISIONS, current, pinned

_REPEATS = 7


def measure_roofs(device: str, timer: Timer) -> dict[str, float]:
    """GF/s of a product of square matrices and GB/s of a copy, read and written bytes counted: the best of a few.

    On a CPU the product is fp32's, "GF/s"; on a GPU there is one of each precision, "fp32 GF/s" and so on.
    """

    def fastest(work: Callable[[], object]) -> float:
        return min(timer(lambda _: work(), [0]) for _ in range(_REPEATS))

    source = torch.randn(64 << 20, device=device)  # 256 MiB, beyond every cache
    target = torch.empty_like(source)
    copied = round(2e-9 * source.nbytes / fastest(lambda: target.copy_(source)), 1)
    source = target = None  # room for the matrices

    def product(side: int) -> float:
        a, b = (torch.randn(side, side, device=device).to(current().dtype) for _ in range(2))
        return round(2e-9 * side**3 / fastest(lambda: torch.mm(a, b)), 1)

    if device == "cpu":
        with pinned("fp32"):
            return {"GF/s": product(1024), "GB/s": copied}
    roofs = {}
    for name in PRECISIONS:
        with pinned(name):
            roofs[f"{name} GF/s"] = product(8192)
    return roofs | {"GB/s": copied}
