"""DWACA's class weights from IoU, and the IoU they come from (weights.npz, iou_accumulation.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from selection_files import suffix_cases

from selection.class_weights import class_weights
from utils.metrics import ConfusionMatrix, scores

WEIGHTS, COUNTS = "weights.npz", "iou_accumulation.npz"
RTOL = 1e-9
RTOL_ILL_CONDITIONED = 1e-6  # nearly equal or tiny IoU: the spread cancels
ILL_CONDITIONED = 1e-3  # spread of the IoU as a share of their sum


@pytest.mark.parametrize("case", suffix_cases("dwaca", WEIGHTS, "iou"))
def test_weights_equal_the_reference(case: str) -> None:
    golden = load_npz("dwaca", WEIGHTS)
    iou, expected = (np.atleast_2d(golden[f"{case}_{field}"]) for field in ("iou", "w"))
    for row, weights in zip(iou, expected, strict=True):
        ill = row.max() - row.min() < ILL_CONDITIONED * max(row.sum(), 1)
        np.testing.assert_allclose(class_weights(row), weights, rtol=RTOL_ILL_CONDITIONED if ill else RTOL)


@pytest.mark.parametrize("case", suffix_cases("dwaca", COUNTS, "pred"))
def test_counts_iou_and_weights_of_predictions_equal_the_reference(case: str) -> None:
    golden = load_npz("dwaca", COUNTS)
    num_classes = len(golden[f"{case}_iou"])
    total = ConfusionMatrix(num_classes, invalid="wrong")
    for number, (prediction, label) in enumerate(
        zip(golden[f"{case}_pred"], golden[f"{case}_label"], strict=True)
    ):
        one = ConfusionMatrix(num_classes, invalid="wrong")
        one.update(torch.from_numpy(prediction), torch.from_numpy(label))
        _compare_counts(one, {name: golden[f"{case}_{name}"][number] for name in _COUNTS})
        total = total + one

    result = scores(total.counts, absent="zero")
    np.testing.assert_allclose(result.iou, 100 * golden[f"{case}_iou"], rtol=1e-6)
    np.testing.assert_allclose(result.miou, 100 * golden[f"{case}_miou"], rtol=1e-6)
    np.testing.assert_allclose(result.accuracy, 100 * golden[f"{case}_allacc"], rtol=1e-6)
    accuracy = np.nan_to_num(result.class_accuracy)  # the reference's mean counts absent classes as 0
    np.testing.assert_allclose(accuracy, 100 * golden[f"{case}_acc"], rtol=1e-6)
    np.testing.assert_allclose(accuracy.mean(), 100 * golden[f"{case}_macc"], rtol=1e-6)
    weights = class_weights((result.iou / 100).astype(np.float32))
    np.testing.assert_allclose(weights, golden[f"{case}_w"], rtol=1e-6)


_COUNTS = ("intersection", "union", "target")


def _compare_counts(matrix: ConfusionMatrix, expected: dict[str, np.ndarray]) -> None:
    """Intersection, union and label counts per class, exactly."""
    counts = matrix.counts.numpy()
    labelled, right = counts.sum(1), np.diagonal(counts)
    union = labelled + counts[:, : len(counts)].sum(0) - right
    assert np.array_equal(right, expected["intersection"])
    assert np.array_equal(union, expected["union"])
    assert np.array_equal(labelled, expected["target"])
