"""Confusion matrices and IoU of stored predictions (iou.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import cases, load_npz

from utils.metrics import ConfusionMatrix, scores

ARCHIVE = "iou.npz"


@pytest.mark.parametrize("case", cases("mrnet", ARCHIVE, "hist"))
def test_confusion_matrix_and_iou_equal_the_reference(case: str) -> None:
    golden = load_npz("mrnet", ARCHIVE)
    expected = golden[f"{case}/hist"]
    matrix = ConfusionMatrix(len(expected))
    for prediction, label in zip(golden[f"{case}/pred"], golden[f"{case}/gt"], strict=True):
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(label))
    assert np.array_equal(matrix.counts.numpy(), expected)

    result = scores(matrix.counts)
    np.testing.assert_allclose(result.iou, 100 * golden[f"{case}/iou"], rtol=1e-12, equal_nan=True)
    # Stored with two decimals.
    np.testing.assert_allclose(
        result.miou, golden[f"{case}/miou_percent"], rtol=0, atol=0.0050001, equal_nan=True
    )
