"""The learning rate goes the way that each schedule says."""

import pytest

from colourize.schedule import NAMES, PEAK, WARM_UP, rate

STEPS = 200


def rates(schedule):
    return [rate(schedule, 0.5, step, STEPS) for step in range(STEPS)]


def test_constant_stays():
    assert set(rates("constant")) == {0.5}


def test_cosine_falls_to_zero():
    values = rates("cosine")
    assert values[0] == 0.5
    assert values == sorted(values, reverse=True)
    assert values[STEPS // 2] == pytest.approx(0.25)
    assert 0 < values[-1] < 1e-3 * values[0]


def test_one_cycle_rises_to_its_peak_and_falls_to_zero():
    values, top = rates("one-cycle"), round(WARM_UP * STEPS)
    assert values[0] == 0.5
    assert values[top] == max(values) == pytest.approx(PEAK * 0.5)
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)
    assert 0 < values[-1] < 1e-3 * values[top]


@pytest.mark.parametrize("schedule", NAMES)
def test_every_step_of_a_short_training_learns(schedule):
    assert all(rate(schedule, 1e-3, step, steps) > 0 for steps in (1, 2, 3) for step in range(steps))


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="constant, cosine, one-cycle, not 'linear'"):
        rate("linear", 1e-3, 0, 1)
