"""DWACA's acquisition scores (scores.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from selection_files import suffix_cases

from selection.class_weights import class_weights
from selection.scores import region_scores

ARCHIVE = "scores.npz"
# Name of a map: absolute and relative tolerance. With a dead class nearly all uncertainties are about 1e-6.
TOLERANCES = {"impurity": (5e-7, 0), "uncertainty": (1e-8, 2e-5), "score": (3e-7, 1e-5)}


@pytest.mark.parametrize("case", suffix_cases("dwaca", ARCHIVE, "logits"))
def test_scores_equal_the_reference(case: str) -> None:
    golden = load_npz("dwaca", ARCHIVE)
    maps = region_scores(
        torch.from_numpy(golden[f"{case}_logits"]),
        radius=int(golden[f"{case}_radius"]),
        class_weight=class_weights(golden[f"{case}_iou"]),
    )
    for name, (atol, rtol) in TOLERANCES.items():
        expected = golden[f"{case}_{name}"]
        np.testing.assert_allclose(getattr(maps, name), expected, atol=atol, rtol=rtol, err_msg=name)


@pytest.mark.parametrize("case", suffix_cases("dwaca", ARCHIVE, "logits"))
def test_equal_iou_scores_as_without_weights_bit_for_bit(case: str) -> None:
    golden = load_npz("dwaca", ARCHIVE)
    logits, radius = torch.from_numpy(golden[f"{case}_logits"]), int(golden[f"{case}_radius"])
    weighted = region_scores(logits, radius=radius, class_weight=class_weights(np.full(len(logits), 0.4)))
    assert torch.equal(weighted.score, region_scores(logits, radius=radius).score)
