"""Pseudo labels, their weights and the share of confident pixels (pseudo_label.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import matching_cases

from losses.self_training import teacher_labels

ARCHIVE = "pseudo_label.npz"
ATOL = 1e-6  # of the probabilities; the rest is exact


@pytest.mark.parametrize("case", matching_cases("dida", ARCHIVE, r"logits_(.+)"))
def test_labels_weights_and_ratio_equal_the_reference(case: str) -> None:
    golden = load_npz("dida", ARCHIVE)
    threshold, ignore_top, ignore_bottom = golden[f"params_{case}"].tolist()
    found = teacher_labels(
        torch.from_numpy(golden[f"logits_{case}"]),
        threshold=threshold,
        ignore_top=int(ignore_top),
        ignore_bottom=int(ignore_bottom),
    )
    np.testing.assert_array_equal(found.label.numpy(), golden[f"label_{case}"])
    np.testing.assert_array_equal(found.weight.numpy(), golden[f"weight_{case}"])
    np.testing.assert_array_equal(found.ratio.numpy(), golden[f"ratio_{case}"])
    np.testing.assert_allclose(found.confidence.numpy(), golden[f"prob_{case}"], rtol=0, atol=ATOL)
