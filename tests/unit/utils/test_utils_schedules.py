"""Learning-rate schedules."""

from __future__ import annotations

import pytest

from utils.schedules import (
    polynomial,
    polynomial_stepped_first,
    polynomial_under_warm_up,
    polynomial_with_warm_up,
)


def test_polynomial_starts_at_the_base_rate_and_ends_at_zero() -> None:
    rates = [polynomial(i, base=2.0, num_steps=10, power=0.9) for i in (0, 5, 10)]
    assert rates == [2.0, pytest.approx(2 * 0.5**0.9), 0.0]


def test_rate_stays_zero_past_the_last_step() -> None:
    assert polynomial(11, base=2.0, num_steps=10, power=0.9) == 0


def test_a_schedule_that_steps_first_never_uses_the_base_rate_and_ends_one_iteration_early() -> None:
    rates = [polynomial_stepped_first(i, base=2.0, num_steps=10, power=0.9) for i in (0, 4, 8, 9, 10, 25)]
    assert rates == pytest.approx([2 * 0.9**0.9, 2 * 0.5**0.9, 2 * 0.1**0.9, 0, 0, 0])


def test_warm_up_runs_from_a_tenth_to_the_base_rate_then_drops_onto_the_decay() -> None:
    rates = [
        polynomial_with_warm_up(i, base=1.0, num_steps=100, power=0.9, warm_up=10) for i in (0, 5, 9, 10)
    ]
    assert rates == pytest.approx([0.1, 0.55, 0.91, 0.9**0.9])


def test_no_warm_up_is_the_plain_decay() -> None:
    for iteration in (0, 3, 99):
        with_none = polynomial_with_warm_up(iteration, base=0.1, num_steps=100, power=0.9, warm_up=0)
        assert with_none == polynomial(iteration, base=0.1, num_steps=100, power=0.9)


def test_a_minimum_is_where_the_decay_ends() -> None:
    rates = [polynomial(i, base=2.0, num_steps=10, power=2.0, minimum=0.5) for i in (0, 5, 10, 12)]
    assert rates == [2.0, pytest.approx(0.5 + 1.5 / 4), 0.5, 0.5]


def test_warm_up_of_the_decaying_rate_starts_at_the_ratio_and_ends_on_the_decay() -> None:
    schedule = {"base": 2.0, "num_steps": 10, "power": 1.0, "warm_up": 4, "ratio": 0.2}
    rates = [polynomial_under_warm_up(i, **schedule) for i in range(6)]
    assert rates == pytest.approx([2.0 * 0.2, 1.8 * 0.4, 1.6 * 0.6, 1.4 * 0.8, 1.2, 1.0])


def test_warm_up_of_the_decaying_rate_scales_the_minimum_too() -> None:
    rate = polynomial_under_warm_up(0, base=1.0, num_steps=10, power=1.0, minimum=0.5, warm_up=2, ratio=0.1)
    assert rate == pytest.approx(0.1)


def test_no_warm_up_of_the_decaying_rate_is_the_plain_decay() -> None:
    for iteration in (0, 3, 99):
        with_none = polynomial_under_warm_up(
            iteration, base=0.1, num_steps=100, power=0.9, warm_up=0, ratio=1e-6
        )
        assert with_none == polynomial(iteration, base=0.1, num_steps=100, power=0.9)
