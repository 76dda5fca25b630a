"""Learning rates of the generator's two groups and of the discriminators (lr_schedule.npz)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden_files import cases, load_npz

from utils.schedules import polynomial, polynomial_with_warm_up

ARCHIVE = "lr_schedule.npz"
HEAD_SCALE = 10  # the heads' group learns ten times as fast


@pytest.mark.parametrize("case", cases("mrnet", ARCHIVE, "config"))
def test_learning_rates_equal_the_reference(case: str) -> None:
    golden = load_npz("mrnet", ARCHIVE)
    config = json.loads(str(golden[f"{case}/config"]))
    num_steps, power = config["num_steps"], config["power"]
    for iteration, *expected in golden[f"{case}/table"]:
        rate = polynomial_with_warm_up(
            int(iteration),
            base=config["learning_rate"],
            num_steps=num_steps,
            power=power,
            warm_up=config["warm_up"],
        )
        discriminator = polynomial(
            int(iteration), base=config["learning_rate_D"], num_steps=num_steps, power=power
        )
        np.testing.assert_allclose([rate, HEAD_SCALE * rate, discriminator], expected, rtol=1e-12)
