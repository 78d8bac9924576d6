"""The two roofs of the roofline, as this machine reaches them: a large matrix product and a large copy."""

from __future__ import annotations

import torch

from .measure import Timer

_REPEATS = 7


def measure_roofs(device: str, timer: Timer) -> dict[str, float]:
    """GF/s of a product of square matrices and GB/s of a copy, read and written bytes counted: the best of a few."""
    n = 1024 if device == "cpu" else 8192
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    source = torch.randn(64 << 20, device=device)  # 256 MiB, beyond every cache
    target = torch.empty_like(source)

    def fastest(work) -> float:
        return min(timer(lambda _: work(), [0]) for _ in range(_REPEATS))

    return {
        "GF/s": round(2e-9 * n**3 / fastest(lambda: torch.mm(a, b)), 1),
        "GB/s": round(2e-9 * source.nbytes / fastest(lambda: target.copy_(source)), 1),
    }
