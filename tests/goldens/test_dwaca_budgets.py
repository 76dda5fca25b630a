"""DWACA's number of regions per image and round (budget_counts.json)."""

from __future__ import annotations

from typing import Any

import pytest
from golden_files import golden_path
from selection_files import TRAINING_SIZE, entry_id, json_entries

from selection.budget import Budget


@pytest.mark.parametrize("entry", json_entries("dwaca", "budget_counts.json"), ids=entry_id)
def test_regions_per_round_equal_the_reference(entry: Any) -> None:
    golden_path("dwaca", "budget_counts.json")  # skips or fails where there are no goldens
    picks = Budget(100 * entry["ratio"], "percent").picks_per_round(
        (entry["height"], entry["width"]),
        label_radius=entry["radius"],
        rounds=entry["rounds"],
        training_size=TRAINING_SIZE,
    )
    assert picks == entry["regions_per_round"]
