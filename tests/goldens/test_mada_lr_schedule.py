"""Learning rates of MADA's schedule, which steps before each update (lr_schedule.npz).

`warmup_lr` records a wrapper that no published configuration uses and that ours does not have.
"""

from __future__ import annotations

import numpy as np
import pytest
from golden_files import load_npz
from matching_cases import matching_cases

from utils.schedules import polynomial, polynomial_stepped_first

ARCHIVE = "lr_schedule.npz"
CASES = matching_cases("mada", ARCHIVE, r"(.+)_(?:args|iters)")
PUBLISHED = (1e-4, 90_000, 0.9)  # base rate, iterations, power: of a case without arguments
ATOL = 1e-15


def read(case: str) -> tuple[list[int], np.ndarray, dict[str, float]]:
    """Scheduler steps taken, the rates after them, and the schedule in our names."""
    files = load_npz("mada", ARCHIVE)
    rates = files[f"{case}_lr"]
    steps = files[f"{case}_iters"].tolist() if f"{case}_iters" in files else [*range(len(rates))]
    base, num_steps, power = map(float, files.get(f"{case}_args", PUBLISHED))
    return steps, rates, {"base": base, "num_steps": int(num_steps), "power": power}


@pytest.mark.parametrize("case", CASES)
def test_rates_equal_the_reference(case: str) -> None:
    steps, rates, schedule = read(case)
    found = [polynomial(step, **schedule) for step in steps]
    np.testing.assert_allclose(found, rates, rtol=0, atol=ATOL)


@pytest.mark.parametrize("case", CASES)
def test_an_iteration_uses_the_rate_after_its_own_step(case: str) -> None:
    """The reference counts iterations from 1, ours from 0; its rate at step 0 serves no iteration."""
    steps, rates, schedule = read(case)
    used = [(step, rate) for step, rate in zip(steps, rates, strict=True) if step >= 1]
    assert used
    found = [polynomial_stepped_first(step - 1, **schedule) for step, _ in used]
    np.testing.assert_allclose(found, [rate for _, rate in used], rtol=0, atol=ATOL)


@pytest.mark.parametrize("case", CASES)
def test_the_rate_is_zero_where_the_reference_stops_with_an_error(case: str) -> None:
    *_, schedule = read(case)
    assert str(load_npz("mada", ARCHIVE).get("past_max_iter", "TypeError")) == "TypeError"
    for beyond in (0, 1, 1000):
        assert polynomial_stepped_first(int(schedule["num_steps"]) + beyond, **schedule) == 0
