"""Class weights over several iterations, as the authors' released code computes them (class_weights.npz)."""

from __future__ import annotations

import json

import pytest
import torch
from golden_files import cases, load_npz

from losses.class_balance import ClassWeights, class_counts

ARCHIVE = "class_weights.npz"
RTOL = 1e-6  # both sides in float32


@pytest.mark.parametrize("case", cases("mrnet", ARCHIVE, "config"))
def test_class_weights_follow_the_reference_over_iterations(case: str) -> None:
    golden = load_npz("mrnet", ARCHIVE)
    config = json.loads(str(golden[f"{case}/config"]))
    weights = ClassWeights(
        config["num_classes"],
        max_value=config["max_value"],
        class_balance=True,
        often_balance=config["often_balance"],
    )
    for iteration, labels in enumerate(torch.from_numpy(golden[f"{case}/labels"])):
        counts = class_counts(labels, config["num_classes"])
        assert counts.tolist() == golden[f"{case}/counts"][iteration].tolist()
        weight = weights.update(labels)
        expected = torch.from_numpy(golden[f"{case}/class_weight"][iteration])
        torch.testing.assert_close(weight, expected, rtol=RTOL, atol=0)
        often = torch.from_numpy(golden[f"{case}/often_weight"][iteration])
        torch.testing.assert_close(weights.often, often, rtol=RTOL, atol=0)
