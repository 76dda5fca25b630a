"""When dropout works in the reference's loop, which forgets to leave eval mode (mode_schedule.json)."""

from __future__ import annotations

from typing import Any

import pytest
from golden_files import load_json
from json_cases import json_cases

from trainers.active import dropout_is_active

FILE = "mode_schedule.json"
SCHEDULE = ["select_iter", "checkpoint_period"]


def check(golden: dict[str, Any], segments: list[dict[str, Any]]) -> None:
    """Compares every iteration of the segments, which count from 1."""
    for segment in segments:
        for iteration in range(segment["first_iteration"], segment["last_iteration"] + 1):
            active = dropout_is_active(
                iteration - 1,
                select_iterations=golden["select_iter"],
                period=golden["checkpoint_period"],
                schedule="reference",
            )
            assert active == segment["training_mode"], f"iteration {iteration}"


@pytest.mark.parametrize("case", json_cases("dwaca", "mode_schedule.json", ["training_mode_segments"]))
def test_training_mode_equals_the_reference(case: str) -> None:
    golden = load_json("dwaca", FILE)[case]
    segments = golden["training_mode_segments"]
    assert segments[-1]["last_iteration"] == golden["stop_iter"]
    check(golden, segments)


@pytest.mark.parametrize("case", json_cases("dwaca", FILE, SCHEDULE))
def test_dropout_always_works_where_the_reference_is_not_followed(case: str) -> None:
    golden = load_json("dwaca", FILE)[case]
    assert all(
        dropout_is_active(
            iteration,
            select_iterations=golden["select_iter"],
            period=golden["checkpoint_period"],
            schedule="always",
        )
        for iteration in range(golden["stop_iter"])
    )


def test_the_published_schedule_equals_the_scaled_one() -> None:
    golden = load_json("dwaca", FILE)
    if "published_config" in golden and "published_scale_equivalent" in golden:
        check(golden["published_config"], golden["published_scale_equivalent"])
