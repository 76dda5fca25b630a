"""Confusion matrix and scores of label maps against MADA's metrics (metrics.npz), which ignore label 250."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import matching_cases

from trainers.protocols import protocol_named
from utils.metrics import ConfusionMatrix, Scores, scores

ARCHIVE = "metrics.npz"
ATOL = 1e-12
OURS = {
    "iou": "iou",
    "mean_iou": "miou",
    "mean_acc": "mean_accuracy",
    "overall_acc": "accuracy",
    "freqw_acc": "fwiou",
}


@pytest.fixture(scope="module")
def found() -> Scores:
    """Ours, counted image by image; a class that is neither labelled nor predicted is skipped."""
    archive = load_npz("mada", ARCHIVE)
    matrix = ConfusionMatrix(len(archive["confusion"]))
    for prediction, label in zip(archive["pred"], archive["gt"], strict=True):
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(label))
    return scores(matrix.counts, absent=protocol_named("mada-cityscapes").absent)


def test_confusion_matrix_equals_the_reference(found: Scores) -> None:
    np.testing.assert_array_equal(found.counts, load_npz("mada", ARCHIVE)["confusion"])


@pytest.mark.parametrize("name", matching_cases("mada", ARCHIVE, f"({'|'.join(OURS)})"))
def test_score_equals_the_reference(found: Scores, name: str) -> None:
    ours = getattr(found, OURS[name]) / 100
    np.testing.assert_allclose(ours, load_npz("mada", ARCHIVE)[name], rtol=0, atol=ATOL, equal_nan=True)
