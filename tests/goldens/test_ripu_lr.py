"""Learning rates of the backbone and of the classifier, which learns ten times as fast (lr.json)."""

from __future__ import annotations

import numpy as np
import pytest
from golden_files import load_json
from json_cases import json_cases

from utils.schedules import polynomial

RECIPES = "lr.json"
HEAD_SCALE = 10
RTOL = 1e-12


@pytest.mark.parametrize("case", json_cases("ripu", "lr.json"))
def test_learning_rates_equal_the_reference(case: str) -> None:
    recipe = load_json("ripu", RECIPES)[case]
    rates = np.array(
        [
            polynomial(iteration, base=recipe["base_lr"], num_steps=recipe["max_iter"], power=recipe["power"])
            for iteration in recipe["iters"]
        ]
    )
    np.testing.assert_allclose(rates, recipe["lr_feature_extractor"], rtol=RTOL)
    np.testing.assert_allclose(HEAD_SCALE * rates, recipe["lr_classifier"], rtol=RTOL)
