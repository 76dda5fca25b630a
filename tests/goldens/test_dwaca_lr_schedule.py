"""Learning rates of the published configuration (lr_schedule.json)."""

from __future__ import annotations

import numpy as np
from golden_files import load_json

from utils.schedules import polynomial


def test_learning_rates_equal_the_reference() -> None:
    golden = load_json("dwaca", "lr_schedule.json")
    rates = np.array(
        [
            polynomial(iteration, base=golden["base_lr"], num_steps=golden["max_iter"], power=golden["power"])
            for iteration in golden["iteration_zero_based"]
        ]
    )
    np.testing.assert_allclose(rates, golden["lr_feature_extractor"], rtol=1e-12)
    if "lr_classifier" in golden:
        np.testing.assert_allclose(
            golden["classifier_multiplier"] * rates, golden["lr_classifier"], rtol=1e-12
        )
