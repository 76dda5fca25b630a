"""RIPU's greedy selection over several rounds, from given scores and from network outputs.

(selection_scores.npz, selection_pipeline.npz.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import load_json, load_npz
from json_cases import json_cases
from selection_files import (
    CITYSCAPES_SIZE,
    IGNORED,
    TRAINING_SIZE,
    drawn_blocked,
    drawn_score,
    drawn_truth,
    sha256,
    unpacked,
)

from selection.budget import Budget
from selection.regions import peel, select_regions, squares
from selection.scores import pixel_scores, region_scores

GIVEN_SCORES, PIPELINE = "selection_scores", "selection_pipeline"
FULL_SIZE = 1 << 20  # pixels; the peeling is for devices and takes its time here


@pytest.mark.parametrize("case", json_cases("ripu", f"{GIVEN_SCORES}.json"))
def test_picks_from_given_scores_equal_the_reference(case: str) -> None:
    given = load_json("ripu", f"{GIVEN_SCORES}.json")[case]

    def score(number: int) -> torch.Tensor:
        drawn = drawn_score(given["score"], given["seed"] + number, (given["H"], given["W"]))
        drawn_sum = drawn.sum(dtype=np.float64)
        assert drawn_sum == pytest.approx(given["rounds"][number]["score_sum"], rel=1e-9, abs=1e-6)
        return torch.from_numpy(drawn)

    _replay(GIVEN_SCORES, case, given, score)


@pytest.mark.parametrize("case", json_cases("ripu", f"{PIPELINE}.json"))
def test_picks_from_network_outputs_equal_the_reference(case: str) -> None:
    given = load_json("ripu", f"{PIPELINE}.json")[case]
    scores = region_scores if given["mode"] == "RA" else pixel_scores

    def score(number: int) -> torch.Tensor:
        generator = np.random.default_rng(given["seed"] + number)
        drawn = generator.standard_normal((1, given["num_classes"], *given["low"])) * given["scale"]
        low = drawn.astype(np.float32)[0]
        size, network_input = (given["H"], given["W"]), tuple(given["net_input"])
        return scores(torch.from_numpy(low), size=size, network_input=network_input, radius=given["k"]).score

    _replay(PIPELINE, case, given, score)


def _replay(file: str, case: str, given: dict[str, Any], score: Callable[[int], torch.Tensor]) -> None:
    """Runs all rounds of a case and compares picks, maps and labels after each of them."""
    size, radius = (given["H"], given["W"]), given["k"]
    label_radius, exclusion_radius = (radius, 2 * radius) if given["mode"] == "RA" else (0, radius)
    truth, blocked_first = drawn_truth(given), drawn_blocked(given)
    chosen = np.zeros((0, 2), np.int64)
    count = _count(given, label_radius)
    for number, expected in enumerate(given["rounds"]):
        assert count == expected["n"]
        blocked = torch.from_numpy(blocked_first | squares(chosen, exclusion_radius, size))
        scores = score(number)
        picks = select_regions(scores, blocked, count, exclusion_radius=exclusion_radius)
        golden = load_npz("ripu", f"{file}.npz")
        assert np.array_equal(picks.numpy(), golden[f"{case}/r{number}/picks"])
        if scores.numel() < FULL_SIZE:
            assert torch.equal(peel(scores, blocked, count, exclusion_radius), picks)
        chosen = np.concatenate((chosen, picks.numpy()))
        maps = {
            "active": blocked_first | squares(chosen, exclusion_radius, size),
            "selected": squares(chosen, label_radius, size),
        }
        maps["mask"] = np.where(maps["selected"], truth, IGNORED).astype(np.uint8)
        _compare_maps(maps, expected, {name: golden.get(f"{case}/r{number}/{name}") for name in maps})


def _count(given: dict[str, Any], label_radius: int) -> int:
    """Picks per round of a case; the reference's budget in pixels is one for Cityscapes images."""
    if given["mode"] == "RA":
        budget, size = Budget(100 * given["ratio"], "percent"), (given["H"], given["W"])
    else:
        budget, size = Budget(given["pixels"], "pixels"), CITYSCAPES_SIZE
    return budget.picks_per_round(
        size, label_radius=label_radius, rounds=given["budget_rounds"], training_size=TRAINING_SIZE
    )


def _compare_maps(
    maps: dict[str, np.ndarray], expected: dict[str, Any], golden: dict[str, np.ndarray | None]
) -> None:
    """Against the stored maps, or their digests where only those are stored; always against the counts."""
    for name, result in maps.items():
        stored = golden[name]
        if stored is None:
            assert sha256(result) == expected[f"{name}_sha256"], name
        else:
            stored = unpacked(stored, result.shape) if result.dtype == bool else stored
            assert np.array_equal(result, stored), name
    assert maps["active"].sum() == expected["active_count"]
    assert maps["selected"].sum() == expected["selected_count"]
    assert (maps["mask"] != IGNORED).sum() == expected["labelled_count"]
