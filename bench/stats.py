"""Statistics of timings: medians, because a sample can be late but never early by much."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np


def median(samples: Sequence[float]) -> float:
    return float(np.median(samples))


def standard_error(samples: Sequence[float]) -> float:
    """Standard error of the median, from order statistics, so that no distribution is assumed.

    The number of samples below the true median is binomial with standard deviation √n / 2: half the distance between
    the samples that many ranks above and below the middle. Infinite for fewer than five.
    """
    n = len(samples)
    if n < 5:
        return math.inf
    ordered = np.sort(samples)
    middle, step = (n - 1) / 2, math.sqrt(n) / 2
    low, high = np.interp([middle - step, middle + step], np.arange(n), ordered)
    return float(high - low) / 2


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(samples, [25, 75])
    return float(low), float(high)


def spread(samples: Sequence[float]) -> float:
    """Distance between the quartiles, as a share of the median."""
    low, high = quartiles(samples)
    return (high - low) / median(samples)


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan


def ratio_interval(
    above: Sequence[float], below: Sequence[float], draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """median(above) / median(below) and its 95 % interval, by bootstrap (Efron 1979)."""
    generator = np.random.default_rng(seed)

    def medians(samples: Sequence[float]) -> np.ndarray:
        return np.median(generator.choice(np.asarray(samples), (draws, len(samples))), axis=1)

    low, high = np.percentile(medians(above) / medians(below), [2.5, 97.5])
    return median(above) / median(below), float(low), float(high)
