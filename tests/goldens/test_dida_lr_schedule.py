"""Learning rates of DAFormer's schedule (lr_schedule.json)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_files import load_json
from json_cases import json_cases

from utils.schedules import polynomial_under_warm_up

RECIPES = "lr_schedule.json"
CASES = json_cases("dida", RECIPES)
RTOL = 1e-9


def read(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe, and the schedule in our names; what is missing has the value that its README gives."""
    recipe = load_json("dida", RECIPES)[case]
    return recipe, {
        "num_steps": recipe["max_iters"],
        "power": recipe.get("power", 1),
        "minimum": recipe.get("min_lr", 0),
        "warm_up": recipe.get("warmup_iters", 1500),
        "ratio": recipe.get("warmup_ratio", 1e-6),
    }


@pytest.mark.parametrize("case", CASES)
def test_rates_of_all_groups_equal_the_reference(case: str) -> None:
    recipe, schedule = read(case)
    rates = [
        [polynomial_under_warm_up(iteration, base=base, **schedule) for base in recipe["base_lr"]]
        for iteration in recipe["iters"]
    ]
    np.testing.assert_allclose(rates, recipe["lr"], rtol=RTOL)
