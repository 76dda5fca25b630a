"""DWACA's selection from given scores and over several rounds.

(selection_given_scores.npz, selection_rounds.npz.) On an exhausted image DWACA and RIPU behave alike here:
the corner is picked for the rest of the budget, the files' `_mask`, not their `_mask_stop`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from selection_files import IGNORED, TRAINING_SIZE, suffix_cases

from selection.budget import Budget
from selection.class_weights import class_weights
from selection.regions import peel, select_regions, squares
from selection.scores import region_scores

GIVEN_SCORES, ROUNDS = "selection_given_scores.npz", "selection_rounds.npz"
PUBLISHED_RADIUS = 1  # of selection_rounds.npz, whose cases need not store it


@pytest.mark.parametrize("case", suffix_cases("dwaca", GIVEN_SCORES, "active_in"))
def test_regions_from_given_scores_equal_the_reference(case: str) -> None:
    golden = load_npz("dwaca", GIVEN_SCORES)
    score = golden[f"{case}_score"]
    radius, regions = int(golden[f"{case}_radius"]), int(golden[f"{case}_regions"])
    assert regions == _count(golden, case, score.shape, radius)

    blocked = golden[f"{case}_active_in"]
    arguments = torch.from_numpy(score), torch.from_numpy(blocked), regions
    picks = select_regions(*arguments, exclusion_radius=2 * radius)
    assert torch.equal(peel(*arguments, 2 * radius), picks)
    selected = squares(picks.numpy(), radius, score.shape)
    assert np.array_equal(blocked | squares(picks.numpy(), 2 * radius, score.shape), golden[f"{case}_active"])
    assert np.array_equal(selected, golden[f"{case}_selected"])
    assert np.array_equal(np.where(selected, golden[f"{case}_label"], IGNORED), golden[f"{case}_mask"])
    assert not picks[int(golden[f"{case}_valid_picks"]) :].any()


@pytest.mark.parametrize("case", suffix_cases("dwaca", ROUNDS, "logits"))
def test_every_round_of_every_image_equals_the_reference(case: str) -> None:
    golden = load_npz("dwaca", ROUNDS)
    images, radius = golden[f"{case}_label"], _radius(case)
    count = _count(golden, case, images.shape[1:], radius)
    assert count == golden[f"{case}_regions_per_round"]
    chosen = [np.zeros((0, 2), np.int64) for _ in images]
    for number, iou in enumerate(golden[f"{case}_iou"]):
        weights = class_weights(iou)
        np.testing.assert_allclose(weights, golden[f"{case}_weights"][number], rtol=1e-6)
        for image in range(len(images)):
            chosen[image] = _next_round(case, number, image, chosen[image], weights, count)


def _next_round(
    case: str, number: int, image: int, chosen: np.ndarray, weights: np.ndarray, count: int
) -> np.ndarray:
    """All picks of an image after one more round, which is compared with the reference's."""
    golden, radius = load_npz("dwaca", ROUNDS), _radius(case)
    truth = golden[f"{case}_label"][image]
    logits = torch.from_numpy(golden[f"{case}_logits"][number, image])
    maps = region_scores(
        logits,
        size=truth.shape,
        network_input=tuple(logits.shape[1:]),
        radius=radius,
        class_weight=weights,
    )
    np.testing.assert_allclose(maps.score, golden[f"{case}_score"][number, image], rtol=1e-5, atol=3e-7)
    blocked = torch.from_numpy(squares(chosen, 2 * radius, truth.shape))
    picks = select_regions(maps.score, blocked, count, exclusion_radius=2 * radius)
    chosen = np.concatenate((chosen, picks.numpy()))
    selected = squares(chosen, radius, truth.shape)
    blocked = squares(chosen, 2 * radius, truth.shape)
    assert np.array_equal(selected, golden[f"{case}_selected"][number, image])
    assert np.array_equal(blocked, golden[f"{case}_active"][number, image])
    assert np.array_equal(np.where(selected, truth, IGNORED), golden[f"{case}_mask"][number, image])
    return chosen


def _radius(case: str) -> int:
    return int(load_npz("dwaca", ROUNDS).get(f"{case}_radius", PUBLISHED_RADIUS))


def _count(golden: dict[str, np.ndarray], case: str, size: tuple[int, int], radius: int) -> int:
    return Budget(100 * float(golden[f"{case}_ratio"]), "percent").picks_per_round(
        size, label_radius=radius, rounds=int(golden[f"{case}_rounds"]), training_size=TRAINING_SIZE
    )
