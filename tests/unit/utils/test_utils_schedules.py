"""Learning-rate schedules."""

from __future__ import annotations

import pytest

from utils.schedules import polynomial, polynomial_with_warm_up


def test_polynomial_starts_at_the_base_rate_and_ends_at_zero() -> None:
    rates = [polynomial(i, base=2.0, num_steps=10, power=0.9) for i in (0, 5, 10)]
    assert rates == [2.0, pytest.approx(2 * 0.5**0.9), 0.0]


def test_rate_stays_zero_past_the_last_step() -> None:
    assert polynomial(11, base=2.0, num_steps=10, power=0.9) == 0


def test_warm_up_runs_from_a_tenth_to_the_base_rate_then_drops_onto_the_decay() -> None:
    rates = [
        polynomial_with_warm_up(i, base=1.0, num_steps=100, power=0.9, warm_up=10) for i in (0, 5, 9, 10)
    ]
    assert rates == pytest.approx([0.1, 0.55, 0.91, 0.9**0.9])


def test_no_warm_up_is_the_plain_decay() -> None:
    for iteration in (0, 3, 99):
        with_none = polynomial_with_warm_up(iteration, base=0.1, num_steps=100, power=0.9, warm_up=0)
        assert with_none == polynomial(iteration, base=0.1, num_steps=100, power=0.9)
