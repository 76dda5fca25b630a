"""Selection of the hardest pixels, as the authors' released code makes it (hard_label.npz)."""

from __future__ import annotations

import pytest
import torch
from golden_files import cases, load_npz

from losses.segmentation import (
    hard_label_threshold,
    hard_pixel_cross_entropy,
    pixel_cross_entropy,
    pixel_weight,
    weighted_cross_entropy,
)

ARCHIVE = "hard_label.npz"
RTOL = 2e-6  # float32 on both sides
CASES = cases("mrnet", ARCHIVE, "logits")


def _read(case: str, field: str) -> torch.Tensor:
    return torch.from_numpy(load_npz("mrnet", ARCHIVE)[f"{case}/{field}"])


def _percentile(case: str) -> float:
    return float(load_npz("mrnet", ARCHIVE)[f"{case}/q"])


@pytest.mark.parametrize("case", CASES)
def test_weighted_pixel_losses_equal_the_reference(case: str) -> None:
    loss = pixel_cross_entropy(_read(case, "logits"), _read(case, "labels"))
    loss = loss * pixel_weight(_read(case, "labels"), _read(case, "class_weight"), loss.dtype)
    torch.testing.assert_close(loss, _read(case, "pixel_loss"), rtol=RTOL, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_threshold_of_the_reference_losses_is_the_reference_threshold(case: str) -> None:
    threshold = hard_label_threshold(_read(case, "pixel_loss"), _percentile(case))
    expected = _read(case, "threshold")
    torch.testing.assert_close(threshold.double(), expected, rtol=RTOL, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_labels_left_and_the_loss_on_them_equal_the_reference(case: str) -> None:
    logits, weight = _read(case, "logits"), _read(case, "class_weight")
    hard = hard_pixel_cross_entropy(logits, _read(case, "labels"), weight, _percentile(case))
    torch.testing.assert_close(hard.threshold.double(), _read(case, "threshold"), rtol=RTOL, atol=0)
    assert torch.equal(hard.labels.to(torch.uint8), _read(case, "new_labels"))
    expected = weighted_cross_entropy(logits, _read(case, "new_labels"), weight)
    torch.testing.assert_close(hard.loss, expected, rtol=RTOL, atol=0)
