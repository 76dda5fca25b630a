"""Scores of label maps against the reference's metrics: classes absent from both maps are skipped."""

from __future__ import annotations

import golden_files
import numpy as np
import pytest
import torch

from trainers.protocols import protocol_named
from utils.metrics import ConfusionMatrix, Scores, scores

ARCHIVE = ("dida", "metrics.npz")
ATOL = 1e-6
MEANS = {"mIoU_percent_rounded": "miou", "mAcc_percent_rounded": "mean_accuracy"}


def stored() -> dict[str, np.ndarray]:
    return golden_files.load_npz(*ARCHIVE)


@pytest.fixture(scope="module")
def found() -> Scores:
    """Ours, counted image by image."""
    archive = stored()
    matrix = ConfusionMatrix(len(archive["IoU"]))
    for prediction, label in zip(archive["pred"], archive["gt"], strict=True):
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(label))
    return scores(matrix.counts, absent=protocol_named("daformer-cityscapes").absent)


@pytest.mark.parametrize(("name", "ours"), [("IoU", "iou"), ("Acc", "class_accuracy")])
def test_scores_of_every_class_agree(found: Scores, name: str, ours: str) -> None:
    np.testing.assert_allclose(getattr(found, ours) / 100, stored()[name], rtol=0, atol=ATOL)


def test_share_of_right_pixels_agrees(found: Scores) -> None:
    assert found.accuracy / 100 == pytest.approx(float(stored()["aAcc"]), abs=ATOL)


@pytest.mark.parametrize("name", MEANS)
def test_means_as_printed_agree(found: Scores, name: str) -> None:
    assert round(getattr(found, MEANS[name]), 2) == pytest.approx(float(stored()[name]), abs=ATOL)
