"""RIPU's number of regions or pixels per image and round (budgets.json)."""

from __future__ import annotations

from typing import Any

import pytest
from golden_files import golden_path
from selection_files import CITYSCAPES_SIZE, TRAINING_SIZE, entry_id, json_entries

from selection.budget import Budget


@pytest.mark.parametrize("entry", json_entries("ripu", "budgets.json"), ids=entry_id)
def test_picks_per_round_equal_the_reference(entry: Any) -> None:
    golden_path("ripu", "budgets.json")  # skips or fails where there are no goldens
    size = (entry["H"], entry["W"]) if "H" in entry else CITYSCAPES_SIZE
    if entry["mode"] == "RA":
        budget, label_radius = Budget(100 * entry["ratio"], "percent"), entry["k"]
    else:
        budget, label_radius = Budget(entry["pixels"], "pixels"), 0
    picks = budget.picks_per_round(
        size, label_radius=label_radius, rounds=entry["rounds"], training_size=TRAINING_SIZE
    )
    assert picks == entry["per_round"]
