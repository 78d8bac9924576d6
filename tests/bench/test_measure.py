"""Statistics of timings, and the order and the end of a measurement, on a clock that the tests turn themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.measure import StoppingRule, interleave
from bench.stats import geometric_mean, median, ratio_interval, spread, standard_error


@pytest.mark.parametrize("n", [25, 100, 401])
def test_standard_error_of_the_median_is_that_of_normal_samples(n: int) -> None:
    draws = np.random.default_rng(0).normal(10, 1, (400, n))
    estimated = np.mean([standard_error(samples) for samples in draws])
    assert estimated == pytest.approx(np.median(draws, axis=1).std(), rel=0.15)
    assert estimated == pytest.approx(math.sqrt(math.pi / 2 / n), rel=0.15)  # the theory's


def test_standard_error_needs_samples_and_ignores_outliers() -> None:
    assert standard_error([1.0] * 4) == math.inf
    assert standard_error([1.0] * 9 + [50.0, 90.0]) == 0


def test_geometric_mean_and_spread() -> None:
    assert geometric_mean([2, 8]) == pytest.approx(4)
    assert geometric_mean(iter([0.5, 2])) == pytest.approx(1)
    assert math.isnan(geometric_mean([]))
    assert spread([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)


def test_interval_of_a_ratio_holds_it() -> None:
    generator = np.random.default_rng(1)
    above, below = generator.normal(20, 1, 60), generator.normal(10, 1, 60)
    ratio, low, high = ratio_interval(above, below)
    assert ratio == median(above) / median(below)
    assert 1.8 < low < 2 < high < 2.2
    _, low, high = ratio_interval(below, below[::-1])
    assert low < 1 < high


class Machine:
    """A clock, and contestants whose calls move it by what `seconds` says, one value after the other."""

    def __init__(self, **seconds) -> None:
        self.now, self.order = 0.0, []
        self.calls = {name: self._contestant(name, iter(values)) for name, values in seconds.items()}

    def _contestant(self, name, values):
        def call(number: int) -> None:
            self.now += next(values)
            self.order.append((name, number))

        return call

    def timer(self, call, numbers) -> float:
        begin = self.now
        for number in numbers:
            call(number)
        return (self.now - begin) / len(numbers)

    def run(self, rule: StoppingRule, sides=None, sets: int = 1):
        sides = sides or {name: name for name in self.calls}
        return interleave(self.calls, sides, rule, sets=sets, timer=self.timer, clock=lambda: self.now)


def constant(value: float):
    while True:
        yield value


def noisy(value: float, share: float):
    generator = np.random.default_rng(0)
    while True:
        yield value * generator.uniform(1 - share, 1 + share)


def test_contestants_take_turns_on_all_operand_sets() -> None:
    machine = Machine(a=constant(0.1), b=constant(0.2))
    samples = machine.run(StoppingRule(min_rounds=6), sets=3)
    assert {name: len(values) for name, values in samples.items()} == {"a": 6, "b": 6}
    assert samples["b"] == pytest.approx([0.2] * 6)
    timed = machine.order[-12:]
    assert [name for name, _ in timed] == ["a", "b", "b", "a"] * 3  # nobody always follows the other
    assert {number for _, number in timed} == {0, 1, 2}


def test_short_calls_are_repeated_and_settle_first() -> None:
    machine = Machine(a=constant(1e-3))
    machine.run(StoppingRule(min_rounds=5))
    assert len(machine.order) == 2 + 5 * (1 + 5)  # calibration; then an untimed call and 5 ms of calls


def test_where_one_settles_all_do() -> None:
    """A rival that is slower than the limit is not left cold beside one of ours below it."""
    machine = Machine(ours=constant(0.01), rival=constant(0.04))
    machine.run(StoppingRule(min_rounds=5))
    rounds = [name for name, _ in machine.order[4:]]
    assert rounds.count("ours") == rounds.count("rival") == 5 * (1 + 1)
    machine = Machine(a=constant(0.03), b=constant(0.04))
    machine.run(StoppingRule(min_rounds=5))
    assert len(machine.order) == 2 * (2 + 5)


def test_it_ends_when_the_medians_are_known() -> None:
    machine = Machine(a=noisy(0.1, 0.05), b=noisy(0.1, 0.05))
    rule = StoppingRule(precision=0.01, budget=math.inf)
    samples = machine.run(rule)
    assert rule.min_rounds < len(samples["a"]) < rule.max_rounds
    assert all(standard_error(values) <= 0.01 * median(values) for values in samples.values())


def test_it_ends_when_the_budget_is_used_up() -> None:
    machine = Machine(a=noisy(1.0, 0.9))
    samples = machine.run(StoppingRule(precision=1e-6, budget=20))
    assert 15 <= len(samples["a"]) <= 25
    machine = Machine(a=noisy(1.0, 0.9))
    assert len(machine.run(StoppingRule(precision=1e-6, budget=0.1))["a"]) == StoppingRule.min_rounds


def test_who_is_far_behind_on_his_side_is_left_behind() -> None:
    machine = Machine(ours=noisy(9.0, 0.05), near=noisy(1.0, 0.05), far=noisy(2.0, 0.05))
    rule = StoppingRule(precision=0.005, budget=math.inf)
    samples = machine.run(rule, {"ours": "ours", "near": "rival", "far": "rival"})
    assert len(samples["far"]) == rule.min_rounds
    assert len(samples["ours"]) == len(samples["near"]) > rule.min_rounds
